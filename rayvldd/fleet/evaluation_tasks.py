"""Students trained and scored side by side: several sets, several seeds, and the full-data bound."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import ray

from rayvldd.config.study import Study
from rayvldd.evaluation.recall import RetrievalMetrics
from rayvldd.evaluation.students import Pairs, evaluate_pairs
from rayvldd.experts.training import full_data_recall
from rayvldd.fleet.crew import Share, run_jobs
from rayvldd.fleet.runtime import start_ray
from rayvldd.models.problem import Problem

SplitName = Literal["val", "test"]


@dataclass(frozen=True)
class EvaluationJob:
    """One student: what it is trained on, and its seed."""

    pairs: Pairs | None
    """The set to train on; None for all real training pairs."""
    seed: int


def evaluate_in_parallel(
    study: Study,
    cache_folder: Path,
    jobs: Sequence[EvaluationJob],
    split: SplitName,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[RetrievalMetrics]:
    """Train one fresh student a job, as many side by side as ``resources.cpus_per_trial`` allows, and score each.

    Args:
        study: The study at one point.
        cache_folder: Where decoded images and embeddings are kept.
        jobs: The students; those on the same set should share one ``Pairs``, which then travels once.
        split: What they are scored on.
        on_progress: Told the number of finished jobs and of all, about twice a second.

    Returns:
        The recalls, in the order of the jobs.

    Raises:
        RayvlddError: when no actor fits, or the process of one student dies again and again.
    """
    share = Share(study.resources.cpus_per_trial, study.resources.gpus_per_trial, "resources.cpus_per_trial")

    def tell(finished: int, _: dict[int, int]) -> None:
        if on_progress:
            on_progress(finished, len(jobs))

    with start_ray(None, None):
        sent = {id(job.pairs): _send(job.pairs) for job in jobs if job.pairs is not None}
        students = [_StudentJob(sent.get(id(job.pairs)), job.seed, split) for job in jobs]
        return run_jobs(students, study, cache_folder, share, tell)


@dataclass(frozen=True)
class _StudentJob:
    """Train one student and score it; the set lies in Ray's object store."""

    pairs: Any
    seed: int
    split: SplitName

    @property
    def title(self) -> str:
        return f"student with seed {self.seed}"

    def do(self, problem: Problem, note: Callable[[int], None]) -> RetrievalMetrics:
        if self.pairs is None:
            return full_data_recall(problem, self.split, self.seed)
        (recalls,) = evaluate_pairs(problem, ray.get(self.pairs), getattr(problem, self.split), [self.seed])
        return recalls


def _send(pairs: Pairs) -> Any:
    return ray.put(replace(pairs, images=pairs.images.cpu(), texts=pairs.texts.cpu()))
