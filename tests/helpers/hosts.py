"""Several simulated hosts on this machine with ssh access, for tests of `ray up`.

Each is a set of Linux namespaces with its own address, process table, host name, home folder, /dev/shm and /tmp/ray, in
which sshd runs. They share the disk, like hosts with a shared file system, and this machine's CPUs.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from helpers.paths import ROOT

TOOLS = {"ip": "iproute2", "unshare": "util-linux", "sshd": "openssh-server", "ssh": "openssh-client", "rsync": "rsync"}
"""Required programs, and the Debian packages that contain them."""

_SBIN = "/usr/sbin:/sbin"
_UP_S = 20.0
_SCRIPTS = ("ray", "mlflow")
"""Programs of this environment that are also in a host's environment."""
_CONSTRAINTS = ROOT / "constraints.txt"


def why_not() -> str:
    """Reason why hosts cannot be created here; empty if they can."""
    if os.geteuid() != 0:
        return "hosts need root"
    missing = [package for tool, package in TOOLS.items() if not _path_of(tool)]
    if missing:
        return f"hosts need Debian's {', '.join(missing)}"
    name = f"try{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return f"no network namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


def fetch_wheels(folder: Path) -> str:
    """Download packages of cluster nodes that this environment lacks; return the reason of a failure, or empty.

    The hosts themselves have no access to the registry.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    requirements = [f"ray[default]=={version('ray')}", "-c", str(_CONSTRAINTS)]
    report = subprocess.run(
        [*pip, "install", "--dry-run", "--report", "-", *requirements], capture_output=True, text=True
    )
    if report.returncode:
        return f"hosts need what ray[default] has from a package registry: {report.stderr.strip()[-300:]}"
    missing = [package["metadata"] for package in json.loads(report.stdout)["install"]]
    names = [f"{found['name']}=={found['version']}" for found in missing]
    folder.mkdir()
    done = subprocess.run([*pip, "download", "--no-deps", "-d", str(folder), *names], capture_output=True, text=True)
    return f"{', '.join(names)}: {done.stderr.strip()[-300:]}" if names and done.returncode else ""


@dataclass
class Host:
    """One simulated host."""

    number: int
    address: str
    home: Path
    namespace: str
    interface: str
    """This machine's end of the network link."""
    process: "subprocess.Popen[bytes]"

    def cut(self) -> None:
        """Disconnect the host from the network."""
        _ip("link", "set", self.interface, "down")

    def reconnect(self) -> None:
        """Connect the host to the network again."""
        _ip("link", "set", self.interface, "up")

    def kill(self) -> None:
        """Kill all processes of the host at once, like a power failure: its address no longer responds."""
        self.cut()
        self.process.kill()
        self.process.wait()

    def commands(self) -> list[str]:
        """The command lines of its processes except sshd."""
        with_pids = Path(f"/proc/{self.process.pid}/ns/pid_for_children")
        mine = with_pids.readlink() if with_pids.exists() else None
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "ns" / "pid").readlink() == mine:
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip())
            except OSError:  # it ended
                continue
        return [command for command in found if command and not command.startswith(("sshd", _path_of("sshd")))]


@dataclass
class Hosts:
    """All hosts, by number from 0, and the ssh key for them."""

    folder: Path
    key: Path
    hosts: list[Host] = field(default_factory=list)

    def __getitem__(self, number: int) -> Host:
        return self.hosts[number]

    def __len__(self) -> int:
        return len(self.hosts)

    def ssh(self, number: int, *options: str) -> list[str]:
        """The beginning of a command line that runs a command on a host."""
        unasked = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR")
        return ["ssh", *unasked, "-i", str(self.key), *options, f"root@{self.hosts[number].address}"]


