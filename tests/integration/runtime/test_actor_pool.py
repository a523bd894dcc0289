"""Jobs side by side on actors: nothing depends on who does them, and nothing finished is lost."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from helpers.studies import TINY_STUDY
from helpers.tasks import StudyTask, load
from ray import cloudpickle

import rayvldd.runtime.actor_pool
import rayvldd.runtime.expert_training
from rayvldd.config.study import Study
from rayvldd.coresets.selection import choose_coreset
from rayvldd.errors import DivergedError, RayvlddError, StoreError
from rayvldd.evaluation.full_data import recipes_of, train_on_all
from rayvldd.evaluation.scoring import score
from rayvldd.evaluation.students import evaluate_pairs
from rayvldd.experts.get_or_make import ExpertRequest
from rayvldd.experts.recipe import ExpertRecipe, expert_recipe, expert_training
from rayvldd.experts.store.expert_store import ExpertStore, MadeExpert
from rayvldd.experts.training import train_expert
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.parameters import ParameterLayout, Parameters
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.records.full_data import FullDataChoice, TriedRecipe
from rayvldd.runtime.actor_pool import ResourceRequest, keeping_actors, run_work
from rayvldd.runtime.cluster import start_ray
from rayvldd.runtime.evaluation import StudentSpec, evaluate_in_parallel
from rayvldd.runtime.expert_training import ExpertProgress, ExpertWork, make_experts
from rayvldd.storage.folder import FolderStorage

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test module

ONE_CPU = ResourceRequest(1, 0.0, "resources.cpus_per_expert")


@pytest.fixture
def tiny_problem(tiny_study: Study, tiny_cache: Path) -> StudyTask:
    return load(tiny_study, tiny_cache)


@pytest.fixture
def one_thread() -> Any:
    """What an actor with one CPU computes with; sums of floats depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def assert_same(left: Trajectory, right: Trajectory) -> None:
    assert left.num_epochs == right.num_epochs
    for epoch in range(left.num_epochs + 1):
        assert torch.equal(left[epoch].image, right[epoch].image)
        assert torch.equal(left[epoch].text, right[epoch].text)


ALL = frozenset({0, 1, 2})
"""The epochs of an expert of the tiny study."""


def request_of(study: Study, recipe: ExpertRecipe, num_experts: int, epochs: frozenset[int] = ALL) -> ExpertRequest:
    return ExpertRequest(recipe, expert_training(study), tuple(range(num_experts)), epochs)


def made(*snapshots: Parameters) -> MadeExpert:
    layout = ParameterLayout(("weight",), ((len(snapshots[0].image),),))
    return MadeExpert(Trajectory.of_every_epoch(snapshots), [], layout, layout)


# --- experts -------------------------------------------------------------------------------------------------------


def test_experts_are_those_that_one_process_trains(
    local_ray: None, one_thread: None, tiny_study: Study, tiny_problem: StudyTask, tiny_cache: Path, tmp_path: Path
) -> None:
    """More experts than actors, one of them existing: each depends only on its number, not on its actor."""
    study = tiny_study.at({"experts.num_experts": 4})
    recipe, store = expert_recipe(study, tiny_problem.fingerprints), ExpertStore(FolderStorage(tmp_path))
    early = made(*(Parameters(torch.zeros(2), torch.zeros(3)) for _ in range(3)))
    store.save(recipe, 1, early)
    progress_reports: list[ExpertProgress] = []
    assert make_experts(study, request_of(study, recipe, 4), store, tiny_cache, progress_reports.append) == 3
    assert store.finished(recipe) == [0, 1, 2, 3]
    assert_same(store.load(recipe, 1), early.trajectory)
    for index in (0, 2, 3):
        assert_same(store.load(recipe, index), train_expert(tiny_problem, expert_training(study), index)[0])
        assert [row["epoch"] for row in store.metrics(recipe, index)] == [1, 2]
    assert progress_reports[-1] == ExpertProgress(finished=4, total=4, seconds_left=0.0)
    assert [progress.finished for progress in progress_reports] == sorted(
        progress.finished for progress in progress_reports
    )
    assert all(progress.total == 4 and 1 not in progress.running for progress in progress_reports)
    assert max(len(progress.running) for progress in progress_reports) == 2


