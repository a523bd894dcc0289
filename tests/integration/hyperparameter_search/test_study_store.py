"""A study in a storage: any machine can resume it, and its snapshot is always consistent."""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from rayvldd.console import ProgressDisplay
from rayvldd.errors import InputError, RayvlddError, StoreError
from rayvldd.hyperparameter_search import study_store as module
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.hyperparameter_search.study_store import Entry, StudyStore
from rayvldd.storage.addresses import open_storage
from rayvldd.storage.atomic import write_text_whole
from rayvldd.storage.folder import FolderStorage
from rayvldd.storage.lease import LeaseHolder
from rayvldd.storage.storage import Storage
from rayvldd.workspace import Workspace

if TYPE_CHECKING:
    from helpers.s3_server import S3Server

QUIET = ProgressDisplay(Console(quiet=True))


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Both kinds of storage that outlive a machine."""
    if request.param == "folder":
        return FolderStorage(tmp_path / "kept")
    from rayvldd.storage.s3 import S3Storage

    server: S3Server = request.getfixturevalue("s3")
    return S3Storage("experts", "studies", tmp_path / "local", endpoint_url=server.url)


def folder_on(machine: Path) -> StudyFolder:
    return StudyFolder(machine / "studies" / "tiny")


def write(folder: StudyFolder, **files: str) -> None:
    """Files by name, with ``__`` for ``/`` and ``_dot_`` for a dot."""
    for name, text in files.items():
        path = folder.root / name.replace("__", "/").replace("_dot_", ".")
        write_text_whole(path, text)


def content(folder: StudyFolder) -> dict[str, str]:
    paths = (path for path in folder.root.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder.root).as_posix(): path.read_text() for path in paths}


def begun(machine: Path) -> StudyFolder:
    """A study with one trial that ended and one that runs."""
    folder = folder_on(machine)
    write(folder, study_dot_json="{}", trials__trial_000__trial_dot_json="ended", trials__trial_000__set="weights")
    write(folder, trials__trial_001__trial_dot_json="running", trials__trial_001__checkpoint__state="step 2")
    return folder


def test_another_machine_resumes_and_returns_the_study(storage: Storage, tmp_path: Path) -> None:
    first, second = begun(tmp_path / "a"), folder_on(tmp_path / "b")
    write(first, tune__x="Ray's", _dot_lock="", trials__trial_001___dot_part="half")
    with StudyStore(storage, first).held(QUIET):
        write(first, trials__trial_001__checkpoint__state="step 4")
    with StudyStore(storage, second).held(QUIET):
        assert content(second) == {name: text for name, text in content(first).items() if name != "tune/x"}
        write(second, trials__trial_001__trial_dot_json="ended too")
        shutil.rmtree(second.root / "trials" / "trial_001" / "checkpoint")
    with StudyStore(storage, first).held(QUIET):
        expected = {**content(second), "tune/x": "Ray's"}
        assert content(first) == expected, "also what is no longer there has gone"
    files = [name for name in storage.names("tiny") if "/files/" in name]
    assert len(files) == len(set(content(second).values())), "nothing is left of earlier snapshots"
    assert sorted(set(storage.names("tiny")) - set(files)) == ["tiny/snapshot.json"], "the lease is given back"


def test_the_place_is_kept_up_to_date_while_the_study_runs(storage: Storage, tmp_path: Path) -> None:
    folder = begun(tmp_path / "a")
    with StudyStore(storage, folder, every_s=0.05).held(QUIET):
        write(folder, seconds_dot_json="7")
        deadline = time.monotonic() + 20
        while "seconds.json" not in str(storage.read("tiny/snapshot.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "seconds.json" in str(storage.read("tiny/snapshot.json"))


class Dying(FolderStorage):
    """A folder whose writer dies at its n-th change."""

    def __init__(self, folder: Path, changes: int) -> None:
        super().__init__(folder)
        self.changes = changes

    def _count(self) -> None:
        self.changes -= 1
        if self.changes < 0:
            raise KeyboardInterrupt

    def write(self, name: str, content: bytes) -> None:
        self._count()
        super().write(name, content)

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        self._count()
        return super().swap(name, old, new)

    def delete(self, name: str) -> None:
        self._count()
        super().delete(name)


@pytest.mark.parametrize("changes", range(7))
def test_a_push_that_dies_leaves_a_whole_moment(changes: int, tmp_path: Path) -> None:
    folder = begun(tmp_path / "a")
    store = StudyStore(FolderStorage(tmp_path / "kept"), folder)
    store.push()
    before = content(folder)
    write(folder, trials__trial_001__trial_dot_json="later", trials__trial_001__checkpoint__state="step 4", new="x")
    dying = StudyStore(Dying(tmp_path / "kept", changes), folder)
    dying._snapshot = store._snapshot
    try:
        dying.push()
        assert changes == 6
    except KeyboardInterrupt:
        pass
    other = folder_on(tmp_path / "b")
    with StudyStore(FolderStorage(tmp_path / "kept"), other).held(QUIET):
        assert content(other) == (before if changes < 4 else content(folder))
    named = len(json.loads(FolderStorage(tmp_path / "kept").read("tiny/snapshot.json") or b"")["files"])
    assert len(FolderStorage(tmp_path / "kept").names("tiny/files")) == named, "what was not named is cleared away"


def test_a_trial_that_is_written_to_meanwhile_is_kept_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint and what speaks of it are of one moment; the rest of the study is kept as it is now."""
    folder, storage = begun(tmp_path / "a"), FolderStorage(tmp_path / "kept")
    store = StudyStore(storage, folder)
    store.push()
    keep, count = store._keep, 0

    def busy(sha: str, data: bytes) -> None:
        nonlocal count
        count += 1
        keep(sha, data)
        write(folder, trials__trial_001__checkpoint__state=f"step {100 + count}")

    monkeypatch.setattr(store, "_keep", busy)
    write(folder, trials__trial_001__trial_dot_json="later", trials__trial_001__checkpoint__state="step 4")
    write(folder, trials__trial_002__trial_dot_json="new")
    store.push()
    other = folder_on(tmp_path / "b")
    StudyStore(storage, other).fetch(QUIET)
    there = content(other)
    assert there["trials/trial_001/trial.json"] == "running" and there["trials/trial_001/checkpoint/state"] == "step 2"
    assert there["trials/trial_002/trial.json"] == "new"
    monkeypatch.setattr(store, "_keep", keep)
    store.push()
    StudyStore(storage, other).fetch(QUIET)
    assert content(other) == content(folder)


