"""Distilled sets that are named by a URI, such as ``models:/quickstart@best``.

This room knows no tracker and no cloud. Who can fetch a set says so in the entry points of its package, by scheme:
a function from the URI and the user's workspace, or None, to a context manager whose value is a local folder with the
set. They are looked up for text with a scheme only.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import entry_points
from pathlib import Path

from rayvldd.errors import StoreError, did_you_mean

GROUP = "rayvldd.distilled_set_sources"
"""The group of entry points; the name of each is the scheme that it fetches."""

SetSource = Callable[[str, Path | None], AbstractContextManager[Path]]

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/")  # two letters at least: one alone is a drive of Windows


@contextmanager
def local_folder(place: str | Path, workspace: str | Path | None = None) -> Iterator[Path]:
    """Give a folder as it is, and what a URI names as a folder that lasts as long as the block.

    Args:
        place: A folder or a URI.
        workspace: Where the user keeps what rayvldd makes, if that is known.

    Raises:
        StoreError: when nothing that is installed fetches such a URI, or it leads to no set.
    """
    scheme = _SCHEME.match(str(place))
    if scheme is None:
        yield Path(place)
        return
    source = _source(scheme[1], str(place))
    with source(str(place), Path(workspace) if workspace is not None else None) as folder:
        yield folder


def _source(scheme: str, uri: str) -> SetSource:
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    if scheme not in known:
        schemes = ", ".join(f"{name}:/…" for name in sorted(known))
        raise StoreError(
            f"{uri}: nothing that is installed fetches a distilled set from {scheme}:/…{did_you_mean(scheme, known)}; "
            f"allowed: a folder" + (f", {schemes}" if known else ""),
            next_command="rayvldd compare, which lists the studies and their sets",
        )
    source: SetSource = known[scheme].load()
    return source
