"""The stages of a study, in order: prepare, experts, search, finalists, test.

Each stage resumes its earlier work. A stage with nothing to do is skipped, e.g. ``experts`` if no method needs any.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.errors import RayvlddError, StoreError
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.hyperparameter_search.final_evaluation import evaluate_on_test
from rayvldd.hyperparameter_search.finalists import (
    Finalist,
    distinct,
    finalists_of,
    line_of_finalist,
    log_finalist,
    rerun_finalists,
    winner_of,
)
from rayvldd.hyperparameter_search.learned_sources import LearnedSources
from rayvldd.hyperparameter_search.ledger import Ledger
from rayvldd.hyperparameter_search.lines import line_of_learned, line_of_trial
from rayvldd.hyperparameter_search.objectives import nothing_allowed, pareto_front, ranked, row_of_front
from rayvldd.hyperparameter_search.preparation import (
    ExpertSets,
    certain_sets,
    experts_in_training,
    load_expert_sets,
    make_missing_experts,
    origins_of,
)
from rayvldd.hyperparameter_search.recorder import Illustrator, StudyRun
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.hyperparameter_search.time_left import SideBySide, later_stages
from rayvldd.hyperparameter_search.transfer import (
    EarlierTrials,
    known_points,
    learned_studies,
    lines_of,
)
from rayvldd.hyperparameter_search.trial import TrialContext
from rayvldd.hyperparameter_search.tune_adapter import search
from rayvldd.records.made_sets import note_made_set
from rayvldd.records.study_choice import StudyChoice
from rayvldd.records.study_outcome import FinalistOutcome, FrontRow
from rayvldd.records.trial import Trial
from rayvldd.runtime.actor_pool import keeping_actors
from rayvldd.runtime.full_data import has_chosen_recipe
from rayvldd.runtime.resources import trials_at_a_time, work_at_a_time
from rayvldd.storage.atomic import copy_folder_whole
from rayvldd.tracking.protocol import Tracker
from rayvldd.workspace import Workspace


@dataclass
class StudySession:
    """State and outputs that the stages of a study share in one process."""

    study: Study
    workspace: Workspace
    store: ExpertStore
    folder: StudyFolder
    tracker: Tracker
    display: ProgressDisplay
    illustrator: Illustrator | None
    command: str
    """The user's command line."""
    ledger: Ledger = field(init=False)
    expert_sets: ExpertSets | None = None
    """The expert sets of the study, after the first stage; None in a session that begins with the test."""

    def __post_init__(self) -> None:
        self.ledger = self.folder.ledger()

    @property
    def sets(self) -> ExpertSets:
        """The expert sets of the study, loaded by the first stage."""
        assert self.expert_sets is not None
        return self.expert_sets

    @property
    def is_chosen(self) -> bool:
        """Whether the best trial is chosen; the stages before the choice are then done."""
        return self.folder.choice.is_file()

    @property
    def best(self) -> Trial:
        """The chosen trial."""
        trial_id = self.folder.chosen_trial()
        if trial_id not in self.ledger.trials:
            raise StoreError(
                f"{self.folder.choice}: the study has no trial {trial_id!r}",
                next_command=f"move {self.folder.choice} away, then the same command, which chooses again",
            )
        return self.ledger.trials[trial_id]

    @cached_property
    def learned(self) -> LearnedSources | None:
        """The earlier studies that the search learns from; None if there are none."""
        if not self.folder.earlier_trials.is_file():
            return None
        sources = EarlierTrials.read(self.folder.earlier_trials).sources(self.study)
        found = LearnedSources(self.study.space, sources, self.study.seed)
        return found if found.sources else None

    @cached_property
    def side_by_side(self) -> SideBySide:
        """How much of the study runs at the same time on the connected Ray."""
        study, known = self.study, self.sets.sets[0]
        captions = study.evaluation.full_data.captions_per_image
        pairs = known.train.num_images if captions == "one" else len(known.train.caption_embeddings)
        fingerprints = origins_of(self.sets.sets).fingerprints
        has_bound = has_chosen_recipe(known.study, self.workspace.cache, fingerprints)
        return SideBySide(trials_at_a_time(study), work_at_a_time(study), 0 if has_bound else pairs)

    @property
    def trial_context(self) -> TrialContext:
        """The context of trials and finalists."""
        return TrialContext(self.study, self.folder.trials, self.workspace.cache, self.store)


