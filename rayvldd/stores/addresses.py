"""Stores by address: ``file://`` (or a plain path), ``s3://`` and ``object-store://``."""

from urllib.parse import unquote, urlsplit

from rayvldd.errors import Fault, InputError
from rayvldd.stores.expert_store import ExpertStore
from rayvldd.stores.folder import FolderPlace
from rayvldd.stores.place import Place
from rayvldd.stores.workspace import Workspace

_OUTLIVING = "a folder or file:///FOLDER, s3://BUCKET/PREFIX"
_ALLOWED = f"{_OUTLIVING}, object-store://NAME"


def open_store(uri: str | None, workspace: Workspace) -> ExpertStore:
    """Return the expert store at an address; nothing is read or written yet.

    Args:
        uri: ``file:///FOLDER`` or a path, ``s3://BUCKET/PREFIX`` (any endpoint that boto3 is set up for), or
            ``object-store://NAME`` in the Ray cluster of the command, gone with it. Default: the workspace's folder.
        workspace: Where copies of remote files are kept on this machine.

    Raises:
        InputError: when the address cannot be understood.
    """
    return ExpertStore(FolderPlace(workspace.experts) if uri is None else open_place(uri, workspace, "--store"))


def open_place(uri: str, workspace: Workspace, option: str) -> Place:
    """Return the place at an address; nothing is read or written yet.

    Args:
        uri: As for :func:`open_store`.
        workspace: Where copies of remote files are kept on this machine.
        option: What the user gave the address with, for the message.

    Raises:
        InputError: when the address cannot be understood.
    """
    if "://" not in uri:
        return FolderPlace(uri)
    parts = urlsplit(uri)
    if parts.scheme == "file" and not parts.netloc and parts.path:
        return FolderPlace(unquote(parts.path))
    if parts.scheme == "s3" and parts.netloc:
        from rayvldd.stores.s3 import S3Place  # boto3 takes its time to import

        return S3Place(parts.netloc, parts.path.strip("/"), workspace.cache / "trajectories")
    if parts.scheme == "object-store" and parts.netloc and parts.path in ("", "/") and option == "--store":
        from rayvldd.stores.object_store import ObjectStorePlace

        return ObjectStorePlace(parts.netloc)
    hint = " (ray:// is the address of Ray Client)" if parts.scheme == "ray" else ""
    allowed = _ALLOWED if option == "--store" else _OUTLIVING
    raise InputError([Fault(option, f"got {uri!r}{hint}", allowed)], next_command="the same command with one of them")


def lives_in_ray(store: ExpertStore) -> bool:
    """Whether the store is part of a Ray cluster, so that it can be looked at only from inside."""
    return store.uri.startswith("object-store:")
