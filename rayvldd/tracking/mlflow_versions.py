"""Versions of a registered model in MLflow: the set that a study has chosen, with a student that MLflow can serve."""

import tempfile
from contextlib import suppress
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, InputTag
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from rayvldd.records.student_card import STUDENT, StudentCard
from rayvldd.tracking.mlflow_notes import RUN_ID
from rayvldd.tracking.set_source import BEST_ALIAS


def write_model(client: MlflowClient, run_id: str, name: str, artifacts: Path, student: StudentCard) -> None:
    """Make the artifacts of a study's run a model of MLflow, with the set as the input that its student comes from.

    Args:
        client: Client of the server.
        run_id: The run.
        name: Name of the study.
        artifacts: Folder of the artifacts.
        student: Card of the student among them.
    """
    from rayvldd.tracking.student_model import dataset_of, write_model_files  # seconds that only this needs

    with tempfile.TemporaryDirectory() as folder:
        write_model_files(Path(folder), STUDENT, student)
        client.log_artifacts(run_id, folder)
    dataset = dataset_of(artifacts, name, run_id)
    tags = [InputTag("mlflow.data.context", "student training")]
    client.log_inputs(run_id, [DatasetInput(dataset, tags)])


def register(client: MlflowClient, run_id: str, name: str, protocol: str, note: str) -> None:
    """Register the set of a study's run as a model version, with the alias ``best``; a known version is kept.

    Args:
        client: Client of the server.
        run_id: The run.
        name: Name of the study, and of the model.
        protocol: Protocol of the study.
        note: Description, with a placeholder for the id of the run.
    """
    with suppress(MlflowException):  # it exists already; other errors are raised by the next call
        client.create_registered_model(name, description="Distilled sets that rayvldd has chosen.")
    found = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    version = found[0] if found else _new_version(client, run_id, name, protocol, note)
    client.set_registered_model_alias(name, BEST_ALIAS, version.version)


def _new_version(client: MlflowClient, run_id: str, name: str, protocol: str, note: str) -> ModelVersion:
    return client.create_model_version(
        name,
        client.get_run(run_id).info.artifact_uri,
        run_id,
        tags={"rayvldd.protocol": protocol},
        description=note.replace(RUN_ID, run_id),
    )
