"""Cost of reading, storing, sharing and making trajectories, compared with the released format and plain transfers.

    python tests/benchmarks/trajectories.py                       all figures, about twenty minutes on two cores
    python tests/benchmarks/trajectories.py --only NAME,NAME      some of them
    python tests/benchmarks/trajectories.py --json                one JSON object on standard output, the rest aside

Files are in a folder on a disk and are removed afterwards; about 4 GB are written at a time. The released format is
its image and text buffer of one expert, the fewest that a file of it can hold. "Cold" is after the system dropped what
it held of the files, "warm" the next read of the same process, from memory. Linux only: memory is read from /proc.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests/helpers

import torch
from figures import Row, as_json, figures_parser, machine, measured, named, print_rows
from trajectory_cases import (
    EPOCHS,
    REACHED,
    SHARING_EXPERTS,
    Layouts,
    drawn_expert,
    drawn_recipe,
    files_below,
    layouts_of,
    save_expert,
    save_released,
)
from trajectory_loss import LOSS_CASES, loss_errors
from trajectory_reading import ReadingJob, forget_pages, read_into_pages
from trajectory_s3 import serve_s3, transfer_times

from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.storage.folder import FolderStorage

SCRIPT = Path(__file__).resolve()
MODELS = {"resnet18": "ResNet18-GN", "nfnet": "nfnet_l0"}
READERS = 8
MIB = 2**20


@dataclass(frozen=True)
class Conditions:
    """Where and how carefully figures are measured."""

    folder: Path
    """On a disk; each figure takes a folder of its own in it, and removes it."""
    rounds: int
    tiny: bool
    s3_mib: int

    @contextlib.contextmanager
    def room(self) -> Iterator[Path]:
        """A folder for one figure."""
        with tempfile.TemporaryDirectory(prefix="trajectories-", dir=self.folder) as room:
            yield Path(room)

    @property
    def models(self) -> dict[str, str]:
        """Names in ``unroll_cases.SIZES`` to titles."""
        return {"tiny": "a tiny NFNet"} if self.tiny else MODELS


def segment_read_time(conditions: Conditions) -> Iterator[Row]:
    """Cold: from the disk, checksums compared, every number used. Warm: what each outer step of a trial waits for.

    A trial reads the same few epochs thousands of times. After the first time they are compared and in memory, and
    reading maps them: the pages are touched by whoever computes with them. The rows beside it touch them.
    """
    worst: dict[str, float] = {}
    for name, title in conditions.models.items():
        with conditions.room() as room:
            _write_both(room, layouts_of(name))
            seconds = _reading_times(room, conditions.rounds)
        released = {"cold": seconds["released cold"], "warm": seconds["released warm"]}
        yield Row(f"released_read_s_{name}", f"seconds to load the released format, cold, {title}", released["cold"])
        yield Row(f"released_read_warm_s_{name}", f"the same, warm, {title}", released["warm"])
        for kind, what in READS.items():
            ratio = seconds[kind] / released["cold" if kind == "cold" else "warm"]
            yield Row(f"segment_read_time_{kind}_{name}", f"segment ÷ released format, {what}, {title}", ratio)
            worst[kind] = max(ratio, worst.get(kind, 0.0))
    yield Row("segment_read_time_cold", "the worse of both models", worst["cold"], 1 / 20)
    yield Row("segment_read_time_warm", "the worse of both models, compared before, in hand", worst["mapped"], 1 / 100)
    yield Row("segment_read_time_summed", "the worse of both, the same with every number used", worst["again"])
    yield Row("segment_read_time_compared", "the worse of both, a segment this process has not seen", worst["warm"])


READS = {
    "cold": "cold, compared and summed",
    "warm": "warm, first seen: compared and summed",
    "again": "warm, compared before, summed",
    "mapped": "warm, compared before, in hand",
}


def _write_both(room: Path, layouts: Layouts) -> None:
    """All epochs of one expert in float32, in a store and in the released format: the same numbers."""
    expert = drawn_expert(layouts, 0)
    save_expert(ExpertStore(FolderStorage(room / "store")), drawn_recipe(), 0, expert, layouts)
    (room / "released").mkdir()
    files = room / "released" / "img_replay_buffer_0.pt", room / "released" / "txt_replay_buffer_0.pt"
    save_released(files, expert, layouts)


def _reading_times(room: Path, rounds: int) -> dict[str, float]:
    """The shortest seconds of each read, both sides in turns, each time in a fresh process."""
    found: dict[str, list[float]] = {}
    draw = random.Random(0)
    for _ in range(rounds):
        first, second = draw.sample(range(0, EPOCHS, 2), 2)  # even: no epoch is read twice
        ours = ReadingJob("segments", str(room / "store"), first=first, second=second)
        theirs = ReadingJob("released", str(room / "released"))
        for side, job in (("ours", ours), ("released", theirs)):
            forget_pages(files_below(room))
            cold = job.in_fresh_process(SCRIPT)
            read_into_pages(files_below(Path(job.folder)))
            warm = job.in_fresh_process(SCRIPT)
            prefix = "released " if side == "released" else ""
            found.setdefault(f"{prefix}cold", []).append(cold["first"])
            found.setdefault(f"{prefix}warm", []).append(warm["second"])
            for kind in ("again", "mapped") if side == "ours" else ():
                found.setdefault(kind, []).append(warm[kind])
    return {kind: min(seconds) for kind, seconds in found.items()}


def segment_read_memory(conditions: Conditions) -> Iterator[Row]:
    """The peak of resident memory, mapped pages with it, above what the process had before."""
    worst = 0.0
    for name, title in conditions.models.items():
        with conditions.room() as room:
            _write_both(room, layouts_of(name))
            ours = ReadingJob("segment_memory", str(room / "store"), first=3).in_fresh_process(SCRIPT)["peak"]
            theirs = ReadingJob("released_memory", str(room / "released")).in_fresh_process(SCRIPT)["peak"]
        yield Row(f"segment_read_mib_{name}", f"peak MiB of a segment, {title}", ours / MIB)
        yield Row(f"segment_read_memory_{name}", f"segment ÷ released format, peak memory, {title}", ours / theirs)
        worst = max(worst, ours / theirs)
    yield Row("segment_read_memory", "the worse of both models", worst, 1 / 5)


def bytes_kept(conditions: Conditions) -> Iterator[Row]:
    """float16_deltas and the epochs that are reached; and what that does to the matching loss."""
    worst = 0.0
    for name, title in conditions.models.items():
        with conditions.room() as room:
            few, many = _bytes_an_expert(room, layouts_of(name))
        yield Row(f"bytes_kept_3_{name}", f"bytes kept ÷ released format, 3 experts share a start, {title}", few)
        what = f"the same, the shared start counted for {SHARING_EXPERTS}"
        yield Row(f"bytes_kept_{name}", f"{what}, {title}", many)
        worst = max(worst, many)
    yield Row("bytes_kept", "the worse of both models", worst, 1 / 8)
    yield from _loss_effects(conditions)


def _bytes_an_expert(room: Path, layouts: Layouts) -> tuple[float, float]:
    """Bytes of an expert ÷ those of the released format: of three as they lie, and of as many as the paper has."""
    number, store, recipe = 3, ExpertStore(FolderStorage(room / "store")), drawn_recipe("float16_deltas")
    for index in range(number):
        save_expert(store, recipe, index, drawn_expert(layouts, index, REACHED), layouts)
    sizes = {path: path.stat().st_size for path in files_below(room / "store")}
    shared = sum(size for path, size in sizes.items() if path.name.startswith("start_"))
    own = (sum(sizes.values()) - shared) / number
    released = save_released((room / "img.pt", room / "txt.pt"), drawn_expert(layouts, 0), layouts)
    return (own + shared / number) / released, (own + shared / SHARING_EXPERTS) / released


def _loss_effects(conditions: Conditions) -> Iterator[Row]:
    worst = 0.0
    for name, case in LOSS_CASES.items():
        if conditions.tiny and name != "heads_only":
            continue
        with conditions.room() as room:
            errors = list(loss_errors(case, room, conditions.tiny))
        deltas, bfloat16 = max(error.deltas for error in errors), max(error.bfloat16 for error in errors)
        what = f"largest relative error of the matching loss, {case.title}"
        yield Row(f"loss_error_{name}", what, deltas)
        yield Row(f"loss_error_bfloat16_{name}", "the same of weights rounded to bfloat16", bfloat16)
        what = "the same of noise of 1e-9, below which the loss is not resolved"
        yield Row(f"loss_error_noise_{name}", what, max(error.noise for error in errors))
        worst = max(worst, deltas)
    yield Row("loss_error", "float16_deltas, the worse of both models", worst, 1e-3)


def s3_efficiency(conditions: Conditions) -> Iterator[Row]:
    """Checksums, records and the local copy against the transfer alone."""
    mib = 2 if conditions.tiny else conditions.s3_mib
    with conditions.room() as room:
        times = transfer_times(mib * MIB, conditions.rounds, SCRIPT, room)
    write, read = times.plain_write / times.write, times.plain_read / times.read
    yield Row("s3_write_s", f"seconds to write an expert of {mib} MiB to S3", times.write)
    yield Row("s3_read_s", "seconds to read it, every checksum compared", times.read)
    yield Row("s3_efficiency_write", "the same transfer of a plain file ÷ writing an expert", write, 0.9, at_least=True)
    yield Row("s3_efficiency_read", "the same transfer of a plain file ÷ reading an expert", read, 0.9, at_least=True)
    yield Row("s3_efficiency", "the worse of both", min(write, read), 0.9, at_least=True)


def shared_memory_growth(conditions: Conditions) -> Iterator[Row]:
    """Private memory: what the readers share is there once."""
    from trajectory_ray import drop_set, private_growth, put_set, start_ray

    name, readers = ("tiny", 2) if conditions.tiny else ("nfnet", READERS)
    start_ray((128 if conditions.tiny else 3072) * MIB)
    layouts = layouts_of(name)
    store = put_set("growth", layouts, 1)
    growth = private_growth(store, 1, readers)
    drop_set(store)
    set_bytes = len(REACHED) * layouts.snapshot_bytes
    yield Row("shared_set_mib", f"MiB of the set that {readers} processes read", set_bytes / MIB)
    above_one = (sum(growth) - min(growth)) / set_bytes
    what = f"private memory of {readers} readers above that of one ÷ the set"
    yield Row("shared_memory_growth", what, above_one, 0.1)


def first_segment_ms(conditions: Conditions) -> Iterator[Row]:
    """Get or make with the set there, to a segment whose checksums were compared; medians of several processes."""
    from trajectory_ray import drop_set, first_segments_in_actors, put_set, start_ray

    name, processes = ("tiny", 2) if conditions.tiny else ("resnet18", 5)
    layouts = layouts_of(name)
    with conditions.room() as room:
        store = ExpertStore(FolderStorage(room))
        for index in range(3):
            save_expert(store, drawn_recipe(), index, drawn_expert(layouts, index, REACHED), layouts)
        found = {"folder": [ReadingJob("first_segment", str(room)).in_fresh_process(SCRIPT) for _ in range(processes)]}
    start_ray((128 if conditions.tiny else 3072) * MIB)
    in_ray = put_set("first", layouts, 3)
    found["object_store"] = first_segments_in_actors(in_ray, processes)
    drop_set(in_ray)
    worst = 0.0
    for storage, seconds in found.items():
        first = 1000 * median(one["first"] for one in seconds)
        later = 1000 * median(one[kind] for one in seconds for kind in ("second", "third"))
        yield Row(
            f"first_segment_ms_{storage}", f"get or make to a first segment, first in its process, {storage}", first
        )
        yield Row(f"first_segment_ms_{storage}_later", "the same of another expert in the same process", later)
        worst = max(worst, first)
    yield Row("first_segment_ms", "the worse of both storages, first in its process", worst, 50.0)


def fleet_scaling(conditions: Conditions) -> Iterator[Row]:
    """On a quiet machine only."""
    from trajectory_ray import scaling, start_ray

    start_ray((128 if conditions.tiny else 3072) * MIB)
    with conditions.room() as room:
        found = scaling(room, conditions.rounds, conditions.tiny)
    yield Row("fleet_epoch_s", "seconds of an epoch, one actor alone", found["epoch_s"])
    yield Row("fleet_scaling_epochs", "2 actors ÷ 1, by the epochs' own wall clock", found["by_epochs"])
    what = "experts an hour, 2 actors of 1 thread ÷ 1"
    yield Row("fleet_scaling", what, found["scaling"], 1.8, at_least=True)


FIGURES = named(
    segment_read_time,
    segment_read_memory,
    bytes_kept,
    s3_efficiency,
    first_segment_ms,
    shared_memory_growth,
    fleet_scaling,
)


def _arguments() -> argparse.Namespace:
    parser = figures_parser(__doc__, FIGURES)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on a disk, for the files")
    parser.add_argument("--rounds", type=int, default=3, help="times that both sides of a ratio are timed")
    parser.add_argument("--s3-mib", type=int, default=1024, help="MiB of the expert that goes to S3 and back")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--serve-s3", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.tiny and not arguments.read and not arguments.serve_s3:
        _refuse_unfit(parser, arguments.folder)
    return arguments


def _refuse_unfit(parser: argparse.ArgumentParser, folder: Path) -> None:
    """Cold reads need a disk, and an expert of full size room on it."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [(point, kind) for point, kind in mounts if folder.resolve().is_relative_to(point)]
    _, kind = max(above, key=lambda mount: len(mount[0]))
    if kind in ("tmpfs", "ramfs"):
        parser.error(f"--folder {folder}: is in memory ({kind}); allowed: a folder on a disk")
    free = shutil.disk_usage(folder).free
    if free < 6e9:
        parser.error(f"--folder {folder}: {free / 1e9:.1f} GB free; allowed: a folder with 6 GB")


def _load() -> str:
    return " ".join(f"{load:.1f}" for load in os.getloadavg())


def main() -> None:
    """Measure, print."""
    arguments = _arguments()
    if arguments.serve_s3:
        serve_s3()
        return
    if arguments.read:
        print(json.dumps(ReadingJob(**json.loads(arguments.read)).read()))
        return
    torch.set_num_threads(1)
    rounds = 1 if arguments.tiny else arguments.rounds
    conditions = Conditions(arguments.folder, rounds, arguments.tiny, arguments.s3_mib)
    to = sys.stderr if arguments.json else sys.stdout
    print(f"{machine('cpu')}, load {_load()}", file=to)
    rows = print_rows(measured(FIGURES, arguments.only, conditions), to)
    print(f"load at the end {_load()}", file=to)
    if arguments.json:
        print(as_json(rows, "cpu"))


if __name__ == "__main__":
    main()
