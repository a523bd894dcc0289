"""Replays over a pool of runs: every answer is a run at exactly the proposed point, and no run answers twice."""

import json
import math
import sys
from collections.abc import Mapping

import numpy as np
import pytest
from helpers.paths import BENCHMARKS

from rayvldd.config.domains import SettingValue

sys.path.insert(0, str(BENCHMARKS))

import search_curves
import search_pool
import search_tasks
from recorded_responses import DEFAULT_TABLE, Response, Table
from search_curves import BestByTime
from search_pool import Pool
from search_replay import Curve, random_search, seconds_of_mean


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
    monkeypatch.setattr(search_curves, "recorded_tasks", lambda role: only_drawn)
    monkeypatch.setattr(search_curves, "_BOOTSTRAPS", 5)
    looks = search_tasks.LOOKS.read_text()
    monkeypatch.setattr(sys, "argv", ["search_curves.py", "--tiny", "--json"])
    search_curves.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
    runs = sum(only_drawn[0].recorded.values())
    assert figures["recorded_runs_drawn_scenes"] == runs
    for way in ("", "_none", "_8"):
        for name in ("budget_vs_random_dev", "budget_vs_random_tpe_dev", "budget_vs_tpe_asha_dev"):
            assert f"{name}_drawn_scenes{way}" in figures and f"{name}_drawn_scenes{way}_high" in figures
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
    monkeypatch.setattr(search_curves, "recorded_tasks", lambda role: [])
    monkeypatch.setattr(sys, "argv", ["search_curves.py", "--role", "test"])
    with pytest.raises(SystemExit):
        search_curves.main()
    assert "--role test: none is recorded" in capsys.readouterr().err
