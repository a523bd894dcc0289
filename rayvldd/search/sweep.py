"""A whole study: prepare, make experts, search, distil the best again, choose on validation, test once.

Every phase continues where it was.

The order of what is written decides what a crash can cost. A trial's evaluation is in the ledger before it is shown;
the choice of the best trial is on disk before test is looked at, and the test result before it is printed: a study is
tested once, whatever dies in between.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from rayvldd.config.metrics import BEST_VAL_MEAN_RECALL, SEARCH_VAL_MEAN_RECALL, VAL_MEAN_RECALL
from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay, shown
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.errors import RayvlddError
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.randomness import sampler_seed
from rayvldd.runtime.cluster import start_ray
from rayvldd.runtime.nodes import refuse_unfit_nodes
from rayvldd.search.final_evaluation import evaluate_on_test
from rayvldd.search.finalists import Finalist, distinct, finalists_of, line_of_finalist, rerun_finalists, winner_of
from rayvldd.search.ledger import Ledger, Trial
from rayvldd.search.lines import line_of_trial
from rayvldd.search.objectives import nothing_allowed, pareto_front, ranked, row_of_front
from rayvldd.search.optuna_trials import importance_of_settings
from rayvldd.search.plan import describe_plan, plan
from rayvldd.search.preparation import (
    ExpertSets,
    experts_in_training,
    load_expert_sets,
    make_missing_experts,
    origins_of,
    sets_asked_for,
)
from rayvldd.search.recorder import Illustrator, StudyRun
from rayvldd.search.study_folder import StudyFolder, read_json
from rayvldd.search.study_store import StudyStore
from rayvldd.search.transfer import WarmStart, keep_earlier_trials, known_points, lines_of
from rayvldd.search.trial import TrialContext
from rayvldd.search.tune_adapter import search
from rayvldd.storage.json_files import write_json_whole
from rayvldd.tracking.machine_use import MachineEnergy
from rayvldd.tracking.protocol import Tracker
from rayvldd.workspace import Workspace


@dataclass(frozen=True)
class SweepResult:
    """What came out of a study."""

    values: dict[str, Any]
    """The object of ``--json``."""
    trials: list[Trial]
    """All trials, by number."""
    is_new: bool
    """False where the study was finished before and only its result was read."""


def sweep(
    study: Study,
    workspace: Workspace,
    store: ExpertStore,
    tracker: Tracker,
    *,
    command: str = "rayvldd sweep",
    address: str | None = None,
    display: ProgressDisplay | None = None,
    illustrator: Illustrator | None = None,
    warm_start: WarmStart | None = None,
    study_store: StudyStore | None = None,
) -> SweepResult:
    """Run a study to its end, or go on with it, or return the result it already has.

    Args:
        study: What to search.
        workspace: Where everything is kept.
        store: Where experts are.
        tracker: What is told of the study and its trials.
        command: What the user typed, for the study's folder and the tracker.
        address: The Ray cluster to run on, of which this machine is a node and all of whose nodes see the workspace
            and the store; default: this machine.
        display: Where progress is shown; default: standard error.
        illustrator: Draws the pictures that are kept with each set.
        warm_start: Earlier trials that the sampler is to begin with.
        study_store: Where the study is kept beside the workspace, for other machines to go on with it.

    Raises:
        ConfigError: when a study of this name has other settings, or there are no such earlier trials.
        RayvlddError: when every trial failed, another process or machine runs the study, or the cluster is not fit for
            it.
        StoreError: when the study's store cannot be used, or holds another study than the workspace.
    """
    folder = StudyFolder(workspace.study(study.name))
    with shown(display) as used, study_store.held(used) if study_store else nullcontext(), folder.opened(study):
        result = folder.result()
        if result is not None:
            used.line(f"study {study.name} is finished; this is its result from {folder.result_file}")
            return SweepResult(result, list(folder.ledger().trials.values()), is_new=False)
        used.line(describe_plan(plan(study, workspace, store)))
        keep_earlier_trials(study, folder, warm_start)
        folder.add_command(command)
        tracker.start_study(study, command)
        conductor = _Sweep(study, workspace, store, folder, tracker, used, illustrator, command)
        with _told_how_it_ends(tracker), start_ray(address, None), conductor.energy.reading():
            if address is not None:
                refuse_unfit_nodes(workspace.root)
            return SweepResult(conductor.run(), list(conductor.ledger.trials.values()), is_new=True)


class _Sweep:
    """The phases of one study, in order."""

    def __init__(
        self,
        study: Study,
        workspace: Workspace,
        store: ExpertStore,
        folder: StudyFolder,
        tracker: Tracker,
        display: ProgressDisplay,
        illustrator: Illustrator | None,
        command: str,
    ) -> None:
        self.study, self.workspace, self.store, self.folder = study, workspace, store, folder
        self.tracker, self.display, self.illustrator, self.command = tracker, display, illustrator, command
        self.ledger: Ledger = folder.ledger()
        self.energy = MachineEnergy()
        self.is_first_session = not folder.seconds()

    def run(self) -> dict[str, Any]:
        if not self.folder.choice.is_file():
            with self.folder.phase("prepare"):
                sets = load_expert_sets(self.study, self.workspace.cache, self.display)
            self.tracker.log_origins(None, origins_of(sets.sets))
            with self.folder.phase("experts"):
                make_missing_experts(sets_asked_for(self.study, sets), self.store, self.workspace.cache, self.display)
            with self.folder.phase("search"):
                self.search(sets)
            if self.study.search.num_finalists:
                with self.folder.phase("finalists"):
                    rerun_finalists(self.finalists(), self.trial_context, self.display)
            self.choose(sets)
        best = self.ledger.trials[read_json(self.folder.choice)["trial_id"]]
        with self.folder.phase("test"):
            tested = evaluate_on_test(self.study, best, self.folder, self.workspace.cache, self.display, self.command)
        return self.finish(best, tested)

    @property
    def trial_context(self) -> TrialContext:
        """What trials and finalists need."""
        return TrialContext(self.study, self.folder.trials, self.workspace.cache, self.store)

    def candidates(self) -> list[Trial]:
        """The trials that may be chosen, the choice first.

        Raises:
            RayvlddError: when no trial has made a set, or none of the front is allowed to be chosen.
        """
        if self.ledger.best_trial() is None:
            raise _nothing_made(self.study, self.ledger)
        allowed = ranked(self.ledger.ended, self.study)
        if not allowed:
            raise nothing_allowed(self.ledger.ended, self.study)
        return allowed

    def finalists(self) -> list[Finalist]:
        """The trials whose points are distilled again; with several objectives that is the choice alone.

        Raises:
            RayvlddError: as :meth:`candidates` does.
        """
        count = self.study.search.num_finalists if len(self.study.search.objectives) == 1 else 1
        return finalists_of(self.study, distinct(self.candidates(), count), self.folder.finalists)

    def search(self, sets: ExpertSets) -> None:
        """Run the trials that are missing."""
        for trial in self.ledger.ended:
            self.display.line(line_of_trial(trial) + "  (earlier)")
        run = StudyRun(
            self.study,
            self.ledger,
            self.tracker,
            self.display,
            self.illustrator,
            lambda point: sets.at(point).train,
            lambda point: origins_of([sets.at(point)]),
            # A single set was made before the search.
            (lambda: experts_in_training(sets, self.store)) if len(sets.sets) > 1 else None,
            self.earlier(sets),
        )
        search(run, self.trial_context, self.folder)

    def earlier(self, sets: ExpertSets) -> list[Trial]:
        """The trials of other studies that the sampler is told of."""
        if not self.folder.earlier_trials.is_file():
            return []
        found, left_out = known_points(self.study, self.folder, lambda point: origins_of([sets.at(point)]).fingerprints)
        for line in lines_of(read_json(self.folder.earlier_trials)["name"], found, left_out):
            self.display.line(line)
        return found

    def choose(self, sets: ExpertSets) -> None:
        """Choose on validation, and keep the choice, so that nothing learnt from test can change it.

        With several objectives it is the one that ``search.choose`` takes from the Pareto front, which is kept too.

        Raises:
            RayvlddError: when no trial has made a set, none may be chosen, or no finalist made one of other seeds.
        """
        if self.study.search.num_finalists:
            finalists = self.finalists()
            winner = winner_of(finalists)
            if winner is None:
                raise _none_again(self.study, finalists)
            self.tell_of(finalists)
            best, place = winner.trial, winner.made()[0].distilled_set
            if self.illustrator:
                self.illustrator.draw_set(place, sets.at(best.point).train)
            choice = {"finalists": [one.as_dict() for one in finalists], "sets": [one.name for one in winner.made()]}
        else:
            best = self.candidates()[0]
            place, choice = best.distilled_set, {"finalists": [], "sets": [best.trial_id]}
        shutil.rmtree(self.folder.best, ignore_errors=True)
        shutil.copytree(place, self.folder.best)
        values = {"trial_id": best.trial_id, "point": best.point, "best": best.best}
        write_json_whole(self.folder.choice, {**values, **choice, **self.front()})

    def tell_of(self, finalists: Sequence[Finalist]) -> None:
        """Show the finalists, and hand each of their sets to the tracker as a record of its own."""
        for finalist in finalists:
            self.display.line(line_of_finalist(finalist))
            for one in finalist.sets:
                scores = one.scores()
                self.tracker.start_trial(one.name, one.point)
                numbers = {name: value for name, value in scores.items() if name.startswith("val_")}
                self.tracker.log_metrics(one.name, numbers, int(scores.get("outer_step", 0)))
                tags = {"finalist": finalist.trial.trial_id} | ({"reason": scores["reason"]} if not numbers else {})
                self.tracker.end_trial(one.name, scores["state"], None, tags)

    def front(self) -> dict[str, Any]:
        """The Pareto front, the answer of a study with several objectives; nothing for one objective."""
        if len(self.study.search.objectives) < 2:
            return {}
        return {"front": [row_of_front(trial, self.study) for trial in pareto_front(self.ledger.ended, self.study)]}

    def finish(self, best: Trial, tested: Mapping[str, Any]) -> dict[str, Any]:
        """Put the result together, keep it, and hand it to the tracker."""
        choice = {"finalists": [], **read_json(self.folder.choice)}
        card = DistilledSet.load(self.folder.best).card
        again = next((one for one in choice["finalists"] if one["trial_id"] == best.trial_id), choice["best"])
        result = {
            "study": self.study.name,
            "protocol": self.study.at(best.point).model.protocol,
            "num_pairs": tested["num_pairs"],
            "trials": self.ledger.states(),
            "best": {
                "config": best.point,
                VAL_MEAN_RECALL: again[VAL_MEAN_RECALL],
                SEARCH_VAL_MEAN_RECALL: choice["best"][VAL_MEAN_RECALL],
                "trial_id": best.trial_id,
                "outer_step": int(card["outer_step"]),
            },
            **self.front(),
            "finalists": choice["finalists"],
            "test": {name: value for name, value in tested.items() if name not in ("seeds", "num_pairs")},
            "test_evaluations": self.folder.test_evaluations(),
            "importance": self.importance(),
            "distilled_set": str(self.folder.best),
            "tracking_uri": self.tracker.uri,
            "seconds": _with_total(self.folder.seconds()),
            "seeds": {
                "study": self.study.seed,
                "sampler": sampler_seed(self.study.seed, 0),
                "best_trial": best.seed,
                "finalists": {one["name"]: one["seed"] for row in choice["finalists"] for one in row["sets"]},
                "test_students": tested["seeds"],
            },
        }
        if self.illustrator:
            self.illustrator.draw_study(self.folder.best, list(self.ledger.trials.values()))
        write_json_whole(self.folder.best / "result.json", result)
        energy = self.energy.metrics() if self.is_first_session else {}  # of a later one it would be a part
        self.tracker.end_study("finished", {**_numbers_of(result), **energy}, self.folder.best)
        write_json_whole(self.folder.result_file, result)  # last: with it the study is finished
        return result

    def importance(self) -> dict[str, float]:
        """What each searched setting explains of validation recall; empty where too little was tried to say."""
        return importance_of_settings(self.ledger.ended, self.study.space.domains)


@contextmanager
def _told_how_it_ends(tracker: Tracker) -> Iterator[None]:
    """Tell the tracker of an end that is not the good one; Ctrl-C is an end that the same command continues."""
    try:
        yield
    except BaseException as error:
        tracker.end_study("failed" if isinstance(error, Exception) else "interrupted", {}, None)
        raise


def _with_total(seconds: Mapping[str, float]) -> dict[str, float]:
    return {**seconds, "total": round(sum(seconds.values()), 1)}


def _numbers_of(result: Mapping[str, Any]) -> dict[str, float]:
    """The result's numbers under names that say where they come from, for the tracker."""
    tested = result["test"]
    names = [name for name, value in tested.items() if isinstance(value, int | float)]
    return {
        BEST_VAL_MEAN_RECALL: result["best"][VAL_MEAN_RECALL],
        "test_evaluations": result["test_evaluations"],
        **{f"test_{name}": tested[name] for name in names},
        "test_interval_low": tested["interval"][0],
        "test_interval_high": tested["interval"][1],
        **{f"seconds_{name}": value for name, value in result["seconds"].items()},
    }


def _none_again(study: Study, finalists: Sequence[Finalist]) -> RayvlddError:
    sets = [one for finalist in finalists for one in finalist.sets]
    reasons = [f"  {one.name}: {one.scores()['reason']}" for one in sets]
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
