"""Stores of expert sets: an expert is there whole, under the recipe that made it, or not at all."""

import json
import os
import pickle
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.expert_sets import DELTAS, METRICS, OTHER, RECIPE, assert_same, expert

import rayvldd.experts.store.expert_store
from rayvldd.errors import InputError, StoreError
from rayvldd.experts.recipe import ExpertRecipe
from rayvldd.experts.store.expert_store import ExpertStore, open_store
from rayvldd.experts.training import ExpertState
from rayvldd.storage.atomic import write_text_whole
from rayvldd.storage.folder import FolderStorage
from rayvldd.storage.json_files import write_json_whole
from rayvldd.storage.storage import Storage
from rayvldd.workspace import Workspace


@pytest.fixture
def store(storage: Storage) -> ExpertStore:
    return ExpertStore(storage)


# --- the contract, in every storage ----------------------------------------------------------------------------------


def test_a_saved_set_is_loaded(store: ExpertStore) -> None:
    assert store.finished(RECIPE) == []
    for index in (3, 0, 11):
        store.save(RECIPE, index, expert(index))
    assert store.finished(RECIPE) == store.indexes(RECIPE.key) == [0, 3, 11]
    for index in (0, 3, 11):
        assert_same(store.load(RECIPE, index), expert(index).trajectory)
    segment = store.load(RECIPE, 3).segment(0, 2)
    assert torch.equal(segment.target.text, expert(3).trajectory[2].text)
    assert store.metrics(RECIPE, 3) == METRICS
    assert store.metrics(RECIPE, 4) == []
    assert [key for key, _ in store.sets()] == [RECIPE.key]


def test_differences_in_16_bits(store: ExpertStore) -> None:
    """A quarter of the size of two snapshots, errors of 1/2,000 of an expert's change; epoch 0 is exact."""
    for index in range(2):
        store.save(DELTAS, index, expert(index, size=4000))
    for index in range(2):
        loaded, made = store.load(DELTAS, index), expert(index, size=4000).trajectory
        assert_same(loaded, made, tolerance=0.05 / 2000)
        assert torch.equal(loaded[0].image, made[0].image)
        assert not torch.equal(loaded[1].image, made[1].image)
    starts = [name for name in store.storage.names(DELTAS.key) if "start_" in name]
    assert len(starts) == 1, "the two share their start"
    size = store.storage.size(f"{DELTAS.key}/expert_000.safetensors")
    assert size is not None and size < 2 * 2 * 4000 + 1000


def test_omitted_epochs_are_made_again_on_request(store: ExpertStore) -> None:
    store.save(RECIPE, 0, expert(0, epochs=(0, 2)))
    assert store.finished(RECIPE) == store.finished(RECIPE, {0, 2}) == [0]
    assert store.finished(RECIPE, {0, 1}) == []
    with pytest.raises(StoreError, match=r"from epoch 1 to 2 is outside .* allowed: epochs 0, 2\nNext: .*keep_epochs"):
        store.load(RECIPE, 0).segment(1, 2)
    store.save(RECIPE, 0, expert(0))
    assert store.finished(RECIPE, {0, 1}) == [0]
    store.save(RECIPE, 0, expert(0, epochs=(0, 2)))
    assert_same(store.load(RECIPE, 0), expert(0).trajectory)


def test_recipes_are_kept_apart(store: ExpertStore) -> None:
    store.save(RECIPE, 0, expert(0))
    assert store.finished(OTHER) == []
    with pytest.raises(StoreError, match="expert 0 is not there or not complete\nNext: rayvldd experts"):
        store.load(OTHER, 0)
    store.save(OTHER, 0, expert(1))
    assert_same(store.load(RECIPE, 0), expert(0).trajectory)
    assert_same(store.load(OTHER, 0), expert(1).trajectory)


def test_a_complete_expert_stays_as_it_is(store: ExpertStore) -> None:
    store.save(RECIPE, 0, expert(0))
    store.save(RECIPE, 0, expert(1))
    assert_same(store.load(RECIPE, 0), expert(0).trajectory)


def test_a_store_travels_by_pickle(store: ExpertStore) -> None:
    store.save(RECIPE, 0, expert())
    assert pickle.loads(pickle.dumps(store)).finished(RECIPE) == [0]


def test_writers_side_by_side(store: ExpertStore) -> None:
    """Two drivers that make the same set at the same time: one complete expert for each number."""
    faults: list[BaseException] = []

    def write() -> None:
        try:
            for index in range(6):
                store.save(RECIPE, index, expert(index, size=2000))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert store.finished(RECIPE) == list(range(6))
    for index in range(6):
        assert_same(store.load(RECIPE, index), expert(index, size=2000).trajectory)


