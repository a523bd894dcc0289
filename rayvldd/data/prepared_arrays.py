"""How commands find the arrays that ``rayvldd prepare`` made: by a note in the workspace's cache.

Every process that loads data is told of the cache's folder and of nothing else. The note there names the stores that
hold finished arrays and, where each machine is to keep copies on a disk of its own, the folder for them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rayvldd.data.array_cache import ArrayCache, ArrayDescription, ArraySource
from rayvldd.storage.addresses import open_storage
from rayvldd.storage.json_files import parsed, write_json_whole
from rayvldd.workspace import Workspace


def note_prepared(workspace: Workspace, store_uri: str, node_cache: Path | None) -> None:
    """Let the commands on a workspace look for arrays in a store, before all stores that were noted earlier.

    Args:
        workspace: Whose commands.
        store_uri: Where finished arrays lie.
        node_cache: A folder on a disk of each machine; default: as noted before, or the workspace's own cache.
    """
    noted = _noted(workspace.cache)
    stores = [store_uri, *(uri for uri in noted.get("stores", []) if uri != store_uri)]
    folder = str(node_cache) if node_cache else noted.get("node_cache")
    write_json_whole(_note(workspace.cache), {"stores": stores, "node_cache": folder})


def open_cache(folder: Path) -> ArrayCache:
    """Return the cache of a workspace, which takes what it does not have from the stores that are noted there.

    Args:
        folder: The cache's folder, whose copies may lie elsewhere on each machine.
    """
    noted = _noted(folder)
    if not noted:
        return ArrayCache(folder)
    own = noted.get("node_cache")
    return ArrayCache(Path(own) if own else folder, PreparedArrays(noted["stores"], Workspace(folder.parent)))


class PreparedArrays:
    """The arrays of several stores; the first that has one gives it."""

    def __init__(self, store_uris: list[str], workspace: Workspace) -> None:
        self._store_uris, self._workspace = store_uris, workspace

    def parts(self, array: ArrayDescription) -> Iterator[np.ndarray] | None:
        """The array's rows in order, a shard at a time; None where no store has it."""
        from rayvldd.data.array_shards import ArrayShards  # pyarrow takes its time to import

        for uri in self._store_uris:
            parts = ArrayShards(open_storage(uri, self._workspace, "--store")).parts(array)
            if parts is not None:
                return parts
        return None


def _note(cache: Path) -> Path:
    return cache / "prepared.json"


def _noted(cache: Path) -> dict[str, Any]:
    file = _note(cache)
    return parsed(file.read_bytes()) or {} if file.is_file() else {}


if TYPE_CHECKING:
    _source: ArraySource = PreparedArrays([], Workspace(""))
