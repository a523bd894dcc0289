"""Open the storage of experts at an address: ``file://`` (or a plain path), ``s3://`` or ``object-store://``."""

from rayvldd.experts.store.expert_records import ExpertRecords
from rayvldd.storage.addresses import open_storage
from rayvldd.storage.folder import FolderStorage
from rayvldd.storage.storage import Storage
from rayvldd.workspace import Workspace


def expert_storage(uri: str | None, workspace: Workspace) -> Storage:
    """Return the storage of experts at an address without reading or writing anything.

    Args:
        uri: ``file:///FOLDER`` or a path, ``s3://BUCKET/PREFIX`` (any endpoint that boto3 is set up for), or
            ``object-store://NAME`` in the Ray cluster of the command, which ends with the cluster. Default: the
            workspace's folder.
        workspace: Where copies of remote files are stored on this machine.

    Raises:
        InputError: when the address is invalid.
    """
    return FolderStorage(workspace.experts) if uri is None else open_storage(uri, workspace, "--store")


def open_records(uri: str | None, workspace: Workspace) -> ExpertRecords:
    """Return the records of the expert store at an address, for commands that need no tensors.

    Raises:
        InputError: when the address is invalid.
    """
    return ExpertRecords(expert_storage(uri, workspace))


def lives_in_ray(store: ExpertRecords) -> bool:
    """Whether the store is part of a Ray cluster and accessible only from inside it."""
    return store.uri.startswith("object-store:")
