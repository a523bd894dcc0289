"""What several test modules share: a small study, and one local Ray for the whole session."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rayvldd.config.study import Study

if TYPE_CHECKING:
    from rayvldd.stores.place import Place

TINY_STUDY = {
    "name": "tiny",
    "seed": 7,
    "data": {"source": "drawn", "image_size": 16, "num_train": 40, "num_val": 12, "num_test": 12},
    "model": {
        "protocol": "heads_only",
        "image_encoder": {"name": "convnet_d3", "pretrained": False, "options": {"img_size": 16, "width": 8}},
        "text_encoder": {"pooling": "hashed_ngrams", "width": 32},
        "width": 16,
    },
    "experts": {"num_experts": 2, "epochs": 2, "batch_size": 32},
    "distillation": {
        "num_pairs": 4,
        "syn_steps": 2,
        "expert_epochs": 1,
        "max_start_epoch": 1,
        "lr_image": 10.0,
        "lr_text": 10.0,
        "outer_steps": 4,
        "evaluate_every": 2,
    },
    "evaluation": {"num_students": 1, "epochs": 2, "num_test_students": 2, "full_data_epochs": 1},
}
"""The smallest study that runs every part, in seconds on one core."""


@pytest.fixture(autouse=True)
def no_tracking_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands log to plain files unless a test says otherwise: a database of MLflow takes seconds to make."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")


@pytest.fixture
def tiny_study() -> Study:
    """A study of 40 drawn images of 16 px, a ConvNet of 8 channels and projection heads, with nothing searched."""
    return Study.model_validate(TINY_STUDY)


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the whole session: what decides an array is in its name, so tests may share it."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray of two CPUs on this machine, started once; code under test finds it running and leaves it so."""
    from rayvldd.fleet.runtime import start_ray

    with start_ray(address=None, num_cpus=2):
        yield


@pytest.fixture(params=["folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> "Place":
    """Each kind of place that a store can be in."""
    from rayvldd.stores.folder import FolderPlace

    return FolderPlace(tmp_path / "experts")
