"""Decode images and embed captions on all machines of a cluster with Ray Data, shard by shard.

Each worker computes and stores a whole shard. Only the description of the shard (a few kilobytes) and its completion
are sent over the network. The memory of driver and workers therefore does not grow with the dataset, and all finished
shards survive an interruption.
"""

import logging
import pickle
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast

import numpy as np
import ray
import torch
from pydantic import BaseModel

from rayvldd.config.settings import ResourceSettings, TextEncoderSettings
from rayvldd.config.study import Study
from rayvldd.data.array_cache import ArrayDescription
from rayvldd.data.array_shards import ArrayShards, num_shards
from rayvldd.data.left_out import leave_out
from rayvldd.data.split_sources import CaptionPart, ImagePart, SplitSource, split_sources
from rayvldd.data.unreadable import UnreadableImagesError, drops_unreadable
from rayvldd.errors import RayvlddError
from rayvldd.models.retrieval_task import CAPTIONS_AT_A_TIME, captions_array
from rayvldd.models.text_encoder import build_text_encoder
from rayvldd.runtime.actor_pool import ResourceRequest, does_not_fit
from rayvldd.runtime.cluster import gpus_of_cluster

OnProgress = Callable[[str, int, int], None]
"""Called with (description of the step, rows done, rows in total)."""


@dataclass(frozen=True)
class ArrayRequest:
    """An array that a study needs."""

    title: str
    """Name for messages, e.g. ``train images``."""
    array: ArrayDescription
    source: SplitSource
    """The split."""
    text_encoder: TextEncoderSettings | None = None
    """Encoder of the captions; None for images."""

    @property
    def unit(self) -> int:
        """Number of rows computed together."""
        return CAPTIONS_AT_A_TIME if self.text_encoder else 1

    def part(self, start: int, stop: int) -> ImagePart | CaptionPart:
        """The source data of the rows from a start index to an exclusive end index."""
        return self.source.caption_part(start, stop) if self.text_encoder else self.source.image_part(start, stop)


@dataclass
class PreparedArray:
    """Result of preparing an array."""

    title: str
    name: str
    rows: int
    shards: int
    made: int = 0
    """Number of shards computed now."""
    made_by_node: Counter[str] = field(default_factory=Counter)
    """Number of computed shards per node, by its address and the start of its id."""


@dataclass(frozen=True)
class _ShardWork:
    """One shard to compute; it is pickled and sent to a worker."""

    array: ArrayDescription
    number: int
    num_rows: int
    part: ImagePart | CaptionPart


T = TypeVar("T", bound=BaseModel)


class _FinishedShard(TypedDict):
    """Row of a pipeline for a finished shard."""

    array: str
    number: int
    rows: int
    node: str
    error: bytes
    """The pickled error of the user; empty if there is none."""


def requested_arrays(study: Study, folder: Path) -> list[ArrayRequest]:
    """Return every array of decoded images and caption embeddings that any point of a study needs.

    Args:
        study: The study.
        folder: Folder of the workspace's cache, with the lists of images that are left out.

    Raises:
        DataError: listing every fault of the annotations.
        ModelError: when a text encoder cannot be built.
    """
    found: dict[str, ArrayRequest] = {}
    for data in _distinct(point.data for point in study.expert_points()):
        sources = split_sources(data, folder)
        for source in sources:
            found[source.pixels.name] = ArrayRequest(f"{source.split} images", source.pixels, source)
        for settings in _distinct(point.model.text_encoder for point in study.expert_points()):
            encoder = build_text_encoder(settings)
            for source in sources:
                array = captions_array(source.captions_fingerprint, source.num_captions, encoder)
                found[array.name] = ArrayRequest(f"{source.split} captions", array, source, settings)
    return list(found.values())


