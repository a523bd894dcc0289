"""The model of recorded runs: what it predicts for other runs, and that each point has an answer of its own."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from helpers.paths import BENCHMARKS

sys.path.insert(0, str(BENCHMARKS))

import search_conditions
import search_statistics
import search_surrogate
import search_tasks
from recorded_responses import Response, Table
from search_replay import Replay
from search_statistics import PerSearch
from search_surrogate import Predictions, coverage
from surrogate_model import Surrogate, World

from rayvldd.hyperparameter_search.space_coordinates import SpaceCoordinates

_STEPS: tuple[int, ...] = (0, 4, 8)
_SECONDS: tuple[float, ...] = (1.0, 5.0, 10.0)


def _known_run(table: Table, number: int, noise: float) -> Response:
    """A run whose recall rises with the image rate, and which fails where the text rate is high."""
    point, coordinates = table.responses[number].point, SpaceCoordinates(table.study.space)
    units = dict(zip(coordinates.domains, coordinates.units_of([point])[0][0].tolist(), strict=True))
    last = 5 + 10 * units["distillation.lr_image"] + noise
    failed = "diverged" if units["distillation.lr_text"] > 0.75 else ""
    kept = 2 if failed else 3
    recalls: tuple[float, ...] = (5.0, (5 + last) / 2, last)
    return Response(point, failed, _STEPS[:kept], _SECONDS[:kept], recalls[:kept], 0.0, _SECONDS[kept - 1], ())


@pytest.fixture(scope="module")
def table() -> Table:
    """A task whose runs are known."""
    recorded = search_tasks.tables_of(search_tasks.search_tasks()["drawn_scenes"])[0]
    noise = np.random.default_rng(0).normal(0, 0.5, len(recorded.responses)).tolist()
    return replace(recorded, responses=[_known_run(recorded, number, by) for number, by in enumerate(noise)])


@pytest.fixture(scope="module")
def predictions(table: Table) -> Predictions:
    """Of the second half from the first."""
    model = Surrogate(table, search_surrogate._half(len(table.responses), 0))
    held_out = [table.responses[row] for row in search_surrogate._half(len(table.responses), 1)]
    return Predictions.of(model, held_out, worlds=6)


def test_runs_of_the_other_half_are_predicted(predictions: Predictions) -> None:
    means = predictions.drawn.mean(0)
    assert search_surrogate._rank_correlation(means[:, -1], predictions.recalls[:, -1]) > 0.7
    assert means[:, 0] == pytest.approx(5.0), "all runs begin with the same set"
    assert np.exp(predictions.drawn_log_seconds) == pytest.approx(10.0)
    assert predictions.failed.any() and not predictions.failed.all()
    of_failed, of_others = (predictions.probabilities[predictions.failed == lost].mean() for lost in (True, False))
    assert of_failed > of_others + 0.25
    assert coverage(predictions.drawn[..., -1], predictions.recalls[:, -1], 95) > 0.8


def test_coverage_is_the_share_in_the_central_interval() -> None:
    drawn, values = np.random.default_rng(0).uniform(size=(4000, 200)), (np.arange(200) + 0.5) / 200
    for percent in (50, 80, 95):
        assert coverage(drawn, values, percent) == pytest.approx(percent / 100, abs=0.02)
    assert coverage(drawn, values + 1, 95) == 0
    assert coverage(3 * drawn - 1, values, 50) == pytest.approx(1)


def test_pairs_of_searches_are_compared_in_the_same_world() -> None:
    ours = PerSearch([np.array([0.1, 0.5, np.inf]), np.array([0.3])])
    theirs = PerSearch([np.array([0.2, 0.5, np.inf]), np.array([0.2])])
    assert search_surrogate._share_sooner(ours, theirs) == (1 + 0.5 + 0.5 + 0) / 4


def test_halves_have_each_run_once() -> None:
    one, other = search_surrogate._half(65, 0), search_surrogate._half(65, 1)
    assert sorted(one + other) == list(range(65)) and len(one) == 33


def test_a_world_answers_at_the_point_itself(table: Table) -> None:
    model = Surrogate(table, range(len(table.responses)))
    world, again, other = World(model, 1), World(model, 1), World(model, 2)
    points = [model.coordinates.point_of(row) for row in model.coordinates.draw(np.random.default_rng(3), 40)]
    answers = world.answers(points)
    assert answers == [again.nearest(point) for point in points], "one by one and together, now and later"
    whole = [(point, answer) for point, answer in zip(points, answers, strict=True) if not answer.failed]
    assert all(answer.point == point and answer.outer_steps == _STEPS for point, answer in whole)
    assert len({answer.val_mean_recalls for _, answer in whole}) == len(whole)
    failed = [answer for answer in answers if answer.failed]
    assert failed and all(answer in table.responses for answer in failed), "a failure goes like a recorded one"
    assert [answer.best for answer in answers] != [answer.best for answer in other.answers(points)]


def test_a_search_in_a_world_repeats(table: Table) -> None:
    world = World(Surrogate(table, range(len(table.responses))), 0)
    search = table.study.search.model_copy(update={"sampler": "random", "max_concurrent": 2})
    study = table.study.model_copy(update={"seed": 4, "search": search})
    curve = Replay(world, study).run(100.0)
    assert curve.trials > 5 and curve.stopped
    assert Replay(world, study).run(100.0) == curve


def test_the_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    only_drawn = [search_tasks.search_tasks()["drawn_scenes"]]
    monkeypatch.setattr(search_conditions, "recorded_tasks", lambda role: only_drawn)
    monkeypatch.setattr(search_statistics, "_BOOTSTRAPS", 5)
    monkeypatch.setattr(sys, "argv", ["search_surrogate.py", "--tiny", "--json"])
    search_surrogate.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
    for name in ("coverage_80_last", "coverage_80", "coverage_80_seconds"):
        assert 0 < figures[f"{name}_drawn_scenes"] <= 1
    assert figures["held_out_runs_drawn_scenes"] == 59 and figures["failures_drawn_scenes"] == 5 / 64
    assert figures["rank_correlation_last_drawn_scenes"] > 0
    for sampler in search_surrogate.SAMPLERS:
        for way in ("_dev", "_dev_none"):
            assert f"surrogate_{sampler}{way}_high" in figures and f"unreached_{sampler}{way}" in figures
    assert 0 <= figures["curves_before_tpe_dev"] <= 1
