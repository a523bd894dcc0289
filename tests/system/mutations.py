"""Damage files of every kind at random, and list what a loader answers with anything but its own error.

    python tests/system/mutations.py --count 20000
    python tests/system/mutations.py --kind clusters --seed 1234 --count 1

The seeds of a kind are counted from ``--seed``, so that a failure can be repeated alone.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.mutated_files import KINDS, failures_of


def main() -> int:
    """Run all mutations, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="mutations of all kinds together")
    parser.add_argument("--seed", type=int, default=0, help="first seed of each kind")
    parser.add_argument("--kind", choices=[*KINDS], action="append", help="only this kind; may be repeated")
    given = parser.parse_args()
    kinds = [KINDS[name] for name in given.kind or KINDS]
    failed = 0
    for place, kind in enumerate(kinds):
        count = given.count // len(kinds) + (place < given.count % len(kinds))
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            failures = failures_of(kind, range(given.seed, given.seed + count), Path(folder))
        failed += len(failures)
        print(f"{kind.name:12} {count:6} mutations, {len(failures):4} failures, {time.perf_counter() - started:5.1f} s")
        for failure in failures:
            print(failure, flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
