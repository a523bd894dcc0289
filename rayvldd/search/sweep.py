"""A whole study: prepare, make experts, search, choose on validation, test once. Every phase continues where it was.

The order of what is written decides what a crash can cost. A trial's evaluation is in the ledger before it is shown;
the choice of the best trial is on disk before test is looked at, and the test result before it is printed: a study is
tested once, whatever dies in between.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rayvldd.config.study import Study
from rayvldd.errors import RayvlddError
from rayvldd.fleet.nodes import refuse_unfit_nodes
from rayvldd.fleet.runtime import start_ray
from rayvldd.search.display import StudyDisplay, line_of_trial, shown
from rayvldd.search.final_test import look_at_test
from rayvldd.search.ledger import Ledger, Trial
from rayvldd.search.objectives import nothing_allowed, pareto_front, ranked, row_of_front
from rayvldd.search.plan import describe_plan, plan
from rayvldd.search.preparation import (
    ExpertSets,
    experts_in_training,
    load_expert_sets,
    make_missing_experts,
    origins_of,
    sets_asked_for,
)
from rayvldd.search.progress_callback import Illustrator, StudyRun
from rayvldd.search.seeds import sampler_seed
from rayvldd.search.study_folder import StudyFolder, read_json
from rayvldd.search.trial import TrialJob
from rayvldd.search.tuning import search
from rayvldd.stores.expert_store import ExpertStore
from rayvldd.stores.workspace import Workspace, write_json_whole
from rayvldd.tracking.machine_use import MachineEnergy
from rayvldd.tracking.protocol import Tracker


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
    display: StudyDisplay | None = None,
    illustrator: Illustrator | None = None,
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

    Raises:
        ConfigError: when a study of this name has other settings.
        RayvlddError: when every trial failed, another process runs the study, or the cluster is not fit for it.
    """
    folder = StudyFolder(workspace.study(study.name))
    with shown(display) as used, folder.opened(study):
        result = folder.result()
        if result is not None:
            used.line(f"study {study.name} is finished; this is its result from {folder.result_file}")
            return SweepResult(result, list(folder.ledger().trials.values()), is_new=False)
        used.line(describe_plan(plan(study, workspace, store)))
        folder.add_command(command)
        tracker.start_study(study, command)
        conductor = _Sweep(study, workspace, store, folder, tracker, used, illustrator)
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
        display: StudyDisplay,
        illustrator: Illustrator | None,
    ) -> None:
        self.study, self.workspace, self.store, self.folder = study, workspace, store, folder
        self.tracker, self.display, self.illustrator = tracker, display, illustrator
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
        best = self.choose()
        with self.folder.phase("test"):
            tested = look_at_test(self.study, best, self.folder, self.workspace.cache, self.display)
        return self.finish(best, tested)

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
        )
        search(run, TrialJob(self.study, self.folder.trials, self.workspace.cache, self.store), self.folder)

    def choose(self) -> Trial:
        """The best trial on validation; the choice is kept, so that nothing learnt from test can change it.

        With several objectives it is the one that ``search.choose`` takes from the Pareto front, which is kept too.

        Raises:
            RayvlddError: when no trial has made a set, or none of the front is allowed to be chosen.
        """
        if self.folder.choice.is_file():
            return self.ledger.trials[read_json(self.folder.choice)["trial_id"]]
        if self.ledger.best_trial() is None:
            raise _nothing_made(self.study, self.ledger)
        allowed = ranked(self.ledger.ended, self.study)
        if not allowed:
            raise nothing_allowed(self.ledger.ended, self.study)
        best = allowed[0]
        shutil.rmtree(self.folder.best, ignore_errors=True)
        shutil.copytree(best.distilled_set, self.folder.best)
        choice = {"trial_id": best.trial_id, "point": best.point, "best": best.best, **self.front()}
        write_json_whole(self.folder.choice, choice)
        return best

    def front(self) -> dict[str, Any]:
        """The Pareto front, the answer of a study with several objectives; nothing for one objective."""
        if len(self.study.search.objectives) < 2:
            return {}
        return {"front": [row_of_front(trial, self.study) for trial in pareto_front(self.ledger.ended, self.study)]}

    def finish(self, best: Trial, tested: Mapping[str, Any]) -> dict[str, Any]:
        """Put the result together, keep it, and hand it to the tracker."""
        assert best.best is not None
        result = {
            "study": self.study.name,
            "protocol": self.study.at(best.point).model.protocol,
            "num_pairs": tested["num_pairs"],
            "trials": self.ledger.states(),
            "best": {
                "config": best.point,
                "val_mean_recall": best.best["val_mean_recall"],
                "trial_id": best.trial_id,
                "outer_step": int(best.best["outer_step"]),
            },
            **self.front(),
            "test": {name: value for name, value in tested.items() if name not in ("seeds", "num_pairs")},
            "distilled_set": str(self.folder.best),
            "tracking_uri": self.tracker.uri,
            "seconds": _with_total(self.folder.seconds()),
            "seeds": {
                "study": self.study.seed,
                "sampler": sampler_seed(self.study.seed, 0),
                "best_trial": best.seed,
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
        "best_val_mean_recall": result["best"]["val_mean_recall"],
        **{f"test_{name}": tested[name] for name in names},
        "test_interval_low": tested["interval"][0],
        "test_interval_high": tested["interval"][1],
        **{f"seconds_{name}": value for name, value in result["seconds"].items()},
    }


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
