"""Changed cluster files, and the faults that checking them reports."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers.paths import ROOT
from rayvldd.clusters.checking import check_cluster
from rayvldd.errors import ConfigError

CLUSTERS = ROOT / "clusters"


Change = Callable[[dict[str, Any]], Any]


def changed(name: str, change: Change, folder: Path) -> Path:
    """A copy of a shipped file with one change, together with copies of the files that it names."""
    for beside in ("aws_account.yaml", "gcp_project.sh"):
        (folder / beside).write_text((CLUSTERS / beside).read_text(encoding="utf-8"), encoding="utf-8")
    documents = list(yaml.safe_load_all((CLUSTERS / name).read_text(encoding="utf-8")))
    documents = [copy.deepcopy(document) for document in documents]  # YAML's anchors are one object
    change(documents[0] if len(documents) == 1 else {document["kind"]: document for document in documents})
    file = folder / name
    file.write_text(yaml.safe_dump_all([document for document in documents if document]), encoding="utf-8")
    return file


def faults_of(file: Path) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        check_cluster(file)
    return [str(fault) for fault in raised.value.faults]


def _set(path: str, value: Any) -> Change:
    """Set the value at a path of keys and indices; None removes the key."""

    def change(config: dict[str, Any]) -> None:
        *parts, last = path.split(">")
        inner: Any = config
        for part in parts:
            inner = inner[int(part)] if isinstance(inner, list) else inner[part]
        if isinstance(inner, list):
            inner[int(last)] = value
        elif value is None:
            del inner[last]
        else:
            inner[last] = value

    return change