class Stage(ABC):
    """A part of a study that can be resumed.

    Args:
        session: The study, after the earlier stages.
    """

    name: ClassVar[str]
    """Key of its duration in the result."""
    actors_stay: ClassVar[bool] = False
    """Whether its actors stay for the stages after it; they hold resources that trials need."""

    def __init__(self, session: StudySession) -> None:
        self._session = session

    def is_done(self) -> bool:
        """Whether there is nothing to do, because of an earlier session or the study's settings."""
        return self._session.is_chosen

    @abstractmethod
    def run(self) -> None:
        """Do the missing work."""


class Prepare(Stage):
    """Fill the cache, and determine the experts of each point; in every session until the choice."""

    name = "prepare"

    def run(self) -> None:
        """Fill the cache."""
        session = self._session
        session.expert_sets = load_expert_sets(session.study, session.workspace.cache, session.display)
        session.tracker.log_origins(None, origins_of(session.sets.sets))


class Experts(Stage):
    """Train the experts that are certain to be used."""

    name = "experts"

    def is_done(self) -> bool:
        """Whether no method of the study needs experts, or the best trial is chosen."""
        return super().is_done() or not self._session.study.requires_experts

    def run(self) -> None:
        """Train the experts that are not in the store."""
        session = self._session
        sets = certain_sets(session.study, session.sets)
        make_missing_experts(sets, session.store, session.workspace.cache, session.display)


class Search(Stage):
    """The trials."""

    name = "search"

    def run(self) -> None:
        """Run the missing trials."""
        session, sets = self._session, self._session.sets
        for trial in session.ledger.ended:
            session.display.line(line_of_trial(trial) + "  (earlier)")
        run = StudyRun(
            session.study,
            session.ledger,
            session.tracker,
            session.display,
            session.illustrator,
            lambda point: sets.at(point).train,
            lambda point: origins_of([sets.at(point)]),
            # A single set was made before the search.
            (lambda: experts_in_training(sets, session.store)) if len(sets.sets) > 1 else None,
            self._earlier(),
            session.learned,
            session.side_by_side,
        )
        for line in self._lines_of_learning("learning from"):
            session.display.line(line)
        search(run, session.trial_context, session.folder)
        for line in self._lines_of_learning("learned from"):
            session.display.line(line)

    def _lines_of_learning(self, verb: str) -> list[str]:
        """The earlier studies with their present weights, if there are any."""
        learned = self._session.learned
        if learned is None:
            return []
        return [line_of_learned(learned_studies(learned, self._session.ledger.by_number()), verb)]

    def _earlier(self) -> list[Trial]:
        """The trials of other studies that the sampler knows from the start."""
        folder, sets = self._session.folder, self._session.sets
        if not folder.earlier_trials.is_file():
            return []
        found, left_out = known_points(
            self._session.study, folder, lambda point: origins_of([sets.at(point)]).fingerprints
        )
        for line in lines_of(EarlierTrials.read(folder.earlier_trials).name, found, left_out):
            self._session.display.line(line)
        return found


