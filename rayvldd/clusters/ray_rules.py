"""Security rules for `ray up` files of any provider: token, loopback, no keys, same versions as the driver."""

import re
from collections.abc import Iterator
from pathlib import Path

from rayvldd.clusters.versions import PINS, Versions, pin_of
from rayvldd.errors import Fault
from rayvldd.records.json_values import JsonObject, list_at, object_at, text_at
from rayvldd.user_paths import exists, is_file, user_path

TOKEN = "~/.ray/auth_token"
"""Path where Ray reads the token, on the user's machine and on every node."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts on which a dashboard may listen."""
_EXAMPLE = "192.0.2."
"""Addresses for documentation (RFC 5737): the file has not been edited yet."""
_RAY_START = re.compile(r"\bray\s+start\b")
_TOKEN_MODE = re.compile(r"\bRAY_AUTH_MODE=(['\"]?)(\w+)\1")
DASHBOARD = "the dashboard"

_HOSTS = (
    (DASHBOARD, re.compile(r"--dashboard-host[= ]+(\S+)")),
    ("MLflow", re.compile(r"\bmlflow\s+(?:server|ui)\b.*?--host[= ]+(\S+)", re.DOTALL)),
    ("MLflow", re.compile(r"\bMLFLOW_HOST=(\S+)")),
)
_KEYS = (
    ("an access key of AWS", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b")),
    ("a secret key of AWS", re.compile(r"aws_secret_access_key|AWS_SECRET_ACCESS_KEY", re.IGNORECASE)),
    ("a private key", re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY|\bprivate_key_id\b")),
    ("an access key of AWS", re.compile(r"\baws_access_key_id\s*[=:]\s*['\"]?[A-Za-z0-9]", re.IGNORECASE)),
    ("a token", re.compile(r"\bRAY_AUTH_TOKEN\s*[=:](?!\s*['\"]?\$)")),  # one made by a command is none of the file
)
_KEY_FOLDERS = ("~/.aws", "~/.config/gcloud", "~/.azure", "~/.kube")

_COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


def commands_of(config: JsonObject) -> Iterator[tuple[str, str]]:
    """Yield key and text of every command that runs on a node."""
    for key in _COMMANDS:
        for number, command in enumerate(list_at(config, key)):
            yield f"{key}.{number}", str(command)


def token_faults(config: JsonObject, file: str) -> list[Fault]:
    """Return faults if Ray runs without a token, or nodes do not receive the token.

    Without a token, anyone who can reach a port of Ray can run code. `ray up` enables the token only on the head node,
    which then rejects the workers, so every `ray start` command must enable it.
    """
    faults = []
    for key, command in commands_of(config):
        modes = [mode for _, mode in _TOKEN_MODE.findall(command)]
        if any(mode != "token" for mode in modes):
            faults.append(Fault(f"{file}: {key}", f"switches the token off: {command!r}", "RAY_AUTH_MODE=token"))
        elif _RAY_START.search(command) and not modes:
            faults.append(
                Fault(f"{file}: {key}", f"starts Ray without a token: {command!r}", "RAY_AUTH_MODE=token ray start …")
            )
    mounts = object_at(config, "file_mounts")
    if TOKEN not in mounts:
        faults.append(Fault(f"{file}: file_mounts", "hands no token to the nodes", f"{TOKEN}: {TOKEN}"))
    return faults


def loopback_faults(config: JsonObject, file: str) -> list[Fault]:
    """Return faults for dashboards that listen beyond loopback; users connect through ssh."""
    faults = []
    for key, command in commands_of(config):
        for name, host in open_hosts(command):
            faults.append(
                Fault(f"{file}: {key}", f"{name} listens on {host}", "127.0.0.1, reached by ray attach -p PORT")
            )
    return faults


def open_hosts(command: str) -> Iterator[tuple[str, str]]:
    """Yield program and host of each dashboard that a command opens beyond loopback."""
    for name, pattern in _HOSTS:
        for host in pattern.findall(command):
            if host.strip("'\"") not in _LOOPBACK:
                yield name, host


def key_faults(config: JsonObject, text: str, file: str) -> list[Fault]:
    """Return faults for keys in the file or copied to nodes; nodes use roles, and ssh its agent and files."""
    faults = [
        Fault(f"{file} line {number}", f"holds {name}", "no keys: nodes get rights by their role")
        for number, name in held_keys(text)
    ]
    provider = object_at(config, "provider")
    for key in ("aws_credentials", "gcp_credentials"):
        if key in provider:
            faults.append(Fault(f"{file}: provider.{key}", "holds keys", "no keys: nodes get rights by their role"))
    for target, source in object_at(config, "file_mounts").items():
        if any(str(source).replace(str(Path.home()), "~").startswith(folder) for folder in _KEY_FOLDERS):
            faults.append(
                Fault(f"{file}: file_mounts.{target}", f"copies {source} to the nodes", "no keys: nodes have roles")
            )
    return faults


def held_keys(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and kind of each key in a file, without its comments."""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.lstrip().startswith("#"):
            yield from ((number, name) for name in {name: 0 for name, pattern in _KEYS if pattern.search(line)})


def mount_faults(config: JsonObject, file: str) -> list[Fault]:
    """Return faults for missing files to copy; `ray up` detects them only after launching the head node."""
    faults = []
    for target, source in object_at(config, "file_mounts").items():
        if target != TOKEN and not exists(str(source)):
            faults.append(
                Fault(
                    f"{file}: file_mounts.{target}",
                    f"there is no {source} in {Path.cwd()}",
                    "a path that exists; use the shipped files from the root of a clone",
                )
            )
    return faults


def address_faults(config: JsonObject, file: str) -> list[Fault]:
    """Return faults for machines that are named twice, and for addresses with a port, which `ray up` cannot use."""
    provider = object_at(config, "provider")
    named = [("head_ip", text_at(provider, "head_ip"))]
    named += [(f"worker_ips.{place}", str(one)) for place, one in enumerate(list_at(provider, "worker_ips"))]
    faults, first = [], dict[str, str]()
    for key, address in named:
        where = f"{file}: provider.{key}"
        if re.fullmatch(r"[^:]+:\d+", address):
            allowed = "an address without a port; another port of ssh as `Port` below the host in ~/.ssh/config"
            faults.append(Fault(where, f"got {address!r}", allowed))
        elif address in first:
            faults.append(Fault(where, f"{address} is {first[address]} already", "every machine once"))
        first.setdefault(address, key)
    return faults


def ssh_key_faults(config: JsonObject, file: str) -> list[Fault]:
    """Return a fault if the private key for ssh is not on this machine, which Ray notices when it has begun."""
    key = text_at(config, "auth", "ssh_private_key")
    is_example = text_at(config, "provider", "head_ip").startswith(_EXAMPLE)
    if is_example or not key or is_file(str(key)):
        return []
    allowed = "a key that exists on this machine; or leave it out, for the keys of ssh itself"
    return [Fault(f"{file}: auth.ssh_private_key", f"there is no {key}", allowed)]


def version_faults(config: JsonObject, file: str, driver: Versions) -> list[Fault]:
    """Return faults for nodes that would get versions other than the driver's."""
    commands = [(key, command) for key, command in commands_of(config) if "setup" in key]
    faults = []
    if not any(re.search(rf"\binstall\b.*-c\s*\S*{re.escape(PINS)}", command, re.DOTALL) for _, command in commands):
        faults.append(Fault(f"{file}: setup_commands", "installs rayvldd without its pins", f"pip install -c {PINS} …"))
    for key, command in commands:
        for version in re.findall(r"\bray(?:\[[\w,]*\])?==([\w.]+)", command):
            if version != driver.ray:
                faults.append(Fault(f"{file}: {key}", f"installs Ray {version}", f"{driver.ray}, as the driver has"))
        for version in re.findall(r"--python[= ]+['\"]?(\d+\.\d+)|\bpython(\d+\.\d+)\b", command):
            found = "".join(version)
            if found != driver.python_minor:
                faults.append(
                    Fault(f"{file}: {key}", f"installs Python {found}", f"{driver.python_minor}, as the driver has")
                )
    for target, source in object_at(config, "file_mounts").items():
        if Path(str(target)).name == PINS and is_file(str(source)):
            pinned = pin_of(user_path(str(source)), "ray")
            if pinned != driver.ray:
                faults.append(
                    Fault(f"{file}: file_mounts.{target}", f"pins Ray {pinned}", f"{driver.ray}, as the driver has")
                )
    return faults
