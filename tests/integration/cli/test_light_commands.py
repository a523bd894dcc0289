"""Commands that need no tensors do not import torch, which takes seconds of CPU.

Each command runs in a process of its own. Imports are compared, and not the time, which depends on the machine.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from helpers.expert_sets import RECIPE, expert

from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.storage.folder import FolderStorage

HEAVY = {"torch", "torchvision", "timm", "transformers", "peft", "ray", "mlflow", "optuna", "scipy", "pandas"}

PROGRAM = f"""
import json, sys
from rayvldd.cli.main import main
code = 0
try:
    main(sys.argv[1:], prog_name="rayvldd")
except SystemExit as end:
    code = end.code
finally:
    print(json.dumps(sorted(set({sorted(HEAVY)!r}) & set(sys.modules))))
sys.exit(code)
"""


class Ended(NamedTuple):
    """A command that has ended."""

    code: int
    output: str
    errors: str
    libraries: set[str]
    """Those of :data:`HEAVY` that it has imported."""


def run_alone(*arguments: str | Path) -> Ended:
    """Run ``rayvldd`` in a new process."""
    # A variable that hides GPUs would be a reason to ask torch for them.
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    line = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=200, env=environment)
    *output, libraries = done.stdout.splitlines()
    return Ended(done.returncode, "\n".join(output), done.stderr, set(json.loads(libraries)))


def test_lists_of_expert_sets_import_no_torch(tmp_path: Path) -> None:
    ExpertStore(FolderStorage(tmp_path / "experts")).save(RECIPE, 0, expert())
    for words in (["list"], ["show", RECIPE.key], ["prune", "--dry-run"]):
        done = run_alone("experts", *words, "--workspace", tmp_path)
        assert done.code == 0, done.errors
        assert RECIPE.key in done.output or words[0] == "prune"
        assert not done.libraries, words
