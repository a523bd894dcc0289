"""Records the start, reports and end of trials in the driver: first in the ledger, then tracker, display and plots."""

import shutil
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rayvldd.config.domains import SettingValue
from rayvldd.config.metrics import BEST_VAL_MEAN_RECALL
from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay, time_as_text
from rayvldd.distillation.evaluations import BEST
from rayvldd.errors import OutageError, message_of
from rayvldd.hyperparameter_search.learned_sources import LearnedSources
from rayvldd.hyperparameter_search.ledger import Ledger
from rayvldd.hyperparameter_search.lines import line_of_trial
from rayvldd.hyperparameter_search.strategy import Proposal
from rayvldd.hyperparameter_search.time_left import SideBySide, seconds_left
from rayvldd.hyperparameter_search.trial_report import EvaluationReport
from rayvldd.models.retrieval_task import SplitInputs
from rayvldd.records.set_card import CARD, card_in
from rayvldd.records.stop_reasons import TIME_USED_UP
from rayvldd.records.trial import Ended, Evaluation, Prediction, Trial, best_of
from rayvldd.storage.atomic import copy_folder_whole
from rayvldd.storage.json_files import write_json_whole
from rayvldd.tracking.protocol import Origins, Tracker

_POLL_S = 2.0
"""Seconds between two queries of the experts in training."""
_SHOW_S = 0.5
"""Minimum seconds between two updates of the progress bar, which is computed from all trials."""
_MOST_SHOWN = 8
"""Maximum number of running trials that the progress bar names, the earliest ones."""


class Illustrator(Protocol):
    """Draws the pictures of sets and studies; passed to the search, which does not depend on plotting."""

    def draw_set(self, folder: Path, train: SplitInputs) -> None:
        """Write pictures of the distilled set in ``folder`` to the same folder."""
        ...

    def has_drawn_set(self, folder: Path) -> bool:
        """Whether all pictures of the set in ``folder`` exist."""
        ...

    def draw_study(self, folder: Path, trials: list[Trial]) -> None:
        """Write plots of a study's trials to ``folder``."""
        ...


class TrainInputs(Protocol):
    """Returns the real training pairs as inputs of the model at a point."""

    def __call__(self, point: Mapping[str, SettingValue]) -> SplitInputs:
        """Return the training pairs at a point of the search space."""
        ...


@dataclass
class StudyRun:
    """The study, and the outputs of a running search."""

    study: Study
    ledger: Ledger
    tracker: Tracker
    display: ProgressDisplay
    illustrator: Illustrator | None
    train_inputs: TrainInputs
    origins: Callable[[Mapping[str, SettingValue]], Origins] | None = None
    """Returns the origins of a trial at a point."""
    experts_in_training: Callable[[], list[str]] | None = None
    """Returns short descriptions of the experts that trials are training at the moment."""
    earlier: list[Trial] = field(default_factory=list)
    """Trials of other studies that the sampler knows from the start."""
    learned: LearnedSources | None = None
    """Earlier studies that the search learns from, whose recalls are not comparable."""
    side_by_side: SideBySide | None = None
    """How much runs at the same time, for the time that is left; default: ``search.max_concurrent``."""


