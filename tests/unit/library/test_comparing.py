"""The studies of a workspace that a comparison shows."""

from pathlib import Path

import pytest

from rayvldd.errors import StoreError
from rayvldd.library.comparing import chosen_studies
from rayvldd.workspace import Workspace


def test_records_of_distill_and_experts_are_no_studies(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    for name, parts in {"distilled": ("distill", "tracking"), "experts": ("tracking",), "empty": ()}.items():
        for part in parts or ("",):
            (workspace.study(name) / part).mkdir(parents=True)
    with pytest.raises(StoreError, match="no study"):
        chosen_studies(workspace, (), may_be_none=False)
    (workspace.study("searched") / "tracking").mkdir(parents=True)
    (workspace.study("searched") / "study.json").touch()
    assert chosen_studies(workspace, (), may_be_none=False) == [workspace.study("searched")]
