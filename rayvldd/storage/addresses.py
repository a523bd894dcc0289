"""Open the storage at an address: ``file://`` (or a plain path), ``s3://`` or ``object-store://``."""

import re
from urllib.parse import unquote, urlsplit

from rayvldd.errors import Fault, InputError
from rayvldd.storage.folder import FolderStorage
from rayvldd.storage.storage import Storage
from rayvldd.workspace import Workspace

_OUTLIVING = "a folder or file:///FOLDER, s3://BUCKET/PREFIX"
_ALLOWED = f"{_OUTLIVING}, object-store://NAME"

_SCHEMES = ("file", "s3", "object-store")
_SCHEME = re.compile(rf"(?:{'|'.join(_SCHEMES)}):|[A-Za-z][A-Za-z0-9+.-]+:/")
"""Start of an address that is not a folder: a supported scheme, or any scheme followed by at least one slash."""


def open_storage(uri: str, workspace: Workspace, option: str) -> Storage:
    """Return the storage at an address without reading or writing anything.

    Args:
        uri: ``file:///FOLDER`` or a path, ``s3://BUCKET/PREFIX`` (any endpoint that boto3 is set up for), or, for a
            store of experts, ``object-store://NAME`` in the Ray cluster of the command.
        workspace: Where copies of remote files are stored on this machine.
        option: Command-line option that holds the address, for the error message.

    Raises:
        InputError: when the address is invalid.
    """
    if not _SCHEME.match(uri):
        return FolderStorage(uri)
    parts = urlsplit(uri)
    if parts.scheme == "file" and uri.startswith("file:///") and _is_path_alone(uri):
        return FolderStorage(unquote(parts.path))
    if parts.scheme == "s3" and parts.netloc and _is_path_alone(uri):
        from rayvldd.storage.s3 import S3Storage  # boto3 is slow to import

        return S3Storage(parts.netloc, parts.path.strip("/"), workspace.cache / "trajectories")
    if parts.scheme == "object-store" and parts.netloc and parts.path in ("", "/") and option == "--store":
        from rayvldd.storage.ray_store import RayStorage

        return RayStorage(parts.netloc)
    hint = " (ray:// is the address of Ray Client)" if parts.scheme == "ray" else ""
    if parts.scheme in _SCHEMES and "://" not in uri:
        slashes = "///" if parts.scheme == "file" else "//"
        hint = f" (did you mean '{parts.scheme}:{slashes}{parts.path.lstrip('/')}'?)"
    elif not _is_path_alone(uri):
        hint = ", with a '?' or '#'"
    allowed = _ALLOWED if option == "--store" else _OUTLIVING
    raise InputError([Fault(option, f"got {uri!r}{hint}", allowed)], next_command="the same command with one of them")


def _is_path_alone(uri: str) -> bool:
    """Whether an address has no query (``?``) and no fragment (``#``), which would silently be dropped."""
    return "?" not in uri and "#" not in uri
