"""Runs real distillations at points spread over a study's search space and keeps what each reached, by outer step.

    python tests/benchmarks/record_responses.py STUDY --workspace WORKSPACE --out TABLE --runs 160 [--set KEY=VALUE]

``search.py`` replays such a table; the command that made the one beside it is in its first line. A run is one line:
its point, and for each evaluation the outer step, the seconds until then, and the recall that a trial would report.
Seconds are those of the process on its core, so other work on the machine enters little. At the steps of
``--compare-at`` every fourth run has beside it the recalls of cheaper evaluations of the same set, students x epochs,
and of the full one, whose students have seeds of their own; these do not count in the run's seconds. A run that
diverged gives the reason.

The first points are the study's own, the others a scrambled Sobol sequence. Ctrl-C keeps finished runs, and the same
command goes on; with a larger ``--runs`` it adds to them.
"""

import argparse
import json
import shlex
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import torch
from figures import machine
from pydantic.main import IncEx
from recorded_responses import Table

from rayvldd.config.domains import SettingValue
from rayvldd.config.loading import load_study
from rayvldd.config.study import Study
from rayvldd.data.array_cache import ArrayCache
from rayvldd.distillation.evaluations import EvaluationResult
from rayvldd.distillation.loop import StepReport, distill
from rayvldd.errors import DivergedError, without_next_command
from rayvldd.evaluation.students import evaluate_pairs, mean_of
from rayvldd.experts.get_or_make import ExpertRequest, get_or_make
from rayvldd.experts.recipe import expert_recipe, expert_training
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.experts.trajectory import Trajectory
from rayvldd.hyperparameter_search.optuna_samplers import suggest
from rayvldd.hyperparameter_search.optuna_trials import typed_point
from rayvldd.hyperparameter_search.preparation import epochs_of
from rayvldd.models.retrieval_task import RetrievalTask, load_task
from rayvldd.randomness import StudentPurpose, sampler_seed, student_seeds
from rayvldd.storage.atomic import write_text_whole
from rayvldd.storage.folder import FolderStorage

PROXIES = ((1, 15), (1, 30), (2, 30))
"""Students and epochs of the cheaper evaluations."""
FULL = (5, 100)
"""Students and epochs of the full evaluation, those of Wu et al."""
_FULL_PURPOSE = StudentPurpose.FINALISTS
"""Students of the full evaluation share no seed with those of validation (0) and test (1)."""
_COMPARED = 4
"""Evaluations are compared in one of this number of runs: the full one takes as long as a third of a run."""
MACHINES_OWN: dict[str, IncEx | bool] = {
    "data": {"root"},
    "model": {"image_encoder": {"weights"}, "text_encoder": {"name"}},
}
"""Settings with the locations of files, which are not kept."""


def spread_points(study: Study, number: int) -> list[dict[str, SettingValue]]:
    """The study's initial points and, after them, a scrambled Sobol sequence over its space; rates of four digits."""
    space = study.space
    points = [typed_point(point, space.domains) for point in study.initial_points()]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.QMCSampler(
            seed=sampler_seed(study.seed, 0), scramble=True, warn_independent_sampling=False
        )
    sequence = optuna.create_study(sampler=sampler)
    while len(points) < number:
        trial = sequence.ask()
        points.append({key: _rounded(value) for key, value in suggest(trial, space).items()})
        sequence.tell(trial, 0.0)
    return points[:number]


def _rounded(value: SettingValue) -> SettingValue:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def kept_settings(study: Study) -> dict[str, Any]:
    """Description of the study in the first line of the table."""
    return study.model_dump(mode="json", exclude={"name": True, "resources": True, **MACHINES_OWN})


class Clock:
    """The process's seconds on its core that a run takes, and what of them its evaluations take."""

    def __init__(self) -> None:
        self.seconds = self.seconds_evaluating = 0.0
        self._began = self._stepped = time.process_time()

    def step_taken(self, report: StepReport) -> None:
        """What comes after the last step, up to the stop, is the evaluation."""
        self._stepped = time.process_time()

    def stop(self) -> None:
        """An evaluation, or the run, has ended."""
        now = time.process_time()
        self.seconds += now - self._began
        self.seconds_evaluating += now - self._stepped

    def go_on(self) -> None:
        """Begin to count again."""
        self._began = self._stepped = time.process_time()


