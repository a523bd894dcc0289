"""Finalists: the best points of a search are distilled again with new seeds before one is chosen.

The best trial has the maximum of many recalls, each the maximum over its evaluations, so its recall overestimates its
settings. Each finalist's point is therefore distilled several times, new students score each set on validation, and
the point with the best mean is chosen. These sets also give the test an interval over synthetic sets.

A distillation that fails has no recall, and is no recall of 0: mean and interval are those of the sets that were made,
and the failures are counted beside them. A point must not win because its bad seeds failed and are not in its mean, so
it is chosen among the finalists with the fewest failures.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rayvldd.config.domains import SettingValue
from rayvldd.config.settings import ModelSettings
from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay, time_as_text
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.distillation.evaluations import BEST
from rayvldd.distillation.loop import distill
from rayvldd.errors import DivergedError
from rayvldd.evaluation.intervals import interval_if_enough
from rayvldd.evaluation.students import evaluate_pairs, mean_of
from rayvldd.hyperparameter_search.time_left import NOTHING_TIMED, LaterStages, makespan
from rayvldd.hyperparameter_search.trial import TrialContext, reason_of, release_memory, task_at, trajectories_of
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.randomness import StudentPurpose, finalist_seed, student_seeds
from rayvldd.records.study_choice import FinalistScores
from rayvldd.records.study_outcome import FinalistOutcome, FinalistSet, words_of_failed
from rayvldd.records.trial import Trial
from rayvldd.runtime.actor_pool import run_work
from rayvldd.runtime.resources import resources_of_trials, trials_at_a_time
from rayvldd.tracking.protocol import Tracker


@dataclass(frozen=True)
class FinalistRun:
    """One distillation at a finalist's point, with another seed."""

    name: str
    """Its folder, and its record in the tracker."""
    point: dict[str, SettingValue]
    number: int
    """Which of the finalist's sets it makes."""
    seed: int
    """Decides every draw of the distillation."""
    folder: Path

    @property
    def distilled_set(self) -> Path:
        """File of the resulting set."""
        return self.folder / "distilled_set"

    @property
    def checkpoint(self) -> Path:
        """State of the distillation for resuming it."""
        return self.folder / "checkpoint"

    @property
    def record(self) -> Path:
        """File of the outcome; it exists only once the set is complete."""
        return self.folder / "scores.json"

    def scores(self) -> FinalistScores:
        """Content of :attr:`record`.

        Raises:
            StoreError: if it cannot be read.
        """
        return FinalistScores.read(self.record)


@dataclass(frozen=True)
class Finalist:
    """One of the best trials, and the sets distilled at its point with other seeds."""

    trial: Trial
    sets: tuple[FinalistRun, ...]

    @property
    def recalls(self) -> list[float]:
        """Validation recall of each finished set, the mean over its students."""
        recalls = [one.scores().val_mean_recall for one in self.sets]
        return [recall for recall in recalls if recall is not None]

    @property
    def val_mean_recall(self) -> float | None:
        """Mean over the finished sets; None if there are none."""
        return float(np.mean(self.recalls)) if self.recalls else None

    @property
    def num_failed(self) -> int:
        """How many of the distillations failed."""
        return len(self.sets) - len(self.recalls)

    def made(self) -> list[FinalistRun]:
        """The finished sets, best on validation first; ties in order of their numbers."""
        made = [(recall, one) for one in self.sets if (recall := one.scores().val_mean_recall) is not None]
        return [one for _, one in sorted(made, key=lambda known: -known[0])]

    def outcome(self) -> FinalistOutcome:
        """The finalist for the result."""
        best = self.trial.best
        assert best is not None
        return FinalistOutcome(
            trial_id=self.trial.trial_id,
            config=self.trial.point,
            search_val_mean_recall=best.recall,
            val_mean_recall=self.val_mean_recall,
            val_interval=interval_if_enough(self.recalls),
            sets=[FinalistSet.of(one.name, one.seed, one.scores()) for one in self.sets],
        )


def finalists_of(study: Study, trials: Sequence[Trial], folder: Path) -> list[Finalist]:
    """Make finalists of the given trials, with their distillations.

    Args:
        study: The whole study.
        trials: The best trials, best first.
        folder: Folder of the finalists' sets.
    """
    found = []
    for trial in trials:
        sets = []
        for number in range(study.search.finalist_seeds):
            name, seed = f"{trial.trial_id}_again_{number}", finalist_seed(study.seed, trial.number, number)
            sets.append(FinalistRun(name, dict(trial.point), number, seed, folder / name))
        found.append(Finalist(trial, tuple(sets)))
    return found


def distinct(trials: Sequence[Trial], count: int) -> list[Trial]:
    """The first ``count`` trials with distinct points."""
    points = [trial.point for trial in trials]
    return [trial for place, trial in enumerate(trials) if trial.point not in points[:place]][:count]