@contextmanager
def running_hosts(count: int, folder: Path) -> Iterator[Hosts]:
    """Run hosts for the duration of the block.

    Args:
        count: Number of hosts.
        folder: Folder of their homes, keys and logs; ``wheels`` in it has the packages that they install.
    """
    net, bridge = f"10.78.{os.getpid() % 250 + 1}", f"rv{os.getpid()}"
    hosts = Hosts(folder, folder / "key")
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("key", "hostkey"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{net}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for number in range(count):
            hosts.hosts.append(_started(number, f"{net}.{number + 2}", f"{net}.1", bridge, folder))
        for number in range(count):
            _await_ssh(hosts, number)
        yield hosts
    finally:
        for host in hosts.hosts:
            host.process.send_signal(signal.SIGKILL)
            host.process.wait()
            subprocess.run(["ip", "netns", "del", host.namespace], capture_output=True)
        subprocess.run(["ip", "link", "del", bridge], capture_output=True)
        remove_cached_configs(folder)


def remove_cached_configs(folder: Path) -> None:
    """Remove the copies that Ray keeps, in the system's temporary folder, of cluster files with a key in a folder."""
    for file in Path(tempfile.gettempdir()).glob("ray-config-*"):
        with suppress(FileNotFoundError):  # another process removed its own
            if f"{folder}/" in file.read_text(encoding="utf-8"):
                file.unlink()


_BOOT = """
hostname {name}
mount -t tmpfs tmpfs /dev/shm
mkdir -p /tmp/ray
mount -t tmpfs tmpfs /tmp/ray
mount --bind {folder}/passwd{number} /etc/passwd
exec {sshd} -D -e -o ListenAddress={address} -o HostKey={folder}/hostkey -o AuthorizedKeysFile={folder}/key.pub \
    -o PidFile=none -o StrictModes=no -o PermitRootLogin=yes -o UsePAM=no -o SetEnv=OMP_WAIT_POLICY=PASSIVE
"""
"""The hosts share the CPUs, so threads must not wait actively (OMP_WAIT_POLICY)."""


def _started(number: int, address: str, gateway: str, bridge: str, folder: Path) -> Host:
    name, interface, home = f"{bridge}h{number}", f"{bridge}v{number}", folder / f"home{number}"
    _make_home(home, folder / "wheels")
    lines = Path("/etc/passwd").read_text().splitlines()
    roots = f"root:x:0:0:root:{home}:/bin/bash"
    passwd = folder / f"passwd{number}"
    passwd.write_text("\n".join(roots if line.startswith("root:") else line for line in lines) + "\n")
    _ip("netns", "add", name)
    _ip("link", "add", interface, "type", "veth", "peer", "name", "eth0", "netns", name)
    _ip("link", "set", interface, "master", bridge, "up")
    _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
    for device in ("eth0", "lo"):
        _ip("-n", name, "link", "set", device, "up")
    _ip("-n", name, "route", "add", "default", "via", gateway)
    boot = _BOOT.format(
        name=f"host{number}", number=number, folder=shlex.quote(str(folder)), sshd=_path_of("sshd"), address=address
    )
    apart = ["unshare", "--pid", "--fork", "--mount", "--uts", "--mount-proc", "--kill-child", "bash", "-euc", boot]
    with (folder / f"host{number}.log").open("wb") as log:
        process = subprocess.Popen(
            ["ip", "netns", "exec", name, *apart],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={"PATH": f"{os.environ['PATH']}:{_SBIN}"},
        )
    return Host(number, address, home, name, interface, process)


def _make_home(home: Path, wheels: Path) -> None:
    """Create a home with an environment that uses the packages of the present one and downloads nothing.

    It is a separate environment: `ray up` installs packages into it, and its programs run from it.
    """
    environment = home / ".rayvldd" / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    library = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = [path for path in sys.path if path.endswith("site-packages")]
    (environment / "lib" / library / "site-packages" / "of_the_tests.pth").write_text("\n".join(packages) + "\n")
    python = environment / "bin" / "python"
    for script in _SCRIPTS:
        lines = Path(sys.executable).with_name(script).read_text().splitlines()
        copy = environment / "bin" / script
        copy.write_text("\n".join([f"#!{python}", *lines[1:]]) + "\n")
        copy.chmod(0o755)
    (home / ".config" / "pip").mkdir(parents=True)
    (home / ".config" / "pip" / "pip.conf").write_text(
        f"[global]\nno-index = true\nno-build-isolation = false\nfind-links = {wheels}\n"
    )


def _await_ssh(hosts: Hosts, number: int) -> None:
    deadline = time.monotonic() + _UP_S
    while subprocess.run([*hosts.ssh(number, "-o", "ConnectTimeout=1"), "true"], capture_output=True).returncode:
        if time.monotonic() > deadline:
            raise RuntimeError((hosts.folder / f"host{number}.log").read_text())
        time.sleep(0.1)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _path_of(tool: str) -> str:
    return shutil.which(tool, path=f"{os.environ['PATH']}:{_SBIN}") or ""