def test_an_expert_in_training_resumes_from_its_last_epoch(store: ExpertStore) -> None:
    assert store.kept_epochs(RECIPE, 0) == []
    states = [
        ExpertState(epoch, expert().trajectory[epoch], METRICS[:epoch], {"state": {"inc": 2**100 + epoch}})
        for epoch in range(3)
    ]
    for state in states:
        store.keep_epoch(RECIPE, 0, state, keep={0, 2})
    kept = store.kept_epochs(RECIPE, 0)
    assert [state.epoch for state in kept] == [0, 2], "epoch 1 was needed only until epoch 2 was there"
    assert kept[-1].random_state == states[-1].random_state
    assert kept[-1].metrics == METRICS
    assert torch.equal(kept[-1].parameters.image, states[-1].parameters.image)
    assert store.finished(RECIPE) == []
    store.save(RECIPE, 0, expert())
    assert store.kept_epochs(RECIPE, 0) == [], "the whole takes the place of its epochs"


def test_two_claims_on_one_expert(store: ExpertStore) -> None:
    from rayvldd.storage.lease import LeaseHolder

    first = store.acquire(RECIPE, 0, LeaseHolder("one"))
    assert first is not None
    with first:
        assert store.acquire(RECIPE, 0, LeaseHolder("two")) is None
        other = store.acquire(RECIPE, 1, LeaseHolder("two"))
        assert other is not None
        other.__exit__()
        first.report_progress(5)
        holder = store.holder(RECIPE, 0)
        assert holder is not None and (holder.owner, holder.done) == ("one", 5)
        again = store.acquire(RECIPE, 0, LeaseHolder("one"))
        assert again is not None, "an actor takes up at once what its predecessor held"
        again.__exit__()
    assert store.holder(RECIPE, 0) is None


# --- what damage and other rayvldds can do to a folder -------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set of one expert in a store at ``tmp_path``."""
    ExpertStore(FolderStorage(tmp_path)).save(RECIPE, 0, expert())
    return tmp_path / RECIPE.key


def test_manifest_and_record_contain_the_origin(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert ExpertRecipe(manifest["recipe"]).key == RECIPE.key == manifest["key"]
    assert manifest["layout"] == {"image": [["weight", [2, 2]], ["bias", [1]]], "text": [["weight", [3]]]}
    record = json.loads((folder / "expert_000.json").read_text())
    assert (record["index"], record["seconds"], record["metrics"]) == (0, 0.5, METRICS)
    assert set(record["checksums"]) == {f"{side}.{epoch}" for side in ("image", "text") for epoch in range(3)}
    names = sorted(file.name for file in folder.iterdir())
    assert names == ["expert_000.json", "expert_000.safetensors", "manifest.json"]


@pytest.mark.parametrize("recipe", [RECIPE, DELTAS], ids=["float32", "float16_deltas"])
@pytest.mark.parametrize("where", [-1, 12], ids=["a number", "the header"])
def test_a_flipped_byte_is_found_and_the_expert_made_again(tmp_path: Path, recipe: ExpertRecipe, where: int) -> None:
    store = ExpertStore(FolderStorage(tmp_path))
    store.save(recipe, 0, expert())
    for data in [*(tmp_path / recipe.key).glob("*.safetensors")]:
        content = bytearray(data.read_bytes())
        content[where] ^= 1
        data.write_bytes(content)
        with pytest.raises(StoreError, match=f"{data.name}: damaged: .* not be used\nNext: rayvldd experts"):
            store.load(recipe, 0).segment(0, 2)
        assert store.finished(recipe) == []
        with pytest.raises(StoreError, match="expert 0 is not there or not complete"):
            store.load(recipe, 0)
        store.save(recipe, 0, expert())
        assert_same(store.load(recipe, 0), expert().trajectory, tolerance=0.05 / 2000)


def test_damage_to_an_expert_in_training_costs_an_epoch(tmp_path: Path) -> None:
    store = ExpertStore(FolderStorage(tmp_path))
    for epoch in range(3):
        state = ExpertState(epoch, expert().trajectory[epoch], METRICS[:epoch], {})
        store.keep_epoch(RECIPE, 0, state, keep={0, 1, 2})
    last = tmp_path / RECIPE.key / "epochs" / "expert_000" / "epoch_0002.safetensors"
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)
    assert [state.epoch for state in store.kept_epochs(RECIPE, 0)] == [0, 1]
    last.write_bytes(content[:-3])
    assert [state.epoch for state in store.kept_epochs(RECIPE, 0)] == [0, 1]


@pytest.mark.parametrize("damage", ["cut off", "without record", "record unreadable"])
def test_an_incomplete_expert_does_not_count(folder: Path, damage: str) -> None:
    data, record = folder / "expert_000.safetensors", folder / "expert_000.json"
    if damage == "cut off":
        data.write_bytes(data.read_bytes()[:-1])
    elif damage == "without record":
        record.unlink()
    else:
        record.write_text("{")
    store = ExpertStore(FolderStorage(folder.parent))
    assert store.finished(RECIPE) == []
    with pytest.raises(StoreError, match="expert 0 is not there or not complete"):
        store.load(RECIPE, 0)
    store.save(RECIPE, 0, expert())
    assert store.finished(RECIPE) == [0]


