"""The search with a cheap toy objective and all kinds of interruptions; one real study from end to end."""

import errno
import gc
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from filelock import FileLock
from helpers.paths import ROOT
from helpers.searches import SPACE, evaluated, with_search
from helpers.sets import card_text, write_card
from helpers.tasks import load as load_at
from rich.console import Console

from rayvldd.config.settings import EvaluationSettings
from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay, time_as_text
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.distillation.evaluations import EvaluatedRun
from rayvldd.errors import ConfigError, DivergedError, OutageError, RayvlddError, StoreError
from rayvldd.evaluation.full_data import recipes_of
from rayvldd.evaluation.intervals import recall_interval
from rayvldd.evaluation.kept_student import KeptStudent
from rayvldd.evaluation.recall import RetrievalMetrics
from rayvldd.evaluation.scoring import score
from rayvldd.experts.store.expert_store import ExpertStore, MadeExpert
from rayvldd.hyperparameter_search import final_evaluation, trial, tune_adapter
from rayvldd.hyperparameter_search.expert_points import expert_points
from rayvldd.hyperparameter_search.final_evaluation import summary
from rayvldd.hyperparameter_search.finalists import _FinalistJob
from rayvldd.hyperparameter_search.ledger import Ledger
from rayvldd.hyperparameter_search.lines import line_of_trial
from rayvldd.hyperparameter_search.plan import describe_plan, plan
from rayvldd.hyperparameter_search.preparation import (
    certain_sets,
    epochs_of,
    experts_in_training,
    load_expert_sets,
)
from rayvldd.hyperparameter_search.recorder import Recorder, StudyRun
from rayvldd.hyperparameter_search.requests import PausedError, Requests
from rayvldd.hyperparameter_search.strategy import Proposal
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.hyperparameter_search.sweep import sweep
from rayvldd.hyperparameter_search.trial import TrialContext
from rayvldd.hyperparameter_search.trial import run_trial as run_one
from rayvldd.hyperparameter_search.trial_log import LOG
from rayvldd.hyperparameter_search.trial_report import EvaluationReport, FailureReport, OutageReport, Report
from rayvldd.models.retrieval_task import SplitInputs
from rayvldd.records.coreset_rate import ChosenRate
from rayvldd.records.difference import Difference
from rayvldd.records.full_data import FullDataChoice, TriedRecipe
from rayvldd.records.json_values import value_at
from rayvldd.records.study_outcome import StudyOutcome
from rayvldd.records.study_plan import PlannedExperts
from rayvldd.records.trial import Trial
from rayvldd.runtime.actor_pool import _ActorPool
from rayvldd.runtime.evaluation import StudentScores
from rayvldd.runtime.machine import processor_name
from rayvldd.storage.folder import FolderStorage
from rayvldd.storage.lease import LeaseHolder
from rayvldd.tracking.folder_tracker import FolderTracker
from rayvldd.workspace import Workspace


@pytest.fixture
def searched(tiny_study: Study) -> Study:
    return with_search(tiny_study)


@pytest.fixture
def quiet() -> ProgressDisplay:
    return ProgressDisplay(Console(quiet=True))


class Tracker(FolderTracker):
    """The tracker of files, which raises KeyboardInterrupt after the given number of evaluations."""

    def __init__(self, folder: Path, interrupted_at: int = -1) -> None:
        super().__init__(folder)
        self.interrupted_at = interrupted_at
        self.was_ending = False

    def start_study(self, study: Study, command: str, *, was_ending: bool = False) -> None:
        super().start_study(study, command, was_ending=was_ending)
        self.was_ending = was_ending

    def log_metrics(self, trial_id: str | None, metrics: Mapping[str, float], step: int) -> None:
        super().log_metrics(trial_id, metrics, step)
        self.interrupted_at -= trial_id is not None
        if self.interrupted_at == 0:
            raise KeyboardInterrupt

    def steps_of(self, trial_id: str) -> list[int]:
        lines = self._file(trial_id).read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["step"] for line in lines if json.loads(line)["event"] == "metrics"]


# --- ledger -------------------------------------------------------------------------------------------------------