class Recorder:
    """The only place that writes to ledger and tracker while a search runs."""

    def __init__(self, run: StudyRun) -> None:
        self.run = run
        self._failures: dict[str, str] = {}
        self._stop_reasons: dict[str, str] = {}
        self._outages: dict[str, str] = {}
        self._lost: set[str] = set()
        self._noted: set[str] = set()
        """What only decorates the search and has failed: each is reported once."""
        self._earlier_seconds, self._started = run.ledger.search_seconds, time.monotonic()
        self._last_poll = self._started
        self._total = run.study.max_trials
        self._experts: list[str] = []
        self._last_shown = self._started
        self._predictions: dict[str, Prediction | None] = {}
        """Number of outer steps of each trial, by name; cached, because computing it from the study is slow."""
        self._drawing_thread = ThreadPoolExecutor(1, "pictures")
        self._being_drawn: deque[tuple[Trial, Future[None]]] = deque()
        """Ended trials whose records wait for their pictures; the next trial need not wait."""

    @property
    def history(self) -> Collection[Trial]:
        """All trials of the study so far."""
        return self.run.ledger.trials.values()

    @property
    def search_seconds(self) -> float:
        """Seconds of search so far, with those of earlier sessions."""
        return self._earlier_seconds + time.monotonic() - self._started

    def poll(self) -> None:
        """Close records whose pictures exist, and query periodically which experts trials are training.

        A trial has nothing else to report until its experts are trained.
        """
        self.close_drawn()
        if self.run.experts_in_training is None or time.monotonic() - self._last_poll < _POLL_S:
            return
        before = self._experts
        try:
            self._experts = self.run.experts_in_training()
        except Exception as error:  # of any storage: the bar goes without
            self._note("the experts in training cannot be shown", error)
        self._last_poll = time.monotonic()
        if self._experts != before:
            self._show()

    def begin(self) -> None:
        """Show that the search begins: the first processes take seconds to start."""
        self._show()

    def proposed(self, proposal: Proposal) -> None:
        """Keep the prediction of a proposal, which Tune does not pass on, until its trial starts."""
        self._predictions[proposal.trial_id] = proposal.prediction

    def nothing_to_gain(self, gain: float) -> None:
        """Display why no further trial is proposed; those that were go on."""
        self._total = len(self.run.ledger.trials) + len(self._predictions)
        self.run.display.line(
            f"the search ends after {self._total} of {self.run.study.max_trials} trials: a further one is expected to "
            f"gain {gain:.2g} of the noise of an evaluation (search.stop_below_gain: "
            f"{self.run.study.search.stop_below_gain})"
        )
        self._show()

    def start(self, trial: Proposal) -> None:
        """Record the start of a trial, or its continuation."""
        seed = self.run.study.trial_seed(trial.number)
        prediction = self._predictions.pop(trial.trial_id, None)
        self._open_record(self.run.ledger.start(trial.number, seed, trial.point, trial.is_requested, prediction))
        self._show()

    def evaluation(self, trial_id: str, report: EvaluationReport) -> Trial:
        """Record an evaluation, and return the updated trial."""
        self._enter(trial_id, report.outer_step, {**report.metrics, **report.memory})
        if time.monotonic() - self._last_shown >= _SHOW_S:
            self._show()
        return self.run.ledger.trials[trial_id]

    def failure(self, trial_id: str, reason: str) -> None:
        """Record why a trial will have no further evaluation; the first reason is kept."""
        self._failures.setdefault(trial_id, reason)

    def stopped(self, trial_id: str, reason: str) -> None:
        """Record why a trial is stopped early."""
        self._stop_reasons[trial_id] = reason

    def lost(self, trial_id: str, reason: str) -> None:
        """Record that a trial's process died too often, which is no information about its point."""
        if trial_id not in self._failures:
            self._failures[trial_id] = reason
            self._lost.add(trial_id)

    def outage(self, trial_id: str, reason: str) -> None:
        """Note why a trial cannot go on for now. It stays a running trial, which the same command continues."""
        self._outages[trial_id] = reason

    def raise_outage(self) -> None:
        """End the search where a trial cannot go on for now.

        Raises:
            OutageError: naming the trials, and why.
        """
        if self._outages:
            lines = (f"{trial_id}: {reason}" for trial_id, reason in self._outages.items())
            raise OutageError(
                "\n".join(["the search stops at an outage, and what it has is kept:", *lines]),
                next_command="the same command, once that is corrected: every trial continues from its last evaluation",
            )

    def process_died(self, trial_id: str) -> None:
        """Display that a trial's process died and that another one continues the trial, or starts it."""
        if trial_id in self.run.ledger.trials:
            self.run.display.warn(f"{trial_id}: its process died; another continues from its last evaluation")
        else:
            self.run.display.warn(f"{trial_id}: its process died before the trial started; another starts it")

    def end(self, trial_id: str) -> None:
        """Keep the set of a trial that ended, and close its record."""
        trial = self.run.ledger.trials.get(trial_id)
        if trial is None:  # proposed, but the time was up before it started
            return
        if trial_id in self._outages:  # it has not ended
            return
        self._end(trial)

    def resend_ended(self) -> None:
        """Send the ended trials of earlier sessions and the course of the best recall to the tracker again.

        A killed session may not have sent them.
        """
        best: Trial | None = None
        for num_ended, trial in enumerate(self.run.ledger.ended, start=1):
            shutil.rmtree(trial.checkpoint, ignore_errors=True)  # of a session that was killed before it did that
            self._open_record(trial)
            self._draw_and_close(trial)
            best = best_of([best, trial] if best else [trial])
            self._log_best(best, num_ended)

    def end_rest(self) -> None:
        """End the interrupted trials for which no time was left; their best sets count."""
        for trial in self.run.ledger.running:
            self._open_record(trial)
            self._end(trial)
        self.close_drawn(wait=True)

    def _open_record(self, trial: Trial) -> None:
        """Open the tracker's record, and write the ledger's evaluations that a killed driver did not send."""
        self.run.tracker.start_trial(trial.trial_id, trial.point)
        if self.run.origins:
            self.run.tracker.log_origins(trial.trial_id, self.run.origins(trial.point))
        for evaluation in trial.evaluations:
            self._log(trial.trial_id, evaluation)

    def _enter(self, trial_id: str, outer_step: int, metrics: Mapping[str, float]) -> None:
        """Add an evaluation to the ledger and, if it is new, to the tracker."""
        evaluation = Evaluation(outer_step, metrics, round(self.search_seconds, 2))
        if self.run.ledger.add_evaluation(trial_id, evaluation):
            self._log(trial_id, evaluation)

    def _log(self, trial_id: str, evaluation: Evaluation) -> None:
        self.run.tracker.log_metrics(trial_id, evaluation.numbers(), evaluation.outer_step)
        picture = self.run.ledger.trials[trial_id].picture(evaluation.outer_step)
        if picture.is_file():
            self.run.tracker.log_picture(trial_id, picture, evaluation.outer_step)

    def _end(self, trial: Trial) -> None:
        reason = self._failures.get(trial.trial_id, "")
        self._catch_up(trial)
        state = self._state_of(trial, reason)
        if state == "stopped":  # without a reason of its own by Tune, at the end of the search's time
            reason = self._stop_reasons.get(trial.trial_id, TIME_USED_UP)
        keep_best(trial, self.run)
        self.run.ledger.end(trial.trial_id, state, reason, process_died=trial.trial_id in self._lost)
        self._draw_and_close(trial)
        shutil.rmtree(trial.checkpoint, ignore_errors=True)
        self.run.display.line(line_of_trial(trial, is_best=trial is self.run.ledger.best_trial()))
        self._log_best(self.run.ledger.best_trial(), len(self.run.ledger.ended))
        self._show()

    def _draw_and_close(self, trial: Trial) -> None:
        """Close an ended trial's record once the pictures of its set exist; drawing takes a third of a second."""
        illustrator, folder = self.run.illustrator, trial.distilled_set
        if illustrator is None or not folder.is_dir():
            self._close_record(trial)
            return
        try:
            if not illustrator.has_drawn_set(folder):
                train = self.run.train_inputs(trial.point)
                self._being_drawn.append((trial, self._drawing_thread.submit(illustrator.draw_set, folder, train)))
                return
        except Exception as error:  # of images, captions, fonts or the disk
            self._note(f"{trial.trial_id}: no pictures of its set", error)
        self._close_record(trial)

    def close_drawn(self, wait: bool = False) -> None:
        """Close the records whose pictures exist; only this thread calls the tracker."""
        while self._being_drawn and (wait or self._being_drawn[0][1].done()):
            trial, drawn = self._being_drawn.popleft()
            if error := drawn.exception():  # a set is a result without its pictures, too
                self._note(f"{trial.trial_id}: no pictures of its set", error)
            self._close_record(trial)

    def _note(self, what: str, error: BaseException) -> None:
        """Log once that an optional part of the search has failed."""
        if what not in self._noted:
            self._noted.add(what)
            self.run.display.warn(f"{what}: {message_of(error)}")

    def _close_record(self, trial: Trial) -> None:
        assert trial.state != "running"
        tags = {"reason": trial.reason} if trial.reason else {}
        artifacts = trial.artifacts if trial.artifacts.is_dir() else None
        self.run.tracker.end_trial(trial.trial_id, trial.state, artifacts, tags)

    def _catch_up(self, trial: Trial) -> None:
        """Record the evaluation of the best set if the trial ended between saving the set and reporting it."""
        card = card_in(trial.checkpoint / BEST)
        if card is not None and card.outer_step > trial.outer_step:
            self._enter(trial.trial_id, card.outer_step, card.metrics)

    def _state_of(self, trial: Trial, reason: str) -> Ended:
        if reason:
            return "failed"
        return "finished" if trial.outer_step >= self.run.study.last_step_at(trial.point) else "stopped"

    def _log_best(self, best: Trial | None, num_ended: int) -> None:
        """Log the best recall of the study at a number of ended trials."""
        if best and best.best:
            self.run.tracker.log_metrics(None, {BEST_VAL_MEAN_RECALL: best.best.recall}, num_ended)

    def _show(self) -> None:
        ledger, total = self.run.ledger, self._total
        ended, running = len(ledger.ended), {trial.number: self._share_done(trial) for trial in ledger.running}
        best = best_of(ledger.trials.values())
        notes = [f"#{number} {share:.0%}" for number, share in list(running.items())[:_MOST_SHOWN]]
        notes += [f"{len(running) - _MOST_SHOWN} more"] if len(running) > _MOST_SHOWN else []
        notes += [f"{count} {state}" for state in ("stopped", "failed") if (count := ledger.states()[state])]
        notes += ["processes start"] if not (running or self._experts) and ended < total else []
        notes += [f"best {best.best.recall:.2f}"] if best and best.best else []
        notes += self._experts
        left = seconds_left(self.run.study, ledger.trials.values(), self.search_seconds, self._side, total)
        if left is not None:
            notes.append(f"about {time_as_text(left)} left")
        self.run.display.progress("trials", ended, total, ", ".join(notes))
        self._last_shown = time.monotonic()

    @property
    def _side(self) -> SideBySide:
        at_a_time = self.run.study.search.max_concurrent
        return self.run.side_by_side or SideBySide(at_a_time, at_a_time)

    def _share_done(self, trial: Trial) -> float:
        return max(trial.outer_step, 0) / self.run.study.last_step_at(trial.point)


def keep_best(trial: Trial, run: StudyRun) -> None:
    """Move the best set of an ended trial to its artifacts, with its settings."""
    if not (trial.checkpoint / BEST / CARD).is_file():
        return
    shutil.rmtree(trial.artifacts, ignore_errors=True)
    copy_folder_whole(trial.checkpoint / BEST, trial.distilled_set)
    write_json_whole(trial.artifacts / "study.json", run.study.at(trial.point).model_dump(mode="json"))
