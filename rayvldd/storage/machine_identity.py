"""Identity of this machine for leases; it differs between all running machines, even with equal host names."""

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
    """Host name, a digest of the current boot, and the PID namespace.

    Processes with the same identity can look up each other's PIDs. Machines created from one image may have the same
    host name and machine-id, so these are not sufficient. Linux has a random identity for every boot; a random token in
    a file of the temporary folder distinguishes containers and systems without it. If the file cannot be written, every
    process has its own identity: dead holders are then detected by their heartbeats, and live ones are never considered
    dead.
    """
    space = ""
    with suppress(OSError):  # containers have their own PIDs
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
                os.link(part, name)  # of concurrent processes, only one creates the name, together with its content
        finally:
            part.unlink()
        if name.is_symlink() or name.stat().st_uid != os.getuid():  # other users can write to the folder
            return token
        return name.read_text(encoding="ascii")
    except (OSError, ValueError):
        return token
