"""Damaged files of every kind: a few seeds; ``tests/system/mutations.py`` runs thousands."""

from pathlib import Path

import pytest
from helpers.mutated_files import KINDS, failures_of

SEEDS = {"clusters": 6, "results": 12, "studies": 30}
"""Number of seeds of the kinds that take the longest; each of the others has 50."""


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_read_or_refused_with_a_reason(name: str, tmp_path: Path) -> None:
    failures = failures_of(KINDS[name], range(SEEDS.get(name, 50)), tmp_path)
    assert not failures, "\n\n".join(map(str, failures))
