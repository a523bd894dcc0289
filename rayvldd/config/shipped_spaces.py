"""The shipped studies: ``search_spaces/`` of a clone, or the data files of an installation."""

import re
import sysconfig
from collections.abc import Mapping
from pathlib import Path


def shipped_spaces() -> dict[str, Path]:
    """The shipped study files by name, in alphabetical order; empty where they were not installed."""
    clone = Path(__file__).parents[2] / "search_spaces"
    installed = Path(sysconfig.get_path("data")) / "share" / "rayvldd" / "search_spaces"
    folder = next((folder for folder in (clone, installed) if (folder / "quickstart.yaml").is_file()), None)
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))} if folder else {}


def copied_text(file: Path) -> str:
    """The text of a shipped study for another folder: the study that it extends is named, not its file beside it."""
    text, spaces = file.read_text(encoding="utf-8"), shipped_spaces()
    return re.sub(r"(?m)^(extends: )(\w+)\.yaml$", lambda found: _named(found, spaces), text)


def _named(found: re.Match[str], spaces: Mapping[str, Path]) -> str:
    return found[1] + found[2] if found[2] in spaces else found[0]


def purpose_of(file: Path) -> str:
    """The first sentence of a study file's header, which may take several lines; empty without a header."""
    lines: list[str] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        words = line.removeprefix("#").strip()
        if not line.startswith("#") or not words:
            break
        lines.append(words)
    return re.split(r"(?<=\.)\s", " ".join(lines), maxsplit=1)[0]
