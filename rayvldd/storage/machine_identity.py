"""Which machine this is, for leases: no two running machines share an identity, whatever their names are."""

import functools
import hashlib
import os
import secrets
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@functools.cache
def machine_identity() -> str:
    """The host's name, a digest of this boot, and the space of process numbers.

    Two processes with one identity can look each other's process numbers up. Machines made from one image share host
    name and machine-id, so neither counts. Linux draws an identity at every boot; a random part, kept in a file of the
    temporary folder, separates containers and systems that have no such identity. Where the file cannot be kept, every
    process is a machine of its own: a holder that died is then waited for, and none that lives is taken for dead.
    """
    space = ""
    with suppress(OSError):  # containers have process numbers of their own
        space = str(Path("/proc/self/ns/pid").readlink())
    boot = _boot()
    digest = hashlib.sha256(f"{boot} {_random_part(boot)}".encode()).hexdigest()[:16]
    return f"{socket.gethostname()} {digest} {space}".strip()


def _boot() -> str:
    with suppress(OSError):
        return _BOOT_ID.read_text(encoding="ascii").strip()
    return str(int(psutil.boot_time()))


def _random_part(boot: str) -> str:
    """A token that the processes of one user share until the next boot."""
    token = secrets.token_hex(16)
    digest = hashlib.sha256(boot.encode()).hexdigest()[:16]
    name = Path(tempfile.gettempdir()) / f"rayvldd-machine-{os.getuid()}-{digest}"
    part = name.with_name(f"{name.name}.{token}")
    try:
        with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
            file.write(token)
        try:
            with suppress(FileExistsError):
                os.link(part, name)  # of processes that start at once, one makes the name, and it has its content
        finally:
            part.unlink()
        if name.is_symlink() or name.stat().st_uid != os.getuid():  # the folder is everybody's
            return token
        return name.read_text(encoding="ascii")
    except (OSError, ValueError):
        return token
