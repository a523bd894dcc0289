"""The files by which MLflow takes the artifacts of a study for a model that can be served.

The set, the student and these files are in one place, so that a version of the registered model is both: the set for
``DistilledSet.load`` and the student for MLflow.
"""

import json
import platform
from pathlib import Path

import mlflow
import yaml
from mlflow.entities import Dataset
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Schema

from rayvldd import __version__
from rayvldd.data.array_cache import fingerprint
from rayvldd.records.set_card import CARD, SET_CARD
from rayvldd.records.student_card import StudentCard
from rayvldd.tracking import served_student
from rayvldd.tracking.served_student import CAPTION, EMBEDDING, IMAGE

MLMODEL = "MLmodel"
_REQUIREMENTS, _PYTHON = "requirements.txt", "python_env.yaml"

SIGNATURE = ModelSignature(
    Schema([ColSpec(DataType.binary, IMAGE, required=False), ColSpec(DataType.string, CAPTION, required=False)]),
    Schema([ColSpec(Array(DataType.float), EMBEDDING.format(name), required=False) for name in (IMAGE, CAPTION)]),
)
"""Images as the content of their files, in base64 where a request is JSON; captions as text."""


def dataset_of(folder: Path, study: str, run_id: str) -> Dataset:
    """The set that the student was trained on as a dataset of MLflow: metadata, with its place in the study's run.

    MLflow's own sources of datasets know no artifacts of a run.

    Args:
        folder: Folder of the set.
        study: Name of the study.
        run_id: The study's run, which has the set among its artifacts.

    Raises:
        StoreError: if the card of the set cannot be read.
    """
    card = SET_CARD.read(folder / CARD)
    source = json.dumps({"uri": f"runs:/{run_id}"})
    profile = json.dumps({"num_pairs": len(card.start_captions)})
    return Dataset(f"distilled set of {study}", fingerprint(card.checksums), "rayvldd", source, profile=profile)


def write_model_files(folder: Path, student: str, card: StudentCard) -> None:
    """Write the description of the model and of its environment.

    Args:
        folder: Folder of the model.
        student: Path of the student's folder in it.
        card: The card of the student.
    """
    model = Model(signature=SIGNATURE, metadata={"seed": card.seed, "image_size": card.image_size})
    python = platform.python_version()
    # The entry that mlflow.pyfunc.add_to_model writes: importing that module takes seconds, and it warns.
    environment = {"virtualenv": _PYTHON}
    model.add_flavor(
        "python_function", loader_module=served_student.__name__, data=student, env=environment, python_version=python
    )
    model.save(str(folder / MLMODEL))
    (folder / _REQUIREMENTS).write_text(f"mlflow=={mlflow.__version__}\nrayvldd=={__version__}\n", encoding="utf-8")
    interpreter = {"python": python, "dependencies": [f"-r {_REQUIREMENTS}"]}
    (folder / _PYTHON).write_text(yaml.safe_dump(interpreter), encoding="utf-8")
