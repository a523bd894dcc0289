"""Samplers of other tools beside ours, over recorded runs. Those of other tools are tested where the extra is."""

import json
import sys
from collections.abc import Mapping

import numpy as np
import pytest
from helpers.paths import BENCHMARKS

from rayvldd.config.domains import SettingValue

sys.path.insert(0, str(BENCHMARKS))

import search_rivals
from recorded_responses import DEFAULT_TABLE, Answers, Response, Table
from search_replay import random_search
from search_rivals import OTHERS, OURS
from search_tasks import recorded_tasks, tables_of


@pytest.fixture(scope="module")
def table() -> Table:
    return Table.load(DEFAULT_TABLE)


@pytest.mark.parametrize("name", [*OURS, *OTHERS])
def test_a_sampler_searches_the_whole_space_and_repeats_with_its_seed(
    name: str, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in OTHERS:
        pytest.importorskip("smac", reason="pip install '.[rivals]'")
    asked: list[Mapping[str, SettingValue]] = []
    nearest = Answers.nearest

    def recorded(self: Answers, point: Mapping[str, SettingValue]) -> Response:
        asked.append(point)
        return nearest(self, point)

    monkeypatch.setattr(Answers, "nearest", recorded)
    until = (0.15 if name in OTHERS else 0.25) * random_search(table, 24).trial_seconds  # others take seconds a point
    found = search_rivals.search(table, name, 5, published=True, trial_seconds=until)
    first, space = table.study.initial_points(), table.study.search.space
    assert asked[: len(first)] == first and len(asked) > 6
    assert all(point.keys() == space.keys() for point in asked)
    assert all(value in space[key] for point in asked for key, value in point.items())
    assert len(found.proposal_s) >= len(asked) - len(first), (
        "a known point is proposed again, and another one asked for"
    )
    points = list(asked)
    asked.clear()
    assert search_rivals.search(table, name, 5, published=True, trial_seconds=until).curve == found.curve
    assert asked == points, "the same seed repeats a search"
    asked.clear()
    search_rivals.search(table, name, 6, published=True, trial_seconds=until)
    assert asked[len(first) :] != points[len(first) :], "another seed is another search"


@pytest.mark.parametrize("name", OURS)
def test_a_search_of_a_space_with_conditions_is_answered_by_the_nearest_runs(name: str) -> None:
    task = next(task for task in recorded_tasks("development") if task.conditional)
    table = tables_of(task)[0]
    distances = np.array([table.distances(response.point) for response in table.responses])
    assert (
        np.isfinite(distances).all()
        and (np.diag(distances) == 0).all()
        and (distances + np.eye(len(distances)) > 0).all()
    )
    until = 0.2 * random_search(table, 24).trial_seconds
    found = search_rivals.search(table, name, 5, published=False, trial_seconds=until)
    assert len(found.proposal_s) > 4


def test_the_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--tiny", "--json", "--task", "drawn_scenes", "--samplers", "random,hyperband"]
    monkeypatch.setattr(sys, "argv", ["search_rivals.py", *arguments])
    search_rivals.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
    for name in ("random", "hyperband"):
        assert figures[f"unreached_{name}_dev"] in (0.0, 1.0, 2.0)
        assert f"nearest_{name}_dev_none_high" in figures and figures[f"proposal_s_{name}"] > 0


def test_a_wrong_name_is_refused_with_those_that_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["search_rivals.py", "--samplers", "curves,hebo"])
    with pytest.raises(SystemExit):
        search_rivals.main()
    assert "hebo" in (printed := capsys.readouterr().err) and "cqr" in printed
