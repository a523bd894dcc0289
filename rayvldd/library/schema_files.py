"""The JSON Schema beside a study file, with which an editor completes and checks it.

The study's first line names the file without a folder, so both can be moved together, and no network is needed.
"""

import json
from pathlib import Path

from rayvldd.config.schema import TITLE, study_schema
from rayvldd.errors import ConfigError, Fault
from rayvldd.storage.atomic import write_text_whole
from rayvldd.storage.json_files import parsed

SCHEMA_FILE = "study.schema.json"
"""One file for all studies of a folder."""
FIRST_LINE = f"# yaml-language-server: $schema={SCHEMA_FILE}\n"
"""Read by editors with a YAML language server, such as VS Code with Red Hat's extension."""


def with_schema_line(text: str) -> str:
    """A study file that names its schema, once."""
    return text if text.startswith(FIRST_LINE) else FIRST_LINE + text


def write_schema_beside(study_file: Path) -> None:
    """Write the schema of this release beside a study file; that of another release is replaced.

    Raises:
        ConfigError: if another file has the name of the schema.
    """
    file = study_file.with_name(SCHEMA_FILE)
    check_schema_is_free(study_file)
    write_text_whole(file, json.dumps(study_schema(), indent=1) + "\n")


def check_schema_is_free(study_file: Path) -> None:
    """Refuse to replace a file that is no schema of studies, and a study that would be in the place of the schema.

    Raises:
        ConfigError: naming the file.
    """
    file = study_file.with_name(SCHEMA_FILE)
    if study_file.name == SCHEMA_FILE:
        fault = Fault(
            str(file), "is the name of the schema of the studies in this folder", "another one, e.g. study.yaml"
        )
        raise ConfigError([fault], next_command="the same command with a study of another name")
    if file.exists() and not _is_schema(file):
        fault = Fault(str(file), "is there already, and is no schema of studies", "no such file, or `rayvldd schema`")
        raise ConfigError([fault], next_command="the same command with a study in another folder, or remove the file")


def _is_schema(file: Path) -> bool:
    try:
        found = parsed(file.read_bytes())
    except OSError:
        return False
    return found is not None and found.get("title") == TITLE
