"""Reading, each in a process of its own: a segment from a store, or the released format's file, timed and weighed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from peak_memory import peak_bytes
from trajectory_cases import drawn_recipe

from rayvldd.config.settings import ExpertSettings
from rayvldd.experts.get_or_make import ExpertRequest, get_or_make
from rayvldd.experts.recipe import ExpertTraining
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.experts.trajectory import Segment
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.storage.folder import FolderStorage


@dataclass(frozen=True)
class ReadingJob:
    """What a fresh process reads."""

    kind: str
    """A name in ``KINDS``."""
    folder: str
    """The store, or the folder of the released files."""
    storage: str = "float32"
    first: int = 0
    """Epoch at which the first segment starts."""
    second: int = 4
    """Epoch at which a second segment starts."""

    def in_fresh_process(self, script: Path) -> dict[str, float]:
        """The figures, measured by ``script --read``."""
        command = [sys.executable, str(script), "--read", json.dumps(asdict(self))]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        finished = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        figures: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
        return figures

    def read(self) -> dict[str, float]:
        """Read here, where nothing was read before."""
        torch.set_num_threads(1)
        return KINDS[self.kind](self)


def _read_segments(job: ReadingJob) -> dict[str, float]:
    """Open the store and read a segment, then another one: checked and every number used, and then mapped alone."""
    store, recipe = ExpertStore(FolderStorage(job.folder)), drawn_recipe(job.storage)
    figures = {"first": _seconds(lambda: _sum(store.load(recipe, 0).segment(job.first, job.first + 1)))}
    figures["second"] = _seconds(lambda: _sum(store.load(recipe, 0).segment(job.second, job.second + 1)))
    figures["again"] = _seconds(lambda: _sum(store.load(recipe, 0).segment(job.second, job.second + 1)))
    figures["mapped"] = _seconds(lambda: store.load(recipe, 0).segment(job.second, job.second + 1))
    return figures


def _read_released(job: ReadingJob) -> dict[str, float]:
    """Load both files whole, as the released ``distill.py`` does, twice."""
    return {"first": _seconds(lambda: _load_released(job)), "second": _seconds(lambda: _load_released(job))}


def _weigh_segment(job: ReadingJob) -> dict[str, float]:
    store, recipe = ExpertStore(FolderStorage(job.folder)), drawn_recipe(job.storage)
    few = Parameters(torch.ones(8), torch.ones(8))
    _sum(Segment(few, few))  # what torch loads for a sum is no part of a segment
    return {"peak": peak_bytes(lambda: _sum(store.load(recipe, 0).segment(job.first, job.first + 1)), "cpu")}


def _weigh_released(job: ReadingJob) -> dict[str, float]:
    return {"peak": peak_bytes(lambda: _load_released(job), "cpu")}


def _first_segment(job: ReadingJob) -> dict[str, float]:
    """Get or make, and a first segment in hand, its bytes compared with their checksums."""
    return first_segment_seconds(ExpertStore(FolderStorage(job.folder)))


def first_segment_seconds(store: ExpertStore) -> dict[str, float]:
    """Time the first expert that this process reads, and further ones that it has not seen."""
    task = cast(RetrievalTask, None)  # used only if something is missing, as is the training
    training = ExpertTraining(ExpertSettings(), 0)
    figures = {}
    for index, name in enumerate(("first", "second", "third")):
        request = ExpertRequest(drawn_recipe(), training, (index,), frozenset((0, 1, 2)))
        figures[name] = _seconds(partial(_first_segment_of, task, request, store))
    return figures


def _first_segment_of(task: RetrievalTask, request: ExpertRequest, store: ExpertStore) -> Segment:
    return get_or_make(task, request, store)[0].segment(1, 2)


KINDS: dict[str, Callable[[ReadingJob], dict[str, float]]] = {
    "segments": _read_segments,
    "released": _read_released,
    "segment_memory": _weigh_segment,
    "released_memory": _weigh_released,
    "first_segment": _first_segment,
}


def _load_released(job: ReadingJob) -> list[Any]:
    files = sorted(Path(job.folder).glob("*.pt"))
    assert files
    return [torch.load(file, weights_only=True) for file in files]


def _sum(segment: Segment) -> float:
    """Use every number of both ends."""
    return sum(float(side.sum()) for end in (segment.start, segment.target) for side in end)


def _seconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    kept = run()
    taken = time.perf_counter() - begin
    del kept  # freeing is no part of reading
    return taken


def forget_pages(files: Iterable[Path]) -> None:
    """Have the system drop what it holds of these files in memory, so that the next read comes from the disk."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # pages that are not on the disk yet cannot be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_into_pages(files: Iterable[Path]) -> None:
    """Have the system hold these files in memory."""
    for path in files:
        with path.open("rb") as file:
            while file.read(2**24):
                pass