class Recorder:
    """RetrievalTask and experts, which all runs share, and the file with finished runs."""

    def __init__(self, study: Study, workspace: Path, out: Path, compare_at: Sequence[int], command: str) -> None:
        self.study, self.out, self.compare_at = study, out, set(compare_at)
        point = study.at(study.first_point())
        self.task: RetrievalTask = load_task(point.data, point.model, ArrayCache(workspace / "cache"), device="cpu")
        self.trajectories: list[Trajectory] = []
        if study.requires_experts:
            indexes = tuple(range(study.experts.num_experts))
            recipe = expert_recipe(point, self.task.fingerprints)
            request = ExpertRequest(recipe, expert_training(point), indexes, epochs_of(study, point))
            self.trajectories = get_or_make(self.task, request, ExpertStore(FolderStorage(workspace / "experts")))
        self._head = {
            "command": command,
            "machine": machine("cpu"),
            "full": f"{FULL[0]}x{FULL[1]}",
            "study": kept_settings(study),
        }

    def finished_runs(self) -> int:
        """Open the file, or make it; returns how many runs it holds. A line that was cut off is dropped.

        Raises:
            SystemExit: where it holds runs of another study.
        """
        if not self.out.is_file():
            self._append(self._head)
        whole, _, cut_off = self.out.read_text(encoding="utf-8").rpartition("\n")
        if cut_off:
            write_text_whole(self.out, f"{whole}\n")
        head, *runs = whole.splitlines()
        if kept_settings(Table(json.loads(head), []).study) != self._head["study"]:
            sys.exit(f"{self.out} holds runs of a study with other settings\nNext: the same command with another --out")
        return len(runs)

    def record(self, number: int, point: Mapping[str, SettingValue]) -> dict[str, Any]:
        """Run one distillation to its end and keep it."""
        row: dict[str, Any] = {"run": number, "point": dict(point), "failed": "", "evaluations": [], "compared": []}
        clock, seed = Clock(), self.study.trial_seed(number)
        at_point = self.study.at(point)
        try:
            for evaluation, timed in self.evaluations(at_point, seed, clock):
                row["evaluations"].append(timed)
                if number % _COMPARED == 0 and evaluation.outer_step in self.compare_at:
                    row["compared"].append(self._comparison(at_point, evaluation))
        except DivergedError as error:
            row["failed"] = without_next_command(error)
        clock.stop()
        row["seconds"] = round(clock.seconds, 3)
        self._append(row)
        return row

    def evaluations(
        self, at_point: Study, seed: int, clock: Clock
    ) -> Iterator[tuple[EvaluationResult, dict[str, float]]]:
        """Run a distillation as far as requested; the time between its evaluations is not measured."""
        clock.go_on()
        for evaluation in distill(at_point, self.task, self.trajectories, seed, on_step=clock.step_taken):
            clock.stop()
            timed = {
                "outer_step": evaluation.outer_step,
                "seconds": round(clock.seconds, 3),
                "seconds_evaluating": round(clock.seconds_evaluating, 3),
                "val_mean_recall": round(evaluation.metrics["val_mean_recall"], 4),
            }
            yield evaluation, timed
            clock.go_on()

    def _comparison(self, at_point: Study, evaluation: EvaluationResult) -> dict[str, Any]:
        """Recalls of one set by the cheaper evaluations and by the full one, and the seconds that each took."""
        values: dict[str, Any] = {"outer_step": evaluation.outer_step}
        ways = {
            f"{students}x{epochs}": (student_seeds(at_point.seed, students), epochs) for students, epochs in PROXIES
        }
        full = student_seeds(at_point.seed, FULL[0], _FULL_PURPOSE), FULL[1]
        for name, (seeds, epochs) in {**ways, "full": full}.items():
            began = time.process_time()
            changed = at_point.evaluation.model_copy(update={"epochs": epochs})
            scores = evaluate_pairs(self.task, evaluation.distilled_set.pairs(self.task), self.task.val, changed, seeds)
            values[name] = round(mean_of(scores).mean_recall, 4)
            values[f"{name}_seconds"] = round(time.process_time() - began, 3)
        return values

    def _append(self, row: Mapping[str, Any]) -> None:
        with self.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def main() -> None:
    """Run the missing points, and print the progress."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--workspace", type=Path, default=Path("rayvldd_workspace"), help="for cache and experts")
    parser.add_argument("--out", type=Path, required=True, help="the table")
    parser.add_argument("--runs", type=int, default=160, help="runs in the table when this is done")
    parser.add_argument("--compare-at", type=int, nargs="*", help="outer steps at which evaluations are compared")
    options = parser.parse_args()
    torch.set_num_threads(1)
    study = load_study(options.study, options.set)
    compare_at = options.compare_at or [study.distillation.outer_steps]
    overrides = " ".join(f"--set {shlex.quote(override)}" for override in options.set)
    steps = " ".join(map(str, compare_at))
    command = (
        f"python tests/benchmarks/record_responses.py {options.study} --workspace WORKSPACE --out TABLE {overrides}"
    )
    recorder = Recorder(study, options.workspace, options.out, compare_at, f"{command} --compare-at {steps}")
    points = spread_points(study, options.runs)
    for number in range(recorder.finished_runs(), options.runs):
        row = recorder.record(number, points[number])
        last = row["evaluations"][-1]
        recall = row["failed"] or f"{last['val_mean_recall']:.2f} at outer step {last['outer_step']}"
        print(f"run {number + 1} of {options.runs}: {row['seconds']:.1f} s, {recall}", flush=True)


if __name__ == "__main__":
    main()
