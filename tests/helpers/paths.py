"""Folders that tests read."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""
BENCHMARKS = ROOT / "tests" / "benchmarks"
FLICKR8K = ROOT.parent / "shared" / "flickr8k"
"""Photographs outside the checkout, which users do not have; tests that need them are skipped if they are missing."""