def test_a_folder_resumed_from_the_snapshot_is_not_overwritten(storage: Storage, tmp_path: Path) -> None:
    """What a killed driver did after its last push is still there on its own machine."""
    folder = begun(tmp_path / "a")
    StudyStore(storage, folder).push()
    write(folder, trials__trial_001__trial_dot_json="ended meanwhile")
    StudyStore(storage, folder).fetch(QUIET)
    assert content(folder)["trials/trial_001/trial.json"] == "ended meanwhile"


def test_a_fetch_that_broke_off_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, other, storage = begun(tmp_path / "a"), folder_on(tmp_path / "b"), FolderStorage(tmp_path / "kept")
    StudyStore(storage, folder).push()
    store, brought = StudyStore(storage, other), 0
    bring = store._bring

    def cut_off(name: str, entry: Entry) -> None:
        nonlocal brought
        brought += 1
        if brought == 3:
            raise KeyboardInterrupt
        bring(name, entry)

    monkeypatch.setattr(store, "_bring", cut_off)
    with pytest.raises(KeyboardInterrupt):
        store.fetch(QUIET)
    assert other.settings.is_file() and content(other) != content(folder)
    StudyStore(storage, other).fetch(QUIET)
    assert content(other) == content(folder)


@pytest.mark.parametrize("pushes_before", [0, 1])
def test_a_machine_that_ends_right_after_its_push_goes_on(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pushes_before: int
) -> None:
    folder = begun(tmp_path / "a")
    for _ in range(pushes_before):
        StudyStore(storage, folder).push()
        write(folder, trials__trial_001__trial_dot_json="goes on")
    store, swap = StudyStore(storage, folder), storage.swap
    store.fetch(QUIET)

    def cut_off(name: str, old: bytes | None, new: bytes) -> bool:
        assert swap(name, old, new)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(storage, "swap", cut_off)
        with pytest.raises(KeyboardInterrupt):
            store.push()
    write(folder, trials__trial_001__trial_dot_json="ended meanwhile")
    with StudyStore(storage, folder).held(QUIET):
        assert content(folder)["trials/trial_001/trial.json"] == "ended meanwhile"
    other = folder_on(tmp_path / "b")
    StudyStore(storage, other).fetch(QUIET)
    assert content(other) == content(folder)


