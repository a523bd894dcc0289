"""The registered model of a study: a student that MLflow loads and serves, beside the set that it was trained on."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from helpers.documents import blocks, calls_in
from helpers.paths import ROOT
from helpers.studies import TINY_STUDY
from helpers.tasks import load, random_trajectory
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import get_model_info
from PIL import Image
from torch import Tensor

from rayvldd.config.study import Study
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.distillation.loop import OuterLoop
from rayvldd.errors import DataError
from rayvldd.evaluation.kept_student import KeptStudent, save_student
from rayvldd.evaluation.students import train_students
from rayvldd.tracking.mlflow_tracker import MlflowTracker
from rayvldd.tracking.protocol import Origins

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred")  # MLflow, about classes of its own

BEST = "models:/tiny@best"
GUIDE = ROOT / "docs" / "guides" / "mlflow.md"
CAPTIONS = ["a red square above a blue circle", "a green circle"]
SEED = 11
START_S = 400
"""Seconds in which a server answers: on two busy cores it imports for minutes."""


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory, tiny_cache: Path) -> Path:
    """A distilled set with the student that an evaluation kept."""
    folder = tmp_path_factory.mktemp("study") / "best"
    task = load(Study.model_validate(TINY_STUDY), tiny_cache)
    loop = OuterLoop(task.study, task, [random_trajectory(task.model)], seed=0)
    loop.step()
    distilled = loop.distilled_set({"val_mean_recall": 12.5})
    distilled.save(folder)
    (student,) = train_students(task, distilled.pairs(task), task.study.evaluation, [SEED])
    save_student(folder / "student", task, student, SEED)
    return folder


@pytest.fixture(scope="module")
def finished(best: Path) -> tuple[str, str]:
    """Database with the finished study, and the id of the study's run."""
    root = best.parent
    tracker = MlflowTracker(f"sqlite:///{root / 'mlflow.db'}", root / "mlartifacts")
    tracker.start_study(Study.model_validate(TINY_STUDY), "rayvldd sweep tiny.yaml")
    tracker.log_origins(None, Origins({"data": "d" * 16, "image_encoder": "i" * 16, "text_encoder": "t" * 16}))
    for _ in range(2):  # a driver that died before it recorded the end of the study reports it again
        tracker.end_study("finished", {"test_mean_recall": 11.0}, best)
    assert not tracker.missing
    return tracker.uri, tracker._runs.study_run


@pytest.fixture
def uri(finished: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The database, for MLflow's own functions."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", finished[0])
    return finished[0]


def picture(shade: int = 200) -> bytes:
    pixels = np.zeros((20, 24, 3), dtype=np.uint8)
    pixels[4:12, 6:18] = (shade, 40, 90)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "jpeg")
    return file.getvalue()


def as_tensor(rows: pd.Series) -> Tensor:
    return torch.tensor(rows.tolist(), dtype=torch.float32)


def test_mlflow_loads_the_student_with_its_signature(uri: str, best: Path) -> None:
    model, kept = mlflow.pyfunc.load_model(BEST), KeptStudent(best / "student")
    info = get_model_info(BEST)
    assert info.signature is not None and info.signature.outputs is not None
    assert info.signature.inputs.input_names() == ["image", "caption"]
    assert info.signature.outputs.input_names() == ["image_embedding", "caption_embedding"]
    assert info.metadata == {"seed": SEED, "image_size": 16}
    both = model.predict(pd.DataFrame({"image": [picture(), picture(60)], "caption": CAPTIONS}))
    assert torch.allclose(as_tensor(both["image_embedding"]), kept.embed_images([picture(), picture(60)]), atol=1e-6)
    assert torch.allclose(as_tensor(both["caption_embedding"]), kept.embed_captions(CAPTIONS), atol=1e-6)
    captions = model.predict(pd.DataFrame({"caption": CAPTIONS}, index=[7, 3]))
    assert list(captions.columns) == ["caption_embedding"] and list(captions.index) == [7, 3]


def test_requests_that_are_neither_are_refused_with_the_allowed_ones(uri: str) -> None:
    model = mlflow.pyfunc.load_model(BEST)
    with pytest.raises((DataError, MlflowException), match="allowed: image, caption or both"):
        model.predict(pd.DataFrame({"text": ["a red square"]}))
    with pytest.raises(DataError, match=r"image 0: .*allowed: the content of an image file that Pillow reads"):
        model.predict(pd.DataFrame({"image": [b"no image"]}))
    with pytest.raises(DataError, match="caption 1: no value; allowed: a value in every row"):
        model.predict(pd.DataFrame({"caption": ["a red square", None]}))


