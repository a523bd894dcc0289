"""Concurrent requests for experts: each expert is made once, even if processes die, and none waits for dead ones."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tasks import StudyTask, load

import rayvldd.experts.get_or_make
import rayvldd.experts.store.expert_store
import rayvldd.storage.lease
from rayvldd.config.study import Study
from rayvldd.errors import DivergedError, StoreError
from rayvldd.experts.get_or_make import ExpertRequest, get_or_make, make
from rayvldd.experts.movement import Layouts
from rayvldd.experts.recipe import ExpertTraining, expert_recipe, expert_training
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.experts.store.file_names import lease_file
from rayvldd.experts.training import ExpertState, train_epochs, train_epochs_together, train_expert
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.storage.folder import FolderStorage
from rayvldd.storage.lease import LeaseHolder, LeaseState
from rayvldd.storage.tensor_files import save_tensors
from rayvldd.testing.toy import PROTOCOLS

EPOCHS = 4


@pytest.fixture
def study(tiny_study: Study) -> Study:
    return tiny_study.at({"experts.epochs": EPOCHS})


@pytest.fixture
def task(study: Study, tiny_cache: Path) -> StudyTask:
    return load(study, tiny_cache)


@pytest.fixture
def store(tmp_path: Path) -> ExpertStore:
    return ExpertStore(FolderStorage(tmp_path / "experts"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Expert and epoch of everything that is trained in this process."""
    seen: list[tuple[int, int]] = []

    def watched(
        task: RetrievalTask, training: ExpertTraining, indexes: list[int], after: list[ExpertState] | None = None
    ) -> Any:
        for states in train_epochs_together(task, training, indexes, after):
            seen.extend((index, state.epoch) for index, state in zip(indexes, states, strict=True))
            yield states

    monkeypatch.setattr(rayvldd.experts.get_or_make, "train_epochs_together", watched)
    return seen


def request_of(task: StudyTask, *indexes: int, epochs: frozenset[int] = frozenset(range(EPOCHS + 1))) -> ExpertRequest:
    return ExpertRequest(expert_recipe(task.study, task.fingerprints), expert_training(task.study), indexes, epochs)


def assert_same(left: Trajectory, right: Trajectory) -> None:
    for epoch in left.epochs:
        assert torch.equal(left[epoch].image, right[epoch].image)
        assert torch.equal(left[epoch].text, right[epoch].text)


def test_existing_experts_are_reused_and_only_requested_ones_are_made(
    task: StudyTask, store: ExpertStore, trained: list[tuple[int, int]]
) -> None:
    progress_reports: list[tuple[int, int]] = []
    (one,) = get_or_make(task, request_of(task, 3), store)
    assert {index for index, _ in trained} == {3}
    trained.clear()
    first, again = get_or_make(task, request_of(task, 0, 3), store, lambda *progress: progress_reports.append(progress))
    assert {index for index, _ in trained} == {0}
    assert_same(again, one)
    assert_same(first, train_expert(task, expert_training(task.study), 0)[0])
    assert progress_reports[0] == (1, 2)


def test_epochs_that_were_not_kept_are_trained_again(
    task: StudyTask, store: ExpertStore, trained: list[tuple[int, int]]
) -> None:
    (few,) = get_or_make(task, request_of(task, 0, epochs=frozenset({0, 1, 3})), store)
    assert few.epochs == [0, 1, 3]
    (more,) = get_or_make(task, request_of(task, 0), store)
    assert more.epochs == [0, 1, 2, 3, 4]
    assert_same(few, more)
    assert trained.count((0, 1)) == 2


_MAKER = """
import os, signal, sys
from pathlib import Path
import torch
import rayvldd.experts.get_or_make as room
from rayvldd.config.study import Study
from rayvldd.data.array_cache import ArrayCache
from rayvldd.experts.movement import Layouts
from rayvldd.experts.recipe import ExpertTraining, expert_recipe, expert_training
from rayvldd.models.retrieval_task import load_task
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.experts.store.file_names import lease_file
from rayvldd.storage.folder import FolderStorage

study, cache, folder = Study.model_validate_json(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
threads, indexes, last_epoch = int(sys.argv[4]), range(int(sys.argv[5])), int(sys.argv[6])
torch.set_num_threads(threads)
task = load_task(study.data, study.model, ArrayCache(cache), device="cpu")
train_epochs_together = room.train_epochs_together

def watched(task, training, indexes, after=None):
    for states in train_epochs_together(task, training, indexes, after):
        if states[0].epoch > last_epoch:
            os.kill(os.getpid(), signal.SIGKILL)
        for index in indexes:
            print(index, states[0].epoch, flush=True)
        yield states

room.train_epochs_together = watched
print("ready", flush=True)
sys.stdin.readline()
recipe, training = expert_recipe(study, task.fingerprints), expert_training(study)
request = room.ExpertRequest(recipe, training, tuple(indexes), frozenset(range(5)))
room.get_or_make(task, request, ExpertStore(FolderStorage(folder)))
"""