def test_two_studies_of_one_name_are_not_mixed(storage: Storage, tmp_path: Path) -> None:
    StudyStore(storage, begun(tmp_path / "a")).push()
    other = begun(tmp_path / "b")
    write(other, study_dot_json='{"seed": 2}')
    before = content(other), storage.read("tiny/snapshot.json")
    with pytest.raises(StoreError, match="both hold a study tiny, and neither comes from the other") as caught:
        StudyStore(storage, other).fetch(QUIET)
    assert "--set name=ANOTHER" in str(caught.value)
    assert (content(other), storage.read("tiny/snapshot.json")) == before


def test_a_driver_considered_dead_stops_writing(storage: Storage, tmp_path: Path) -> None:
    first, second = begun(tmp_path / "a"), folder_on(tmp_path / "b")
    slow = StudyStore(storage, first)
    slow.push()
    heir = StudyStore(storage, second)
    heir.fetch(QUIET)
    write(second, trials__trial_001__trial_dot_json="by the heir")
    heir.push()
    write(first, trials__trial_001__trial_dot_json="by the dead")
    for _ in range(2):
        with pytest.raises(RayvlddError, match="another machine has gone on with the study since"):
            slow.push()
    third = folder_on(tmp_path / "c")
    StudyStore(storage, third).fetch(QUIET)
    assert content(third)["trials/trial_001/trial.json"] == "by the heir"


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayvldd.storage.lease.is_dead_here", lambda state: False)


def test_a_study_is_run_by_one_machine_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(monkeypatch)
    monkeypatch.setattr(module, "_POLL_S", 0.02)
    monkeypatch.setattr("rayvldd.storage.lease.BEAT_S", 0.1)
    storage = FolderStorage(tmp_path / "kept")
    first, second = StudyStore(storage, begun(tmp_path / "a")), StudyStore(storage, folder_on(tmp_path / "b"))
    refused = pytest.raises(RayvlddError, match="another machine is running it")
    with first.held(QUIET), refused, second.held(QUIET):
        pass
    assert not folder_on(tmp_path / "b").root.exists()


def test_the_study_of_a_machine_that_died_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = FolderStorage(tmp_path / "kept")
    store = StudyStore(storage, begun(tmp_path / "a"))
    store.push()
    lease = LeaseHolder().acquire(storage, "tiny/holder.json")
    assert lease is not None
    lease._beats.stop()  # as on a machine that is gone
    elsewhere(monkeypatch)
    monkeypatch.setattr("rayvldd.storage.lease.STALE_S", 0.2)
    monkeypatch.setattr(module, "_POLL_S", 0.02)
    with StudyStore(storage, folder_on(tmp_path / "b")).held(QUIET):
        assert content(folder_on(tmp_path / "b")) == content(folder_on(tmp_path / "a"))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path / "kept")
    StudyStore(storage, begun(tmp_path / "a")).push()
    files: dict[str, dict[str, str]] = json.loads(storage.read("tiny/snapshot.json") or b"")["files"]
    sha = files["trials/trial_000/set"]["sha256"]
    damages: list[tuple[Callable[[], None], str]] = [
        (lambda: storage.write(f"tiny/files/{sha}", b"weightz"), "trials/trial_000/set is not what was written there"),
        (lambda: storage.delete(f"tiny/files/{sha}"), "trials/trial_000/set is missing there"),
    ]
    for damage, message in damages:
        damage()
        with pytest.raises(StoreError, match=message):
            StudyStore(storage, folder_on(tmp_path / "b")).fetch(QUIET)