@pytest.mark.parametrize("call", ["finished", "save", "load", "keep_epoch"])
def test_experts_of_other_settings_are_never_reused(folder: Path, call: str) -> None:
    """Somebody renamed the folder of another set."""
    folder.rename(folder.parent / OTHER.key)
    state = ExpertState(0, expert().trajectory[0], [], {})
    arguments: dict[str, tuple[Any, ...]] = {
        "finished": (),
        "save": (1, expert()),
        "load": (0,),
        "keep_epoch": (0, state, {0}),
    }
    with pytest.raises(
        StoreError, match=r"manifest\.json: made for other settings: seed is 7 there, 8 here\nNext: move"
    ):
        getattr(ExpertStore(FolderStorage(folder.parent)), call)(OTHER, *arguments[call])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "not readable, so what made these experts is unknown"),
        ("{", "not readable"),
        ("[]", "not readable"),
        ('{"recipe": {}}', "not readable"),
        ('{"recipe": {}, "format": 1}', "has format 1; allowed: 2"),
        (
            '{"recipe": {}, "format": 3, "rayvldd_version": "9.1"}',
            r"has format 3, which a newer rayvldd wrote \(9\.1\); .*\nNext: install that version",
        ),
    ],
)
def test_a_set_without_a_usable_manifest_is_refused(folder: Path, content: str | None, problem: str) -> None:
    manifest = folder / "manifest.json"
    manifest.unlink() if content is None else manifest.write_text(content)
    before = sorted(file.name for file in folder.iterdir())
    with pytest.raises(StoreError, match=f"{RECIPE.key}/manifest.json: {problem}"):
        ExpertStore(FolderStorage(folder.parent)).finished(RECIPE)
    assert sorted(file.name for file in folder.iterdir()) == before


def test_a_checksum_is_compared_once_a_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ExpertStore(FolderStorage(folder.parent))
    store.load(RECIPE, 0).segment(0, 1)
    monkeypatch.setattr("rayvldd.experts.trajectory_file.checksum", lambda _: pytest.fail("read a second time"))
    store.load(RECIPE, 0).segment(0, 1)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "experts").write_text("a file in the way")
    with pytest.raises(StoreError, match=r"could not be .*; allowed: a folder that can be read and written"):
        ExpertStore(FolderStorage(tmp_path / "experts")).save(RECIPE, 0, expert())


def test_a_full_disk_leaves_no_expert(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rayvldd.experts.store.expert_store, "write_tensors", full)
    before = sorted(file.name for file in folder.iterdir())
    with pytest.raises(StoreError, match=r"No space left on device.*\nNext: .*finished work is kept"):
        ExpertStore(FolderStorage(folder.parent)).save(RECIPE, 1, expert())
    assert sorted(file.name for file in folder.iterdir()) == before


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 and later, where threads are about
@pytest.mark.parametrize("moment", ["write_tensors", "json_text"], ids=["in the file", "before the record"])
def test_a_writer_that_is_killed_leaves_nothing_that_counts(folder: Path, moment: str) -> None:
    """What it left is cleared away once it is old."""
    store = ExpertStore(FolderStorage(folder.parent))
    child = os.fork()
    if child == 0:

        def die(path: Any, *_: Any) -> None:
            if isinstance(path, Path):
                path.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

        if moment == "json_text":
            rayvldd.experts.store.expert_store.ExpertStore._write_manifest = lambda *_: None  # type: ignore[method-assign]
        setattr(rayvldd.experts.store.expert_store, moment, die)
        store.save(RECIPE, 1, expert(1))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert store.finished(RECIPE) == [0]
    parts = list(folder.glob(".expert_001*"))
    assert bool(parts) == (moment == "write_tensors")
    store.save(RECIPE, 1, expert(1))
    assert all(part.exists() for part in parts), "a part file that is not old may belong to a process that lives"
    for part in parts:
        os.utime(part, (time.time() - 7200,) * 2)
    store.save(RECIPE, 2, expert(2))
    assert not any(part.exists() for part in parts)
    assert store.finished(RECIPE) == [0, 1, 2]


# --- addresses -----------------------------------------------------------------------------------------------------


def test_a_store_by_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = Workspace("work")
    default = (tmp_path / "work" / "experts").as_uri()
    assert [open_store(uri, workspace).uri for uri in (None, default)] == [default] * 2
    assert open_store("some where", workspace).uri == (tmp_path / "some where").as_uri()
    assert open_store((tmp_path / "some where").as_uri(), workspace).uri == (tmp_path / "some where").as_uri()
    for wrong in ("ray://head:10001", "s3://", "http://x/y", "file://host/x", "object-store://"):
        with pytest.raises(InputError, match=f"--store: got {re.escape(repr(wrong))}.*; allowed: a folder"):
            open_store(wrong, workspace)


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


@pytest.mark.parametrize("name", ["file", "file/below"])
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
    assert [found.name for found in file.parent.iterdir()] == ["result.json"]
