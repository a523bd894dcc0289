"""MLflow's server or database: this package's experiment there, the place of artifacts, and errors of its clients."""

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from rayvldd.errors import RayvlddError, message_of
from rayvldd.printable import without_passwords
from rayvldd.tracking.moved_database import EXPERIMENT, IN_WORKSPACE, is_folder_of

_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Kind of experiment for MLflow's pages: training runs with charts, not traces of language models."""


def experiment_id(client: MlflowClient, uri: str, artifacts: Path | None) -> str:
    """Id of the package's experiment.

    MLflow cannot change the artifact location of an experiment. Where it is not the given folder, as in a workspace
    whose addresses could not be changed after it was moved, a further experiment is used.
    """
    location = None if artifacts is None else artifacts.absolute().as_uri()
    known = client.get_experiment_by_name(EXPERIMENT)
    name = EXPERIMENT
    if known is not None and artifacts is not None and not is_folder_of(known.artifact_location, artifacts):
        name = f"{EXPERIMENT} {location}"
        known = client.get_experiment_by_name(name)
    tags = _KIND if location is None else {**_KIND, **IN_WORKSPACE}
    if known is None:
        return str(client.create_experiment(name, artifact_location=location, tags=tags))
    if known.lifecycle_stage != "active":
        raise RayvlddError(
            f"the MLflow experiment {name!r} was deleted",
            next_command=f"MLFLOW_TRACKING_URI={uri} mlflow experiments restore --experiment-id {known.experiment_id}",
        )
    if artifacts is not None and not IN_WORKSPACE.items() <= known.tags.items():  # one of an earlier release
        for key, value in IN_WORKSPACE.items():
            client.set_experiment_tag(known.experiment_id, key, value)
    return str(known.experiment_id)


def try_tracker(uri: str) -> None:
    """Ask the tracker at an address for this package's experiment, as a tracker does when it is opened.

    Raises:
        RayvlddError: if MLflow cannot use the address, or nothing answers.
    """
    with quiet(), answering(without_passwords(uri)):
        MlflowClient(tracking_uri=uri).get_experiment_by_name(EXPERIMENT)


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Translate any error of a client library into one about the tracking URI."""
    try:
        yield
    except RayvlddError:
        raise
    except Exception as error:  # SQL drivers, HTTP clients and MLflow have different base classes
        raise RayvlddError(
            f"tracking URI {uri}: cannot be used: {message_of(error)}; allowed: an MLflow server that answers, "
            f"sqlite:///FILE in a folder that can be written, or none",
            next_command="start the server or repair the URI; or repeat the command with --tracking-uri none",
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress messages while a database is created: MLflow logs every migration, and its dependencies warn."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def try_artifacts(uri: str, place: str) -> None:
    """Write a small artifact and delete it if possible; this machine may write artifacts directly to S3.

    Args:
        uri: Tracking URI.
        place: Location of the artifacts of a run.

    Raises:
        RayvlddError: if artifacts cannot be written.
    """
    repository = get_artifact_repository(place, tracking_uri=uri)
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "rayvldd_can_write.txt"
        probe.write_text("This file says that artifacts can be written here.\n", encoding="utf-8")
        try:
            repository.log_artifact(str(probe))
        except Exception as error:  # from MLflow, boto3, Azure or the operating system
            raise RayvlddError(
                f"tracking URI {without_passwords(uri)}: artifacts cannot be written to {place}: {message_of(error)}; "
                f"allowed: credentials on this machine for the place that the server keeps artifacts in",
                next_command="set them (AWS_ACCESS_KEY_ID, AWS_PROFILE, …), or repeat the command with "
                "--tracking-uri none",
            ) from error
        with suppress(Exception):  # some stores cannot delete
            repository.delete_artifacts(probe.name)
