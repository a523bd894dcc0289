"""Fetch distilled sets by URI, such as ``models:/quickstart@best`` or ``hf://user/name``.

This package part depends on no tracker and no cloud. Sources register by URI scheme as entry points: a function of the
URI and the user's workspace (or None) that returns a context manager, whose value is a local folder with the set. Entry
points are loaded only for strings with a scheme.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from rayvldd.errors import StoreError, did_you_mean
from rayvldd.user_paths import user_path

GROUP = "rayvldd.distilled_set_sources"
"""Entry-point group; the name of each entry point is the scheme that it fetches."""

_HUB = EntryPoint("hf", "rayvldd.storage.hub:fetched", GROUP)
"""The hub of Hugging Face, which needs no registration."""

SetSource = Callable[[str, Path | None], AbstractContextManager[Path]]

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/")  # at least two letters, because one letter is a Windows drive


@contextmanager
def local_folder(place: str | Path, workspace: str | Path | None = None) -> Iterator[Path]:
    """Yield a local folder: a folder is returned unchanged, a URI is fetched for the duration of the block.

    Args:
        place: A folder or a URI.
        workspace: Workspace of the user, if known.

    Raises:
        StoreError: when no installed source supports the URI, or it does not name a set.
    """
    scheme = _SCHEME.match(str(place))
    if scheme is None:
        yield user_path(place)
        return
    source = _source(scheme[1], str(place))
    with source(str(place), Path(workspace) if workspace is not None else None) as folder:
        yield folder


def _source(scheme: str, uri: str) -> SetSource:
    sources = {entry.name: entry for entry in (_HUB, *entry_points(group=GROUP))}
    if scheme not in sources:
        schemes = ", ".join(f"{name}:/…" for name in sorted(sources))
        raise StoreError(
            f"{uri}: no installed package fetches a distilled set from {scheme}:/…{did_you_mean(scheme, sources)}; "
            f"allowed: a folder" + (f", {schemes}" if sources else ""),
            next_command="rayvldd compare, which lists the studies and their sets",
        )
    source: SetSource = sources[scheme].load()
    return source
