"""Version of the code that computed a run: the release, and the commit if the package runs from a clone."""

import subprocess
from functools import cache
from pathlib import Path

import rayvldd


@cache
def code_version() -> dict[str, str]:
    """Tags for the tracker, with MLflow's standard names where there are any; the commit only for a clone."""
    package = Path(rayvldd.__file__).parent
    tags = {"rayvldd.version": rayvldd.__version__}
    if not (package.parent / ".git").exists():
        return tags
    commit = _git(package, "rev-parse", "HEAD")
    if commit:
        changed = bool(_git(package, "status", "--porcelain", "--", str(package)))
        tags |= {"mlflow.source.git.commit": commit, "rayvldd.changed_since_commit": str(changed).lower()}
    return tags


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, or a clone of another user
        return ""
    return done.stdout.strip()