def rerun_finalists(
    finalists: Sequence[Finalist],
    context: TrialContext,
    display: ProgressDisplay,
    expected: LaterStages = NOTHING_TIMED,
) -> None:
    """Run the missing distillations, with the concurrency of trials; interrupted ones are resumed.

    Args:
        finalists: The finalists.
        context: Data that the distillations share.
        display: Shows their progress, and the time that is left.
        expected: Seconds of a distillation and of the test, as far as the search shows them.

    Raises:
        RayvlddError: if the process of a distillation dies repeatedly, or its resources are not available.
    """
    runs = [finalist.sets[number] for number in range(context.study.search.finalist_seeds) for finalist in finalists]
    missing = [one for one in runs if not one.record.is_file()]
    for one in runs:
        if one not in missing:  # a session that was killed may have left it
            shutil.rmtree(one.checkpoint, ignore_errors=True)
    if not missing:
        return

    first, began = context.study.at(missing[0].point), time.monotonic()
    last, at_a_time = context.study.last_step_at(missing[0].point), trials_at_a_time(context.study)

    def show(finished: int, running: Mapping[int, int]) -> None:
        notes = [f"{missing[index].name} step {step}" for index, step in sorted(running.items())]
        shares = [step / last for step in running.values()]
        done, each = finished + sum(shares), expected.finalist
        if done > 0:
            each = (time.monotonic() - began) * min(at_a_time, len(missing)) / done
        shares += [0.0] * (len(missing) - finished - len(running))
        if each > 0:
            left = makespan([each * (1 - share) for share in shares], at_a_time) + expected.test
            notes.append(f"about {time_as_text(left)} left")
        display.progress("finalists", len(runs) - len(missing) + finished, len(runs), ", ".join(notes))

    run_work(
        [_FinalistJob(one, context, first.model) for one in missing],
        first,
        context.cache,
        resources_of_trials(context.study),
        show,
        at_a_time=context.study.search.max_concurrent,
    )
    display.done()


def winner_of(finalists: Sequence[Finalist]) -> Finalist | None:
    """The finalist with the best mean among those with the fewest failed distillations; None if none has a set.

    The mean is over the sets that were made. In a tie it is the better trial.
    """
    made = [(one.num_failed, -mean, one) for one in finalists if (mean := one.val_mean_recall) is not None]
    return min(made, key=lambda row: row[:2])[2] if made else None


def log_finalist(finalist: Finalist, tracker: Tracker) -> None:
    """Log each set of a finalist as a record of its own."""
    for one in finalist.sets:
        scores = one.scores()
        tracker.start_trial(one.name, one.point)
        tracker.log_metrics(one.name, scores.numbers, scores.outer_step or 0)
        tags = {"finalist": finalist.trial.trial_id} | ({"reason": scores.reason} if scores.reason else {})
        tracker.end_trial(one.name, scores.state, None, tags)


def line_of_finalist(finalist: Finalist) -> str:
    """Format a finalist as one line: recall of the trial, and recalls with other seeds."""
    best = finalist.trial.best
    assert best is not None
    mean, interval = finalist.val_mean_recall, interval_if_enough(finalist.recalls)
    failed = words_of_failed(finalist.num_failed, len(finalist.sets))
    again = "no set" if mean is None else f"{mean:5.2f} again"
    around = "" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}, "
    return (
        f"{finalist.trial.trial_id}  val mean recall {best.recall:5.2f} in the search, {again} "
        f"({around}{len(finalist.made())} sets" + (f", {failed})" if failed else ")")
    )


@dataclass(frozen=True)
class _FinalistJob:
    """Distil at a finalist's point, and score the set with students that were not used for its selection."""

    finalist_run: FinalistRun
    context: TrialContext
    loaded: ModelSettings
    """The model of the task that the actor loads."""

    @property
    def title(self) -> str:
        return self.finalist_run.name

    def do(self, task: RetrievalTask, note: Callable[[int], None]) -> None:
        try:
            scores = self._distil(task, note)
        except DivergedError as error:
            scores = FinalistScores(state="failed", reason=reason_of(error))
        finally:
            release_memory()
        scores.write(self.finalist_run.record)
        shutil.rmtree(self.finalist_run.checkpoint, ignore_errors=True)

    def _distil(self, loaded: RetrievalTask, note: Callable[[int], None]) -> FinalistScores:
        study = self.context.study.at(self.finalist_run.point)
        task = loaded if study.model == self.loaded else task_at(study, self.context.cache)
        trajectories = trajectories_of(study, task, self.context)
        for evaluation in distill(study, task, trajectories, self.finalist_run.seed, self.finalist_run.checkpoint):
            note(evaluation.outer_step)
        best = DistilledSet.load(self.finalist_run.checkpoint / BEST)
        count = study.evaluation.num_test_students
        # Each set has its own students; otherwise one favourable initialisation would affect all sets.
        seeds = student_seeds(study.seed, (self.finalist_run.number + 1) * count, StudentPurpose.FINALISTS)[-count:]
        scores = evaluate_pairs(task, best.pairs(task), task.val, study.evaluation, seeds)
        best.save(self.finalist_run.distilled_set)
        return FinalistScores.model_validate(
            {
                "state": "finished",
                "outer_step": best.origin.outer_step,
                **mean_of(scores).as_dict("val_"),
                "students": [score.mean_recall for score in scores],
            }
        )
