"""Version of the code that computed a run: the release, and the commit if it is known.

The commit is that of the clone in which the package lies, or of the clone or repository from which it was installed.
"""

import subprocess
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import rayvldd
from rayvldd.records.json_values import JsonObject, text_at
from rayvldd.storage.json_files import parsed


@cache
def code_version() -> dict[str, str]:
    """Tags for the tracker, with MLflow's standard names where there are any; the commit only if it is known."""
    package = Path(rayvldd.__file__).parent
    tags = {"rayvldd.version": rayvldd.__version__}
    if (package.parent / ".git").exists():
        return tags | _tags_of_clone(package)
    return tags | _tags_of_installation(package)


def _tags_of_clone(package: Path) -> dict[str, str]:
    """Commit of the clone with this package, and whether the package has changed since; empty if git cannot say."""
    commit = _git(package, "rev-parse", "HEAD")
    return _tags(commit, changed=bool(_git(package, "status", "--porcelain", "--", str(package)))) if commit else {}


def _tags_of_installation(package: Path) -> dict[str, str]:
    """Commit that an installer recorded, or that of the clone it copied; empty if neither is certain.

    A clone counts only while its modules are those of the installed package: later it may be at another commit.
    """
    origin = _recorded_origin(package)
    if commit := text_at(origin, "vcs_info", "commit_id"):
        return _tags(commit, changed=False)
    clone = _folder_of(text_at(origin, "url"))
    if clone is None:
        return {}
    try:
        same = (clone / ".git").exists() and _modules(clone / package.name) == _modules(package)
    except (OSError, ValueError):  # not readable by this user, or no path
        return {}
    return _tags_of_clone(clone / package.name) if same else {}


def _recorded_origin(package: Path) -> JsonObject:
    """Where the package was installed from, by ``direct_url.json`` (PEP 610); empty if that is not recorded."""
    try:
        installed = distribution(package.name)
        text = installed.read_text("direct_url.json") if _has(installed, package) else None
    except (PackageNotFoundError, OSError, ValueError):
        return {}
    return (parsed(text.encode()) if text else None) or {}


def _has(installed: Distribution, package: Path) -> bool:
    """Whether the package is that of the distribution, and not another one that was found before it."""
    return Path(str(installed.locate_file(package.name))).resolve() == package.resolve()


def _folder_of(url: str) -> Path | None:
    """The local folder of a ``file:`` URL; None for other ones."""
    try:
        parts = urlsplit(url)
        return Path(url2pathname(parts.path)) if parts.scheme == "file" else None
    except (OSError, ValueError):
        return None


def _modules(package: Path) -> dict[Path, bytes]:
    """Path -> content of the modules of a package."""
    return {file.relative_to(package): file.read_bytes() for file in package.rglob("*.py")}


def _tags(commit: str, changed: bool) -> dict[str, str]:
    return {"mlflow.source.git.commit": commit, "rayvldd.changed_since_commit": str(changed).lower()}


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, or a clone of another user
        return ""
    return done.stdout.strip()
