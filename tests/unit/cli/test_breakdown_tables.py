"""Tables of ``rayvldd evaluate --breakdown``."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rayvldd.cli import breakdown
from rayvldd.cli.invocation import Invocation
from rayvldd.evaluation.recall import RetrievalRanks
from rayvldd.records.set_scores import ALL_PAIRS, Conditions
from rayvldd.reports.table import Table


def test_columns_have_short_names_of_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A column is at least as wide as its heading: the location of a set would fill a terminal."""
    tables: list[Table] = []
    monkeypatch.setattr(Invocation, "show", lambda self, table: tables.append(table))
    monkeypatch.setattr(breakdown, "_subjects", lambda *_: [])
    captions = ["a dog", "a woman with a dog"]
    places = ["/data/rayvldd_workspace/studies/one/best", "/data/rayvldd_workspace/studies/two/best"]
    ranks = {name: [RetrievalRanks(np.array([1]), np.array([1, 2]))] for name in (*places, "random", ALL_PAIRS)}
    task: Any = SimpleNamespace(val=SimpleNamespace(split=SimpleNamespace(captions=captions)))
    conditions = Conditions(measured_on=(), trained_with="resnet18", base="0")
    invocation = Invocation("rayvldd evaluate", (), Path("/w"), False, False, False, sys.stdout)
    sets: Any = dict.fromkeys(places)
    shown = breakdown.show_breakdown(invocation, task, sets, ranks, "val", conditions)
    assert tables[0].headings == ("by", "group", "captions", "one/best", "two/best", "random", ALL_PAIRS)
    assert set(shown.recalls[0].recall) == set(ranks), "the object of --json has the locations"
