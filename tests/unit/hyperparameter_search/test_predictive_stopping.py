"""Trials that will hardly beat the best one are stopped, by the curves of all trials."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.searches import evaluated, with_search
from scipy.stats import norm

from rayvldd.config.loading import load_study
from rayvldd.config.study import Study
from rayvldd.errors import ConfigError
from rayvldd.hyperparameter_search.predictive_stopping import FEWEST_TRIALS, PredictiveTermination
from rayvldd.hyperparameter_search.stopping import Never
from rayvldd.hyperparameter_search.strategy import Decision, make_strategy
from rayvldd.records.trial import Ended, Evaluation, Trial, trial_id_of

RATES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""The best is 30."""


def curve(rate: float, steps: Sequence[int]) -> list[Evaluation]:
    """Recalls that rise towards a height, which depends on the rate."""
    height = 20 - 6 * abs(np.log10(rate / 30))
    return [evaluated(step, float(height * (1 - np.exp(-step / 8))), step + rate / 1e4) for step in steps]


def trial_at(number: int, rate: float, steps: Sequence[int], state: Ended | None = None) -> Trial:
    point = {"distillation.lr_image": rate, "distillation.trajectory_matching.syn_steps": 2}
    return Trial(trial_id_of(number), number, 1, {**point}, Path(), state or "running", evaluations=curve(rate, steps))


def ended(rates: Sequence[float] = RATES) -> list[Trial]:
    return [trial_at(number, rate, range(0, 41, 4), "finished") for number, rate in enumerate(rates)]


@pytest.fixture
def study(tiny_study: Study) -> Study:
    longer = tiny_study.at({"distillation.outer_steps": 40, "distillation.evaluate_every": 4})
    return with_search(longer, stop_below_probability=0.05, grace_evaluations=10)  # so late that nothing is halved


def rule_of(study: Study, probability: float = 0.05) -> PredictiveTermination:
    return PredictiveTermination(Never(), study.space, study.last_step_at, 40, probability)


def test_a_trial_that_falls_behind_is_stopped_and_says_why(study: Study) -> None:
    strategy, trials = make_strategy(study, ended()), ended()
    poor, good = trial_at(6, 1.5, [0, 4, 8]), trial_at(7, 28.0, [0, 4, 8])
    assert strategy.decide(poor, [*trials, poor]) is Decision.STOP
    assert strategy.reason_to_stop("trial_006").startswith("unlikely to become the best at step 8: probability 0.0")
    assert strategy.decide(good, [*trials, poor, good]) is Decision.CONTINUE


def test_nothing_is_stopped_without_the_setting(study: Study) -> None:
    poor = trial_at(6, 1.5, [0, 4, 8])
    strategy = make_strategy(with_search(study, grace_evaluations=10), ended())
    assert strategy.decide(poor, [*ended(), poor]) is Decision.CONTINUE


def test_it_waits_for_enough_trials_and_lets_the_last_step_be(study: Study) -> None:
    poor = trial_at(6, 1.5, [0, 4, 8])
    few = [*ended()[-(FEWEST_TRIALS - 2) :], poor]
    assert rule_of(study).reason_to_stop(poor, few) is None
    assert rule_of(study).reason_to_stop(poor, [*ended()[-(FEWEST_TRIALS - 1) :], poor]) is not None
    start = trial_at(6, 1.5, [0])
    assert rule_of(study).reason_to_stop(start, [*ended(), start]) is None, "the initial set tells nothing"
    whole = trial_at(6, 1.5, range(0, 41, 4))
    assert rule_of(study).reason_to_stop(whole, [*ended(), whole]) is None


def test_the_other_rule_comes_first(study: Study) -> None:
    class Always(Never):
        def reason_to_stop(self, trial: Trial, history: object) -> str | None:
            return "the other rule"

    rule = PredictiveTermination(Always(), study.space, study.last_step_at, 40, 0.05)
    poor = trial_at(6, 1.5, [0, 4, 8])
    assert rule.reason_to_stop(poor, [*ended(), poor]) == "the other rule"


def test_what_a_failed_trial_reached_is_no_goal(study: Study) -> None:
    trials = ended()
    best = next(one for one in trials if one.point["distillation.lr_image"] == 30.0)
    middling = trial_at(6, 8.0, [0, 4, 8])
    before = rule_of(study).probability_to_win(6, [*trials, middling])
    failed = [replace(one, state="failed") if one is best else one for one in trials]
    assert rule_of(study).probability_to_win(6, [*failed, middling]) > before


def test_the_probability_is_that_of_the_posterior(study: Study) -> None:
    rule, trials = rule_of(study), [*ended(), trial_at(6, 12.0, [0, 4, 8])]
    probability = rule.probability_to_win(6, trials)
    model, rows = rule._model_of(trials)
    means, sds = model.predict_known(np.array([6]), np.ones(1))
    best = model.means_of(rows.trial, rows.times).max()
    assert probability == pytest.approx(norm.sf(best, means[0], np.hypot(sds[0], model.noise)))


def test_decisions_are_the_same_after_a_restart(study: Study) -> None:
    """Hyperparameters are fitted at the same moments when the decisions of the first session are repeated."""
    rates = [*RATES, 2.0, 20.0, 6.0, 50.0]
    rows = sorted(
        ((number, each) for number, rate in enumerate(rates) for each in curve(rate, range(0, 41, 4))),
        key=lambda row: (row[0] // 2, row[1].outer_step, row[0]),
    )
    rows = [(number, replace(each, search_seconds=float(place))) for place, (number, each) in enumerate(rows)]

    def decided(cut: int) -> list[tuple[int, int]]:
        stops, trials = dict[int, int](), dict[int, Trial]()
        strategy = make_strategy(study)
        for place, (number, each) in enumerate(rows):
            if place == cut:
                strategy = make_strategy(study, list(trials.values()))
            trial = trials.setdefault(number, replace(trial_at(number, rates[number], []), state="running"))
            if number in stops:
                continue
            trial.evaluations.append(each)
            if strategy.decide(trial, trials.values()) is Decision.STOP:
                stops[number] = each.outer_step
        return list(stops.items())

    undisturbed = decided(-1)
    assert undisturbed, "some trials are stopped"
    assert decided(len(rows) // 2) == decided(len(rows) - 15) == undisturbed


@pytest.mark.parametrize(
    ("search", "problem"),
    [
        (
            "scheduler: none\n  stop_below_probability: 0.05",
            r"search.stop_below_probability: has no effect, since scheduler none stops no trial; allowed: null, or a",
        ),
        (
            "stop_below_gain: 0.25",
            r"search.stop_below_gain: has no effect, since sampler tpe predicts no gain; allowed: null, or .*: curves",
        ),
        (
            "sampler: curves\n  scheduler: none\n  objectives: [val_mean_recall, seconds]\n  stop_below_gain: 0.25",
            r"search.stop_below_gain: has no effect with 2 objectives; allowed: null, or val_mean_recall",
        ),
    ],
)
def test_a_criterion_without_effect_is_refused(tmp_path: Path, search: str, problem: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "name: none\ndata: {source: toy_scenes}\nmodel: {image_encoder: {name: convnet_d3}}\n"
        f"search:\n  {search}\n  space: {{distillation.lr_image: {{type: float, low: 1, high: 10}}}}\n"
    )
    with pytest.raises(ConfigError, match=problem):
        load_study(file)
