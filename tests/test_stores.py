"""Every store of trajectories: an expert is there whole, under the recipe that made it, or not at all."""

import json
import os
import pickle
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import rayvldd.stores.folder
from rayvldd.errors import StoreError
from rayvldd.experts.recipe import ExpertRecipe
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.parameters import Parameters
from rayvldd.stores.folder import FolderStore
from rayvldd.stores.protocol import TrajectoryStore
from rayvldd.stores.workspace import Workspace, write_json_whole, write_text_whole

RECIPE = ExpertRecipe({"version": 1, "model": {"protocol": "heads_only", "width": 16}, "seed": 7, "options": (1, 2)})
OTHER = ExpertRecipe({**RECIPE.settings, "seed": 8})
METRICS = [{"epoch": 1.0, "train_loss": 2.5, "val_mean_recall": 10.0, "seconds": 0.25}] * 2

STORES: list[Callable[[Path], TrajectoryStore]] = [FolderStore]


def trajectory(seed: int = 0, size: int = 5) -> Trajectory:
    generator = torch.Generator().manual_seed(seed)
    sides = [(torch.randn(size, generator=generator), torch.randn(3, generator=generator)) for _ in range(3)]
    return Trajectory([Parameters(image, text) for image, text in sides])


def assert_same(left: Trajectory, right: Trajectory) -> None:
    assert left.num_epochs == right.num_epochs
    for epoch in range(left.num_epochs + 1):
        assert torch.equal(left[epoch].image, right[epoch].image)
        assert torch.equal(left[epoch].text, right[epoch].text)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> TrajectoryStore:
    made: TrajectoryStore = request.param(tmp_path / "experts")
    return made


def test_what_was_saved_is_loaded(store: TrajectoryStore) -> None:
    assert store.finished(RECIPE) == []
    for index in (3, 0, 11):
        store.save(RECIPE, index, trajectory(index), METRICS)
    assert store.finished(RECIPE) == [0, 3, 11]
    for index in (0, 3, 11):
        assert_same(store.load(RECIPE, index), trajectory(index))
    segment = store.load(RECIPE, 3).segment(0, 2)
    assert torch.equal(segment.target.text, trajectory(3)[2].text)


def test_recipes_are_kept_apart(store: TrajectoryStore) -> None:
    store.save(RECIPE, 0, trajectory(0), METRICS)
    assert store.finished(OTHER) == []
    with pytest.raises(StoreError, match="expert 0 is not there or not complete\nNext: rayvldd experts"):
        store.load(OTHER, 0)
    store.save(OTHER, 0, trajectory(1), METRICS)
    assert_same(store.load(RECIPE, 0), trajectory(0))
    assert_same(store.load(OTHER, 0), trajectory(1))


def test_a_complete_expert_stays_as_it_is(store: TrajectoryStore) -> None:
    store.save(RECIPE, 0, trajectory(0), METRICS)
    store.save(RECIPE, 0, trajectory(1), METRICS)
    assert_same(store.load(RECIPE, 0), trajectory(0))


def test_a_store_travels_by_pickle(store: TrajectoryStore) -> None:
    store.save(RECIPE, 0, trajectory(), METRICS)
    assert pickle.loads(pickle.dumps(store)).finished(RECIPE) == [0]


def test_writers_side_by_side(store: TrajectoryStore) -> None:
    """Two drivers that make the same set at once: one expert a number, whole, whoever was first."""
    faults: list[BaseException] = []

    def write(seed: int) -> None:
        try:
            for index in range(6):
                store.save(RECIPE, index, trajectory(seed + index, size=2000), METRICS)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert store.finished(RECIPE) == list(range(6))
    assert all(store.load(RECIPE, index).num_epochs == 2 for index in range(6))  # loading verifies the checksum


# --- the folder's own ways to go wrong ----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set of one expert in a store at ``tmp_path``."""
    FolderStore(tmp_path).save(RECIPE, 0, trajectory(), METRICS)
    return tmp_path / RECIPE.key


