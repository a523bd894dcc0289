"""Storages by address: ``file://`` (or a plain path), ``s3://`` and ``object-store://``."""

from urllib.parse import unquote, urlsplit

from rayvldd.errors import Fault, InputError
from rayvldd.storage.folder import FolderStorage
from rayvldd.storage.storage import Storage
from rayvldd.workspace import Workspace

_OUTLIVING = "a folder or file:///FOLDER, s3://BUCKET/PREFIX"
_ALLOWED = f"{_OUTLIVING}, object-store://NAME"


def open_storage(uri: str, workspace: Workspace, option: str) -> Storage:
    """Return the storage at an address; nothing is read or written yet.

    Args:
        uri: ``file:///FOLDER`` or a path, ``s3://BUCKET/PREFIX`` (any endpoint that boto3 is set up for), or, for a
            store of experts, ``object-store://NAME`` in the Ray cluster of the command.
        workspace: Where copies of remote files are kept on this machine.
        option: What the user gave the address with, for the message.

    Raises:
        InputError: when the address cannot be understood.
    """
    if "://" not in uri:
        return FolderStorage(uri)
    parts = urlsplit(uri)
    if parts.scheme == "file" and not parts.netloc and parts.path:
        return FolderStorage(unquote(parts.path))
    if parts.scheme == "s3" and parts.netloc:
        from rayvldd.storage.s3 import S3Storage  # boto3 takes its time to import

        return S3Storage(parts.netloc, parts.path.strip("/"), workspace.cache / "trajectories")
    if parts.scheme == "object-store" and parts.netloc and parts.path in ("", "/") and option == "--store":
        from rayvldd.storage.ray_store import RayStorage

        return RayStorage(parts.netloc)
    hint = " (ray:// is the address of Ray Client)" if parts.scheme == "ray" else ""
    allowed = _ALLOWED if option == "--store" else _OUTLIVING
    raise InputError([Fault(option, f"got {uri!r}{hint}", allowed)], next_command="the same command with one of them")
