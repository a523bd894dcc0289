"""The benchmark of methods, in small."""

import json
import sys
from pathlib import Path

import pytest
from helpers.paths import BENCHMARKS

sys.path.insert(0, str(BENCHMARKS))

import methods


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