def test_the_ledger_reads_its_files(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for number in range(3):
        ledger.start(number, 10 + number, {"distillation.trajectory_matching.syn_steps": number})
        ledger.add_evaluation(f"trial_00{number}", evaluated(0, 5.0 - number, 7.0 + number))
    ledger.end("trial_000", "failed", "diverged")
    ledger.end("trial_001", "stopped")
    again = Ledger(tmp_path)
    assert again.trials == ledger.trials
    assert [t.trial_id for t in again.ended] == ["trial_000", "trial_001"]
    assert [t.trial_id for t in again.running] == ["trial_002"]
    assert again.search_seconds == 9.0
    best = again.best_trial()
    assert best is not None and best.trial_id == "trial_001", "the failed one does not count"
    assert again.states() == {"finished": 0, "stopped": 1, "failed": 1, "running": 1}


def test_an_evaluation_is_entered_once(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.start(0, 1, {})
    assert [ledger.add_evaluation("trial_000", evaluated(step, 1.0)) for step in (0, 2, 2, 0, 4)] == [1, 1, 0, 0, 1]
    assert [each.outer_step for each in Ledger(tmp_path).trials["trial_000"].evaluations] == [0, 2, 4]


def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.start(0, 1, {})
    ledger.add_evaluation("trial_000", evaluated(0, 1.0))
    file = tmp_path / "trial_000" / "evaluations.jsonl"
    file.write_text(file.read_text() + '{"outer_step": 2, "val_me')
    again = Ledger(tmp_path)
    again.add_evaluation("trial_000", evaluated(2, 3.0))
    assert [each.recall for each in Ledger(tmp_path).trials["trial_000"].evaluations] == [1.0, 3.0]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    Ledger(tmp_path).start(0, 1, {})
    (tmp_path / "trial_000" / "trial.json").write_text("{}")
    with pytest.raises(StoreError, match=r"trial_000/trial.json: not readable as the record of a trial"):
        Ledger(tmp_path)


# --- the folder of a study ----------------------------------------------------------------------------------------


def test_another_study_of_the_same_name_is_refused(searched: Study, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "tiny")
    with folder.opened(searched):
        pass
    other = searched.at({}).model_copy(update={"seed": 8})
    with pytest.raises(ConfigError, match=r"seed: is 7 there, 8 here") as caught, folder.opened(other):
        pass
    assert "--set name=" in str(caught.value)
    assert any("search.space" in fault.where for fault in caught.value.faults)


def test_budget_and_resources_may_change_until_the_study_is_finished(searched: Study, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "tiny")
    longer = with_search(searched, num_trials=9, max_concurrent=1, time_budget_s=60)
    for study in (searched, longer):
        with folder.opened(study):
            pass
    folder.result_file.write_text("{}")
    with folder.opened(longer):
        pass
    with pytest.raises(ConfigError, match=r"search.num_trials: is 9 there, 4 here"), folder.opened(searched):
        pass


def test_a_study_runs_once_at_a_time(searched: Study, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "tiny")
    refused = pytest.raises(RayvlddError, match="another process is running it")
    with folder.opened(searched), refused, folder.opened(searched):
        pass


def test_a_look_at_a_study_does_not_keep_it_from_running(searched: Study, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "tiny")
    folder.root.mkdir()
    look = FileLock(folder.root / ".lock", thread_local=False)  # as `rayvldd status` holds it
    look.acquire()
    threading.Timer(0.2, look.release).start()
    with folder.opened(searched):
        assert folder.is_running()


def test_a_pause_while_a_study_is_prepared_is_kept(
    searched: Study, tmp_path: Path, quiet: ProgressDisplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan may take long, and the tracker's server may answer late."""
    workspace = Workspace(tmp_path)
    requests = StudyFolder(workspace.study(searched.name)).requests
    requests.add_point(POINT)
    monkeypatch.setattr("rayvldd.hyperparameter_search.sweep.plan", lambda *_: requests.add_pause())
    monkeypatch.setattr("rayvldd.hyperparameter_search.sweep.describe_plan", str)
    monkeypatch.setattr("rayvldd.hyperparameter_search.sweep.start_ray", lambda *_: nullcontext())
    monkeypatch.setattr("rayvldd.hyperparameter_search.sweep.run_stages", lambda _: requests.raise_pause())
    store = ExpertStore(FolderStorage(workspace.experts))
    with pytest.raises(PausedError):
        sweep(searched, workspace, store, Tracker(tmp_path / "tracked"), display=quiet)
    assert len(requests.waiting_points()) == 1


def test_phases_add_up_over_sessions(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), folder.phase("search"):
            time.sleep(0.1)
            raise KeyboardInterrupt
    assert folder.seconds()["search"] >= 0.2


# --- one trial ----------------------------------------------------------------------------------------------------


@pytest.fixture
def job(tiny_study: Study, tiny_cache: Path, tmp_path: Path) -> TrialContext:
    """What trials of the tiny study need, its experts included, made without Ray."""
    from rayvldd.data.array_cache import ArrayCache
    from rayvldd.experts.recipe import expert_recipe, expert_training
    from rayvldd.experts.training import train_expert
    from rayvldd.models.retrieval_task import load_task

    study = with_search(tiny_study)
    store = ExpertStore(FolderStorage(tmp_path / "experts"))
    task = load_task(study.data, study.model, ArrayCache(tiny_cache))
    for index in range(study.experts.num_experts):
        layouts = task.model.image_layout, task.model.text_layout
        store.save(
            expert_recipe(study.at({}), task.fingerprints),
            index,
            MadeExpert(*train_expert(task, expert_training(study.at({})), index), *layouts),
        )
    return TrialContext(study, tmp_path / "trials", tiny_cache, store)


@pytest.fixture
def reports() -> list[Any]:
    return []


POINT: dict[str, Any] = {"distillation.lr_image": 10.0, "distillation.trajectory_matching.syn_steps": 2}


def run_trial(job: TrialContext, reports: list[Any], trial_id: str = "trial_003") -> None:
    """Run a trial whose reports go into a list."""
    run_one(trial_id, POINT, job, reports.append)


def test_a_trial_reports_every_evaluation(job: TrialContext, reports: list[Any]) -> None:
    run_trial(job, reports)
    assert [report.outer_step for report in reports] == [0, 2, 4]
    assert all(report.metrics["best_val_mean_recall"] > 0 and report.memory for report in reports)
    card = DistilledSet.load(job.trials / "trial_003" / "checkpoint" / "best").origin
    assert value_at(card.study, "distillation", "lr_image") == 10.0


def test_memory_is_released_without_visiting_imported_objects(job: TrialContext, reports: list[Any]) -> None:
    run_trial(job, reports)
    assert gc.get_freeze_count() > 10_000
    made_by_a_trial = StringIO()
    made_by_a_trial.itself = made_by_a_trial  # type: ignore[attr-defined]
    seen = weakref.ref(made_by_a_trial)
    del made_by_a_trial
    trial.release_memory()
    assert seen() is None


def test_a_trial_is_a_function_of_its_point_and_seed(job: TrialContext, reports: list[Any]) -> None:
    own = replace(job, study=with_search(job.study, trial_seeds="own"), trials=job.trials / "own")
    run_trial(job, reports)
    run_trial(job, reports, "trial_004")
    run_trial(own, reports)
    run_trial(own, reports, "trial_004")
    run_trial(replace(own, trials=own.trials / "again"), reports)
    curves = [[without_seconds(r) for r in reports[start : start + 3]] for start in range(0, 15, 3)]
    assert curves[0] == curves[1], "trials have their seed in common"
    assert curves[2] == curves[4] != curves[3]


def without_seconds(report: EvaluationReport) -> dict[str, float]:
    """The values of a report about the set, without times and memory."""
    return {name: value for name, value in report.metrics.items() if not name.startswith("seconds")}


def test_a_trial_draws_its_set_at_some_steps(job: TrialContext, reports: list[Any]) -> None:
    run_trial(job, reports)
    files = sorted((job.trials / "trial_003" / "pictures").iterdir())
    assert [file.name for file in files] == ["000000.png", "000002.png", "000004.png"]
    assert len({file.read_bytes() for file in files}) == 3, "the set changes"


def test_a_trial_killed_between_its_state_and_its_report_has_its_pictures(
    job: TrialContext, reports: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    save, deaths = EvaluatedRun._save_state, list[int]()

    def die(run: EvaluatedRun) -> None:
        save(run)
        if run.loop.outer_step not in deaths:
            deaths.append(run.loop.outer_step)
            raise Killed

    monkeypatch.setattr(EvaluatedRun, "_save_state", die)
    for _ in range(3):
        with pytest.raises(Killed):
            run_trial(job, reports)
    run_trial(job, reports)
    files = sorted((job.trials / "trial_003" / "pictures").iterdir())
    assert deaths == [0, 2, 4] and [file.name for file in files] == ["000000.png", "000002.png", "000004.png"]


def test_a_trial_goes_on_without_its_pictures(
    job: TrialContext, reports: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trial, "draw_images", refuse)
    run_trial(job, reports)
    assert [report.outer_step for report in reports] == [0, 2, 4], "it is no outage either"


def test_an_interrupted_trial_resumes(job: TrialContext, reports: list[Any]) -> None:
    run_trial(job, reports)
    whole = [without_seconds(report) for report in reports]

    def die(report: Report) -> None:
        reports.append(report)
        if isinstance(report, EvaluationReport) and report.outer_step == 2:
            raise SystemExit  # as Tune ends a trial's thread

    reports.clear()
    second = replace(job, trials=job.trials / "second")
    with pytest.raises(SystemExit):
        run_one("trial_003", POINT, second, die)
    run_trial(second, reports)
    curve = {report.outer_step: without_seconds(report) for report in reports}
    assert [curve[step] for step in sorted(curve)] == whole


def test_a_trial_cut_off_after_its_last_step_still_reports(job: TrialContext, reports: list[Any]) -> None:
    run_trial(job, reports)
    best = max(reports, key=lambda report: report.metrics["val_mean_recall"])
    reports.clear()
    run_trial(job, reports)
    assert [report.outer_step for report in reports] == [best.outer_step, 4]
    assert {report.metrics["best_val_mean_recall"] for report in reports} == {best.metrics["best_val_mean_recall"]}


def test_a_trial_cut_off_after_saving_its_best_set_reports_it(job: TrialContext, reports: list[Any]) -> None:
    run_trial(job, reports)
    card = json.loads((job.trials / "trial_003" / "checkpoint" / "best" / "card.json").read_text())
    reports.clear()
    run_trial(job, reports)
    assert (reports[0].outer_step, reports[0].metrics) == (card["outer_step"], card["metrics"])


def test_a_trial_that_fails_reports_why(job: TrialContext, reports: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: Any, **__: Any) -> Any:
        raise DivergedError("distillation diverged at outer step 1", next_command="smaller rates")

    monkeypatch.setattr(trial, "distill", diverge)
    run_trial(job, reports)
    assert reports == [FailureReport("distillation diverged at outer step 1")]
    assert "DivergedError" in (job.trials / "trial_003" / LOG).read_text()
    monkeypatch.setattr(trial, "distill", lambda *_, **__: 1 / 0)
    run_trial(job, reports)
    assert reports[-1] == FailureReport("ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    "outage", [OutageError("s3://bucket: could not be read"), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_trial_outlives_a_short_outage_and_reports_a_long_one(
    job: TrialContext, reports: list[Any], monkeypatch: pytest.MonkeyPatch, outage: Exception
) -> None:
    monkeypatch.setattr(trial, "_PAUSES_S", (0.0, 0.0))
    distill, left = trial.distill, 2

    def cut_off(*values: Any, **named: Any) -> Iterator[Any]:
        nonlocal left
        for evaluation in distill(*values, **named):
            yield evaluation
            if left:
                left -= 1
                raise outage

    monkeypatch.setattr(trial, "distill", cut_off)
    run_trial(job, reports)
    assert not any(isinstance(report, FailureReport | OutageReport) for report in reports)
    assert reports[-1].outer_step == job.study.distillation.outer_steps
    left = 100
    reports.clear()
    run_trial(job, reports, "trial_004")
    assert reports[-1] == OutageReport(trial.reason_of(outage)), "and not that the point is a bad one"


# --- the search, on a toy -----------------------------------------------------------------------------------------


def deadly(log: Path, deaths: int) -> object:
    """Part of a trainable that ends the first processes that load it: those of trials that have not started.

    All of it is local, so that it is sent by value.
    """
    driver = os.getpid()

    class Deadly:
        def __reduce__(self) -> tuple[Callable[[], "Deadly"], tuple[()]]:
            return load, ()

    def load() -> Deadly:
        if os.getpid() != driver:
            with log.open("a+") as file:
                file.write("loaded\n")
                file.seek(0)
                if len(file.readlines()) <= deaths:
                    os._exit(1)
        return Deadly()

    return Deadly()


def make_toy(log: Path, behaviour: str = "", loaded: object = None) -> Callable[..., None]:
    """A trainable that climbs to a height set by its point, and keeps its own checkpoint as a distillation does.

    It is made inside a function so that Ray sends it by value: worker processes do not know this module, and import
    neither torch nor anything else that takes seconds.
    """

    def toy(name: str, point: dict[str, Any], job: Any, report: Any) -> None:
        try:
            run(name, point, job, report)
        finally:
            if behaviour == "slow to end":
                time.sleep(3)
            if behaviour == "die when stopped" and name == "trial_000":
                os._exit(1)

    cards = {step: card_text(outer_step=step) for step in (0, 2, 4)}  # trials cannot import the helpers

    def run(name: str, point: dict[str, Any], job: Any, report: Any) -> None:
        from rayvldd.hyperparameter_search.trial_report import EvaluationReport, FailureReport, OutageReport

        number, folder = int(name[-3:]), job.trials / name / "checkpoint"
        folder.mkdir(parents=True, exist_ok=True)
        state = folder / "state.json"
        step = json.loads(state.read_text()) if state.is_file() else -2
        with log.open("a") as file:
            file.write(f"{name} from {step}\n")
        assert loaded is None or repr(loaded)
        assert "torch" not in sys.modules, "each process of a trial would take five seconds more"
        while step < 4:
            step += 2
            value = 20 - abs(math.log(point["distillation.lr_image"] / 30)) + 0.01 * step
            metrics = {"val_mean_recall": value, "best_val_mean_recall": value, "matching_loss": 1.0}
            (folder / "best").mkdir(exist_ok=True)
            (folder / "best" / "card.json").write_text(json.dumps({**json.loads(cards[step]), "metrics": metrics}))
            state.write_text(json.dumps(step))
            time.sleep(0.05)
            if behaviour == "mixed" and number == 3 and step == 0:
                return report(FailureReport("diverged at 0"))
            if behaviour == "mixed" and number == 1 and step == 0 and log.read_text().count("trial_001") < 2:
                os._exit(1)
            if behaviour == "outage" and number == 1 and step == 2:
                return report(OutageReport("the storage is away"))
            if behaviour == "die":
                os._exit(1)
            report(EvaluationReport(step, metrics))

    return toy


def imports_mlflow_and_wandb(*_: object) -> None:
    pytest.fail("Tune counts callbacks, which takes seconds of each search")


class Toy:
    """A search on the toy in a folder, to be run again and again."""

    def __init__(self, study: Study, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.study, self.root, self.monkeypatch = study, root, monkeypatch
        self.folder, self.log = StudyFolder(root / "study"), root / "log.txt"
        self.shown = StringIO()

    def run(self, behaviour: str = "", interrupted_at: int = -1, loaded: object = None) -> Ledger:
        self.monkeypatch.setattr(tune_adapter, "run_trial", make_toy(self.log, behaviour, loaded))
        self.monkeypatch.setattr(tune_adapter, "limit_gpu_memory", lambda _: None)  # its module imports torch
        self.monkeypatch.setattr("ray.air._internal.usage._count_callbacks", imports_mlflow_and_wandb)
        self.tracker = Tracker(self.root / "tracked", interrupted_at)
        ledger, display = self.folder.ledger(), ProgressDisplay(Console(file=self.shown))
        job: Any = SimpleNamespace(trials=self.folder.trials)
        with self.folder.opened(self.study):
            self.tracker.start_study(self.study, "test")
            run = StudyRun(self.study, ledger, self.tracker, display, None, lambda point: None)  # type: ignore[arg-type]
            try:
                tune_adapter.search(run, job, self.folder)
            except KeyboardInterrupt:
                self.tracker.end_study("interrupted", {}, None)
        gc.collect()  # the actors of a search that was cut off live as long as Tune's controller
        return self.folder.ledger()

    def starts(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def toy(searched: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: None) -> Toy:
    return Toy(with_search(searched, num_trials=8), tmp_path, monkeypatch)


def test_a_search_waits_for_trials_that_are_slow_to_end(toy: Toy) -> None:
    """Tune would wait for two seconds, drop the trial that comes next, and never end."""
    states = toy.run("slow to end").states()
    assert states["finished"] + states["stopped"] == 8 and states["stopped"] > 0
    reasons = [trial.reason for trial in toy.folder.ledger().ended if trial.state == "stopped"]
    assert all(reason.startswith(("no gain", "halved at step")) for reason in reasons)
    assert all(f"; {reason}" in toy.shown.getvalue() for reason in reasons)


def test_a_search_of_trials_that_diverge_die_and_stay_behind(toy: Toy) -> None:
    ledger = toy.run("mixed")
    shown = toy.shown.getvalue()
    assert list(ledger.trials) == [f"trial_00{n}" for n in range(8)]
    assert {t.trial_id: t.reason for t in ledger.ended if t.state == "failed"} == {"trial_003": "diverged at 0"}
    assert "diverged at 0" in shown
    assert toy.starts().count("trial_001 from 0") == 1, "the process that died is followed by one that goes on"
    assert "trial_001: its process died" in shown
    assert ", best so far" in shown
    assert ledger.states()["finished"] >= 1 and ledger.states()["stopped"] >= 1
    for known in [known for known in ledger.ended if known.state != "failed"]:
        assert (known.distilled_set / "card.json").is_file() and not known.checkpoint.exists()
        assert toy.tracker.steps_of(known.trial_id) == [each.outer_step for each in known.evaluations]
        assert (known.state == "finished") == (known.outer_step == 4)
        assert known.trial_id in shown
    assert not toy.folder.tune.exists()
    assert not list(Path.home().glob("ray_results/tune*"))


def test_predictions_of_the_sampler_are_kept_with_the_trials(toy: Toy) -> None:
    toy.study = with_search(toy.study, num_trials=7, num_start_trials=3, sampler="curves", scheduler="none")
    cut = toy.run(interrupted_at=9)
    ledger = toy.run()
    predictions = [trial.prediction for trial in ledger.by_number()]
    assert predictions[0] is None and all(predictions[-2:]), "the model begins after three trials with an evaluation"
    kept = {trial.trial_id: trial.prediction for trial in cut.trials.values()}
    assert all(ledger.trials[name].prediction == prediction for name, prediction in kept.items())
    last = ledger.by_number()[-1]
    assert last.prediction and last.prediction.sd > 0 and 0 < last.prediction.recall < 30
    assert len({tuple(trial.point.values()) for trial in ledger.trials.values()}) == 7


def test_an_interrupted_search_resumes(toy: Toy) -> None:
    cut = toy.run(interrupted_at=7)
    ended = {known.trial_id for known in cut.ended}
    assert cut.running and len(cut.trials) < 8
    ledger = toy.run()
    assert list(ledger.trials) == [f"trial_00{n}" for n in range(8)] and not ledger.running
    check_continued(toy, cut, ledger)
    starts = toy.starts()
    toy.run()
    assert ended and toy.starts() == starts, "a search that is complete starts nothing"


def test_an_outage_ends_the_search_and_no_trial(toy: Toy) -> None:
    with pytest.raises(OutageError, match=r"trial_001: the storage is away(?s:.)*Next: the same command"):
        toy.run("outage")
    cut = toy.folder.ledger()
    assert "trial_001" in [known.trial_id for known in cut.running] and not cut.states()["failed"]
    ledger = toy.run()
    assert not ledger.running and not ledger.states()["failed"] and len(ledger.trials) == 8
    check_continued(toy, cut, ledger)


def test_a_search_ends_when_its_ray_has_died(toy: Toy) -> None:
    def died() -> None:
        if toy.log.is_file() and len(toy.starts()) == 3:
            raise RayvlddError("the raylet has died", next_command="the same command")

    with toy.monkeypatch.context() as patched, pytest.raises(RayvlddError, match="the raylet has died"):
        patched.setattr(tune_adapter, "_LOOK_S", 0.0)
        patched.setattr(tune_adapter, "refuse_dead_ray", died)
        toy.run()
    cut = toy.folder.ledger()
    assert cut.running and not cut.states()["failed"]
    ledger = toy.run()
    assert not ledger.running and len(ledger.trials) == 8
    check_continued(toy, cut, ledger)


def check_continued(toy: Toy, cut: Ledger, ledger: Ledger) -> None:
    """Ended trials did not run again, others were resumed, and nothing is missing or reported twice."""
    starts = toy.starts()
    for known in cut.ended:
        assert sum(line.startswith(known.trial_id) for line in starts) == 1
    for known in cut.running:
        assert ledger.trials[known.trial_id].point == known.point
        assert sum(line == f"{known.trial_id} from -2" for line in starts) == 1 or known.outer_step < 0
    for known in ledger.ended:
        steps = [each.outer_step for each in known.evaluations]
        assert toy.tracker.steps_of(known.trial_id) == steps


def test_a_trial_whose_process_dies_too_often_fails(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_adapter, "_LIVES", 1)
    toy.study = with_search(toy.study, num_trials=1)
    ledger = toy.run("die")
    assert ledger.trials["trial_000"].state == "failed"
    assert ledger.trials["trial_000"].reason.startswith("its process died: ")
    assert ledger.trials["trial_000"].process_died, "which is not the fault of its point"


def test_a_trial_whose_process_dies_before_it_starts_is_started_again(toy: Toy, tmp_path: Path) -> None:
    toy.study = with_search(toy.study, num_trials=1)
    loaded = tmp_path / "loaded.txt"
    ledger = toy.run(loaded=deadly(loaded, deaths=2))
    assert ledger.states() == {"finished": 1, "stopped": 0, "failed": 0}
    assert loaded.read_text() == "loaded\n" * 3 and toy.starts() == ["trial_000 from -2"]
    assert toy.shown.getvalue().count("trial_000: its process died before the trial started") == 2


def test_a_trial_whose_process_never_starts_fails(toy: Toy, tmp_path: Path) -> None:
    toy.study = with_search(toy.study, num_trials=1)
    loaded = tmp_path / "loaded.txt"
    ledger = toy.run(loaded=deadly(loaded, deaths=100))
    assert loaded.read_text() == "loaded\n" * 3
    assert ledger.trials["trial_000"].state == "failed" and ledger.trials["trial_000"].process_died
    assert ledger.trials["trial_000"].reason.startswith("its process died: ")


def test_a_trial_whose_process_dies_with_the_one_before_is_started_again(toy: Toy) -> None:
    """A process goes from a stopped trial to the next one, which has not started until the stopped one has ended."""
    toy.study = with_search(toy.study, num_trials=3, max_concurrent=1, scheduler="none")
    toy.monkeypatch.setattr(Requests, "stops", lambda self, trial_id: trial_id == "trial_000")
    ledger = toy.run("die when stopped")
    assert ledger.states() == {"finished": 2, "stopped": 1, "failed": 0}
    assert toy.starts() == [f"trial_00{number} from -2" for number in range(3)]
    assert toy.shown.getvalue().count("trial_001: its process died before the trial started") == 1


def test_a_search_ends_when_a_further_trial_is_not_worth_it(toy: Toy) -> None:
    toy.study = with_search(
        toy.study, num_trials=8, num_start_trials=3, sampler="curves", scheduler="none", stop_below_gain=1e6
    )
    ledger = toy.run()
    assert 3 <= len(ledger.trials) < 8 and ledger.states()["finished"] == len(ledger.trials), "running ones go on"
    assert f"the search ends after {len(ledger.trials)} of 8 trials" in " ".join(toy.shown.getvalue().split())
    assert len(toy.run().trials) == len(ledger.trials)


def test_other_commands_reach_a_running_search(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """They request a point, the end of a trial, and a pause, while the evaluations of trials arrive."""
    toy.study = with_search(toy.study, num_trials=8, scheduler="none")
    requests, wanted = toy.folder.requests, {**POINT, "distillation.lr_image": 77.0}
    at: dict[str, Callable[[], None]] = {
        "trial_002": lambda: requests.add_point(wanted),
        "trial_003": lambda: requests.add_stop("trial_003"),
        "trial_006": requests.add_pause,
    }
    log_metrics = Tracker.log_metrics

    def log_and_request(self: Tracker, trial_id: str | None, metrics: Mapping[str, float], step: int) -> None:
        log_metrics(self, trial_id, metrics, step)
        at.pop(trial_id or "", lambda: None)()

    monkeypatch.setattr(Tracker, "log_metrics", log_and_request)
    cut = toy.run()
    assert not at and cut.running, "the pause interrupts trials"
    (requested,) = [trial for trial in cut.trials.values() if trial.is_requested]
    # Trial 3 where trial 1 still runs when trial 2 has its first evaluation, else one of those that follow.
    assert requested.point == wanted and requested.number in (3, 4, 5)
    assert (cut.trials["trial_003"].state, cut.trials["trial_003"].outer_step) == ("stopped", 0)
    assert cut.trials["trial_003"].reason == "stopped by rayvldd stop"
    ledger = toy.run()
    assert list(ledger.trials) == [f"trial_00{n}" for n in range(8)] and not ledger.running
    assert sum(trial.state == "stopped" for trial in ledger.trials.values()) == 1
    check_continued(toy, cut, ledger)


def test_the_time_budget_ends_a_search_and_counts_earlier_sessions(toy: Toy) -> None:
    toy.study = with_search(toy.study, num_trials=500, time_budget_s=10.0)
    ledger = toy.run()
    num_before = len(ledger.trials)
    assert num_before < 500 and not ledger.running
    # Not the number of trials: on a busy machine the first trial may end without an evaluation, and is then dropped.
    number = 1 + max((trial.number for trial in ledger.trials.values()), default=-1)
    ledger.start(number, 1, {"distillation.lr_image": 3.0, "distillation.trajectory_matching.syn_steps": 1})
    ledger.add_evaluation(f"trial_{number:03d}", evaluated(2, 1.0, 10.5))
    best = ledger.trials[f"trial_{number:03d}"].checkpoint / "best"
    write_card(best / "card.json", outer_step=2)
    ledger = toy.run()
    assert len(ledger.trials) == num_before + 1 and not ledger.running
    cut_off = ledger.trials[f"trial_{number:03d}"]
    assert cut_off.state == "stopped" and (cut_off.distilled_set / "card.json").is_file()
    assert cut_off.reason == "the search's time was used up"


_DRIVER = """
import sys
sys.path[:0] = {tests!r}
from pathlib import Path
import pytest
from rayvldd.config.study import Study
from rayvldd.runtime.cluster import start_ray
from test_search import Toy
if __name__ == "__main__":
    with start_ray(None, 2):
        Toy(Study.model_validate_json({study!r}), Path({root!r}), pytest.MonkeyPatch()).run()
"""


@pytest.mark.long  # test_killed_study.py kills a whole study three times
@pytest.mark.timeout(240)
def test_a_search_with_a_killed_driver_resumes(toy: Toy) -> None:
    toy.study = with_search(toy.study, num_trials=12)
    folders = [str(Path(__file__).parent), str(ROOT / "tests")]
    source = _DRIVER.format(tests=folders, study=toy.study.model_dump_json(), root=str(toy.root))
    with (toy.root / "driver.txt").open("w") as out:
        driver = subprocess.Popen([sys.executable, "-c", source], stdout=out, stderr=out)
        while driver.poll() is None and len(toy.folder.ledger().ended) < 3:
            time.sleep(0.1)
        driver.kill()
        driver.wait()
    cut = toy.folder.ledger()
    assert 3 <= len(cut.ended) < 12, (toy.root / "driver.txt").read_text()
    ledger = toy.run()
    assert list(ledger.trials) == [f"trial_{n:03d}" for n in range(12)] and not ledger.running
    check_continued(toy, cut, ledger)


# --- preparation, plan, test --------------------------------------------------------------------------------------


def test_every_rank_and_the_largest_number_of_experts_are_made(tiny_study: Study) -> None:
    space = {
        "model.lora.rank": {"type": "choice", "values": [1, 4]},
        "experts.num_experts": {"type": "int", "low": 1, "high": 3},
        "distillation.trajectory_matching.syn_steps": {"type": "int", "low": 1, "high": 4},
    }
    points = expert_points(with_search(tiny_study, space=space))
    assert [point for point, _ in points] == [{"model.lora.rank": 1}, {"model.lora.rank": 4}]
    assert {study.experts.num_experts for _, study in points} == {3}


def test_more_pairs_than_images_are_refused_before_any_trial(
    searched: Study, tiny_cache: Path, quiet: ProgressDisplay
) -> None:
    space = {"distillation.num_pairs": {"type": "int", "low": 2, "high": 41}}
    with pytest.raises(ConfigError, match="num_pairs: requests 41 pairs; allowed: 2 to 40"):
        load_expert_sets(with_search(searched, space=space), tiny_cache, quiet)


def test_experts_are_found_by_point(searched: Study, tiny_cache: Path, quiet: ProgressDisplay) -> None:
    space = {**SPACE, "experts.epochs": {"type": "choice", "values": [1, 2]}}
    sets = load_expert_sets(with_search(searched, space=space), tiny_cache, quiet)
    point = {"experts.epochs": 2, "distillation.lr_image": 5.0, "distillation.trajectory_matching.syn_steps": 1}
    assert value_at(sets.at(point).recipe.settings, "experts", "epochs") == 2
    assert len({known.recipe.key for known in sets}) == 2


def test_certain_sets_are_made_before_the_search(searched: Study, tiny_cache: Path, quiet: ProgressDisplay) -> None:
    """One set is every trial's; of several, those of the first points: the sampler may never come to the others."""
    (only,) = certain_sets(searched, load_expert_sets(searched, tiny_cache, quiet))
    assert only.epochs == frozenset({0, 1, 2})
    space = {**SPACE, "experts.epochs": {"type": "choice", "values": [1, 2]}}
    first = (
        {"experts.epochs": 2, "distillation.trajectory_matching.syn_steps": 1},
        {"distillation.trajectory_matching.syn_steps": 2},
    )
    study = with_search(searched, space=space, initial_points=first)
    asked_for = certain_sets(study, load_expert_sets(study, tiny_cache, quiet))
    assert [known.point for known in asked_for] == [{"experts.epochs": 2}]


def test_the_search_shows_experts_in_training(
    searched: Study, tiny_cache: Path, quiet: ProgressDisplay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {**SPACE, "experts.epochs": {"type": "choice", "values": [1, 2]}}
    study, store = with_search(searched, space=space), store_in(Workspace(tmp_path))
    sets = load_expert_sets(study, tiny_cache, quiet)
    assert experts_in_training(sets, store) == []
    lease = store.acquire(sets.at({"experts.epochs": 2}).recipe, 1, LeaseHolder("a trial"))
    assert lease is not None
    with lease:
        lease.report_progress(1)
        expected = ["expert 1 of epochs=2 at epoch 1 of 2"]
        assert experts_in_training(sets, store) == expected
        shown: list[str] = []
        display = SimpleNamespace(progress=lambda *notes: shown.append(notes[-1]))
        ledger = StudyFolder(tmp_path / "study").ledger()
        run: Any = SimpleNamespace(
            study=study,
            ledger=ledger,
            display=display,
            experts_in_training=lambda: experts_in_training(sets, store),
            side_by_side=None,
        )
        monkeypatch.setattr("rayvldd.hyperparameter_search.recorder._POLL_S", 0.0)
        Recorder(run).poll()
        assert shown == expected


def test_a_store_that_cannot_be_listed_ends_no_search(
    searched: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> list[str]:
        raise OutageError("s3://bucket: S3 answered 503")

    shown = StringIO()
    ledger, display = StudyFolder(tmp_path / "study").ledger(), ProgressDisplay(Console(file=shown))
    monkeypatch.setattr("rayvldd.hyperparameter_search.recorder._POLL_S", 0.0)
    run: Any = SimpleNamespace(study=searched, ledger=ledger, display=display, experts_in_training=away)
    recorder = Recorder(run)
    recorder.poll()
    recorder.poll()
    assert shown.getvalue().count("S3 answered 503") == 1


def test_a_search_shows_that_its_first_processes_start(searched: Study, tmp_path: Path) -> None:
    out = StringIO()
    with ProgressDisplay(Console(file=out, force_terminal=True, width=80)) as display:
        ledger = StudyFolder(tmp_path / "study").ledger()
        run: Any = SimpleNamespace(study=searched, ledger=ledger, display=display, side_by_side=None)
        Recorder(run).begin()
    assert "trials" in out.getvalue() and "processes start" in out.getvalue()


@pytest.mark.parametrize("text", [b"caf\xe9 is no UTF-8", b""])
def test_why_a_process_died_is_told_whatever_its_text_is(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "error.txt").write_bytes(text)
    given: Any = SimpleNamespace(error_file=str(tmp_path / "error.txt"))
    assert tune_adapter._error_of(given).startswith("its process died")
    gone: Any = SimpleNamespace(error_file=str(tmp_path / "gone.txt"))
    assert tune_adapter._error_of(gone) == "its process died"


@pytest.mark.parametrize("part", ["draw_set", "has_drawn_set", "train_inputs"])
def test_a_picture_that_cannot_be_drawn_ends_no_search(
    job: TrialContext, reports: list[Any], tmp_path: Path, part: str
) -> None:
    def fail(*_: Any) -> None:
        raise UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed")

    pictures: Any = SimpleNamespace(draw_set=lambda *_: None, has_drawn_set=lambda _: False)
    if part != "train_inputs":
        setattr(pictures, part, fail)
    inputs: Any = fail if part == "train_inputs" else lambda _: None
    run_trial(job, reports)
    tracker, shown = Tracker(tmp_path / "tracked"), StringIO()
    tracker.start_study(job.study, "rayvldd sweep")
    display = ProgressDisplay(Console(file=shown))
    recorder = Recorder(StudyRun(job.study, Ledger(job.trials), tracker, display, pictures, inputs))
    recorder.start(Proposal("trial_003", 3, POINT))
    recorder.end("trial_003")
    recorder.end_rest()
    assert "trial_003: no pictures of its set" in shown.getvalue()
    assert '"end"' in (tmp_path / "tracked" / "trials" / "trial_003.jsonl").read_text(encoding="utf-8")


def test_the_bar_of_many_trials_names_a_few_and_no_report_looks_at_all_of_them(
    searched: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = with_search(searched, num_trials=100)
    at, read = Study.at, list[Mapping[str, Any]]()

    def noted(self: Study, point: Mapping[str, Any]) -> Study:
        read.append(point)
        return at(self, point)

    monkeypatch.setattr(Study, "at", noted)
    shown: list[tuple[Any, ...]] = []
    display: Any = SimpleNamespace(progress=lambda *bar: shown.append(bar))
    tracker = FolderTracker(tmp_path / "tracking")
    tracker.start_study(study, "rayvldd sweep")
    ledger = StudyFolder(tmp_path / "study").ledger()
    recorder = Recorder(StudyRun(study, ledger, tracker, display, None, lambda _: None))  # type: ignore[arg-type]
    trials = [f"trial_{number:03d}" for number in range(20)]
    for number, name in enumerate(trials):
        recorder.start(Proposal(name, number, POINT))
    del shown[:], read[:]
    for name in trials:
        recorder.evaluation(name, EvaluationReport(2, {"val_mean_recall": 5.0}))
    assert len(shown) < 20 and len(ledger.running) == 20 and not read
    monkeypatch.setattr("rayvldd.hyperparameter_search.recorder._SHOW_S", 0.0)
    recorder.evaluation(trials[19], EvaluationReport(4, {"val_mean_recall": 5.0}))
    what, ended, total, note = shown[-1]
    assert (what, ended, total) == ("trials", 0, 100)
    assert note.startswith("#0 50%, #1 50%") and "#7 50%, 12 more, best 5.00" in note and "#8" not in note


def test_the_bar_promises_no_more_time_than_the_budget_has(searched: Study, tmp_path: Path) -> None:
    def last_note(budget: float | None) -> str:
        study = with_search(searched, num_trials=100, time_budget_s=budget, max_concurrent=1)
        ledger, shown = StudyFolder(tmp_path / str(budget)).ledger(), list[tuple[Any, ...]]()
        ledger.start(0, 1, {})
        for step, seconds in ((0, 0.0), (2, 900.0)):
            ledger.add_evaluation("trial_000", evaluated(step, 5.0, seconds=seconds))
        run: Any = SimpleNamespace(
            study=study,
            ledger=ledger,
            display=SimpleNamespace(progress=lambda *bar: shown.append(bar)),
            side_by_side=None,
        )
        Recorder(run)._show()
        return str(shown[-1][-1])

    assert re.search(r", about \d\d h \d\d min left$", last_note(None)), "a hundred trials of half an hour"
    assert last_note(940.5).endswith(", about 40 s left")
    assert last_note(800).endswith(", about 0 s left")


class SlowPictures:
    """Draws after a signal to continue, unless it fails before."""

    def __init__(self, dies: bool = False) -> None:
        self.dies, self.go_on, self.drawn = dies, threading.Event(), list[str]()

    def draw_set(self, folder: Path, train: SplitInputs) -> None:
        self.go_on.wait()
        if not self.dies:
            self.drawn.append(folder.parents[1].name)
            (folder / "picture").touch()

    def has_drawn_set(self, folder: Path) -> bool:
        return (folder / "picture").is_file()

    def draw_study(self, folder: Path, trials: list[Trial]) -> None:
        raise AssertionError("no study has ended")


def test_pictures_are_drawn_while_the_next_trial_begins(
    job: TrialContext, reports: list[Any], quiet: ProgressDisplay, tmp_path: Path
) -> None:
    def recorder_with(pictures: SlowPictures) -> Recorder:
        tracker = Tracker(tmp_path / "tracked")
        tracker.start_study(job.study, "rayvldd sweep")
        inputs: Any = lambda point: None  # noqa: E731 - SlowPictures does not look at it
        return Recorder(StudyRun(job.study, Ledger(job.trials), tracker, quiet, pictures, inputs))

    run_trial(job, reports)
    pictures = SlowPictures(dies=True)
    recorder = recorder_with(pictures)
    recorder.start(Proposal("trial_003", 3, POINT))
    recorder.end("trial_003")
    assert [one.trial_id for one in recorder.run.ledger.ended] == ["trial_003"], "and no picture is there"
    recorder.start(Proposal("trial_004", 4, POINT))
    recorder.poll()
    record = tmp_path / "tracked" / "trials" / "trial_003.jsonl"
    assert '"end"' not in record.read_text(encoding="utf-8"), "it waits for the pictures"
    pictures.go_on.set()
    recorder.close_drawn(wait=True)
    assert '"end"' in record.read_text(encoding="utf-8")

    pictures = SlowPictures()
    pictures.go_on.set()
    recorder = recorder_with(pictures)
    left = recorder.run.ledger.trials["trial_003"].checkpoint
    left.mkdir()  # the sweep may also have died before it removed that
    recorder.resend_ended()
    recorder.end_rest()
    assert not left.exists()
    assert pictures.drawn == ["trial_003"], "where the sweep died before they were there, the next one draws them"


def test_a_set_keeps_the_epochs_that_some_point_reaches(searched: Study) -> None:
    space = {**SPACE, "distillation.trajectory_matching.max_start_epoch": {"type": "int", "low": 1, "high": 3}}
    study = with_search(searched, space=space).model_copy(
        update={"experts": searched.experts.model_copy(update={"epochs": 9, "keep_epochs": "reached"})}
    )
    assert epochs_of(study, study.at({})) == frozenset({0, 1, 2, 3})
    assert epochs_of(study, study.at({"experts.epochs": 2})) == frozenset({0, 1, 2})
    every = study.model_copy(update={"experts": study.experts.model_copy(update={"keep_epochs": "all"})})
    assert epochs_of(every, every.at({})) == frozenset(range(10))


def test_a_trial_makes_missing_experts(job: TrialContext, reports: list[Any]) -> None:
    for file in Path(job.store.uri.removeprefix("file://")).rglob("*"):
        if file.is_file():
            file.unlink()
    run_trial(job, reports)
    made = [without_seconds(report) for report in reports]
    ((key, _),) = job.store.sets()
    assert job.store.indexes(key) == [0, 1]
    assert not [name for name in job.store.storage.names(key) if "/leases/" in name or "/epochs/" in name]
    run_trial(replace(job, trials=job.trials / "again"), reports)
    assert [without_seconds(report) for report in reports[len(made) :]] == made


def test_the_plan_lists_existing_and_missing_experts(searched: Study, tmp_path: Path) -> None:
    planned = plan(searched, Workspace(tmp_path), store_in(Workspace(tmp_path)))
    assert planned.expert_sets == [PlannedExperts(point={}, experts=2, existing=0, epochs=2)]
    assert planned.trials.total == 4 and planned.trials.ended == 0
    assert planned.storage.study == str(tmp_path / "studies" / "tiny")
    assert not list(tmp_path.iterdir()), "a plan writes nothing"
    text = describe_plan(planned)
    assert "1 set, 2 in all, 2 to make" in text and "4, 2 at a time" in text
    json.dumps(planned.as_json())


def test_the_plan_knows_experts_that_fit_and_no_others(job: TrialContext, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert plan(job.study, workspace, job.store).expert_sets[0].existing == 2
    other = job.study.model_copy(update={"experts": job.study.experts.model_copy(update={"lr_text": 0.2})})
    assert plan(other, workspace, job.store).expert_sets[0].existing == 0


def test_the_summary_of_a_test() -> None:
    def student(value: float) -> RetrievalMetrics:
        return RetrievalMetrics(*[value] * 6)

    tried = tuple(
        TriedRecipe(recipe=recipe, val_mean_recall=10.0 * place)
        for place, recipe in enumerate(recipes_of(EvaluationSettings())[:2])
    )
    choice = FullDataChoice(key="", tried=tried)
    rate = ChosenRate(learning_rate=0.1, val_mean_recall=5.0, num_rates=3)
    random, over_random = [student(5.0), student(7.0)], Difference(mean=10.0, interval=None)
    found = summary([[student(15.0), student(17.0)]], random, [student(20.0)], choice, rate, over_random)
    assert found.over_random == over_random
    assert found.random_rate == rate and found.full_data_recipe == choice.best
    assert found.mean_recall == pytest.approx(16) and found.text_to_image_r10 == pytest.approx(16)
    assert found.random_mean_recall == pytest.approx(6) and found.full_data_mean_recall == pytest.approx(20)
    assert found.share_of_full_data == pytest.approx(0.8) and found.num_students == 2
    assert found.interval is None and found.interval_over == "students", "two students are too few"
    sets = [[student(15.0), student(17.0)], [student(21.0), student(19.0)], [student(18.0), student(18.0)]]
    several = summary(sets, [student(5.0)], [student(20.0)], choice)
    assert several.mean_recall == pytest.approx(18)
    assert several.interval == recall_interval([16.0, 20.0, 18.0]) and several.interval_over == "sets"
    assert (several.num_sets, several.num_students) == (3, 2)
    assert [of_set.mean_recall for of_set in several.sets] == pytest.approx([16.0, 20.0, 18.0])


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (600, "10 min"), (7500, "2 h 05 min")])
def test_times_as_people_say_them(seconds: float, text: str) -> None:
    assert time_as_text(seconds) == text


def test_the_display_prints_plain_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    with (tmp_path / "out.txt").open("w") as out, ProgressDisplay(Console(file=out, width=40)) as display:
        display.progress("trials", 1, 4, "best [1]")
        display.line("a line that is longer than the console is wide, [kept] as it is")
        display.done()
    text = (tmp_path / "out.txt").read_text()
    assert text == "a line that is longer than the console is wide, [kept] as it is\n"


def test_a_line_describes_an_ended_trial(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.start(0, 1, {"distillation.lr_image": 12.3456, "distillation.initialisation.images": "real"})
    ledger.add_evaluation("trial_000", evaluated(20, 17.256))
    ledger.end("trial_000", "failed", "diverged")
    line = line_of_trial(ledger.trials["trial_000"])
    assert line == ("trial_000  failed    val mean recall 17.26 at step 20  lr_image=12.3, images=real; diverged")


# --- a real study -------------------------------------------------------------------------------------------------


def looks_at_test(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits of the evaluations of chosen sets from here on; the first one is interrupted before it."""
    looks: list[str] = []
    evaluate, kills = final_evaluation.score_in_parallel, [True]

    def counted(*args: Any) -> list[StudentScores]:
        if kills and kills.pop():
            raise KeyboardInterrupt
        looks.append(args[3])
        return evaluate(*args)

    monkeypatch.setattr(final_evaluation, "score_in_parallel", counted)
    return looks


def actors_taken_over(monkeypatch: pytest.MonkeyPatch) -> list[tuple[type, int]]:
    """The kind of each run of work that may take over actors of the run before, and how many it takes, from here on."""
    taken: list[tuple[type, int]] = []
    employ = _ActorPool.employ

    def noted(pool: _ActorPool[Any], actors: list[Any]) -> None:
        taken.append((type(pool._items[0]), len(actors)))
        employ(pool, actors)

    monkeypatch.setattr(_ActorPool, "employ", noted)
    return taken


@pytest.mark.timeout(600)
def test_a_study_from_end_to_end_in_several_sessions(
    tiny_study: Study,
    tmp_path: Path,
    local_ray: None,
    quiet: ProgressDisplay,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rayvldd.reports.illustrator import Pictures

    study, workspace = with_search(tiny_study, num_trials=3, num_finalists=2, finalist_seeds=2), Workspace(tmp_path)
    looks, taken_over = looks_at_test(monkeypatch), actors_taken_over(monkeypatch)
    trackers: list[Tracker] = []

    def session(interrupted_at: int = -1, study: Study = study, reopens: bool = False) -> Any:
        trackers.append(Tracker(tmp_path / "tracked", interrupted_at))
        return sweep(
            study,
            workspace,
            ExpertStore(FolderStorage(workspace.experts)),
            trackers[-1],
            display=quiet,
            illustrator=Pictures(),
            reopens=reopens,
        )

    with pytest.raises(KeyboardInterrupt) as caught:
        session(interrupted_at=3)
    del caught
    gc.collect()
    made = {file: file.stat().st_mtime_ns for file in workspace.experts.rglob("*.safetensors")}
    with pytest.raises(KeyboardInterrupt) as caught:
        session()  # up to the test, which the next one begins with
    assert StudyFolder(workspace.study("tiny")).choice.is_file() and not looks
    (first, none), (second, some), *_ = taken_over
    assert first is _FinalistJob and not none, "the first run of work after the search"
    assert second is not _FinalistJob and some, "the test begins with the processes of the finalists"
    del caught
    gc.collect()
    result = session()
    assert made and made == {file: file.stat().st_mtime_ns for file in workspace.experts.rglob("*.safetensors")}
    check_result(result.outcome.as_json(), workspace, study)
    assert result.is_new and len(result.trials) == 3 and looks == ["test"]

    again = session()
    assert not again.is_new and again.outcome == result.outcome and looks == ["test"], "test is looked at once"
    StudyFolder(workspace.study("tiny")).result_file.unlink()
    third = session()
    assert third.outcome.test == result.outcome.test and looks == ["test"]
    assert [tracker.was_ending for tracker in trackers] == [False] * 4 + [True], (
        "the last one continues an ended record"
    )

    unchanged = session(reopens=True)
    assert not unchanged.is_new and looks == ["test"], "it has neither more trials nor more time"
    more = with_search(tiny_study, num_trials=4, num_finalists=2, finalist_seeds=2)
    with pytest.raises(ConfigError, match=r"search.num_trials.*is 3 there, 4 here"):
        session(study=more)
    fourth = session(study=more, reopens=True)
    assert len(fourth.trials) == 4 and fourth.trials[:3] == third.trials and looks == ["test", "test"]
    assert fourth.outcome.test_evaluations == 2 and not trackers[-1].was_ending
    kept = StudyFolder(workspace.study("tiny")).earlier_results / "1"
    assert StudyOutcome.read(kept / "result.json").test == third.outcome.test
    assert len(DistilledSet.load(kept / "best")) == third.outcome.num_pairs


def store_in(workspace: Workspace) -> ExpertStore:
    return ExpertStore(FolderStorage(workspace.experts))


def check_result(values: dict[str, Any], workspace: Workspace, study: Study) -> None:
    best, tested = values["best"], values["test"]
    assert sum(values["trials"].values()) == 3 and values["trials"]["failed"] == 0
    assert set(best["config"]) == set(SPACE)
    folder = StudyFolder(workspace.study(study.name))
    check_finalists(values, folder)
    assert values["num_train_images"] == 40
    assert values["made"]["machine"] == f"2 CPUs ({processor_name()})"
    assert tested["num_students"] == 2 and tested["interval"] is None, "two sets are too few"
    assert tested["over_random"]["mean"] == pytest.approx(tested["mean_recall"] - tested["random_mean_recall"])
    assert tested["share_of_full_data"] == pytest.approx(tested["mean_recall"] / tested["full_data_mean_recall"])
    assert set(values["seconds"]) == {"prepare", "experts", "search", "finalists", "test", "total"}
    files = {file.name for file in Path(values["distilled_set"]).iterdir()}
    assert {"before_after.jpg", "nearest_captions.jsonl", "recall_by_outer_step.png", "result.json"} <= files
    check_student(values, folder, study, workspace)
    for one in folder.ledger().ended:
        drawn = [each.outer_step for each in one.evaluations if one.picture(each.outer_step).is_file()]
        assert drawn == [each.outer_step for each in one.evaluations], "three at most"
    json.dumps(values)


def check_student(values: dict[str, Any], folder: StudyFolder, study: Study, workspace: Workspace) -> None:
    """The kept student is the first one of the best set in the test evaluation."""
    kept = KeptStudent(folder.student)
    assert kept.card.seed == values["seeds"]["test_students"][0]
    task = load_at(study, workspace.cache, **values["best"]["config"])
    recall = score(task, kept._parameters, task.test).mean_recall
    assert recall == pytest.approx(values["test"]["students"]["distilled"][0])


def check_finalists(values: dict[str, Any], folder: StudyFolder) -> None:
    best, ledger = values["best"], folder.ledger()
    first, second = values["finalists"]
    shown = sorted((t.best.recall for t in ledger.ended if t.best), reverse=True)
    assert [row["search_val_mean_recall"] for row in (first, second)] == shown[:2]
    winner = max(first, second, key=lambda row: row["val_mean_recall"])
    assert (best["trial_id"], best["val_mean_recall"]) == (winner["trial_id"], winner["val_mean_recall"])
    assert len({one["seed"] for row in (first, second) for one in row["sets"]}) == 4
    delivered = max(winner["sets"], key=lambda one: one["val_mean_recall"])
    chosen = DistilledSet.load(values["distilled_set"])
    assert torch.equal(chosen.images, DistilledSet.load(folder.finalists / delivered["name"] / "distilled_set").images)
    assert best["outer_step"] == delivered["outer_step"] == chosen.origin.outer_step
    assert values["test"]["num_sets"] == 2 and values["test_evaluations"] == 1
    assert values["test"]["interval"] is None, "two sets are too few for an interval"
    assert not list(folder.finalists.rglob("checkpoint"))


def test_a_study_with_only_failed_trials_reports_the_reasons(
    searched: Study, tmp_path: Path, local_ray: None, quiet: ProgressDisplay, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path)
    ledger = StudyFolder(workspace.study("tiny")).ledger()
    for number in range(4):
        ledger.start(number, 1, {"distillation.lr_image": 3.0, "distillation.trajectory_matching.syn_steps": 1})
        ledger.end(f"trial_00{number}", "failed", f"reason {number}")
    monkeypatch.setattr("rayvldd.hyperparameter_search.stages.make_missing_experts", lambda *_: 0)
    with pytest.raises(RayvlddError, match="none of its 4 trials made a distilled set") as caught:
        sweep(
            searched,
            workspace,
            ExpertStore(FolderStorage(workspace.experts)),
            Tracker(tmp_path / "tracked"),
            display=quiet,
        )
    assert all(f"trial_00{number}: reason {number}" in str(caught.value) for number in range(4))