def test_manifest_and_record_say_what_made_them(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert ExpertRecipe(manifest["recipe"]).key == RECIPE.key == manifest["key"]
    assert manifest["dtypes"] == ["F32"]
    assert manifest["layout"]["image.2"] == {"dtype": "F32", "shape": [5]}
    record = json.loads((folder / "expert_000.json").read_text())
    assert (record["index"], record["seconds"], record["metrics"]) == (0, 0.5, METRICS)
    assert FolderStore(folder.parent).metrics(RECIPE, 0) == METRICS
    assert FolderStore(folder.parent).metrics(RECIPE, 1) == []
    expected = [".lock", "expert_000.json", "expert_000.safetensors", "manifest.json"]
    assert sorted({*os.listdir(folder), ".lock"}) == expected


def test_a_flipped_byte_is_found_and_the_expert_made_again(folder: Path) -> None:
    data = folder / "expert_000.safetensors"
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    store = FolderStore(folder.parent)
    with pytest.raises(StoreError, match=f"{re.escape(str(data))}: damaged.*\nNext: rayvldd experts"):
        store.load(RECIPE, 0)
    assert store.finished(RECIPE) == []
    store.save(RECIPE, 0, trajectory(), METRICS)
    assert_same(store.load(RECIPE, 0), trajectory())


@pytest.mark.parametrize("damage", ["cut off", "without record", "record unreadable"])
def test_an_incomplete_expert_does_not_count(folder: Path, damage: str) -> None:
    data, record = folder / "expert_000.safetensors", folder / "expert_000.json"
    if damage == "cut off":
        data.write_bytes(data.read_bytes()[:-1])
    elif damage == "without record":
        record.unlink()
    else:
        record.write_text("{")
    store = FolderStore(folder.parent)
    assert store.finished(RECIPE) == []
    with pytest.raises(StoreError, match="expert 0 is not there or not complete"):
        store.load(RECIPE, 0)
    store.save(RECIPE, 0, trajectory(), METRICS)
    assert store.finished(RECIPE) == [0]


@pytest.mark.parametrize("call", ["finished", "save", "load"])
def test_experts_of_other_settings_are_never_reused(folder: Path, call: str) -> None:
    """Somebody renamed the folder of another set."""
    folder.rename(folder.parent / OTHER.key)
    arguments: dict[str, tuple[Any, ...]] = {"finished": (), "save": (1, trajectory(), METRICS), "load": (0,)}
    with pytest.raises(
        StoreError, match=r"manifest\.json: made for other settings: seed is 7 there, 8 here\nNext: move"
    ):
        getattr(FolderStore(folder.parent), call)(OTHER, *arguments[call])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "not readable, so what made these experts is unknown"),
        ("{", "not readable"),
        ("[]", "not readable"),
        ('{"recipe": {}}', "not readable"),
        ('{"recipe": {}, "format": 2}', "has format 2; allowed: 1"),
    ],
)
def test_a_set_without_a_usable_manifest_is_refused(folder: Path, content: str | None, problem: str) -> None:
    manifest = folder / "manifest.json"
    manifest.unlink() if content is None else manifest.write_text(content)
    with pytest.raises(StoreError, match=f"{re.escape(str(manifest))}: {problem}"):
        FolderStore(folder.parent).finished(RECIPE)


def test_a_checksum_is_verified_once_a_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderStore(folder.parent)
    store.load(RECIPE, 0)
    monkeypatch.setattr(rayvldd.stores.folder, "_sha256", lambda path: pytest.fail("read a second time"))
    store.load(RECIPE, 0)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "experts").write_text("a file in the way")
    with pytest.raises(StoreError, match="expert 0 could not be kept: .*; allowed: a folder that can be written"):
        FolderStore(tmp_path / "experts").save(RECIPE, 0, trajectory(), METRICS)


def test_a_full_disk_leaves_no_expert(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rayvldd.stores.folder, "write_trajectory", full)
    before = sorted(os.listdir(folder))
    with pytest.raises(StoreError, match="No space left on device.*\nNext: .*what is finished is kept"):
        FolderStore(folder.parent).save(RECIPE, 1, trajectory(), METRICS)
    assert sorted(os.listdir(folder)) == before


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 and later, where threads are about
def test_a_writer_that_is_killed_leaves_nothing_that_counts(folder: Path) -> None:
    """Killed between the file and its record; what it left is cleared away once it is old."""
    child = os.fork()
    if child == 0:
        rayvldd.stores.folder._record_of = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
        FolderStore(folder.parent).save(RECIPE, 1, trajectory(1), METRICS)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    store = FolderStore(folder.parent)
    assert store.finished(RECIPE) == [0]
    (part,) = folder.glob(".expert_001*")
    store.save(RECIPE, 1, trajectory(1), METRICS)
    assert part.exists(), "a part file that is not old may belong to a process that lives"
    os.utime(part, (time.time() - 7200,) * 2)
    store.save(RECIPE, 2, trajectory(2), METRICS)
    assert not part.exists()
    assert store.finished(RECIPE) == [0, 1, 2]


# --- the workspace -------------------------------------------------------------------------------------------------


def test_workspace_owns_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = Workspace("work")
    root = tmp_path / "work"
    paths = [workspace.cache, workspace.experts, workspace.studies, workspace.study("s"), workspace.artifacts]
    assert paths == [root / "cache", root / "experts", root / "studies", root / "studies" / "s", root / "mlartifacts"]
    assert workspace.tracking_uri == f"sqlite:///{root}/mlflow.db"
    assert not root.exists(), "asking for a path makes nothing"
    workspace.check_writable()
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/below", "what?"])
def test_workspace_that_cannot_be_used(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        StoreError, match=f"workspace {re.escape(str(tmp_path / name))}: .*\nNext: .*--workspace FOLDER"
    ):
        Workspace(tmp_path / name).check_writable()


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "below" / "result.json"
    write_json_whole(file, {"path": tmp_path, "recall": [1.5, float("nan")], 3: ("ü", None, True)})
    assert json.loads(file.read_text()) == {"path": str(tmp_path), "recall": [1.5, None], "3": ["ü", None, True]}
    with pytest.raises(TypeError):
        write_json_whole(file, {"what": object()})
    with pytest.raises(UnicodeEncodeError):
        write_text_whole(file, "half \ud800")
    assert json.loads(file.read_text())["recall"] == [1.5, None]
    assert os.listdir(file.parent) == ["result.json"]