def prepare_study(study: Study, folder: Path, shards: ArrayShards, on_progress: OnProgress) -> list[PreparedArray]:
    """Compute the missing shards of a study, without its unreadable images if the study leaves them out.

    Args:
        study: The study.
        folder: Folder of the workspace's cache, for the lists of images that are left out.
        shards: Storage of the shards.
        on_progress: Called for every finished shard.

    Raises:
        DataError: listing every fault of the annotations, or every image that cannot be decoded and is not left out.
        RayvlddError: as from :func:`prepare_arrays`.
    """
    while True:  # every round but the last finds further images to leave out
        try:
            return prepare_arrays(requested_arrays(study, folder), study.resources, shards, on_progress)
        except UnreadableImagesError as error:
            if not (drops_unreadable(study.data) and error.may_be_dropped):
                raise
            leave_out(study.data, folder, error.unreadable)


def prepare_arrays(
    requests: list[ArrayRequest], resources: ResourceSettings, shards: ArrayShards, on_progress: OnProgress
) -> list[PreparedArray]:
    """Compute the missing shards on all machines of the connected Ray cluster.

    Args:
        requests: The arrays.
        resources: Resources for embedding, the same as for an expert; decoding uses one CPU per image.
        shards: Storage of the shards, which every machine must be able to reach.
        on_progress: Called for every finished shard.

    Raises:
        UnreadableImagesError: listing every image that cannot be decoded, after all other shards are finished.
        RayvlddError: when embedding does not fit on any machine, or the storage cannot be written.
    """
    result: list[PreparedArray] = []
    jobs: dict[TextEncoderSettings | None, list[_ShardWork]] = {}
    for request in requests:
        array = request.array
        rows = shards.begin(array, request.unit)
        missing = shards.missing(array)
        if missing and not request.text_encoder:
            request.source.find_kept(shards)
        result.append(PreparedArray(request.title, array.name, array.shape[0], num_shards(array, rows)))
        jobs.setdefault(request.text_encoder, []).extend(_jobs(request, rows, missing))
    by_name = {prepared.name: prepared for prepared in result}
    errors: dict[tuple[int, int], UnreadableImagesError] = {}
    for encoder, of_stage in jobs.items():
        # Closed at once, also after an error or Ctrl-C: a pipeline that waits for the garbage collector keeps its CPUs.
        with closing(_results(of_stage, encoder, resources, shards, on_progress)) as rows_of_stage:
            for row in rows_of_stage:
                error = pickle.loads(row["error"]) if row["error"] else None
                if isinstance(error, UnreadableImagesError):
                    errors[list(by_name).index(row["array"]), row["number"]] = error
                elif error:
                    raise error
                else:
                    by_name[row["array"]].made += 1
                    by_name[row["array"]].made_by_node[row["node"]] += 1
    if errors:
        for number in {number for number, _ in errors}:
            requests[number].source.note_unfinished(shards)
        raise _together([errors[shard] for shard in sorted(errors)])  # shards end in any order
    for request in requests:
        if not request.text_encoder and by_name[request.array.name].made:
            request.source.drop_unfinished(shards)
    return result


def _together(errors: list[UnreadableImagesError]) -> UnreadableImagesError:
    """One error with the images of all shards."""
    faults = [fault for error in errors for fault in error.faults]
    return UnreadableImagesError(faults, {name: why for error in errors for name, why in error.unreadable.items()})


def _jobs(request: ArrayRequest, rows: int, missing: list[int]) -> Iterator[_ShardWork]:
    for number in missing:
        start, stop = number * rows, min((number + 1) * rows, request.array.shape[0])
        yield _ShardWork(request.array, number, stop - start, request.part(start, stop))


