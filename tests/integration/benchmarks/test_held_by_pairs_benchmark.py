"""The benchmark of what pairs can hold, in small."""

import json
import sys
from pathlib import Path

import pytest
import torch
from helpers.paths import BENCHMARKS

sys.path.insert(0, str(BENCHMARKS))

import held_by_pairs
from torch.testing import assert_close

from rayvldd.models.parameters import Parameters


@pytest.fixture
def conditions(tmp_path: Path) -> held_by_pairs.Conditions:
    return held_by_pairs.Conditions(tiny=True, workspace=tmp_path, pairs=(4,), models=1)


def test_figures_are_printed_as_one_object(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--tiny", "--json", "--pairs", "4,16", "--models", "1"]
    monkeypatch.setattr(sys, "argv", ["held_by_pairs.py", *options])
    held_by_pairs.main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
    assert set(figures) == {"rank_share_4", "rank_share_16"}
    assert figures["rank_share_16"] == pytest.approx(1), "the toy heads are 16 wide"


def test_real_pairs_need_a_workspace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["held_by_pairs.py"])
    with pytest.raises(SystemExit):
        held_by_pairs.main()
    assert "--workspace FOLDER is missing" in capsys.readouterr().err


def test_a_truncated_change_has_so_many_directions(conditions: held_by_pairs.Conditions) -> None:
    task = conditions.task
    start, end = task.model.initial_parameters(0), task.model.initial_parameters(1)
    kept = held_by_pairs.truncated(task, start, end, directions=3)
    layout = task.model.text_layout
    first, last, cut = (layout.unflatten(side.text) for side in (start, end, kept))
    change = cut["projection.weight"] - first["projection.weight"]
    whole = torch.linalg.svdvals(last["projection.weight"] - first["projection.weight"])
    values = torch.linalg.svdvals(change)
    assert_close(values[:3], whole[:3])
    assert float(values[3:].max()) < 1e-5 * float(whole[0])
    assert all(torch.equal(cut[name], last[name]) for name in last if name != "projection.weight")
    assert_close(held_by_pairs.truncated(task, start, end, directions=99), Parameters(*end))