def test_the_set_is_still_the_model_version_and_an_input_of_the_study(uri: str, finished: tuple[str, str]) -> None:
    opened, client = DistilledSet.load(BEST), MlflowClient(tracking_uri=uri)
    assert opened.origin.metrics == {"val_mean_recall": 12.5}
    (version,) = client.search_model_versions("name = 'tiny'")
    assert "mlflow models serve -m models:/tiny@best --env-manager local" in (version.description or "")
    run = client.get_run(finished[1])
    assert run.inputs is not None
    by_context = {one.tags[0].value: one.dataset for one in run.inputs.dataset_inputs}
    assert set(by_context) == {"training", "student training"}
    made = by_context["student training"]
    assert (made.name, made.profile) == ("distilled set of tiny", f'{{"num_pairs": {len(opened)}}}')
    assert DistilledSet.load(json.loads(made.source)["uri"]) == opened


def test_only_trained_weights_are_stored(uri: str, finished: tuple[str, str], best: Path, tmp_path: Path) -> None:
    """Frozen encoders are built again, so that the upload is as large as the heads."""
    student = Path(MlflowClient(tracking_uri=uri).download_artifacts(finished[1], "student", str(tmp_path)))
    assert {file.name for file in student.iterdir()} == {"student.json", "student.safetensors"}
    trained = sum(side.numel() for side in KeptStudent(best / "student")._parameters)
    assert (student / "student.safetensors").stat().st_size < 4 * trained + 1024


def test_calls_in_the_guide_run(uri: str, best: Path) -> None:
    table = pd.DataFrame({"image": [picture()]})
    opened, answer = (
        eval(call, {"mlflow": mlflow, "DistilledSet": DistilledSet, "table": table})
        for call in calls_in(GUIDE, {"models:/quickstart@best": BEST})
    )
    assert opened == DistilledSet.load(best)
    embeddings = KeptStudent(best / "student").embed_images([picture()])
    assert torch.allclose(as_tensor(answer["image_embedding"]), embeddings, atol=1e-6)


# --- a server -----------------------------------------------------------------------------------------------------


@contextmanager
def served(model: str, log: Path) -> Iterator[str]:
    """The address of ``mlflow models serve`` on a free port, once it answers."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
    # The command starts uvicorn by its name, as in an activated environment.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=output, stderr=output, env=environment)
    try:
        deadline = time.monotonic() + START_S
        while not _answers(port):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for member in family:
                member.kill()
            process.wait(20)
            psutil.wait_procs(family, timeout=20)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def post(address: str, column: str, value: str) -> dict[str, list[float]]:
    content = json.dumps({"dataframe_split": {"columns": [column], "data": [[value]]}}).encode()
    request = urllib.request.Request(f"{address}/invocations", content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        (row,) = json.loads(answer.read())["predictions"]
    found: dict[str, list[float]] = row
    return found


@pytest.mark.timeout(600)
def test_mlflow_serves_the_student(uri: str, best: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = KeptStudent(best / "student")
    monkeypatch.chdir(tmp_path)
    Path("photo.jpg").write_bytes(picture(60))
    (example,), of_guide = blocks(GUIDE, "python"), dict[str, Any]()
    with served(BEST, tmp_path / "server.log") as address:
        exec(compile(example.replace("http://127.0.0.1:5001", address), "mlflow.md", "exec"), of_guide)
        of_image = post(address, "image", base64.b64encode(picture()).decode())
        of_caption = post(address, "caption", CAPTIONS[0])
    assert list(of_image) == ["image_embedding"] and list(of_caption) == ["caption_embedding"]
    np.testing.assert_allclose(of_image["image_embedding"], kept.embed_images([picture()])[0], atol=1e-6)
    np.testing.assert_allclose(of_caption["caption_embedding"], kept.embed_captions(CAPTIONS[:1])[0], atol=1e-6)
    np.testing.assert_allclose(of_guide["images"], kept.embed_images([picture(60)]), atol=1e-6)
    np.testing.assert_allclose(
        of_guide["captions"], kept.embed_captions(["a red circle above a blue square"]), atol=1e-6
    )
