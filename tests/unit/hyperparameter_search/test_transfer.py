"""Earlier studies as sources: read from their folders, kept in the folder of the study, and used by its strategy."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.searches import evaluated, with_search

from rayvldd.config.domains import point_as_text
from rayvldd.config.study import Study
from rayvldd.errors import ConfigError
from rayvldd.hyperparameter_search.earlier_studies import trials_of_study, trials_of_workspace
from rayvldd.hyperparameter_search.learned_sources import LearnedSources
from rayvldd.hyperparameter_search.lines import line_of_learned
from rayvldd.hyperparameter_search.optuna_samplers import OptunaSampler
from rayvldd.hyperparameter_search.plan import describe_plan, plan
from rayvldd.hyperparameter_search.strategy import SampledSearch, first_points_of, make_strategy
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.hyperparameter_search.transfer import (
    NOTHING,
    WORKSPACE,
    EarlierStudies,
    EarlierTrials,
    earlier_trials_of,
    keep_earlier_trials,
    known_points,
    learned_studies,
)
from rayvldd.library.searching import earlier_studies
from rayvldd.records.study_outcome import LearnedStudy
from rayvldd.workspace import Workspace

RATE, STEPS = "distillation.lr_image", "distillation.trajectory_matching.syn_steps"
PUBLISHED: dict[str, Any] = {RATE: 1000.0, STEPS: 1}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def recall_at(rate: float) -> float:
    return 20 - 0.01 * abs(rate - 40)


def study_in(workspace: Workspace, study: Study, rates: list[float], best_first: bool = True) -> StudyFolder:
    """A study with trials at some rates, the best at 40; the last trial fails, the one before was stopped early."""
    folder = StudyFolder(workspace.study(study.name))
    folder.save_settings(study)
    ledger = folder.ledger()
    for number, rate in enumerate(rates):
        name = ledger.start(number, 7, {RATE: rate, STEPS: 2}).trial_id
        height = recall_at(rate) if best_first else 20 - recall_at(rate)
        for step in (0, 2) if number == len(rates) - 2 else (0, 2, 4):
            ledger.add_evaluation(name, evaluated(step, height * (1 + step) / 5))
        if number == len(rates) - 1:
            ledger.end(name, "failed", "diverged")
        else:
            ledger.end(name, "stopped" if number == len(rates) - 2 else "finished")
    return folder


def named(study: Study, name: str, **search: Any) -> Study:
    return with_search(study, **search).model_copy(update={"name": name})


RATES = [2.0, 500.0, 35.0, 50.0, 8.0, 150.0, 300.0, 900.0]


def test_a_study_is_read_with_whole_curves_and_all_states(workspace: Workspace, tiny_study: Study) -> None:
    trials = trials_of_study(study_in(workspace, named(tiny_study, "first"), RATES))
    assert [trial.name for trial in trials] == [f"first/trial_{number:03d}" for number in range(8)]
    assert [trial.state for trial in trials[-3:]] == ["finished", "stopped", "failed"]
    recall = recall_at(35.0)
    assert trials[2].evaluations == [(0, pytest.approx(recall / 5)), (2, pytest.approx(0.6 * recall)), (4, recall)]
    assert trials[2].best_val_mean_recall == recall
    assert trials[2].settings[RATE] == "35.0" and json.loads(trials[2].settings["data.num_train"]) == 40
    assert [step for step, _ in trials[6].evaluations] == [0, 2]


def test_the_workspace_has_its_nearest_studies_without_the_own_one(workspace: Workspace, tiny_study: Study) -> None:
    own = named(tiny_study, "own")
    for number in range(10):
        pairs = tiny_study.distillation.model_copy(update={"num_pairs": 4 + number})
        other = named(tiny_study.model_copy(update={"distillation": pairs}), f"with_{4 + number}")
        study_in(workspace, other, RATES)
    study_in(workspace, own, RATES)
    study_in(workspace, named(tiny_study, "small"), RATES[:4])
    damaged = StudyFolder(workspace.study("damaged"))
    study_in(workspace, named(tiny_study, "damaged"), RATES)
    damaged.settings.write_text("{", encoding="utf-8")
    found = trials_of_workspace(workspace, own)
    assert list(dict.fromkeys(trial.study for trial in found)) == [f"with_{pairs}" for pairs in range(4, 12)]


def test_the_file_repeats_no_settings_and_loses_none(workspace: Workspace, tiny_study: Study, tmp_path: Path) -> None:
    trials = trials_of_study(study_in(workspace, named(tiny_study, "first"), RATES))
    record = EarlierTrials.of("first", trials)
    assert record.trials[0].settings == {RATE: "2.0"} and STEPS in record.shared["first"]
    record.write(tmp_path / "earlier_trials.json")
    again = EarlierTrials.read(tmp_path / "earlier_trials.json")
    assert again == record and again.whole() == trials


def test_sources_have_other_data_and_pairs_but_not_other_objectives(workspace: Workspace, tiny_study: Study) -> None:
    pairs = tiny_study.distillation.model_copy(update={"num_pairs": 8})
    other = named(tiny_study.model_copy(update={"distillation": pairs}), "other")
    record = EarlierTrials.of("other", trials_of_study(study_in(workspace, other, RATES)))
    (source,) = record.sources(named(tiny_study, "new"))
    assert source.name == "other" and [point[RATE] for point in source.points] == RATES
    assert dict(source.outcomes[6].recalls) == {2: pytest.approx(0.6 * recall_at(300.0))}
    assert (
        not source.outcomes[6].failed
        and source.outcomes[7].failed
        and 0 < source.distance < 0.5
        and len(source.content) == 12
    )
    several = named(tiny_study, "new", objectives=["val_mean_recall", "num_pairs"], scheduler="none")
    assert record.sources(several) == []
    old = record.model_copy(update={"learns": False})
    assert old.sources(named(tiny_study, "new")) == [], "a file of a release that had observations only"


def test_content_identifies_the_trials(workspace: Workspace, tiny_study: Study) -> None:
    folder = study_in(workspace, named(tiny_study, "first"), RATES)
    (one,) = EarlierTrials.of("first", trials_of_study(folder)).sources(named(tiny_study, "new"))
    folder.ledger().add_evaluation("trial_000", evaluated(6, 1.0))
    (two,) = EarlierTrials.of("first", trials_of_study(folder)).sources(named(tiny_study, "new"))
    assert one.content != two.content


# --- which studies are used ---------------------------------------------------------------------------------------


def test_a_study_that_began_without_earlier_ones_goes_on_without(workspace: Workspace, tiny_study: Study) -> None:
    study_in(workspace, named(tiny_study, "first"), RATES)
    new = named(tiny_study, "new")
    folder = study_in(workspace, new, RATES[:2])
    keep_earlier_trials(new, folder, earlier_studies(None, new, workspace))
    assert not folder.earlier_trials.exists()
    assert earlier_trials_of(new, folder, earlier_studies(None, new, workspace)) is None
    keep_earlier_trials(new, folder, earlier_studies("first", new, workspace))
    assert EarlierTrials.read(folder.earlier_trials).name == "first", "unless the user names one"


def test_a_resumed_study_keeps_the_studies_that_it_began_with(workspace: Workspace, tiny_study: Study) -> None:
    study_in(workspace, named(tiny_study, "first"), RATES)
    new = named(tiny_study, "new")
    folder = StudyFolder(workspace.study("new"))
    keep_earlier_trials(new, folder, earlier_studies(None, new, workspace))
    kept = folder.earlier_trials.read_bytes()
    study_in(workspace, named(tiny_study, "second"), RATES)
    keep_earlier_trials(new, folder, earlier_studies(None, new, workspace))
    assert folder.earlier_trials.read_bytes() == kept
    with pytest.raises(ConfigError, match="got 'none'; the study began with 'workspace'"):
        keep_earlier_trials(new, folder, earlier_studies(NOTHING, new, workspace))


def test_the_first_study_of_a_workspace_learns_nothing(workspace: Workspace, tiny_study: Study) -> None:
    new = named(tiny_study, "new", initial_points=[PUBLISHED])
    folder = StudyFolder(workspace.study("new"))
    folder.root.mkdir(parents=True)
    keep_earlier_trials(new, folder, earlier_studies(None, new, workspace))
    assert list(folder.root.iterdir()) == []
    assert first_points_of(new, LearnedSources(new.space, [], 0)) == new.initial_points()
    keep_earlier_trials(new, folder, earlier_studies(NOTHING, new, workspace))
    assert EarlierTrials.read(folder.earlier_trials).name == NOTHING
    study_in(workspace, named(tiny_study, "first"), RATES)
    keep_earlier_trials(new, folder, earlier_studies(None, new, workspace))
    assert EarlierTrials.read(folder.earlier_trials).trials == [], "it began with none"


def test_studies_are_found_by_name_and_by_folder(workspace: Workspace, tiny_study: Study, tmp_path: Path) -> None:
    folder = study_in(workspace, named(tiny_study, "first"), RATES)
    new = named(tiny_study, "new")
    assert len(earlier_studies("first", new, workspace).fetch()) == 8
    elsewhere = Workspace(tmp_path / "elsewhere")
    assert len(earlier_studies(str(folder.root), new, elsewhere).fetch()) == 8
    assert (
        earlier_studies(WORKSPACE, new, elsewhere).fetch()
        == []
        == list(earlier_studies(NOTHING, new, elsewhere).fetch())
    )
    with pytest.raises(ConfigError, match=r"got 'frist', no study of .*; allowed: one of its studies \(first\)"):
        earlier_studies("frist", new, workspace, "none")
    with pytest.raises(ConfigError, match="got 'new', which is this study"):
        earlier_studies("new", new, workspace)


# --- use ----------------------------------------------------------------------------------------------------------


def learned_by(study: Study, workspace: Workspace) -> LearnedSources:
    earlier = earlier_trials_of(
        study, StudyFolder(workspace.study(study.name)), earlier_studies(None, study, workspace)
    )
    assert earlier is not None
    return LearnedSources(study.space, earlier.sources(study), study.seed)


@pytest.mark.parametrize("sampler", ["tpe", "curves"])
def test_a_search_begins_with_the_best_earlier_points(sampler: str, workspace: Workspace, tiny_study: Study) -> None:
    study_in(workspace, named(tiny_study, "first"), RATES)
    new = named(tiny_study, "new", sampler=sampler, initial_points=[PUBLISHED], num_trials=6)
    learned = learned_by(new, workspace)
    strategy = make_strategy(new, learned=learned)
    proposals = [strategy.propose([]).point for _ in range(4)]
    assert proposals[0][RATE] in (35.0, 50.0) and proposals[3] == PUBLISHED
    assert proposals[:3] == learned.first_points()
    assert isinstance(strategy, SampledSearch) and isinstance(strategy.sampler, OptunaSampler)
    assert make_strategy(new, learned=learned_by(new, workspace)).propose([]).point == proposals[0]
    trials = study_in(workspace, new, [float(proposals[0][RATE])]).ledger().by_number()  # type: ignore[arg-type]
    resumed = make_strategy(new, trials, learned=learned)
    assert resumed.propose(trials).point == proposals[1], "a resumed search goes on with the second one"


@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_samplers_that_spread_points_do_not_begin_there(sampler: str, workspace: Workspace, tiny_study: Study) -> None:
    study_in(workspace, named(tiny_study, "first"), RATES)
    new = named(tiny_study, "new", sampler=sampler, initial_points=[PUBLISHED])
    assert first_points_of(new, learned_by(new, workspace)) == [PUBLISHED]


def test_the_plan_shows_what_earlier_studies_suggest(workspace: Workspace, tiny_study: Study) -> None:
    from rayvldd.experts.store.expert_store import open_store

    new = named(tiny_study, "new", initial_points=[PUBLISHED])
    store = open_store(None, workspace)
    assert plan(new, workspace, store, learn_from=earlier_studies(None, new, workspace)).learning is None
    study_in(workspace, named(tiny_study, "first"), RATES)
    planned = plan(new, workspace, store, learn_from=earlier_studies(None, new, workspace))
    assert planned.learning is not None and planned.learning.learn_from == WORKSPACE
    assert planned.learning.first_points == first_points_of(new, learned_by(new, workspace))
    assert [one.study for one in planned.learning.studies] == ["first"]
    text = describe_plan(planned)
    assert "learns from 1 study (first 0." in text and point_as_text(planned.learning.first_points[0]) in text


def test_the_plan_says_that_a_named_study_has_too_few_trials(workspace: Workspace, tiny_study: Study) -> None:
    from rayvldd.experts.store.expert_store import open_store

    new, store = named(tiny_study, "new"), open_store(None, workspace)
    study_in(workspace, named(tiny_study, "short"), RATES[:3])
    lines = {
        name: describe_plan(plan(new, workspace, store, learn_from=earlier_studies(name, new, workspace)))
        for name in (None, "none", "short")
    }
    assert "nothing is learned from short: that takes 5 trials" in lines["short"]
    assert "earlier:" not in lines[None] and "earlier:" not in lines["none"]


def test_the_weights_of_a_result_are_those_after_its_trials(workspace: Workspace, tiny_study: Study) -> None:
    rates = [round(1.5**power, 1) for power in range(1, 17)]
    study_in(workspace, named(tiny_study, "right"), rates)
    study_in(workspace, named(tiny_study, "wrong"), rates, best_first=False)
    new = named(tiny_study, "new")
    learned = learned_by(new, workspace)
    trials = study_in(workspace, new, [3.0, 40.0, 200.0, 600.0, 20.0, 100.0, 850.0]).ledger().by_number()
    before, after = learned_studies(learned, []), learned_studies(learned, trials)
    assert [(one.study, one.trials) for one in after] == [("right", 16), ("wrong", 16)]
    assert before[1].weight > 0.3 and after[1].weight == 0 and after[0].weight > before[0].weight
    assert line_of_learned(after, "learned from").endswith(", wrong dropped)")
    one = LearnedStudy(study="a", trials=9, weight=0.42, content="c")
    assert line_of_learned([one], "learned from") == "learned from 1 study (a 0.4)"


def test_comparable_trials_are_observations_with_whole_curves(workspace: Workspace, tiny_study: Study) -> None:
    new = named(tiny_study, "new")
    folder = StudyFolder(workspace.study("new"))
    prints = {"data": "d", "image_encoder": "i", "text_encoder": "t"}
    trials = trials_of_study(study_in(workspace, named(tiny_study, "first"), RATES))
    alike = [type(trial)(**{**vars(trial), "fingerprints": prints}) for trial in trials[:2]]
    keep_earlier_trials(new, folder, EarlierStudies("first", lambda: [*alike, *trials[2:]]))
    found, left_out = known_points(new, folder, lambda point: prints)
    assert [trial.trial_id for trial in found] == ["first/trial_000", "first/trial_001"] and len(left_out) == 6
    assert [(one.outer_step, one.recall) for one in found[0].evaluations] == trials[0].evaluations
    sampler = make_strategy(with_search(new, sampler="curves"), earlier=found)
    assert isinstance(sampler, SampledSearch) and isinstance(sampler.sampler, OptunaSampler)
    assert [len(one.intermediate_values) for one in sampler.sampler.optuna_trials()] == [3, 3]
