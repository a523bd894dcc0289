"""Images decoded and captions embedded by every machine of a cluster, shard by shard, as pipelines of Ray Data.

A shard is made and written where it is made: what travels is the few kilobytes that say which images or captions it
is of, and on the way back that it is done. So neither the driver's memory nor that of a worker grows with the dataset,
and whatever is interrupted has every finished shard in the store.
"""

import logging
import pickle
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
import torch

from rayvldd.config.settings import ResourceSettings, TextEncoderSettings
from rayvldd.config.study import Study
from rayvldd.data.array_cache import ArrayDescription
from rayvldd.data.array_shards import ArrayShards, num_shards
from rayvldd.data.split_sources import CaptionPart, ImagePart, split_sources
from rayvldd.errors import DataError, Fault, RayvlddError
from rayvldd.models.retrieval_task import CAPTIONS_AT_A_TIME, captions_array
from rayvldd.models.text_encoder import build_text_encoder
from rayvldd.runtime.actor_pool import ResourceRequest, does_not_fit

OnProgress = Callable[[str, int, int], None]
"""Told what is being done, how many are done, and of how many."""


@dataclass(frozen=True)
class ArrayRequest:
    """An array that a study needs."""

    title: str
    """What people call it, e.g. ``train images``."""
    array: ArrayDescription
    part: Callable[[int, int], ImagePart | CaptionPart]
    """What the rows from one index to before another are made from."""
    text_encoder: TextEncoderSettings | None = None
    """What embeds captions; None for images."""

    @property
    def unit(self) -> int:
        """Rows that are made together."""
        return CAPTIONS_AT_A_TIME if self.text_encoder else 1


@dataclass
class PreparedArray:
    """What became of an array."""

    title: str
    name: str
    rows: int
    shards: int
    made: int = 0
    """Shards that were not there."""
    made_by_node: Counter[str] = field(default_factory=Counter)
    """Of these, how many each node made, by its address and the start of its id."""


@dataclass(frozen=True)
class _ShardJob:
    """One shard to be made; it travels by pickle."""

    array: ArrayDescription
    number: int
    num_rows: int
    part: ImagePart | CaptionPart


def requested_arrays(study: Study) -> list[ArrayRequest]:
    """Every array of decoded images and of caption embeddings that some point of a study needs.

    Raises:
        DataError: listing every fault of the annotations.
        ModelError: when a text encoder cannot be built.
    """
    found: dict[str, ArrayRequest] = {}
    for data in _distinct(point.data for point in study.expert_points()):
        sources = split_sources(data)
        for source in sources:
            found[source.pixels.name] = ArrayRequest(f"{source.split} images", source.pixels, source.image_part)
        for settings in _distinct(point.model.text_encoder for point in study.expert_points()):
            encoder = build_text_encoder(settings)
            for source in sources:
                array = captions_array(source.captions, source.num_captions, encoder)
                found[array.name] = ArrayRequest(f"{source.split} captions", array, source.caption_part, settings)
    return list(found.values())


def prepare_arrays(
    wanted: list[ArrayRequest], resources: ResourceSettings, shards: ArrayShards, on_progress: OnProgress
) -> list[PreparedArray]:
    """Make the shards that are missing, on all machines of the connected Ray.

    Args:
        wanted: The arrays.
        resources: What embedding takes: as much as an expert. An image is decoded by one CPU.
        shards: Where they are kept; a storage that every machine reaches.
        on_progress: Told of every finished shard.

    Raises:
        DataError: listing every image that cannot be decoded, once all others are done.
        RayvlddError: when embedding does not fit on any machine, or the storage cannot be written.
    """
    result: list[PreparedArray] = []
    jobs: dict[TextEncoderSettings | None, list[_ShardJob]] = {}
    for one in wanted:
        rows = shards.begin(one.array, one.unit)
        missing = shards.missing(one.array)
        result.append(PreparedArray(one.title, one.array.name, one.array.shape[0], num_shards(one.array, rows)))
        jobs.setdefault(one.text_encoder, []).extend(_jobs(one, rows, missing))
    by_name = {one.name: one for one in result}
    faults: dict[tuple[int, int], list[Fault]] = {}
    for encoder, of_stage in jobs.items():
        for row in _results(of_stage, encoder, resources, shards, on_progress):
            error = pickle.loads(row["error"]) if row["error"] else None
            if isinstance(error, DataError):
                faults[list(by_name).index(row["array"]), row["number"]] = list(error.faults)
            elif error:
                raise error
            else:
                by_name[row["array"]].made += 1
                by_name[row["array"]].made_by_node[row["node"]] += 1
    if faults:
        in_order = [fault for shard in sorted(faults) for fault in faults[shard]]  # shards end in any order
        raise DataError(in_order, next_command="replace these files, then the same command: what is finished is kept")
    return result


