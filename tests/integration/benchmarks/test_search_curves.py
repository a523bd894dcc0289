"""Replays over a pool of runs: every answer is a run at exactly the proposed point, and no run answers twice."""

import itertools
import json
import math
import sys
from collections.abc import Mapping

import numpy as np
import pytest
from helpers.paths import BENCHMARKS

from rayvldd.config.domains import SettingValue
from rayvldd.hyperparameter_search.learned_sources import LearnedSources
from rayvldd.hyperparameter_search.source_model import quantile_targets

sys.path.insert(0, str(BENCHMARKS))

import search_conditions
import search_curves
import search_pool
import search_regret
import search_rungs
import search_statistics
import search_tasks
from recorded_responses import DEFAULT_TABLE, Response, Table
from search_pool import Pool
from search_replay import Curve, random_search, seconds_of_mean
from search_statistics import BestByTime, PerSearch


@pytest.fixture(scope="module")
def pool() -> Pool:
    return Pool(Table.load(DEFAULT_TABLE))


@pytest.mark.parametrize("sampler", search_pool.SAMPLERS)
def test_a_search_tries_each_run_of_the_pool_once(sampler: str, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    study = search_pool.study_of(pool, 3, 2, published=True)
    asked: list[Mapping[str, SettingValue]] = []

    def nearest(point: Mapping[str, SettingValue]) -> Response:
        asked.append(point)
        return Pool.nearest(pool, point)

    monkeypatch.setattr(pool, "nearest", nearest)
    curve = search_pool.pool_search(pool, sampler, study, 150.0)
    keys = [pool.space.key_of(point) for point in asked]
    assert curve.trials + 2 == len(keys) == len(set(keys)) > 10
    assert asked[: len(study.search.initial_points)] == list(study.search.initial_points)
    assert all(point in pool.points for point in asked)
    assert search_pool.pool_search(pool, sampler, study, 150.0) == curve, "the same seed repeats a search"


def test_models_find_good_runs_earlier_than_random_search(pool: Pool) -> None:
    spent = 0.4 * random_search(pool.table, 24).trial_seconds
    found = {
        sampler: [
            search_pool.pool_search(pool, sampler, search_pool.study_of(pool, seed, 2, published=True), spent).best
            for seed in range(3)
        ]
        for sampler in ("curves", "random")
    }
    assert sum(found["curves"]) > sum(found["random"])


def test_the_figures_of_development_tasks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    only_drawn = [search_tasks.search_tasks()["drawn_scenes"]]
    monkeypatch.setattr(search_conditions, "recorded_tasks", lambda role: only_drawn)
    monkeypatch.setattr(search_statistics, "_BOOTSTRAPS", 5)
    looks = search_tasks.LOOKS.read_text()
    monkeypatch.setattr(sys, "argv", ["search_curves.py", "--tiny", "--json"])
    search_curves.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
    runs = sum(only_drawn[0].recorded.values())
    assert figures["recorded_runs_drawn_scenes"] == runs
    for way in ("", "_none", "_8"):
        for name in ("budget_vs_random_dev", "budget_vs_random_tpe_dev", "budget_vs_tpe_asha_dev"):
            assert f"{name}_drawn_scenes{way}" in figures and f"{name}_drawn_scenes{way}_high" in figures
    for name in ("budget_vs_random_dev", "budget_vs_random_none_dev", "regret_8_workers_dev", "budget_vs_tpe_asha_dev"):
        assert name in figures and f"{name}_low" in figures
    for name in ("budget_vs_random_learned_dev", "harm_shuffled_dev", "harm_reversed_dev"):
        assert (name in figures) == (len(only_drawn) > 1), "there is no other task to learn from"
    for arm in search_conditions.ARMS:
        regrets = [figures[f"regret_{arm}_dev_none_{share}"] for share in search_regret.SHARES]
        assert all(0 <= later <= earlier <= 1 for earlier, later in itertools.pairwise(regrets))
    for part in ("random", "stopping", "model", "published"):
        assert f"ablation_{part}_dev" in figures and f"ablation_{part}_dev_high" in figures
    assert ("ablation_earlier_dev" in figures) == (len(only_drawn) > 1)
    for grace, factor in search_rungs.RUNGS:
        assert f"rungs_{grace}_{factor}_tpe_few_dev_high" in figures
    assert figures["proposal_s_4"] > 0
    assert search_tasks.LOOKS.read_text() == looks, "development tasks are not counted"


def test_budgets_are_those_of_a_plain_loop() -> None:
    generator = np.random.default_rng(0)
    curves = [
        Curve(list(zip(np.sort(generator.uniform(0, 9, 5)), np.sort(generator.uniform(0, 20, 5)), strict=True)), 9.0)
        for _ in range(6)
    ]
    for recall in (2.0, 9.0, 13.0, 25.0):
        drawn = generator.integers(0, 6, 6)
        best = BestByTime(curves)
        for asked, found in (
            (curves, best.seconds_to(recall)),
            ([curves[i] for i in drawn], best.seconds_to(recall, drawn)),
        ):
            expected = seconds_of_mean(asked, recall)
            assert found == (math.inf if expected is None else pytest.approx(expected))


def test_without_recorded_test_tasks_there_are_no_figures_of_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search_conditions, "recorded_tasks", lambda role: [])
    monkeypatch.setattr(sys, "argv", ["search_curves.py", "--role", "test"])
    with pytest.raises(SystemExit):
        search_curves.main()
    assert "--role test: none is recorded" in capsys.readouterr().err


