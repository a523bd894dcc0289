"""The benchmarks of search and evaluation: recording, replay, and the scripts."""

import itertools
import json
import lzma
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import BENCHMARKS
from helpers.studies import TINY_STUDY

from rayvldd.config.loading import dump_study
from rayvldd.config.study import Study

sys.path.insert(0, str(BENCHMARKS))

import evaluation
import record_responses
import record_searches
import search
import search_replay
from recorded_responses import Answers, Response, Table

POINT = {"distillation.lr_image": 1.0, "distillation.trajectory_matching.syn_steps": 2}


def record(study: Path, runs: int, *more: str) -> list[str]:
    """Run the recorder up to a number of runs; return the lines of its table."""
    out = study.with_name("responses.jsonl")
    command = ["record_responses.py", str(study), "--workspace", str(study.parent / "workspace"), "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*command, "--runs", str(runs), "--compare-at", "2", "4", *more])
        record_responses.main()
    return out.read_text().splitlines()


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study with two settings to search and one first point."""
    rate = {"type": "float", "low": 0.1, "high": 10, "log": True}
    space = {
        "distillation.lr_image": rate,
        "distillation.trajectory_matching.syn_steps": {"type": "int", "low": 1, "high": 3},
    }
    study = Study.model_validate({**TINY_STUDY, "search": {"space": space, "initial_points": [POINT]}})
    file = tmp_path_factory.mktemp("recorded") / "study.yaml"
    file.write_text(dump_study(study))
    return file


@pytest.fixture(scope="module")
def recorded(searched: Path) -> Path:
    """Its table of four runs, of which two were recorded by a command that was killed while it wrote the third."""
    first = record(searched, 2)
    table = searched.with_name("responses.jsonl")
    table.write_text("\n".join([*first, '{"run": 2, "poi']))
    assert record(searched, 4)[:3] == first
    return table


def test_responses_are_recorded_once_and_go_on(searched: Path, recorded: Path) -> None:
    head, *runs = map(json.loads, recorded.read_text().splitlines())
    assert str(searched.parent) not in head["command"].replace(str(searched), "")
    assert runs[0]["point"] == POINT
    assert [run["run"] for run in runs] == [0, 1, 2, 3]
    assert len({json.dumps(run["point"]) for run in runs}) == 4
    for run in runs:
        assert [row["outer_step"] for row in run["evaluations"]] == [0, 2, 4]
        seconds = [row["seconds"] for row in run["evaluations"]]
        assert 0 < seconds[0] < seconds[1] < seconds[2] <= run["seconds"]
        assert all(0 < row["seconds_evaluating"] <= row["seconds"] for row in run["evaluations"])
        compared = [2, 4] if run["run"] == 0 else []  # every fourth run
        assert [row["outer_step"] for row in run["compared"]] == compared
        assert all(0 <= row["full"] <= 100 and row["full_seconds"] > 0 for row in run["compared"])


def test_table_of_another_study_is_refused(searched: Path, recorded: Path) -> None:
    with pytest.raises(SystemExit, match="other settings"):
        record(searched, 5, "--set", "distillation.num_pairs=5")


# --- evaluation ---------------------------------------------------------------------------------------------------


def figures_of(
    script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> dict[str, float]:
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", "--tiny", "--json", *arguments])
    script.main()
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["machine"]["threads"] == 1
    figures: dict[str, float] = result["figures"]
    return figures


def test_released_evaluation_ends_with_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = figures_of(evaluation, monkeypatch, capsys, "--only", "evaluation_time,recall_time")
    assert figures["evaluation_difference"] == figures["recall_difference"] == 0
    assert figures["recall_time"] == pytest.approx(figures["recall_s"] / figures["recall_released_s"])
    assert figures["evaluation_time"] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_of_recall_is_measured_beside_the_matrix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = figures_of(evaluation, monkeypatch, capsys, "--only", "recall_memory")
    assert figures["recall_mib"] >= 0 and figures["recall_released_mib"] > 0.5  # a matrix of 200 x 1000 has 0.76


def test_proxies_are_compared_with_the_full_evaluation(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    head, row, *_ = recorded.read_text().splitlines()
    rows = []
    for full, proxy in ((3.0, 2.0), (5.0, 4.0), (9.0, 3.0), (11.0, 12.0)):
        run = json.loads(row)
        run["evaluations"][1]["val_mean_recall"] = -full
        run["compared"] = [{**run["compared"][0], "full": full, "1x15": full, "1x30": proxy, "2x30": full}]
        rows.append(json.dumps(run))
    table = tmp_path / "table.jsonl"
    table.write_text("\n".join([head, *rows]) + "\n")
    figures = figures_of(evaluation, monkeypatch, capsys, "--only", "proxy_rank_correlation", "--table", str(table))
    assert figures["proxy_rank_correlation"] == figures["proxy_rank_correlation_1x30_2"] == pytest.approx(0.8)
    assert figures["proxy_rank_correlation_1x15_2"] == pytest.approx(1)
    assert figures["proxy_rank_correlation_own_2"] == pytest.approx(-1)


# --- search -------------------------------------------------------------------------------------------------------


def table_of(study: Study, recalls: dict[float, list[float]]) -> Table:
    """Responses along lr_image, one second a report; no recalls at all: the run failed after a second."""
    head = {"study": study.model_dump(mode="json"), "full": "5x100"}
    responses = [
        Response(
            point={"distillation.lr_image": rate},
            failed="" if values else "diverged",
            outer_steps=tuple(2 * number for number in range(len(values))),
            seconds=tuple(1.0 + number for number in range(len(values))),
            val_mean_recalls=tuple(values),
            seconds_evaluating=0.5,
            seconds_in_all=max(1.0, float(len(values))),
            compared=(),
        )
        for rate, values in recalls.items()
    ]
    return Table(head, responses)


@pytest.fixture
def one_rate(tiny_study: Study) -> Study:
    """The tiny study of 8 outer steps with one rate to search, first tried at 10."""
    values = tiny_study.model_dump(mode="json")
    values["distillation"]["outer_steps"] = 8
    domain = {"type": "float", "low": 1.0, "high": 1000.0, "log": True}
    values["search"] = {
        "space": {"distillation.lr_image": domain},
        "initial_points": [{"distillation.lr_image": 10.0}],
        "grace_evaluations": 1,
        "max_concurrent": 1,
    }
    return Study.model_validate(values)


GOOD, POOR = [1.0, 5.0, 6.0, 7.0, 8.0], [1.0, 2.0, 2.0, 2.0, 2.0]


def test_a_point_that_was_not_recorded_answers_as_its_neighbour(one_rate: Study) -> None:
    table = table_of(one_rate, {1.0: POOR, 100.0: GOOD, 1000.0: []})
    at_11 = {"distillation.lr_image": 11.0}
    assert Answers(table).nearest(at_11).point == {"distillation.lr_image": 100.0}  # logarithmic
    assert Answers(table).nearest({"distillation.lr_image": 9.0}).point == {"distillation.lr_image": 1.0}
    assert Answers(table).nearest({"distillation.lr_image": 900.0}).failed


def test_each_run_answers_once_until_all_have(one_rate: Study) -> None:
    answers = Answers(table_of(one_rate, {1.0: POOR, 100.0: GOOD, 1000.0: []}))
    at_11 = {"distillation.lr_image": 11.0}
    assert [answers.nearest(at_11).point["distillation.lr_image"] for _ in range(4)] == [100.0, 1.0, 1000.0, 100.0]


def test_random_search_is_the_mean_over_all_choices_of_runs(one_rate: Study) -> None:
    table = table_of(one_rate, {1.0: GOOD, 10.0: POOR, 100.0: [1.0, 3.0, 4.0, 4.0, 4.0], 1000.0: []})
    for num_trials in (1, 2, 3, 4):
        chosen = list(itertools.combinations([8.0, 2.0, 4.0, 0.0], num_trials))
        expected = search_replay.random_search(table, num_trials)
        assert expected.recall == pytest.approx(sum(map(max, chosen)) / len(chosen))
        assert expected.trial_seconds == pytest.approx(num_trials * (3 * 5 + 1) / 4), "a failed one takes a second"


def test_replayed_search_stops_poor_trials_and_learns_where_good_ones_are(one_rate: Study) -> None:
    rates = [10 ** (number / 10) for number in range(31)]
    poor = {rate: [1.0, *[4.0 - abs(math.log10(rate / 170))] * 4] for rate in rates}  # the farther off, the worse
    recalls = {rate: GOOD if 100 < rate < 300 else [] if rate > 500 else poor[rate] for rate in rates}
    table = table_of(one_rate, recalls)
    curve, own = search_replay.our_search(table, one_rate, 300.0)
    assert curve.best == 8.0 and curve.stopped > 5 and own == 0
    assert curve.trials > 60  # in full, good and poor ones would take five seconds each
    again, _ = search_replay.our_search(table, one_rate, 300.0)
    assert again == curve
    two = one_rate.model_copy(update={"search": one_rate.search.model_copy(update={"max_concurrent": 2})})
    in_pairs, _ = search_replay.our_search(table, two, 300.0)
    assert in_pairs.best == 8.0 and in_pairs.points[0][0] == 2.0  # two trials' first reports, a second each


def test_mean_of_searches_reaches_a_recall_when_their_mean_does() -> None:
    curves = [search_replay.Curve([(1.0, 4.0), (5.0, 8.0)], 9.0), search_replay.Curve([(2.0, 2.0), (3.0, 6.0)], 9.0)]
    assert search_replay.seconds_of_mean(curves, 3.0) == 2.0  # (4 + 2) / 2
    assert search_replay.seconds_of_mean(curves, 5.0) == 3.0
    assert search_replay.seconds_of_mean(curves, 7.5) is None


def test_budgets_are_compared_on_a_recorded_table(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search, "RANDOM_TRIALS", (3, 4))
    only = ("--only", "budget_vs_random", "--table", str(recorded))
    figures = figures_of(search, monkeypatch, capsys, *only)
    assert figures["recorded_runs"] == 4 and math.isfinite(figures["neighbour_rank_correlation"])
    for name in ("budget_vs_random", "budget_vs_random_3", "budget_vs_random_4"):
        found, high = figures[name], figures[f"{name}_high"]
        assert found is None or figures[f"{name}_low"] <= found <= (math.inf if high is None else high)
    assert figures["random_4_recall"] <= figures["recorded_recall_best"]
    assert figures["ours_recorded"] == 0


def record_the_searches(study: Path, table: Path, out: Path, seeds: int, until: float = 1.0) -> None:
    command = ["record_searches.py", str(study), "--table", str(table), "--out", str(out), "--seeds", str(seeds)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*command, "--workspace", str(study.parent / "workspace"), "--until", str(until)])
        record_searches.main()


@pytest.fixture(scope="module")
def searches(searched: Path, recorded: Path) -> Path:
    """Two searches of that study, recorded by a command that was killed after the first."""
    out = searched.with_name("searches.jsonl")
    record_the_searches(searched, recorded, out, 1)
    first = out.read_text()
    record_the_searches(searched, recorded, out, 2)
    assert out.read_text().startswith(first)
    return out


def test_recorded_searches_answer_as_they_did(
    recorded: Path, searches: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    only = ("--only", "budget_vs_random", "--table", str(recorded), "--searches", str(searches))
    figures = figures_of(search, monkeypatch, capsys, *only)
    assert figures["ours_recorded"] == 1 and figures["ours_trial_s"] == 1.0
    head, *rows = map(json.loads, searches.read_text().splitlines())
    made = [[each["val_mean_recall"] for each in row["evaluations"]] for row in rows if not row["failed"]]
    assert head["until"] == 1.0 and {row["seed"] for row in rows} == {0, 1}
    assert 0 < figures["ours_recall"] <= max(max(recalls, default=0.0) for recalls in made)
    assert figures_of(search, monkeypatch, capsys, *only, "--spread-only")["ours_recorded"] == 0


def test_searches_of_another_length_or_study_are_refused(searched: Path, recorded: Path, searches: Path) -> None:
    with pytest.raises(SystemExit, match=r"holds searches of 1.0 trial-seconds"):
        record_the_searches(searched, recorded, searches, 2, until=2.0)
    other = searched.with_name("other.yaml")
    other.write_text(searched.read_text().replace("num_pairs: 4", "num_pairs: 5"))
    assert other.read_text() != searched.read_text()
    with pytest.raises(SystemExit, match="2"):
        record_the_searches(other, recorded, searches, 2)


def test_searches_beside_runs_that_do_not_repeat_are_refused(searched: Path, recorded: Path, tmp_path: Path) -> None:
    head, *runs = map(json.loads, recorded.read_text().splitlines())
    for run in runs:
        for each in run["evaluations"]:
            each["val_mean_recall"] += 5.0
    table = tmp_path / "responses.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in [head, *runs]))
    with pytest.raises(SystemExit, match="of the table does not repeat here"):
        record_the_searches(searched, table, tmp_path / "searches.jsonl", 1)


@pytest.mark.parametrize("name", ["table", "searches"])
def test_a_compressed_table_is_read_as_a_plain_one(recorded: Path, searches: Path, tmp_path: Path, name: str) -> None:
    files = {"table": recorded, "searches": searches}
    compressed = tmp_path / f"{name}.jsonl.xz"
    compressed.write_bytes(lzma.compress(files[name].read_bytes()))
    files[name] = compressed
    assert Table.load(files["table"], files["searches"]) == Table.load(recorded, searches)


def test_a_stopped_trial_reports_no_further_evaluations(recorded: Path, searches: Path) -> None:
    trials = Table.load(recorded, searches).searches[0]
    stopped = next(trial for trial in trials if trial.stopped)
    assert stopped.has(len(stopped.seconds) - 1)
    with pytest.raises(SystemExit, match="lets a recorded trial go on"):
        stopped.has(len(stopped.seconds))