def maker(study: Study, cache: Path, folder: Path, num_experts: int, last_epoch: int = EPOCHS) -> subprocess.Popen[str]:
    """A process that requests experts, prints those it trains, and is killed after an epoch."""
    numbers = [str(number) for number in (torch.get_num_threads(), num_experts, last_epoch)]
    command = [sys.executable, "-c", _MAKER, study.model_dump_json(), str(cache), str(folder), *numbers]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout and process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


@pytest.mark.timeout(300)  # three imports of everything, on a machine that may be busy
def test_many_that_ask_at_once_make_each_expert_once(
    study: Study, task: StudyTask, store: ExpertStore, tiny_cache: Path, tmp_path: Path
) -> None:
    makers = [maker(study, tiny_cache, tmp_path / "experts", num_experts=4) for _ in range(3)]
    for process in makers:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120) for process in makers]
    assert [process.returncode for process in makers] == [0, 0, 0], outputs
    trained = sorted(line for out, _ in outputs for line in out.splitlines())
    assert trained == [f"{index} {epoch}" for index in range(4) for epoch in range(EPOCHS + 1)]
    assert store.finished(expert_recipe(task.study, task.fingerprints), range(EPOCHS + 1)) == [0, 1, 2, 3]


def test_a_maker_that_is_killed_costs_one_epoch_and_no_bit(
    study: Study,
    task: StudyTask,
    store: ExpertStore,
    tiny_cache: Path,
    trained: list[tuple[int, int]],
    tmp_path: Path,
) -> None:
    process = maker(study, tiny_cache, tmp_path / "experts", num_experts=1, last_epoch=2)
    errors = process.communicate("go\n")[1]
    assert process.returncode == -9, errors
    recipe = expert_recipe(task.study, task.fingerprints)
    assert store.finished(recipe) == []
    holder = store.holder(recipe, 0)
    assert holder is not None and holder.done == 2, "the lease of the dead is still there"
    assert [state.epoch for state in store.kept_epochs(recipe, 0)] == [0, 1, 2]
    before = time.monotonic()
    (made,) = get_or_make(task, request_of(task, 0), store)
    assert time.monotonic() - before < rayvldd.storage.lease.STALE_S, "the dead of this machine are not waited for"
    assert trained == [(0, 3), (0, 4)]
    assert_same(made, train_expert(task, expert_training(task.study), 0)[0])
    assert store.holder(recipe, 0) is None and store.kept_epochs(recipe, 0) == []


def test_a_hole_among_the_kept_epochs_is_trained_again(
    task: StudyTask, store: ExpertStore, trained: list[tuple[int, int]]
) -> None:
    recipe = expert_recipe(task.study, task.fingerprints)
    for state in train_epochs(task, expert_training(task.study), 0):
        if state.epoch in (0, 1, 3):
            store.keep_epoch(recipe, 0, state, keep=range(5))
    (made,) = get_or_make(task, request_of(task, 0), store)
    assert trained == [(0, 2), (0, 3), (0, 4)]
    assert_same(made, train_expert(task, expert_training(task.study), 0)[0])


@pytest.mark.parametrize("protocol", ["heads_only", "lora"])
def test_experts_of_one_pass_are_those_made_alone(
    study: Study, tiny_cache: Path, store: ExpertStore, trained: list[tuple[int, int]], protocol: str
) -> None:
    task = load(study, tiny_cache, **PROTOCOLS[protocol])
    recipe, training, epochs = expert_recipe(task.study, task.fingerprints), expert_training(task.study), range(5)
    for state in list(train_epochs(task, training, 1))[:2]:  # an earlier process got to epoch 1
        store.keep_epoch(recipe, 1, state, keep=epochs)
    store.storage.swap(lease_file(recipe.key, 2), None, elsewhere(beat=0))
    noted: list[int] = []

    made = make(task, request_of(task, *range(5)), range(5), store, LeaseHolder("of one pass"), noted.append)

    assert made == 4, "another process has expert 2"
    together = [(index, epoch) for epoch in range(5) for index in (0, 3, 4)]
    assert trained == [*together, (1, 2), (1, 3), (1, 4)]
    assert noted == [0, 1, 2, 3, 4, 2, 3, 4]
    assert store.finished(recipe, epochs) == [0, 1, 3, 4] and store.leased(recipe) == [2]
    assert_same(store.load(recipe, 1), train_expert(task, training, 1)[0])
    for index in (0, 3, 4):
        found, (expected, metrics) = store.load(recipe, index), train_expert(task, training, index)
        assert torch.equal(found[0].image, expected[0].image)
        assert [row["epoch"] for row in store.metrics(recipe, index)] == [1, 2, 3, 4]
        assert store.metrics(recipe, index)[-1]["train_loss"] == pytest.approx(metrics[-1]["train_loss"], rel=1e-4)
        for epoch in epochs:
            for side, other in zip(found[epoch], expected[epoch], strict=True):
                assert (side - other).norm() <= 1e-5 * other.norm()
        layouts = Layouts(task.model.image_layout, task.model.text_layout)
        movements = zip(found.movements(EPOCHS, layouts), expected.movements(EPOCHS, layouts), strict=True)
        for moved, expected_move in movements:
            assert [*moved.image, *moved.text] == pytest.approx([*expected_move.image, *expected_move.text], rel=1e-3)


