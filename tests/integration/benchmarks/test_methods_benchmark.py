"""The benchmark of methods, in small."""

import json
import re
import sys
from pathlib import Path

import pytest
from helpers.paths import BENCHMARKS

sys.path.insert(0, str(BENCHMARKS))

import method_runs
import methods

from rayvldd.testing.toy import toy_study


def test_figures_are_printed_as_one_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["methods.py", "--only", "shortcut_bytes", "--tiny", "--json"])
    methods.main()
    printed = capsys.readouterr()
    figures = json.loads(printed.out.splitlines()[-1])["figures"]
    assert set(figures) == {"shortcut_bytes"}
    assert 0.05 < figures["shortcut_bytes"] < 0.4, "two of eleven snapshots at half the bits, and records"
    assert "shortcut_bytes" in printed.err


def test_the_memory_of_meta_model_does_not_follow_the_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["methods.py", "--only", "meta_memory_growth", "--tiny", "--json"])
    methods.main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]["meta_memory_growth"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "share_100"], "share_100: --workspace FOLDER is missing"),
        (["--only", "transfer", "--workspace", "w", "--methods", "magic"], r"no method is called \['magic'\]"),
    ],
)
def test_a_long_figure_needs_its_data(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["methods.py", *arguments])
    with pytest.raises(SystemExit):
        methods.main()
    assert re.search(message, capsys.readouterr().err)


def test_a_run_is_kept_and_its_cost_is_that_of_its_first_good_evaluation(tmp_path: Path) -> None:
    study = toy_study("covariance", {"real_batch_size": 8})
    run = method_runs.distilled(study, 0, tmp_path)
    assert len(run.seconds) == len(run.recalls) == 3 and list(run.seconds) == sorted(run.seconds)
    again = method_runs.distilled(study, 0, tmp_path)
    assert (again.folder, list(again.recalls)) == (run.folder, list(run.recalls))
    course = method_runs.Run("", (1.0, 2.0, 3.0), (10.0, 30.0, 20.0))
    assert course.seconds_to(20) == 2 and course.seconds_to(31) is None


def test_a_method_of_two_studies_has_the_course_of_both(tmp_path: Path) -> None:
    studies = [toy_study("covariance", {"real_batch_size": 8}), toy_study("meta_model", {"syn_steps": 2, "window": 1})]
    first = method_runs.distilled(studies[0], 0, tmp_path)
    run = method_runs.distilled_in_turn(studies, 0, tmp_path)
    assert run.folder != first.folder
    assert run.recalls[: len(first.recalls)] == tuple(first.recalls) and len(run.recalls) == 6
    assert run.recalls[3] == max(first.recalls), "the second study begins with the best set of the first"
    assert list(run.seconds) == sorted(run.seconds)
