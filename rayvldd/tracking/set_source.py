"""Download of distilled sets from MLflow: the package's entry points for ``models:/`` and ``runs:/`` addresses."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import mlflow
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException

from rayvldd.errors import StoreError, message_of
from rayvldd.tracking.moved_database import follow_move, present_address
from rayvldd.workspace import Workspace, database_file

BEST_ALIAS = "best"
"""Alias of the model version of the set that a study chose last."""

_FORMS = "models:/STUDY@best, models:/STUDY/VERSION, runs:/RUN_ID or runs:/RUN_ID/PATH"


@contextmanager
def fetched(uri: str, workspace: Path | None = None) -> Iterator[Path]:
    """Copy the artifacts of a ``models:/`` or ``runs:/`` URI into a folder that exists while the block runs.

    Args:
        uri: One of the forms above.
        workspace: Workspace whose database is used unless ``MLFLOW_TRACKING_URI`` is set; default: that in
            ``RAYVLDD_WORKSPACE``.

    Raises:
        StoreError: if there is no such model, alias, run or path, or the server does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="rayvldd-") as place:
        yield _copy(uri, _tracking_uri(uri, workspace), place)


def _copy(uri: str, tracking_uri: str, place: str) -> Path:
    try:
        follow_move(tracking_uri)
        client = MlflowClient(tracking_uri=tracking_uri)
        location = present_address(tracking_uri, _location(client, uri))
        return Path(download_artifacts(location, dst_path=place, tracking_uri=tracking_uri))
    except (MlflowException, OSError) as error:  # requests' errors are OSErrors
        _refuse(uri, f"cannot be fetched from {tracking_uri}: {message_of(error)}", error)


def _location(client: MlflowClient, uri: str) -> str:
    """Location of the artifacts. Models are resolved here, because MLflow would add a file to the artifacts."""
    scheme, _, rest = uri.partition(":")
    name, *parts = rest.strip("/").split("/")
    if scheme == "runs":
        return "/".join([client.get_run(name).info.artifact_uri.rstrip("/"), *parts])
    model, _, alias = name.partition("@")
    version = client.get_model_version_by_alias(model, alias).version if alias else parts.pop(0) if parts else ""
    if not model or not version:
        _refuse(uri, "names no version of a model")
    return "/".join([client.get_model_version_download_uri(model, str(version)).rstrip("/"), *parts])


def _tracking_uri(uri: str, workspace: Path | None) -> str:
    """The server or database: that of ``MLFLOW_TRACKING_URI``, else the workspace's."""
    if mlflow.is_tracking_uri_set() and mlflow.get_tracking_uri() != "none":
        return mlflow.get_tracking_uri()
    own = Workspace(workspace or os.environ.get("RAYVLDD_WORKSPACE", "rayvldd_workspace")).tracking_uri
    database = database_file(own)
    if database is not None and not database.is_file():  # a query would create an empty one
        _refuse(uri, f"there is no {database}, and MLFLOW_TRACKING_URI names no other server or database")
    return own


def _refuse(uri: str, problem: str, cause: Exception | None = None) -> NoReturn:
    raise StoreError(
        f"{uri}: {problem}; allowed: {_FORMS}, of a server that answers",
        next_command="repeat with the workspace of the sweep (--workspace DIR, or RAYVLDD_WORKSPACE), or with "
        "MLFLOW_TRACKING_URI set to the server or database that it has printed",
    ) from cause


if TYPE_CHECKING:
    from rayvldd.distillation.set_sources import SetSource

    _source: SetSource = fetched
