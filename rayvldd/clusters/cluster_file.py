"""Read a file of `clusters/`: Ray's YAML, manifests for KubeRay, a CloudFormation template, or a script for Slurm."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from rayvldd.config.bounded_yaml import parsed_documents
from rayvldd.errors import ConfigError, Fault, did_you_mean
from rayvldd.records.json_values import JsonObject
from rayvldd.user_paths import is_file, user_path

Kind = Literal["ray", "kubernetes", "cloudformation", "slurm"]

EDIT = "# EDIT"
"""Comment that marks a line with a value for the user to set."""

_PLACEHOLDER = re.compile(r"YOUR-[A-Z0-9-]+|\b192\.0\.2\.\d+\b")
"""Placeholders for values that only the user knows; 192.0.2.0/24 is reserved for documentation (RFC 5737)."""


@dataclass(frozen=True)
class Edit:
    """A line marked for the user to edit, with its placeholder."""

    line: int
    text: str
    placeholder: str
    """``YOUR-…`` or a documentation address; empty if the value works unchanged or was filled in."""


@dataclass(frozen=True)
class ClusterFile:
    """A parsed cluster file, without defaults."""

    path: Path
    kind: Kind
    text: str
    documents: list[JsonObject]
    """One mapping per YAML document: one for Ray, several manifests for Kubernetes, none for Slurm."""

    @property
    def config(self) -> JsonObject:
        """First document; for Ray, the whole file."""
        return self.documents[0]

    @property
    def edits(self) -> list[Edit]:
        """Return the lines marked ``# EDIT``, in the order of the file."""
        found = []
        for number, line in enumerate(self.text.splitlines(), 1):
            content, mark, _ = line.partition(EDIT)
            if mark and content.strip():
                placeholder = _PLACEHOLDER.search(content)
                found.append(Edit(number, content.strip(), placeholder.group() if placeholder else ""))
        return found

    @property
    def unedited(self) -> list[Edit]:
        """Return the edits that still contain a placeholder."""
        return [edit for edit in self.edits if edit.placeholder]


def read_cluster_file(path: str | Path) -> ClusterFile:
    """Read a cluster file and detect its kind.

    Raises:
        ConfigError: when the file does not exist, is not YAML, or is none of the four kinds.
    """
    path = user_path(path)
    if not is_file(path):
        existing = sorted(str(found) for kind in ("*.yaml", "*.sbatch") for found in Path("clusters").glob(kind))
        hint = did_you_mean(str(path), existing)
        allowed = ", ".join(existing) or "the path of a YAML file"
        raise ConfigError(
            [Fault(str(path), f"no such cluster file{hint}", allowed)],
            next_command=f"rayvldd check --cluster {existing[0] if existing else 'FILE'}",
        )
    try:
        text = path.read_text(encoding="utf-8")
        if re.search(r"^#SBATCH\b", text, re.MULTILINE):
            return ClusterFile(path, "slurm", text, [])
        parsed = [document for document in parsed_documents(text) if document is not None]
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError([Fault(f"{path}{line}", f"not readable as YAML: {error.problem}")]) from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError([Fault(str(path), f"not readable as YAML: {error}")]) from None
    documents = [document for document in parsed if isinstance(document, dict)]
    return ClusterFile(path, _kind_of(path, documents if len(documents) == len(parsed) else []), text, documents)


def _kind_of(path: Path, documents: list[JsonObject]) -> Kind:
    if documents:
        if all("apiVersion" in document and "kind" in document for document in documents):
            return "kubernetes"
        if len(documents) == 1 and isinstance(documents[0].get("provider"), dict):
            return "ray"
        if len(documents) == 1 and "Resources" in documents[0]:
            return "cloudformation"
    raise ConfigError(
        [
            Fault(
                str(path),
                "is no cluster file",
                "a file for `ray up` (it has a key `provider`), Kubernetes manifests (each with `apiVersion` and "
                "`kind`), a CloudFormation template (it has `Resources`), or a batch script (it has `#SBATCH`)",
            )
        ],
        next_command="rayvldd check --cluster clusters/aws_gpu.yaml, for one that is",
    )