@pytest.mark.parametrize("error", [KeyError("AWS_PROFILE"), OSError(28, "No space left on device"), RuntimeError("x")])
def test_an_unexpected_error_ends_no_pushing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    folder = begun(tmp_path / "a")
    store = StudyStore(FolderStorage(tmp_path / "kept"), folder, every_s=0.02)
    walk, fails, failed, pushed = module._walk, threading.Event(), threading.Semaphore(0), threading.Semaphore(0)

    def failing(below: Path) -> Any:
        if fails.is_set():
            failed.release()
            raise error
        pushed.release()
        return walk(below)

    monkeypatch.setattr(module, "_walk", failing)
    with store.held(QUIET):
        fails.set()
        for _ in range(3):
            assert failed.acquire(timeout=20)
        while pushed.acquire(blocking=False):
            pass
        fails.clear()
        assert pushed.acquire(timeout=20), "the thread goes on"
    assert caplog.text.count("not kept there at the moment") == 1


def test_a_folder_that_goes_away_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begun(tmp_path / "a")
    store = StudyStore(FolderStorage(tmp_path / "kept"), folder)
    (folder.root / "trials" / "trial_009").mkdir()
    scandir = os.scandir

    def gone(path: Any) -> Any:
        if Path(path).name == "trial_009":
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", gone)
    store.push()
    monkeypatch.undo()
    other = folder_on(tmp_path / "b")
    StudyStore(FolderStorage(tmp_path / "kept"), other).fetch(QUIET)
    assert content(other) == content(folder)


def test_a_place_that_is_away_ends_no_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = begun(tmp_path / "a")
    store = StudyStore(FolderStorage(tmp_path / "kept"), folder, every_s=0.02)
    push, away, tried = store.push, threading.Event(), threading.Semaphore(0)

    def maybe() -> None:
        if away.is_set():
            tried.release()
            raise StoreError("the storage is away", next_command="wait")
        push()

    monkeypatch.setattr(store, "push", maybe)
    with store.held(QUIET):
        away.set()
        for _ in range(3):
            assert tried.acquire(timeout=20)
        write(folder, seconds_dot_json="7")
        away.clear()
    assert caplog.text.count("not kept there at the moment: the storage is away") == 1
    other = folder_on(tmp_path / "b")
    StudyStore(FolderStorage(tmp_path / "kept"), other).fetch(QUIET)
    assert content(other) == content(folder)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/cron.d/x",
        "../../../.bashrc",
        "trials/../../x",
        "trials//x",
        ".stored",
        "trials/.ssh/x",
        "tune/x",
        "a\\..\\x",
    ],
)
def test_a_snapshot_names_nothing_outside_of_the_folder(tmp_path: Path, name: str) -> None:
    storage = FolderStorage(tmp_path / "kept")
    StudyStore(storage, begun(tmp_path / "a")).push()
    snapshot = json.loads(storage.read("tiny/snapshot.json") or b"")
    snapshot["files"][name] = snapshot["files"]["trials/trial_000/set"]
    storage.write("tiny/snapshot.json", json.dumps(snapshot).encode())
    with pytest.raises(StoreError, match="which is no file of a study's folder"):
        StudyStore(storage, folder_on(tmp_path / "b")).fetch(QUIET)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    "damaged",
    [b"", b"[]", b"{}", b'{"files": 1}', b'{"files": {"a": 1}}', b'{"files": {"a": {"sha256": "../x", "bytes": 1}}}'],
)
def test_a_snapshot_that_cannot_be_understood(tmp_path: Path, damaged: bytes) -> None:
    storage = FolderStorage(tmp_path / "kept")
    storage.write("tiny/snapshot.json", damaged)
    with pytest.raises(StoreError, match=r"snapshot.json cannot be understood(?s:.)*--set name=ANOTHER"):
        StudyStore(storage, folder_on(tmp_path / "b")).fetch(QUIET)


def test_a_link_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path / "kept")
    StudyStore(storage, begun(tmp_path / "a")).push()
    other = folder_on(tmp_path / "b")
    (tmp_path / "elsewhere").mkdir()
    other.root.mkdir(parents=True)
    (other.root / "trials").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"leads out of .* by a symbolic link"):
        StudyStore(storage, other).fetch(QUIET)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_studies_need_a_persistent_storage(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert open_storage(str(tmp_path / "x"), workspace, "--study-store").uri.startswith("file:")
    for uri in ("object-store://x", "ftp://x/y"):
        with pytest.raises(
            InputError, match=r"--study-store: got .*; allowed: a folder or file:///FOLDER, s3://BUCKET"
        ):
            open_storage(uri, workspace, "--study-store")
