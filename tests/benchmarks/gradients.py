"""What exactness buys: recall after distilling with the exact gradient and with TESLA's, each at its own best rates.

    python tests/benchmarks/gradients.py search_spaces/flickr8k_cpu.yaml --workspace WORKSPACE [--json]

The learned step sizes start in inverse proportion to the number of synthetic steps, so that all students begin with
trajectories of one length. For every number of steps and both gradients, a common factor on ``lr_image`` and
``lr_text`` is chosen on validation with one seed; the chosen factor is then run with fresh seeds. TESLA's outer steps
are cheaper, so it is scored twice: after as many outer steps as the exact gradient, and after as many seconds. Every
finished run is written to ``--results`` and not repeated. The experts must be in the workspace: ``rayvldd experts
STUDY`` makes them.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t

from rayvldd.config.loading import load_study
from rayvldd.config.study import Study
from rayvldd.data.array_cache import ArrayCache
from rayvldd.distillation.loop import OuterLoop
from rayvldd.errors import DivergedError, without_next_command
from rayvldd.evaluation.students import evaluate_pairs, mean_of
from rayvldd.experts.recipe import expert_recipe
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.retrieval_task import RetrievalTask, load_task
from rayvldd.randomness import student_seeds
from rayvldd.storage.folder import FolderStorage

GRADIENTS = ("exact", "tesla")


@dataclass(frozen=True)
class Cell:
    """One run, by the settings in which runs differ."""

    gradient: str
    syn_steps: int
    factor: float
    seed: int

    @property
    def key(self) -> str:
        """Its name in the results file."""
        return f"{self.gradient} {self.syn_steps} x{self.factor:g} seed {self.seed}"


class Bench:
    """The task, its experts, and the runs so far."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        study = load_study(options.study, options.set)
        self.point: Study = study.at(study.first_point())
        self.task: RetrievalTask = load_task(
            self.point.data, self.point.model, ArrayCache(options.workspace / "cache"), device=options.device
        )
        store = ExpertStore(FolderStorage(options.workspace / "experts"))
        recipe = expert_recipe(self.point, self.task.fingerprints)
        self.trajectories: list[Trajectory] = [store.load(recipe, n) for n in range(self.point.experts.num_experts)]
        self.results: dict[str, dict[str, Any]] = {}
        if options.results.is_file():
            self.results = {row["key"]: row for row in map(json.loads, options.results.read_text().splitlines())}

    def run(self, cell: Cell) -> dict[str, Any]:
        """Recall after the common number of outer steps, and after the seconds that the exact gradient takes for it."""
        if cell.key not in self.results:
            row = {"key": cell.key, **self._run(cell)}
            self.results[cell.key] = row
            with self.options.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
        return self.results[cell.key]

    def _run(self, cell: Cell) -> dict[str, Any]:
        settings = self.point.distillation
        point = self.point.at(
            {
                "distillation.trajectory_matching.gradient": cell.gradient,
                "distillation.trajectory_matching.syn_steps": cell.syn_steps,
                "distillation.lr_image": settings.lr_image * cell.factor,
                "distillation.lr_text": settings.lr_text * cell.factor,
                "distillation.lr_student_image": self.options.path / cell.syn_steps,
                "distillation.lr_student_text": self.options.path / cell.syn_steps,
            }
        )
        loop, steps = OuterLoop(point, self.task, self.trajectories, cell.seed), self.options.outer_steps
        row: dict[str, Any] = {"recall_at_steps": None, "recall_at_seconds": None, "seconds": None}
        budget = None if cell.gradient == "exact" else self._seconds_of_exact(cell)
        seconds = 0.0
        try:
            while loop.outer_step < steps or (budget is not None and seconds < budget):
                started = time.process_time()
                loop.step()
                seconds += time.process_time() - started
                if loop.outer_step == steps:
                    row |= {"recall_at_steps": self._recall(point, loop), "seconds": seconds}
            row["recall_at_seconds"] = row["recall_at_steps"] if budget is None else self._recall(point, loop)
            row["outer_steps_in_seconds"] = loop.outer_step
        except DivergedError as error:
            row["diverged"] = without_next_command(error)
        return row

    def _seconds_of_exact(self, cell: Cell) -> float:
        """Seconds of the exact gradient for the common outer steps at a number of synthetic steps; measured once."""
        known = [
            row["seconds"]
            for key, row in self.results.items()
            if key.startswith(f"exact {cell.syn_steps} x") and row["seconds"] is not None
        ]
        return statistics.median(known) if known else 0.0

    def _recall(self, point: Study, loop: OuterLoop) -> float:
        seeds = student_seeds(point.seed, self.options.students)
        return mean_of(
            evaluate_pairs(self.task, loop.distilled_set().pairs(self.task), self.task.val, point.evaluation, seeds)
        ).mean_recall

    def chosen_factor(self, gradient: str, syn_steps: int) -> float:
        """The factor of the best recall on validation, with the search's own seed."""
        cells = [Cell(gradient, syn_steps, factor, self.options.search_seed) for factor in self.options.factors]
        return max(cells, key=lambda cell: self.run(cell)["recall_at_seconds"] or 0.0).factor

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row for each number of synthetic steps and gradient."""
        for syn_steps in self.options.syn_steps:
            for gradient in GRADIENTS:
                factor = self.chosen_factor(gradient, syn_steps)
                runs = [self.run(Cell(gradient, syn_steps, factor, seed)) for seed in self.options.seeds]
                yield {
                    "syn_steps": syn_steps,
                    "gradient": gradient,
                    "factor": factor,
                    "seconds_an_outer_step": _mean([run["seconds"] for run in runs]) / self.options.outer_steps,
                    "at_steps": _summary([run["recall_at_steps"] for run in runs]),
                    "at_seconds": _summary([run["recall_at_seconds"] for run in runs]),
                    "diverged": sum("diverged" in run for run in runs),
                }


def _mean(values: list[float | None]) -> float:
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present else float("nan")


def _summary(values: list[float | None]) -> dict[str, float]:
    """Mean and the half width of its 95 % interval over seeds; runs that diverged are counted apart."""
    present = [value for value in values if value is not None]
    if len(present) < 2:
        return {"mean": _mean(values), "half_width": float("nan")}
    spread = statistics.stdev(present) / len(present) ** 0.5
    return {"mean": _mean(values), "half_width": spread * float(t.ppf(0.975, len(present) - 1))}


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--workspace", type=Path, default=Path("rayvldd_workspace"))
    parser.add_argument("--results", type=Path, default=Path("gradients.jsonl"), help="finished runs, kept")
    parser.add_argument("--syn-steps", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--factors", type=float, nargs="+", default=[0.3, 1.0, 3.0, 10.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--search-seed", type=int, default=100)
    parser.add_argument("--path", type=float, default=0.8, help="synthetic steps times their first step size")
    parser.add_argument("--outer-steps", type=int, default=40)
    parser.add_argument("--students", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    print(
        f"{'steps':>5}  {'gradient':8}  {'factor':>6}  {'s/step':>6}  {'equal outer steps':>18}  {'equal seconds':>18}"
    )
    for row in Bench(options).rows():
        rows.append(row)
        recalls = [f"{row[name]['mean']:6.2f} ± {row[name]['half_width']:4.2f}" for name in ("at_steps", "at_seconds")]
        diverged = f"  {row['diverged']} diverged" if row["diverged"] else ""
        print(
            f"{row['syn_steps']:5}  {row['gradient']:8}  {row['factor']:6g}  {row['seconds_an_outer_step']:6.2f}  "
            f"{recalls[0]:>18}  {recalls[1]:>18}{diverged}",
            flush=True,
        )
    if options.json:
        machine = {"processor": platform.processor() or platform.machine(), "threads": options.threads}
        print(json.dumps({"machine": machine, "figures": rows}))


if __name__ == "__main__":
    main()