class Finalists(Stage):
    """Distil the best points again with new seeds, and choose one on validation."""

    name = "finalists"
    actors_stay = True

    def run(self) -> None:
        """Run the missing distillations, and choose a point.

        Raises:
            RayvlddError: if no trial has a set, none is within the bounds of the choice, or all finalists failed.
        """
        if self._session.study.search.num_finalists:
            session = self._session
            expected = later_stages(session.study, session.ledger.by_number(), session.side_by_side)
            rerun_finalists(self._finalists(), session.trial_context, session.display, expected)
        self._choose()

    def _candidates(self) -> list[Trial]:
        """The trials that can be chosen, the choice first.

        Raises:
            RayvlddError: if no trial has a set, or none is within the bounds of the choice.
        """
        if self._session.ledger.best_trial() is None:
            raise _nothing_made(self._session.study, self._session.ledger)
        allowed = ranked(self._session.ledger.ended, self._session.study)
        if not allowed:
            raise nothing_allowed(self._session.ledger.ended, self._session.study)
        return allowed

    def _finalists(self) -> list[Finalist]:
        """The trials whose points are distilled again; with several objectives only the chosen one.

        Raises:
            RayvlddError: like :meth:`_candidates`.
        """
        trials = distinct(self._candidates(), self._session.study.num_finalists)
        return finalists_of(self._session.study, trials, self._session.folder.finalists)

    def _choose(self) -> None:
        """Choose a point on validation and save the choice, so that the test result cannot change it.

        With several objectives ``search.choose`` selects it from the Pareto front, which is saved too.

        Raises:
            RayvlddError: if no trial has a set, none is within the bounds of the choice, or all finalists failed.
        """
        if self._session.study.search.num_finalists:
            finalists = self._finalists()
            winner = winner_of(finalists)
            if winner is None:
                raise _none_again(self._session.study, finalists)
            self._show(finalists)
            best, place = winner.trial, winner.made()[0].distilled_set
            if self._session.illustrator:
                with self._session.display.drawing(str(place)):
                    self._session.illustrator.draw_set(place, self._session.sets.at(best.point).train)
            outcomes, sets = [one.outcome() for one in finalists], [one.name for one in winner.made()]
        else:
            best = self._candidates()[0]
            place, outcomes, sets = best.distilled_set, [], [best.trial_id]
        copy_folder_whole(place, self._session.folder.best)
        note_made_set(self._session.workspace.root, self._session.folder.best)
        self._choice_of(best, outcomes, sets).write(self._session.folder.choice)

    def _choice_of(self, trial: Trial, finalists: list[FinalistOutcome], sets: list[str]) -> StudyChoice:
        """The record of a choice."""
        best, front = trial.best, self._front()
        assert best is not None  # as of every candidate
        choice = StudyChoice(
            trial_id=trial.trial_id,
            point=trial.point,
            outer_step=best.outer_step,
            search_val_mean_recall=best.recall,
            finalists=finalists,
            sets=sets,
        )
        return choice.model_copy(update={"front": front}) if front else choice

    def _show(self, finalists: Sequence[Finalist]) -> None:
        """Display the finalists, and log their sets."""
        for finalist in finalists:
            self._session.display.line(line_of_finalist(finalist))
            log_finalist(finalist, self._session.tracker)

    def _front(self) -> list[FrontRow]:
        """The Pareto front of a study with several objectives; empty with one objective."""
        study, ended = self._session.study, self._session.ledger.ended
        if len(study.search.objectives) < 2:
            return []
        return [row_of_front(trial, study) for trial in pareto_front(ended, study)]


class FinalEvaluation(Stage):
    """The one evaluation on the test split."""

    name = "test"

    def is_done(self) -> bool:
        """Whether the test result is on disk; a study is tested once."""
        return self._session.folder.test.is_file()

    def run(self) -> None:
        """Evaluate the chosen sets on test; how long that takes is unknown in a session that begins with it."""
        session, expected_s = self._session, 0.0
        if session.expert_sets is not None:
            expected_s = later_stages(session.study, session.ledger.by_number(), session.side_by_side).test
        evaluate_on_test(
            session.study,
            session.best,
            session.folder,
            session.workspace.cache,
            session.display,
            session.command,
            expected_s,
        )


STAGES: tuple[type[Stage], ...] = (Prepare, Experts, Search, Finalists, FinalEvaluation)
"""In order."""


def run_stages(session: StudySession) -> None:
    """Run the unfinished stages in order, and record their durations.

    Raises:
        PausedError: if another command has requested a pause.
    """
    with ExitStack() as kept:
        for number, make in enumerate(STAGES, start=1):
            session.folder.requests.raise_pause()
            stage = make(session)
            if make.actors_stay:
                kept.enter_context(keeping_actors())
            if not stage.is_done():
                session.display.begin_phase(number, len(STAGES))
                with session.folder.phase(stage.name):
                    stage.run()
    session.display.end_phases()


def _none_again(study: Study, finalists: Sequence[Finalist]) -> RayvlddError:
    sets = [one for finalist in finalists for one in finalist.sets]
    reasons = [f"  {one.name}: {one.scores().reason}" for one in sets]
    return RayvlddError(
        "\n".join([f"study {study.name}: none of its {len(finalists)} finalists could be distilled again:", *reasons]),
        next_command=f"the same command with --set search.num_finalists={2 * len(finalists)}, to distil more points, "
        f"or with =0, to test the best trial's own set",
    )


def _nothing_made(study: Study, ledger: Ledger) -> RayvlddError:
    reasons = [f"  {trial.trial_id}: {trial.reason or 'stopped before its first evaluation'}" for trial in ledger.ended]
    if not reasons:
        return RayvlddError(
            f"study {study.name}: the time budget of {study.search.time_budget_s} s ended before the first evaluation",
            next_command="the same command with a larger --set search.time_budget_s=…",
        )
    return RayvlddError(
        "\n".join([f"study {study.name}: none of its {len(reasons)} trials made a distilled set:", *reasons]),
        next_command="rayvldd check STUDY.yaml, then the same command with other settings and --set name=ANOTHER",
    )