def test_a_task_with_conditional_settings_is_sent_to_the_script_that_replays_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "flickr8k_lors" not in search_conditions.Conditions(tiny=True, seeds=1, role="development", task=None).pools
    monkeypatch.setattr(sys, "argv", ["search_curves.py", "--task", "flickr8k_lors"])
    with pytest.raises(SystemExit):
        search_curves.main()
    assert "Next: python tests/benchmarks/search_rivals.py --task flickr8k_lors" in capsys.readouterr().err


def test_budgets_of_single_searches_are_averaged_between_the_quartiles() -> None:
    one, other = np.array([0.1, 0.2, math.inf, 0.3]), np.array([0.4, 0.5, 9.0, 0.05])
    budgets = PerSearch([one, other])
    assert budgets.mean() == pytest.approx((0.2 + 0.3 + 0.4 + 0.5) / 4)
    assert PerSearch([np.array([0.1, math.inf, math.inf, 0.1])]).mean() == math.inf
    generator = np.random.default_rng(0)
    again = [budgets.mean(generator) for _ in range(50)]
    assert min(again) < budgets.mean() < max(again)


def test_a_thinned_table_has_the_first_and_the_last_evaluation(pool: Pool) -> None:
    for run, thin in zip(pool.table.responses, search_rungs.thinned(pool.table, 3).responses, strict=True):
        assert thin.outer_steps[0] == 0 and thin.seconds_in_all == run.seconds_in_all
        assert len(thin.outer_steps) == len(thin.seconds) == len(thin.val_mean_recalls)
        at_step = dict(zip(run.outer_steps, run.val_mean_recalls, strict=True))
        assert [at_step[step] for step in thin.outer_steps] == list(thin.val_mean_recalls)
        assert run.failed or thin.outer_steps == (0, 9, 18, 27, 36)


def test_a_portfolio_is_compared_at_its_own_runs() -> None:
    conditions = search_conditions.Conditions("development", 1, tiny=True)
    points = search_conditions.portfolio("development", "drawn_scenes")
    pool = conditions.pools["drawn_scenes"]
    assert len(points) == 3 and all(point in pool.points for point in points)
    learned = search_conditions.learned_of("development", "drawn_scenes", "right", 0)
    assert not learned.first_points(candidates=pool.points), "its weight is too low for a search to begin with it"
    rows = {row.name: row.value for row in search_regret.first_points(conditions)}
    assert rows["first_points_portfolio_drawn_scenes"] == max(pool.nearest(point).best for point in points)
    assert rows["first_points_random_drawn_scenes"] == random_search(pool.table, 3).recall


def test_regret_is_the_distance_from_the_best_run(pool: Pool) -> None:
    best = max(response.best for response in pool.table.responses if not response.failed)
    one, budget = random_search(pool.table, 1).recall, random_search(pool.table, 24).trial_seconds
    middle = (best + one) / 2
    curves = [Curve([(0.1 * budget, middle), (0.5 * budget, best)], budget), Curve([(0.3 * budget, one / 2)], budget)]
    for share, expected in ((0.05, [1, 1]), (0.2, [0.5, 1]), (0.5, [0, 1])):
        found = PerSearch.regrets({"task": pool.table}, lambda task: curves, share)
        assert found.by_task[0] == pytest.approx(expected), share


def test_a_search_that_has_found_the_best_run_ends(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    study = search_pool.study_of(pool, 0, 2, published=True)

    def searched() -> Curve:
        return search_pool.pool_search(pool, "random", study, 1000.0)

    ended = searched()
    monkeypatch.setattr(pool, "best_recall", math.inf)
    to_the_end = searched()
    assert ended.points == to_the_end.points and ended.trials < to_the_end.trials


def test_wrong_sources_have_the_same_outcomes_at_other_points(pool: Pool) -> None:
    source = search_pool.source_of("same", pool, pool.table.study)
    assert len(source.points) == len(pool.points) and source.distance == 0
    assert sum(outcome.failed for outcome in source.outcomes) == sum(bool(one.failed) for one in pool.table.responses)
    targets = quantile_targets(source.outcomes)
    backwards = search_conditions.reversed_source(source)
    assert np.corrcoef(targets, quantile_targets(backwards.outcomes))[0, 1] < -0.9
    for changed in (backwards, search_conditions.shuffled_source(source, 0)):
        assert list(changed.points) == list(source.points)
        assert sorted(map(repr, changed.outcomes)) == sorted(map(repr, source.outcomes))
    assert (
        abs(np.corrcoef(targets, quantile_targets(search_conditions.shuffled_source(source, 0).outcomes))[0, 1]) < 0.3
    )


def test_a_search_that_learns_begins_with_good_runs(pool: Pool) -> None:
    learned = LearnedSources(pool.space, [search_pool.source_of("same", pool, pool.table.study)], 0)
    study = search_pool.study_of(pool, 0, 2, published=True, learned=learned)
    best = sorted((response.best for response in pool.table.responses if not response.failed), reverse=True)
    published = search_pool.study_of(pool, 0, 2, published=True).search.initial_points
    first = study.search.initial_points
    assert first[3:] == published[1:], "the table begins with the first published point"
    assert all(pool.nearest(point).best >= best[len(best) // 4] for point in first[:3])
    assert search_pool.pool_search(pool, "curves", study, 60.0, learned).best >= best[3]
