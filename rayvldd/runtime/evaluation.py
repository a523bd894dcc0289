"""Train and score students in parallel, for several sets and seeds and for the full-data bound.

Coresets are selected in parallel as well: herding and k-centre need a pass over all features, forgetting an expert.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import ray

from rayvldd.config.settings import STUDENTS_FOR_RATE, EvaluationSettings
from rayvldd.config.study import Study
from rayvldd.coresets.selection import Coreset, choose_coreset
from rayvldd.evaluation.full_data import train_on_all
from rayvldd.evaluation.kept_student import save_student
from rayvldd.evaluation.probes import Probe
from rayvldd.evaluation.recall import RetrievalMetrics, RetrievalRanks
from rayvldd.evaluation.scoring import ranks
from rayvldd.evaluation.students import Pairs, PairsInOrder, TrainingPairs, train_students
from rayvldd.experts.recipe import ExpertTraining, expert_training
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.randomness import StudentPurpose, student_seeds
from rayvldd.records.coreset_rate import ChosenRate
from rayvldd.records.full_data import FullDataChoice
from rayvldd.runtime.actor_pool import run_work
from rayvldd.runtime.cluster import start_ray
from rayvldd.runtime.full_data import keep_numbers, keep_ranks, kept_numbers, kept_ranks
from rayvldd.runtime.resources import resources_of_trials

SplitName = Literal["val", "test"]
OnStudents = Callable[[int, int, float], None]
"""Called with the students finished, their total and the share of their work that is done, 0 to 1."""
OnTrained = Callable[["StudentSpec", float | None], None]
"""Called with each student that has finished, and its seconds; None if its scores were cached."""


@dataclass(frozen=True)
class StudentSpec:
    """One student: its training set and its seed."""

    pairs: TrainingPairs | Coreset | FullDataChoice
    """Training set or several in order, indexes of real pairs, or all real training pairs with their recipe."""
    seed: int
    lr: float | None = None
    """Learning rate on a coreset."""
    weight_decay: float | None = None
    """Weight decay on a coreset; None: ``evaluation.weight_decay``."""
    probes: Sequence[Probe] = ()
    """Measured on the student too; specs should share the objects, which are then sent once."""
    kept_in: Path | None = None
    """Folder in which a student of pairs is kept, accessible from every node; None: the student is not kept."""
    work: float = 1.0
    """How long it takes compared with others, for the share that is done."""


@dataclass(frozen=True)
class StudentScores:
    """Scores of one student."""

    ranks: RetrievalRanks
    """Ranks on the split that it is scored on."""
    probed: Mapping[str, Mapping[str, float]]
    """Numbers by the names of probe and metric."""


@dataclass(frozen=True)
class CoresetChoice:
    """Request for a coreset."""

    method: str
    """One of ``METHODS``."""
    num_pairs: int
    seed: int


def evaluate_in_parallel(
    study: Study,
    cache_folder: Path,
    jobs: Sequence[StudentSpec],
    split: SplitName,
    on_progress: OnStudents | None = None,
    on_trained: OnTrained | None = None,
) -> list[RetrievalMetrics]:
    """Train one fresh student per job and return the recalls; see :func:`score_in_parallel`."""
    found = score_in_parallel(study, cache_folder, jobs, split, on_progress, on_trained)
    return [one.ranks.recalls() for one in found]


def score_in_parallel(
    study: Study,
    cache_folder: Path,
    jobs: Sequence[StudentSpec],
    split: SplitName,
    on_progress: OnStudents | None = None,
    on_trained: OnTrained | None = None,
) -> list[StudentScores]:
    """Train one fresh student per job, in parallel as ``resources.cpus_per_trial`` allows, rank with each and probe it.

    Args:
        study: The study at one point.
        cache_folder: Folder of decoded images and embeddings.
        jobs: The students; jobs with the same set should share one ``Pairs`` object, which is then sent once.
        split: Split on which they are scored.
        on_progress: Called about twice a second.
        on_trained: Called once for each job.

    Returns:
        The scores, in the order of the jobs. Those of models of all pairs are cached.

    Raises:
        RayvlddError: when no actor fits, or the process of a student dies repeatedly.
    """
    cached = [_kept(cache_folder, job, split) for job in jobs]
    missing = [job for job, known in zip(jobs, cached, strict=True) if known is None]
    for job, known in zip(jobs, cached, strict=True):
        if on_trained and known is not None:
            on_trained(job, None)

    def trained_one(place: int, seconds: float) -> None:
        if on_trained:
            on_trained(missing[place], seconds)

    with start_ray(None, None):
        sent = {id(job.pairs): _send(job.pairs) for job in missing if isinstance(job.pairs, TrainingPairs)}
        probes = {id(probe): ray.put(probe) for job in missing for probe in job.probes}
        students = [
            _StudentWork(
                sent.get(id(job.pairs), job.pairs),
                job.seed,
                job.lr,
                split,
                _settings_of(job, study.evaluation),
                study.seed,
                [probes[id(probe)] for probe in job.probes],
                job.kept_in,
            )
            for job in missing
        ]
        show = _on_jobs(on_progress, missing, len(jobs))
        resources = resources_of_trials(study)
        found = run_work(students, study, cache_folder, resources, show, on_finished=trained_one)
    for job, new in zip(missing, found, strict=True):
        _keep(cache_folder, job, split, new)
    trained = iter(found)
    return [next(trained) if known is None else known for known in cached]


def _settings_of(job: StudentSpec, settings: EvaluationSettings) -> EvaluationSettings:
    return settings if job.weight_decay is None else settings.model_copy(update={"weight_decay": job.weight_decay})


def _kept(cache_folder: Path, job: StudentSpec, split: SplitName) -> StudentScores | None:
    """Return the cached scores of a model of all pairs; None if one is missing, and for other students."""
    if not isinstance(job.pairs, FullDataChoice):
        return None
    ranks = kept_ranks(cache_folder, job.pairs, split, job.seed)
    probed = {}
    for probe in job.probes:
        numbers = kept_numbers(cache_folder, job.pairs, split, job.seed, probe.identity)
        if numbers is None:
            return None
        probed[probe.name] = numbers
    return None if ranks is None else StudentScores(ranks, probed)


def _keep(cache_folder: Path, job: StudentSpec, split: SplitName, scores: StudentScores) -> None:
    """Cache the scores of a model of all pairs."""
    if isinstance(job.pairs, FullDataChoice):
        keep_ranks(cache_folder, job.pairs, split, job.seed, scores.ranks)
        for probe in job.probes:
            keep_numbers(cache_folder, job.pairs, split, job.seed, probe.identity, scores.probed[probe.name])


def choose_rates(
    study: Study,
    cache_folder: Path,
    coresets: Sequence[Sequence[Coreset]],
    on_progress: OnStudents | None = None,
    on_trained: OnTrained | None = None,
) -> list[ChosenRate]:
    """Choose the learning rate and the weight decay of students on coresets: the best pair on validation.

    The pairs are those of ``evaluation.lr_coreset`` and ``evaluation.weight_decay_coreset``.

    Args:
        study: The study at one point.
        cache_folder: Folder of decoded images and embeddings.
        coresets: For each method and size, one coreset for each student; two of them are used.
        on_progress: Called about twice a second.
        on_trained: Called once for each student.

    Returns:
        The choice for each method and size.
    """
    recipes = study.evaluation.recipes_on_coresets
    if len(recipes) == 1:
        ((rate, decay),) = recipes
        only = ChosenRate(learning_rate=rate, weight_decay=decay, val_mean_recall=None, num_rates=1)
        return [only] * len(coresets)
    seeds = student_seeds(study.seed, STUDENTS_FOR_RATE, StudentPurpose.VALIDATION)
    jobs = [
        StudentSpec(coreset, seed, rate, decay)
        for of_kind in coresets
        for rate, decay in recipes
        for coreset, seed in zip(of_kind, seeds, strict=False)
    ]
    found = iter(evaluate_in_parallel(study, cache_folder, jobs, "val", on_progress, on_trained))
    chosen = []
    for of_kind in coresets:
        num_students = min(len(of_kind), len(seeds))
        recalls = [fmean(one.mean_recall for one in islice(found, num_students)) for _ in recipes]
        best = max(recalls)
        rate, decay = recipes[recalls.index(best)]
        choice = ChosenRate(learning_rate=rate, weight_decay=decay, val_mean_recall=best, num_rates=len(recipes))
        chosen.append(choice)
    return chosen


def choose_in_parallel(
    study: Study,
    cache_folder: Path,
    choices: Sequence[CoresetChoice],
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Coreset]:
    """Select coresets, in parallel as ``resources.cpus_per_trial`` allows.

    Args:
        study: The study at one point.
        cache_folder: Folder of decoded images and embeddings.
        choices: Requested coresets.
        on_progress: Called with (choices finished, choices in total), about twice a second.

    Returns:
        The coresets, in the order of the choices.

    Raises:
        ConfigError: when a method is unknown or there are fewer training images than pairs.
        DivergedError: when the expert that ``forgetting`` trains diverges.
        RayvlddError: when no actor fits, or the process of a choice dies repeatedly.
    """
    jobs = [_CoresetWork(choice, expert_training(study)) for choice in choices]
    with start_ray(None, None):
        return run_work(jobs, study, cache_folder, resources_of_trials(study), _callback(on_progress, len(jobs)))


def _on_jobs(
    on_progress: OnStudents | None, missing: Sequence[StudentSpec], total: int
) -> Callable[[int, dict[int, int]], None]:
    """What :func:`run_work` calls, for students of which some were cached."""

    def report(finished: int, running: dict[int, int]) -> None:
        if on_progress:
            on_progress(total - len(missing) + finished, total, share_of_work(missing, finished, running))

    return report


def share_of_work(jobs: Sequence[StudentSpec], finished: int, running: Mapping[int, int]) -> float:
    """Return the share of the work of jobs that is done, 0 to 1.

    Args:
        jobs: The jobs, which are begun in order.
        finished: How many have ended.
        running: Place -> last progress of the others that were begun: of a model of all pairs its finished epochs.
    """
    done = sum(job.work for place, job in enumerate(jobs[: finished + len(running)]) if place not in running)
    for place, epochs in running.items():
        pairs = jobs[place].pairs
        if isinstance(pairs, FullDataChoice):
            done += jobs[place].work * epochs / pairs.best.recipe.epochs
    return done / sum(job.work for job in jobs)


def _callback(on_progress: Callable[[int, int], None] | None, total: int) -> Callable[[int, dict[int, int]], None]:
    def report(finished: int, _: dict[int, int]) -> None:
        if on_progress:
            on_progress(finished, total)

    return report


@dataclass(frozen=True)
class _StudentWork:
    """Train one student and score it; synthetic pairs come from Ray's object store, real pairs from the data."""

    pairs: Any
    seed: int
    lr: float | None
    split: SplitName
    settings: EvaluationSettings
    study_seed: int
    probes: Sequence[Any] = ()
    """References to the probes."""
    kept_in: Path | None = None

    @property
    def title(self) -> str:
        return f"student with seed {self.seed}"

    def do(self, task: RetrievalTask, note: Callable[[int], None]) -> StudentScores:
        if isinstance(self.pairs, FullDataChoice):
            trained = train_on_all(task, self.pairs.best.recipe, self.study_seed, self.seed, note)
        else:
            real = isinstance(self.pairs, Coreset)
            pairs: TrainingPairs = self.pairs.pairs(task, self.lr) if real else ray.get(self.pairs)
            (trained,) = train_students(task, pairs, self.settings, [self.seed])
            if self.kept_in is not None:
                save_student(self.kept_in, task, trained, self.seed)
        probes: list[Probe] = [ray.get(probe) for probe in self.probes]
        probed = {probe.name: probe(task, trained) for probe in probes}
        return StudentScores(ranks(task, trained, getattr(task, self.split)), probed)


@dataclass(frozen=True)
class _CoresetWork:
    """Select one coreset."""

    choice: CoresetChoice
    training: ExpertTraining

    @property
    def title(self) -> str:
        return f"{self.choice.num_pairs} pairs by {self.choice.method} with seed {self.choice.seed}"

    def do(self, task: RetrievalTask, note: Callable[[int], None]) -> Coreset:
        choice = self.choice
        return choose_coreset(task, choice.method, choice.num_pairs, choice.seed, self.training)


def _send(pairs: TrainingPairs) -> "ray.ObjectRef[TrainingPairs]":
    if isinstance(pairs, PairsInOrder):
        return ray.put(PairsInOrder([_on_cpu(part) for part in pairs.parts]))
    return ray.put(_on_cpu(pairs))


def _on_cpu(pairs: Pairs) -> Pairs:
    return replace(pairs, images=pairs.images.cpu(), texts=pairs.texts.cpu())