def test_experts_that_are_there_need_no_ray(tiny_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, store = ExpertRecipe({"version": 1}), ExpertStore(FolderStorage(tmp_path))
    for index in range(2):
        store.save(recipe, index, made(*(Parameters(torch.zeros(2), torch.zeros(3)) for _ in range(3))))
    monkeypatch.setattr(rayvldd.runtime.expert_training, "start_ray", lambda *_: pytest.fail("started"))
    progress_reports: list[ExpertProgress] = []
    assert make_experts(tiny_study, request_of(tiny_study, recipe, 2), store, tmp_path, progress_reports.append) == 0
    assert progress_reports == [ExpertProgress(2, 2, seconds_left=0.0)]


def test_experts_of_data_that_changed_meanwhile_are_not_kept(tiny_problem: StudyTask, tmp_path: Path) -> None:
    recipe, store = ExpertRecipe({"version": 0}), ExpertStore(FolderStorage(tmp_path))
    with pytest.raises(StoreError, match=r"data or models have changed since the command began.*\nNext:"):
        ExpertWork(request_of(tiny_problem.study, recipe, 1), store, "command 0").do(tiny_problem, lambda epoch: None)
    assert store.finished(recipe) == []


def test_a_diverging_expert_is_reported_without_a_traceback(
    local_ray: None, tiny_study: Study, tiny_cache: Path, tmp_path: Path
) -> None:
    study = tiny_study.at({"experts.lr_image": 1e30, "experts.num_experts": 1})
    recipe = expert_recipe(study, load(study, tiny_cache).fingerprints)
    with pytest.raises(DivergedError) as caught:
        make_experts(study, request_of(study, recipe, 1), ExpertStore(FolderStorage(tmp_path)), tiny_cache)
    assert "experts.lr_image=1e+30" in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert "experts.lr_image" in caught.value.next_command


def test_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(rayvldd.runtime.expert_training.time, "monotonic", lambda: now[0])
    progress_reports: list[ExpertProgress] = []
    clock = rayvldd.runtime.expert_training._Clock(total=3, epochs=10, on_progress=progress_reports.append)
    clock.begin([(0,), (2,)])
    news: list[tuple[float, int, dict[int, int]]] = [
        (0.0, 0, {0: 0, 1: 0}),  # loading the task, which takes long once and is no measure of epochs
        (50.0, 0, {0: 1, 1: 1}),
        (54.0, 0, {0: 2, 1: 3}),
        (70.0, 1, {1: 8}),
        (75.0, 2, {}),
    ]
    for now[0], finished, running in news:
        clock.report(finished, running)
    assert [progress.seconds_left for progress in progress_reports] == [None, None, 20.0, 2.5, 0.0]
    assert [progress.running for progress in progress_reports[2:4]] == [{0: 2, 2: 3}, {2: 8}]
    assert [progress.finished for progress in progress_reports] == [1, 1, 1, 2, 3]


def test_progress_of_experts_in_one_pass() -> None:
    progress_reports: list[ExpertProgress] = []
    clock = rayvldd.runtime.expert_training._Clock(total=4, epochs=10, on_progress=progress_reports.append)
    clock.begin([(1, 2), (3,)])
    for finished, running in [(0, {0: 5, 1: 2}), (1, {0: 9}), (2, {})]:
        clock.report(finished, running)
    assert [progress.running for progress in progress_reports] == [{1: 5, 2: 5, 3: 2}, {1: 9, 2: 9}, {}]
    assert [progress.finished for progress in progress_reports] == [1, 2, 4]


# --- evaluations ---------------------------------------------------------------------------------------------------


def test_students_are_those_that_one_process_trains(
    local_ray: None,
    one_thread: None,
    tiny_study: Study,
    tiny_problem: StudyTask,
    tiny_cache: Path,
    tmp_path: Path,
) -> None:
    settings, training = tiny_study.evaluation, expert_training(tiny_study)
    pairs, others = (
        choose_coreset(tiny_problem, "random", number, seed, training=training).pairs(tiny_problem, 0.1)
        for number, seed in ((6, 0), (8, 1))
    )
    recipe = TriedRecipe(recipe=recipes_of(settings)[0], val_mean_recall=1.0)
    choice = FullDataChoice(key=tmp_path.name, tried=(recipe,))
    jobs = [StudentSpec(pairs, 0), StudentSpec(choice, 5), StudentSpec(others, 0), StudentSpec(pairs, 1)]
    progress_reports: list[tuple[int, int, float]] = []
    recalls = evaluate_in_parallel(tiny_study, tiny_cache, jobs, "test", lambda *news: progress_reports.append(news))
    assert recalls == [
        *evaluate_pairs(tiny_problem, pairs, tiny_problem.test, settings, [0]),
        score(tiny_problem, train_on_all(tiny_problem, recipe.recipe, tiny_study.seed, 5), tiny_problem.test),
        *evaluate_pairs(tiny_problem, others, tiny_problem.test, settings, [0]),
        *evaluate_pairs(tiny_problem, pairs, tiny_problem.test, settings, [1]),
    ]
    assert progress_reports[-1] == (4, 4, 1.0)
    assert evaluate_in_parallel(tiny_study, tiny_cache, [], "val") == []


# --- the crew ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """Returns its argument; before that, its process dies the given number of times."""

    value: Any
    notes: Path
    deaths: int = 0

    @property
    def title(self) -> str:
        return f"answer {self.value}"

    def do(self, task: RetrievalTask, note: Callable[[int], None]) -> Any:
        note(1)
        with (self.notes / str(self.value)).open("a") as file:
            file.write("+")
        if (self.notes / str(self.value)).stat().st_size <= self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.value


@dataclass(frozen=True)
class Threads:
    """Returns how many threads torch computes with."""

    title: str = "threads"

    def do(self, task: RetrievalTask, note: Callable[[int], None]) -> int:
        return torch.get_num_threads()


@dataclass(frozen=True)
class Sleep:
    """Returns the seconds that it slept."""

    seconds: float
    title: str = "sleep"

    def do(self, task: RetrievalTask, note: Callable[[int], None]) -> float:
        time.sleep(self.seconds)
        return self.seconds


@dataclass(frozen=True)
class Process:
    """Returns the number of its process."""

    title: str = "process"

    def do(self, task: RetrievalTask, note: Callable[[int], None]) -> int:
        return os.getpid()


@dataclass(frozen=True)
class Images:
    """Returns how many images the task has, and the number of its process."""

    title: str = "images"

    def do(self, task: RetrievalTask, note: Callable[[int], None]) -> tuple[int, int]:
        return task.train.num_images, os.getpid()


def test_results_come_in_order_and_dead_actors_are_replaced(
    local_ray: None, tiny_study: Study, tiny_cache: Path, tmp_path: Path
) -> None:
    jobs = [Answer(number, tmp_path, deaths=1 if number == 1 else 0) for number in range(5)]
    assert run_work(jobs, tiny_study, tiny_cache, ONE_CPU) == [0, 1, 2, 3, 4]
    assert [(tmp_path / str(number)).stat().st_size for number in range(5)] == [1, 2, 1, 1, 1]


def test_the_seconds_of_a_job_are_without_the_start_of_its_actor(
    local_ray: None, tiny_study: Study, tiny_cache: Path
) -> None:
    seconds: dict[int, float] = {}

    def finished(number: int, took: float) -> None:
        assert number not in seconds
        seconds[number] = took

    began_s = time.monotonic()
    jobs = [Sleep(0.0), Sleep(0.5), Sleep(0.0)]
    assert run_work(jobs, tiny_study, tiny_cache, ONE_CPU, on_finished=finished) == [0.0, 0.5, 0.0]
    whole_s = time.monotonic() - began_s
    assert seconds.keys() == {0, 1, 2} and 0.5 <= seconds[1] < whole_s
    assert max(seconds[0], seconds[2]) < whole_s / 4, "the start takes most of the time"


def test_a_job_that_kills_every_process_is_given_up(
    local_ray: None, tiny_study: Study, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rayvldd.runtime.actor_pool, "MAX_REPLACEMENTS", 0)
    with pytest.raises(
        RayvlddError, match=r"(?s)answer 7: its process died, 1 of 1 tries: .*memory.*\nNext: .*cpus_per_expert="
    ):
        run_work([Answer(7, tmp_path, deaths=100)], tiny_study, tiny_cache, ONE_CPU)


def test_an_actor_computes_with_as_many_threads_as_cpus(local_ray: None, tiny_study: Study, tiny_cache: Path) -> None:
    assert run_work([Threads()], tiny_study, tiny_cache, ResourceRequest(2, 0.0, "resources.cpus_per_expert")) == [2]


def test_actors_leave_nothing_behind(local_ray: None, tiny_study: Study, tiny_cache: Path, tmp_path: Path) -> None:
    def interrupt(finished: int, running: dict[int, int]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_work([Answer(1, tmp_path)], tiny_study, tiny_cache, ONE_CPU, interrupt)
    wait_for_free_cpus()


def wait_for_free_cpus() -> None:
    """Wait until Ray has all of its CPUs again."""
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == 2


def wait_for_processes_to_end(processes: set[int]) -> None:
    """Wait until none of some processes runs."""
    deadline = time.monotonic() + 60
    while any(Path("/proc", str(process)).exists() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [process for process in processes if Path("/proc", str(process)).exists()]


def test_an_actor_that_waits_for_a_share_gets_that_of_one_that_is_done(
    local_ray: None, tiny_study: Study, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the death of a node that Ray has not noticed yet: one actor more is hired than there is room for."""
    monkeypatch.setattr(rayvldd.runtime.actor_pool.ray, "cluster_resources", lambda: {"CPU": 3.0})
    jobs = [Answer(number, tmp_path) for number in range(3)]
    assert len(run_work(jobs, tiny_study, tiny_cache, ONE_CPU)) == 3


def test_kept_actors_work_for_the_next_run(
    local_ray: None, tiny_study: Study, tiny_cache: Path, tmp_path: Path
) -> None:
    """Those with other resources are stopped, one that died meanwhile is replaced, and the end of the block stops all.

    A run on another task loads it in the same process.
    """

    def processes(number: int, request: ResourceRequest = ONE_CPU) -> set[int]:
        return set(run_work([Process() for _ in range(number)], tiny_study, tiny_cache, request))

    def images(num_train: int) -> list[tuple[int, int]]:
        return run_work([Images()], tiny_study.at({"data.num_train": num_train}), tiny_cache, ONE_CPU)

    with keeping_actors():
        first = processes(1)
        assert processes(1) == first
        os.kill(first.pop(), signal.SIGKILL)
        again = processes(1)
        with keeping_actors():
            assert processes(1) == again, "an inner block keeps those of the outer one"
        (process,) = again
        assert [*images(30), *images(40), *images(30)] == [(30, process), (40, process), (30, process)]
        assert not processes(1, ResourceRequest(2, 0.0, "resources.cpus_per_expert")) & again
        wait_for_processes_to_end(again)
        last = processes(1)
    wait_for_processes_to_end(last)
    wait_for_free_cpus()


def test_an_actor_that_waits_gets_the_share_of_one_that_would_be_kept(
    local_ray: None, tiny_study: Study, tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rayvldd.runtime.actor_pool.ray, "cluster_resources", lambda: {"CPU": 3.0})
    with keeping_actors():
        jobs = [Answer(number, tmp_path) for number in range(3)]
        assert len(run_work(jobs, tiny_study, tiny_cache, ONE_CPU)) == 3


def test_an_actor_that_does_not_fit(local_ray: None, tiny_study: Study, tmp_path: Path) -> None:
    study = tiny_study.at({"resources.cpus_per_expert": 64})
    with pytest.raises(
        RayvlddError, match=r"resources.cpus_per_expert: one actor takes 64 CPU, .*allowed: .*has, 2 CPU"
    ):
        make_experts(study, request_of(study, ExpertRecipe({}), 2), ExpertStore(FolderStorage(tmp_path)), tmp_path)


@pytest.mark.parametrize(
    ("share", "resources", "expected"),
    [
        ((1, 0.0), {"CPU": 2.0}, 2),
        ((2, 0.0), {"CPU": 7.0, "GPU": 1.0}, 3),
        ((1, 1.0), {"CPU": 16.0, "GPU": 4.0}, 4),
        ((1, 0.5), {"CPU": 16.0, "GPU": 4.0}, 8),
        ((1, 0.4), {"CPU": 16.0, "GPU": 4.0}, 8),
        ((1, 2.0), {"CPU": 16.0, "GPU": 3.0}, 1),
        ((8, 0.5), {"CPU": 16.0, "GPU": 4.0}, 2),
        ((1, 0.5), {"CPU": 16.0}, 0),
    ],
)
def test_actors_that_fit(share: tuple[int, float], resources: dict[str, float], expected: int) -> None:
    assert ResourceRequest(*share, "resources.cpus_per_expert").actors_that_fit(resources) == expected


# --- Ray itself ----------------------------------------------------------------------------------------------------


def test_a_cluster_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", _no_cluster)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        words = f"(?s)Ray at {address}: cannot be used: no route.*; allowed: auto, HOST:PORT"
        with pytest.raises(RayvlddError, match=words), start_ray(address, None):
            pytest.fail("entered")


@pytest.mark.parametrize("source", ["address", "environment", "left behind", "left behind in TMPDIR"])
def test_an_address_of_a_cluster_that_is_gone_is_refused_at_once(
    source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR" if source.endswith("TMPDIR") else "RAY_TMPDIR", str(tmp_path))
    if source == "environment":
        monkeypatch.setenv("RAY_ADDRESS", address)
    elif source.startswith("left behind"):
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(f"{address}\n")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("tried for ten minutes"))
    words = f"cannot be used: nothing answers at {address}.*\nNext: ray status"
    with pytest.raises(RayvlddError, match=words), start_ray(address if source == "address" else "auto", None):
        pytest.fail("entered")


def test_other_releases_of_a_cluster_are_named_with_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        theirs = {"ray_version": "2.59.0", "python_version": "3.12.1"}
        ray._private.utils.check_version_info(theirs, "node 10.0.0.2")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    python, ours = ".".join(map(str, sys.version_info[:3])), ray.__version__
    words = rf"(?s)Ray: 2.59.0\s+Python: 3.12.1.* Ray: {ours}\s+Python: {python}"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(RayvlddError, match=words), start_ray(address, None):
            pytest.fail("entered")


def _no_cluster(**_: Any) -> None:
    raise ConnectionError("no route\nand more")


@pytest.mark.parametrize("slow_starts, comes_up", [(0, True), (2, True), (3, False)])
def test_a_ray_that_is_slow_to_start_gets_further_tries(
    monkeypatch: pytest.MonkeyPatch, slow_starts: int, comes_up: bool
) -> None:
    """A busy machine may not bring Ray's processes up within the 30 seconds that Ray gives them."""
    starts = []

    def start(**_: Any) -> None:
        starts.append(1)
        if len(starts) <= slow_starts:
            raise Exception("The current node timed out during startup. This could happen because ...")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    if comes_up:
        with start_ray(None, 1):
            assert len(starts) == slow_starts + 1
    else:
        words = (
            "Ray on this machine: cannot be used: The current node timed out .* Its processes had 3 times 30 seconds: "
            r"the machine is too busy, or memory or /dev/shm is full\nNext: free -h and df -h /dev/shm"
        )
        with pytest.raises(RayvlddError, match=words) as refused, start_ray(None, 1):
            pytest.fail("entered")
        assert "address" not in str(refused.value) and "cluster" not in str(refused.value), "none was asked for"


_DRIVER = """
import sys
from pathlib import Path
from rayvldd.cli.interrupts import interruptible
from rayvldd.config.study import Study
from rayvldd.data.array_cache import ArrayCache
from rayvldd.experts.recipe import expert_recipe, expert_training
from rayvldd.runtime.expert_training import make_experts
from rayvldd.runtime.cluster import start_ray
from rayvldd.models.retrieval_task import load_task
from rayvldd.experts.get_or_make import ExpertRequest
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.storage.folder import FolderStorage

handlers = interruptible()  # as in every command
handlers.__enter__()
study, cache, folder = Study.model_validate_json(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
task = load_task(study.data, study.model, ArrayCache(cache), device="cpu")
recipe = expert_recipe(study, task.fingerprints)
indexes, epochs = range(study.experts.num_experts), range(study.experts.epochs + 1)
request = ExpertRequest(recipe, expert_training(study), tuple(indexes), frozenset(epochs))
with start_ray(None, 1):
    try:
        make_experts(
            study,
            request,
            ExpertStore(FolderStorage(folder)),
            cache,
            lambda progress: print(progress.finished, sum(progress.running.values()), flush=True),
        )
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        raise
"""


# --- experts that lose their actor, their node, their driver -------------------------------------------------------

EPOCHS = 200
LONG = {"experts.num_experts": 2, "experts.epochs": EPOCHS}
"""Long enough to be seen at work and killed, also where the actor of one starts half a minute after the other's."""
EVERY_EPOCH = frozenset(range(EPOCHS + 1))


@pytest.fixture(scope="module")
def undisturbed(tiny_cache: Path) -> list[Trajectory]:
    """The experts of ``LONG``, trained in this process as in an actor with one CPU."""
    study, before = Study.model_validate(TINY_STUDY).at(LONG), torch.get_num_threads()
    torch.set_num_threads(1)
    task = load(study, tiny_cache)
    trajectories = [train_expert(task, expert_training(task.study), index)[0] for index in range(2)]
    torch.set_num_threads(before)
    return trajectories


def kill_the_first_at_work(store: ExpertStore, recipe: ExpertRecipe) -> Callable[[ExpertProgress], None]:
    """Kill the process of the first expert that is seen to have come somewhere, once."""
    killed: list[int] = []

    def watch(progress: ExpertProgress) -> None:
        for index, epoch in progress.running.items():
            holder = store.holder(recipe, index)
            if not killed and epoch > 5 and holder:
                killed.append(holder.process)
                os.kill(holder.process, signal.SIGKILL)

    watch.killed = killed  # type: ignore[attr-defined]
    return watch


@pytest.mark.timeout(600)  # 800 epochs
def test_an_actor_that_is_killed_costs_an_epoch_and_no_bit(
    local_ray: None, undisturbed: list[Trajectory], tiny_study: Study, tiny_cache: Path, tmp_path: Path
) -> None:
    study = tiny_study.at(LONG)
    task = load(study, tiny_cache)
    recipe, store = expert_recipe(task.study, task.fingerprints), ExpertStore(FolderStorage(tmp_path))
    watch = kill_the_first_at_work(store, recipe)
    assert make_experts(study, request_of(study, recipe, 2, EVERY_EPOCH), store, tiny_cache, watch) == 2
    assert len(watch.killed) == 1  # type: ignore[attr-defined]
    for index in range(2):
        assert_same(store.load(recipe, index), undisturbed[index])
        assert [row["epoch"] for row in store.metrics(recipe, index)] == list(range(1, EPOCHS + 1))


_NODES = """
import os, sys
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from rayvldd.config.study import Study
from rayvldd.data.array_cache import ArrayCache
from rayvldd.experts.recipe import expert_recipe, expert_training
from rayvldd.runtime.expert_training import make_experts
from rayvldd.experts.get_or_make import ExpertRequest
from rayvldd.models.retrieval_task import load_task
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.storage.folder import FolderStorage

study, cache, folder = Study.model_validate_json(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
task = load_task(study.data, study.model, ArrayCache(cache), device="cpu")
recipe = expert_recipe(study, task.fingerprints)
store = ExpertStore(FolderStorage(folder))
options = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 6}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": quick, **options})
nodes = [cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20) for _ in range(2)]
ray.init(address=cluster.address, log_to_driver=False)

def watch(progress):
    # Both experts at work: whichever node goes away, one of them goes with it.
    if len(nodes) == 2 and len(progress.running) == 2 and min(progress.running.values()) > 5:
        print("at work, node goes", flush=True)
        cluster.remove_node(nodes.pop(), allow_graceful=False)

request = ExpertRequest(recipe, expert_training(study), tuple(range(2)), frozenset(range(study.experts.epochs + 1)))
print("made", make_experts(study, request, store, cache, watch), flush=True)
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.timeout(600)  # three nodes start on a machine that may be busy
def test_a_node_that_goes_away_costs_an_epoch_and_no_bit(
    undisturbed: list[Trajectory], tiny_study: Study, tiny_cache: Path, tmp_path: Path
) -> None:
    """Each of two nodes trains an expert; the one that stays takes the other's up where its node was killed."""
    study = tiny_study.at(LONG)
    command = [sys.executable, "-c", _NODES, study.model_dump_json(), str(tiny_cache), str(tmp_path / "experts")]
    # To a file: remaining processes of a killed node would keep a pipe open for a moment.
    with (tmp_path / "output").open("w") as output:
        subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, timeout=560)
    text = (tmp_path / "output").read_text()
    assert "\nmade " in text and text.count("node goes") == 1, text
    task = load(study, tiny_cache)
    recipe, store = expert_recipe(task.study, task.fingerprints), ExpertStore(FolderStorage(tmp_path / "experts"))
    assert store.finished(recipe, EVERY_EPOCH) == [0, 1]
    for index in range(2):
        assert_same(store.load(recipe, index), undisturbed[index])


@pytest.mark.timeout(300)
def test_a_driver_that_is_killed_leaves_its_epochs_to_the_next(
    local_ray: None, undisturbed: list[Trajectory], tiny_study: Study, tiny_cache: Path, tmp_path: Path
) -> None:
    study = tiny_study.at({**LONG, "experts.num_experts": 1})
    task = load(study, tiny_cache)
    recipe, store = expert_recipe(task.study, task.fingerprints), ExpertStore(FolderStorage(tmp_path))
    command = [sys.executable, "-c", _DRIVER, study.model_dump_json(), str(tiny_cache), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout
        while int(driver.stdout.readline().split()[1]) < 5:
            pass
        driver.kill()
    kept = store.kept_epochs(recipe, 0)
    assert len(kept) > 5
    # Ray ends the actor of a driver that is gone, but not at once: it may even have come to its end.
    make_experts(study, request_of(study, recipe, 1, EVERY_EPOCH), store, tiny_cache)
    assert_same(store.load(recipe, 0), undisturbed[0])


@pytest.mark.timeout(300)  # two imports of everything, one after the other, on a machine that may be busy
def test_sigterm_keeps_finished_work_and_leaves_no_process(
    tiny_study: Study, tiny_problem: StudyTask, tiny_cache: Path, tmp_path: Path
) -> None:
    """A driver with its own Ray that gets SIGTERM, and Ctrl-C while Ray ends, ends as after one Ctrl-C."""
    study = tiny_study.at({"experts.num_experts": 100_000})
    mark = f"RAYVLDD_TEST_MARK={tmp_path.name}-{os.getpid()}"
    environment = {**os.environ, **dict([mark.split("=")])}
    command = [sys.executable, "-c", _DRIVER, study.model_dump_json(), str(tiny_cache), str(tmp_path)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as driver:
        assert driver.stdout and driver.stderr
        while int(driver.stdout.readline().split()[0]) < 2:
            pass
        driver.terminate()  # as a batch system does
        pressed = time.monotonic()
        # Of two signals that arrive before Python looks, it handles the one with the lower number first.
        assert "interrupted\n" in driver.stdout
        os.killpg(driver.pid, signal.SIGINT)  # as a terminal does
        errors = driver.stderr.read()
    assert time.monotonic() - pressed < 120, "an expert of the two would take hours"
    assert errors.strip().endswith("Terminated"), errors
    assert errors.count("Traceback") == 1, errors
    store, recipe = ExpertStore(FolderStorage(tmp_path)), expert_recipe(study, tiny_problem.fingerprints)
    finished = store.finished(recipe)
    assert len(finished) >= 2
    assert all(store.load(recipe, index).num_epochs == 2 for index in finished)
    deadline = time.monotonic() + 20
    while (left := processes_with(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left


def processes_with(mark: str) -> list[str]:
    """Command lines of the processes that carry a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found