def _jobs(wanted: ArrayRequest, rows: int, missing: list[int]) -> Iterator[_ShardJob]:
    for number in missing:
        start, stop = number * rows, min((number + 1) * rows, wanted.array.shape[0])
        yield _ShardJob(wanted.array, number, stop - start, wanted.part(start, stop))


def _results(
    jobs: list[_ShardJob],
    encoder: TextEncoderSettings | None,
    resources: ResourceSettings,
    shards: ArrayShards,
    on_progress: OnProgress,
) -> Iterator[dict[str, Any]]:
    """Run one pipeline; what comes out of it is a row a shard."""
    if not jobs:
        return
    import ray.data  # with pyarrow and pandas, seconds that a finished dataset does not need

    _silence()
    # A block a shard: Ray Data hands out blocks, and one that is finished is told of at once.
    rows = ray.data.from_items([{"job": pickle.dumps(job)} for job in jobs], override_num_blocks=len(jobs))
    if encoder is None:
        results = rows.map(_ImageShards(shards), num_cpus=1)
    else:
        share = _share_of_embedding(encoder, resources)
        fit = share.actors_that_fit(ray.cluster_resources())
        if fit < 1:
            raise does_not_fit(share, ray.cluster_resources())
        # Actors, for each loads the encoder once. More of them where nodes come while it runs.
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=len(jobs), initial_size=min(fit, len(jobs)))
        results = rows.map(
            _CaptionShards,  # type: ignore[arg-type]  # each actor makes one
            fn_constructor_args=(shards, encoder, share.num_cpus),
            compute=pool,
            num_cpus=share.num_cpus,
            num_gpus=share.num_gpus,
        )
    what = "decoding images" if encoder is None else "embedding captions"
    done, total = 0, sum(job.num_rows for job in jobs)
    on_progress(what, done, total)
    blocks: Iterable[Any] = results.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow")
    for block in blocks:
        for row in block.to_pylist():
            done += row["rows"]
            on_progress(what, done, total)
            yield row


def _share_of_embedding(encoder: TextEncoderSettings, resources: ResourceSettings) -> ResourceRequest:
    if encoder.pooling == "hashed_ngrams":  # one thread, and nothing for a GPU to do
        return ResourceRequest(1, 0.0, "resources.cpus_per_expert")
    return ResourceRequest(resources.cpus_per_expert, resources.gpus_per_expert, "resources.cpus_per_expert")


class _ImageShards:
    """The stage that decodes or draws; without a state of its own, so Ray runs it as tasks."""

    def __init__(self, shards: ArrayShards) -> None:
        self._shards = shards

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return _written(pickle.loads(row["job"]), self._shards, _images)


class _CaptionShards:
    """The stage that embeds: an actor with an encoder."""

    def __init__(self, shards: ArrayShards, settings: TextEncoderSettings, num_threads: int) -> None:
        self._shards, self._num_threads = shards, num_threads
        self._encoder = build_text_encoder(settings)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        torch.set_num_threads(self._num_threads)  # here, not at the start: it counts for the calling thread alone
        return _written(pickle.loads(row["job"]), self._shards, self._embeddings)

    def _embeddings(self, job: _ShardJob, out: np.ndarray) -> None:
        assert isinstance(job.part, CaptionPart)
        captions = job.part.captions()
        for start in range(0, len(out), CAPTIONS_AT_A_TIME):
            part = slice(start, start + CAPTIONS_AT_A_TIME)
            out[part] = self._encoder.embed(captions[part]).numpy()


def _images(job: _ShardJob, out: np.ndarray) -> None:
    assert isinstance(job.part, ImagePart)
    job.part.fill(out)


def _written(
    job: _ShardJob, shards: ArrayShards, make: Callable[[_ShardJob, np.ndarray], None]
) -> dict[str, str | int | bytes]:
    """Make one shard and keep it. Errors for users come out as values: Ray would wrap them in its own tracebacks."""
    error = b""
    try:
        rows = np.empty((job.num_rows, *job.array.shape[1:]), dtype=job.array.dtype)
        make(job, rows)
        shards.write(job.array, job.number, rows)
    except RayvlddError as told:
        error = pickle.dumps(told)
    node = f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:6]})"
    return {"array": job.array.name, "number": job.number, "rows": job.num_rows, "node": node, "error": error}


def _silence() -> None:
    """Leave the terminal to our own bar."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _distinct(settings: Iterable[Any]) -> list[Any]:
    return list({one.model_dump_json(): one for one in settings}.values())
