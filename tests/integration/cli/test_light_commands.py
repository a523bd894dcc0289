"""Commands that need no tensors do not import torch, which takes seconds of CPU.

Each command runs in a process of its own. Imports are compared, and not the time, which depends on the machine.
``test_cli.py`` has the same test of the result of a finished study.
"""

from pathlib import Path

from helpers.cli import run_alone
from helpers.expert_sets import RECIPE, expert

from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.storage.folder import FolderStorage


def test_lists_of_expert_sets_import_no_torch(tmp_path: Path) -> None:
    ExpertStore(FolderStorage(tmp_path / "experts")).save(RECIPE, 0, expert())
    for words in (["list"], ["show", RECIPE.key], ["prune", "--dry-run"]):
        done = run_alone("experts", *words, "--workspace", tmp_path)
        assert done.code == 0, done.errors
        assert RECIPE.key in done.output or words[0] == "prune"
        assert not done.libraries, words
