"""Location of the arrays that ``rayvldd prepare`` made, recorded in the workspace's cache.

Processes that load data receive only the path of the cache folder. ``prepared.json`` in it lists the stores with
finished arrays and, if machines keep local copies, the folder for them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rayvldd.data.array_cache import ArrayCache, ArrayDescription, ArraySource
from rayvldd.records.json_values import list_at, value_at
from rayvldd.storage.addresses import open_storage
from rayvldd.storage.json_files import parsed, write_json_whole
from rayvldd.workspace import Workspace


def note_prepared(workspace: Workspace, store_uri: str, node_cache: Path | None) -> None:
    """Record a store of prepared arrays in a workspace; it is searched before the stores recorded earlier.

    Args:
        workspace: The workspace whose commands use the store.
        store_uri: Address of the store.
        node_cache: Folder on a local disk of each machine; default: the recorded one, or the workspace's cache.
    """
    earlier, local = _noted(workspace.cache)
    stores = [store_uri, *(uri for uri in earlier if uri != store_uri)]
    folder = str(node_cache) if node_cache else local
    write_json_whole(_note(workspace.cache), {"stores": stores, "node_cache": folder})


def open_cache(folder: Path) -> ArrayCache:
    """Return the cache of a workspace; missing arrays are fetched from the stores that are recorded in it.

    Args:
        folder: The cache folder of the workspace. The arrays may be in a local folder of each machine instead.
    """
    stores, local = _noted(folder)
    if not stores:
        return ArrayCache(folder)
    source = PreparedArrays(stores, Workspace(folder.parent))
    return ArrayCache(Path(local) if local else folder, source, shared_folder=folder)


class PreparedArrays:
    """The arrays of several stores; an array is read from the first store that has it."""

    def __init__(self, store_uris: list[str], workspace: Workspace) -> None:
        self._store_uris, self._workspace = store_uris, workspace

    def parts(self, array: ArrayDescription) -> Iterator[np.ndarray] | None:
        """Yield the array's rows in order, one shard at a time; None if no store has the array."""
        from rayvldd.data.array_shards import ArrayShards  # importing pyarrow is slow

        for uri in self._store_uris:
            parts = ArrayShards(open_storage(uri, self._workspace, "--store")).parts(array)
            if parts is not None:
                return parts
        return None


def _note(cache: Path) -> Path:
    return cache / "prepared.json"


def _noted(cache: Path) -> tuple[list[str], str | None]:
    """The recorded stores and local folder; none if nothing is prepared, or the record is damaged."""
    noted = parsed(_note(cache).read_bytes()) if _note(cache).is_file() else None
    stores, local = list_at(noted, "stores"), value_at(noted, "node_cache")
    texts = [uri for uri in stores if isinstance(uri, str)]
    if len(texts) != len(stores) or not isinstance(local, str | None):
        return [], None
    return texts, local


if TYPE_CHECKING:
    _source: ArraySource = PreparedArrays([], Workspace(""))