def _results(
    jobs: list[_ShardWork],
    encoder: TextEncoderSettings | None,
    resources: ResourceSettings,
    shards: ArrayShards,
    on_progress: OnProgress,
) -> Generator[_FinishedShard, None, None]:
    """Run one pipeline and yield one row per finished shard."""
    if not jobs:
        return
    import ray.data  # slow import (pyarrow, pandas) that is not needed for a finished dataset

    _silence()
    # One block per shard: Ray Data distributes blocks and returns each finished block immediately.
    rows = ray.data.from_items([{"job": pickle.dumps(job)} for job in jobs], override_num_blocks=len(jobs))
    if encoder is None:
        results = rows.map(_ImageShards(shards), num_cpus=1)
    else:
        request = _embedding_resources(encoder, resources)
        fit = request.actors_that_fit(ray.cluster_resources())
        if fit < 1:
            raise does_not_fit(request, ray.cluster_resources())
        # Actors, so that each loads the encoder once; their number grows when nodes join.
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=len(jobs), initial_size=min(fit, len(jobs)))
        results = rows.map(
            _CaptionShards,  # type: ignore[arg-type]  # each actor creates one instance
            fn_constructor_args=(shards, encoder, request.num_cpus),
            compute=pool,
            num_cpus=request.num_cpus,
            num_gpus=request.num_gpus,
        )
    what = "decoding images" if encoder is None else "embedding captions"
    done, total = 0, sum(job.num_rows for job in jobs)
    on_progress(what, done, total)
    # iter() returns the generator of Ray Data, and closing it ends the pipeline and its actors.
    batches = iter(results.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"))
    with closing(cast(Generator[Any, None, None], batches)) as blocks:
        for block in blocks:
            for row in block.to_pylist():
                done += row["rows"]
                on_progress(what, done, total)
                yield row


def _embedding_resources(encoder: TextEncoderSettings, resources: ResourceSettings) -> ResourceRequest:
    if encoder.pooling == "hashed_ngrams":  # uses one thread and no GPU
        return ResourceRequest(1, 0.0, "resources.cpus_per_expert")
    gpus = resources.gpus_of("expert", gpus_of_cluster(), at_a_time=1)
    return ResourceRequest(resources.cpus_per_expert, gpus, "resources.cpus_per_expert")


class _ImageShards:
    """Pipeline stage that decodes or draws images; it has no state, so Ray runs it as tasks."""

    def __init__(self, shards: ArrayShards) -> None:
        self._shards = shards

    def __call__(self, row: dict[str, bytes]) -> dict[str, str | int | bytes]:
        return _written(pickle.loads(row["job"]), self._shards, self._images)

    def _images(self, job: _ShardWork, out: np.ndarray) -> None:
        assert isinstance(job.part, ImagePart)
        job.part.fill(out, self._shards)


class _CaptionShards:
    """Pipeline stage that embeds captions: an actor with an encoder."""

    def __init__(self, shards: ArrayShards, settings: TextEncoderSettings, num_threads: int) -> None:
        self._shards, self._num_threads = shards, num_threads
        self._encoder = build_text_encoder(settings)

    def __call__(self, row: dict[str, bytes]) -> dict[str, str | int | bytes]:
        torch.set_num_threads(self._num_threads)  # here, because it applies only to the calling thread
        return _written(pickle.loads(row["job"]), self._shards, self._embeddings)

    def _embeddings(self, job: _ShardWork, out: np.ndarray) -> None:
        assert isinstance(job.part, CaptionPart)
        captions = job.part.captions()
        for start in range(0, len(out), CAPTIONS_AT_A_TIME):
            part = slice(start, start + CAPTIONS_AT_A_TIME)
            out[part] = self._encoder.embed(captions[part]).numpy()


def _written(
    job: _ShardWork, shards: ArrayShards, make: Callable[[_ShardWork, np.ndarray], None]
) -> dict[str, str | int | bytes]:
    """Compute and store one shard. User errors are returned as values, because Ray would wrap them in tracebacks."""
    error = b""
    try:
        rows = np.empty((job.num_rows, *job.array.shape[1:]), dtype=job.array.dtype)
        make(job, rows)
        shards.write(job.array, job.number, rows)
    except RayvlddError as user_error:
        error = pickle.dumps(user_error)
    node = f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:6]})"
    return {"array": job.array.name, "number": job.number, "rows": job.num_rows, "node": node, "error": error}


def _silence() -> None:
    """Disable the progress output of Ray Data in favour of our own progress bar."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _distinct(settings: Iterable[T]) -> list[T]:
    return list({one.model_dump_json(): one for one in settings}.values())
