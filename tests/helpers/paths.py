"""Folders that tests read."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""
BENCHMARKS = ROOT / "tests" / "benchmarks"
FLICKR8K = ROOT.parent / "shared" / "flickr8k"
"""Photographs beside the checkout, which a user does not have; tests that want them skip where they are absent."""
