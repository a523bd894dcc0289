"""Open the expert store at an address: ``file://`` (or a plain path), ``s3://`` or ``object-store://``."""

from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.storage.addresses import open_storage
from rayvldd.storage.folder import FolderStorage
from rayvldd.workspace import Workspace


def open_store(uri: str | None, workspace: Workspace) -> ExpertStore:
    """Return the expert store at an address without reading or writing anything.

    Args:
        uri: ``file:///FOLDER`` or a path, ``s3://BUCKET/PREFIX`` (any endpoint that boto3 is set up for), or
            ``object-store://NAME`` in the Ray cluster of the command, which ends with the cluster. Default: the
            workspace's folder.
        workspace: Where copies of remote files are stored on this machine.

    Raises:
        InputError: when the address is invalid.
    """
    return ExpertStore(FolderStorage(workspace.experts) if uri is None else open_storage(uri, workspace, "--store"))


def lives_in_ray(store: ExpertStore) -> bool:
    """Whether the store is part of a Ray cluster and accessible only from inside it."""
    return store.uri.startswith("object-store:")