def test_an_expert_of_a_pass_that_diverges_is_named(study: Study, tiny_cache: Path, store: ExpertStore) -> None:
    task = load(study, tiny_cache, **{"experts.lr_text": 1e38})
    with pytest.raises(DivergedError, match=r"expert 3 diverged in epoch 1.*experts\.lr_text=1e\+38"):
        make(task, request_of(task, 3, 4), [3, 4], store, LeaseHolder())
    recipe = expert_recipe(task.study, task.fingerprints)
    assert store.finished(recipe) == [] and store.leased(recipe) == []


def elsewhere(beat: int, done: int = 0) -> bytes:
    """The lease of a process on another machine."""
    return LeaseState("somebody", "another machine", 1, beat, done).as_bytes()


def test_a_holder_far_away_is_waited_for_while_it_lives(
    task: StudyTask, store: ExpertStore, trained: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heartbeats keep a lease valid, independently of clocks; when they stop, the work is taken over."""
    monkeypatch.setattr(rayvldd.storage.lease, "STALE_S", 1.0)
    monkeypatch.setattr(rayvldd.experts.get_or_make, "_POLL_S", 0.05)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    name = f"{expert_recipe(task.study, task.fingerprints).key}/leases/expert_000.json"
    store.storage.write(name, elsewhere(0))
    last_beat = [0.0]

    def live() -> None:
        for beat in range(1, 10):
            time.sleep(0.25)
            assert store.storage.swap(name, elsewhere(beat - 1), elsewhere(beat))
            last_beat[0] = time.monotonic()

    thread = threading.Thread(target=live)
    thread.start()
    get_or_make(task, request_of(task, 0), store)
    thread.join()
    assert time.monotonic() - last_beat[0] >= 0.9
    assert len(trained) == EPOCHS + 1, "the beats lasted longer than a holder is waited for"


def test_a_claim_that_cannot_be_understood_goes_stale(
    task: StudyTask, store: ExpertStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rayvldd.storage.lease, "STALE_S", 0.2)
    monkeypatch.setattr(rayvldd.experts.get_or_make, "_POLL_S", 0.05)
    store.storage.write(
        f"{expert_recipe(task.study, task.fingerprints).key}/leases/expert_000.json", json.dumps({"owner": 3}).encode()
    )
    assert len(get_or_make(task, request_of(task, 0), store)) == 1


def test_a_claim_beats_while_it_is_held(store: ExpertStore, task: StudyTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rayvldd.storage.lease, "BEAT_S", 0.05)
    recipe = expert_recipe(task.study, task.fingerprints)
    lease = store.acquire(recipe, 0, LeaseHolder())
    assert lease is not None
    with lease:
        deadline = time.monotonic() + 20
        while (holder := store.holder(recipe, 0)) and holder.beat < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert holder is not None and holder.beat >= 3


def test_a_disk_that_fills_up_keeps_the_epochs_before(
    task: StudyTask, store: ExpertStore, monkeypatch: pytest.MonkeyPatch, trained: list[tuple[int, int]]
) -> None:
    save, written = save_tensors, list[Path]()

    def full(path: Path, *rest: Any) -> Any:
        written.append(path)
        if len(written) == 3:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        return save(path, *rest)

    monkeypatch.setattr("rayvldd.experts.store.expert_store.save_tensors", full)
    with pytest.raises(StoreError, match=r"No space left on device.*\nNext: .*finished work is kept"):
        get_or_make(task, request_of(task, 0), store)
    recipe = expert_recipe(task.study, task.fingerprints)
    assert [state.epoch for state in store.kept_epochs(recipe, 0)] == [0, 1]
    assert store.holder(recipe, 0) is None, "nobody waits for who gave up"
    trained.clear()
    get_or_make(task, request_of(task, 0), store)
    assert trained[0] == (0, 2)


def test_imported_experts_are_never_made(study: Study, tiny_cache: Path, store: ExpertStore) -> None:
    imported = study.at({"experts.imported": "0123456789abcdef"})
    task = load(imported, tiny_cache)
    with pytest.raises(StoreError, match=r"1 of 1 experts imported as 0123456789abcdef are missing.*\nNext: .*import"):
        get_or_make(task, request_of(task, 0), store)
