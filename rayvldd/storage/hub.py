"""Dataset repositories on the hub of Hugging Face: folders that are fetched or uploaded whole.

The library ``huggingface_hub`` reads the user's token, as ``hf auth login`` or ``HF_TOKEN`` sets it, and keeps what it
fetches in its own cache. ``HF_ENDPOINT`` names another server with the same API.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rayvldd.errors import Fault, InputError, StoreError, message_of

SCHEME = "hf"
"""Scheme of addresses of repositories: ``hf://USER/NAME`` or ``hf://USER/NAME@REVISION``."""
_FORM = "hf://USER/NAME or hf://USER/NAME@REVISION"
_ADDRESS = re.compile(r"hf://(?:datasets/)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?/?")
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@contextmanager
def fetched(uri: str, workspace: Path | None = None) -> Iterator[Path]:
    """Yield a local folder with the files of a distilled set that a repository has.

    Args:
        uri: ``hf://USER/NAME``, with ``@REVISION`` for a branch, tag or commit.
        workspace: Not used; the library has a cache for all workspaces.

    Raises:
        StoreError: if there is no such repository, or the hub does not answer.
    """
    found = _ADDRESS.fullmatch(uri)
    if not found:
        raise StoreError(
            f"{uri} is no address of a data set on the hub; allowed: {_FORM}",
            next_command=f"the same command with {_FORM}",
        )
    yield _copy(uri, found[1], found[2])


def _copy(uri: str, name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    # What other files a repository has, e.g. Parquet files for the hub's viewer, is not fetched.
    wanted = ["*.json", "*.jsonl", "*.safetensors"]
    disable_progress_bars()
    try:
        folder = snapshot_download(
            name, repo_type="dataset", revision=revision, allow_patterns=wanted, endpoint=_endpoint()
        )
    except Exception as error:  # the library raises errors of several HTTP libraries
        raise StoreError(
            f"{uri} cannot be fetched: {message_of(error)}; allowed: {_FORM}",
            next_command="hf auth login, if the repository is private; then the same command",
        ) from None
    return Path(folder)


def check_repository_name(name: str, option: str) -> None:
    """Check the form of a repository's name.

    Raises:
        InputError: naming the option.
    """
    if not _NAME.fullmatch(name):
        fault = Fault(option, f"got {name!r}", "USER/NAME of a data set on the hub")
        raise InputError([fault], next_command="the same command with such a name")


def push(folder: Path, name: str, files: Sequence[str] | None = None) -> str:
    """Upload a folder to a dataset repository, which is created as a private one if it does not exist.

    Args:
        folder: The folder.
        name: ``USER/NAME``.
        files: Patterns of the files; default: all.

    Returns:
        Address of the commit.

    Raises:
        StoreError: if the hub refuses or does not answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    api = HfApi(endpoint=_endpoint())
    try:
        api.create_repo(name, repo_type="dataset", private=True, exist_ok=True)
        done = api.upload_folder(
            folder_path=folder,
            repo_id=name,
            repo_type="dataset",
            commit_message="Add a distilled set",
            allow_patterns=list(files) if files else None,
        )
    except Exception as error:  # the library raises errors of several HTTP libraries
        raise StoreError(
            f"{name} was not uploaded: {message_of(error)}; the folder {folder} is complete",
            next_command=f"hf auth login, then: hf upload {name} {folder} --repo-type dataset",
        ) from None
    return str(done.commit_url)


def _endpoint() -> str | None:
    """The user's server, as it is now: the library reads the variable only when it is imported."""
    return os.environ.get("HF_ENDPOINT") or None
