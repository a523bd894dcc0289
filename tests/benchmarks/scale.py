"""Experts and trials an hour on clusters of 1 to 8 nodes, against an ideal actor pool, and the CPU time of the driver.

    python tests/benchmarks/scale.py                        all figures, half an hour on two cores or more
    python tests/benchmarks/scale.py --only NAME,NAME       some of them
    python tests/benchmarks/scale.py --nodes 8              on clusters of that size alone
    python tests/benchmarks/scale.py --json                 one JSON object on standard output, the rest aside

The nodes are Ray's own processes on one machine (``ray.cluster_utils.Cluster``), of one CPU each, and a head of none.
Training is replaced by sleeps; all else is what a user runs, with the ledger, MLflow and pictures. 8 nodes have 20
experts and 64 trials to do; fewer nodes have fewer in proportion, so that each node's work, and thereby the ideal, is
the same at every size. The ideal gives a node its next piece at once, from the moment when the node's own worker was
ready; a node without a piece left is idle in it, too: 20 experts on 8 nodes are three rounds. Readiness is
distinguished (``…_worker_start_s``): it is the import of torch and the loading of the task, once a process, and here
the processes of all nodes do that on the same few cores at the same time.

How long is the sleep? As short as is honest: what a piece costs besides its sleep is the same however long that is, so
the efficiency of real experts and trials, of minutes to hours, is higher than the one that is measured.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from figures import Row, as_json, figures_parser, measured, named, print_rows

if TYPE_CHECKING:
    from scale_cluster import Nodes, Scaling

EXPERT_S, TRIAL_S = 24.0, 24.0
"""Seconds of sleep of one expert, and of one trial. Real ones take minutes at the least."""


@dataclass(frozen=True)
class Conditions:
    """How large it is, and where."""

    folder: Path
    sizes: tuple[int, ...]
    """Numbers of nodes, small ones first."""
    tiny: bool

    @cached_property
    def nodes(self) -> "Nodes":
        """The cluster, which the figures share."""
        from scale_cluster import Nodes

        return Nodes()

    def close(self) -> None:
        """End the cluster, if there is one."""
        if "nodes" in vars(self):
            self.nodes.close()


def experts_efficiency_8(conditions: Conditions) -> Iterator[Row]:
    """The actor pool makes experts into an empty store, whose epochs are kept one by one."""
    from scale_cluster import sleeping_experts

    for size in conditions.sizes:
        conditions.nodes.resize(size)
        number, seconds = (size, 0.5) if conditions.tiny else (-(-20 * size // 8), EXPERT_S)
        found = sleeping_experts(conditions.folder, size, number, seconds, conditions.tiny)
        yield from _rows("experts", found, seconds)


def trials_efficiency_8(conditions: Conditions) -> Iterator[Row]:
    """The search of the command ``sweep``: Tune, TPE, the ledger, MLflow, and pictures of each trial's set."""
    from scale_cluster import sleeping_trials

    for size in reversed(conditions.sizes):  # the cluster has grown already
        conditions.nodes.resize(size)
        number, seconds = (size, 0.5) if conditions.tiny else (8 * size, TRIAL_S)
        found = sleeping_trials(conditions.folder, size, number, seconds, conditions.tiny)
        yield from _rows("trials", found, seconds)


def _rows(what: str, found: "Scaling", seconds: float) -> Iterator[Row]:
    size, number = found.num_nodes, len(found.spells)
    goal = 0.9 if size == 8 else None
    requested = f"{number} {what} of {seconds:g} s on {size} nodes"
    yield Row(f"{what}_an_hour_{size}", f"{requested}, from the first worker's readiness on", found.an_hour)
    yield Row(f"{what}_efficiency_{size}", "ideal ÷ measured seconds, whole rounds", found.efficiency, goal, True)
    yield Row(f"{what}_throughput_{size}", "seconds slept ÷ seconds that ready nodes had", found.throughput)
    yield Row(f"{what}_efficiency_all_in_{size}", "whole rounds ÷ the wall clock, workers' start in", found.all_in)
    yield Row(f"{what}_worker_start_s_{size}", "mean seconds until a node's worker was ready", found.worker_start_s)
    yield Row(f"{what}_driver_cpu_{size}", "CPU seconds of the driver a second", found.driver_cpu)
    yield Row(f"{what}_driver_s_{size}", f"the same for one of the {what}", found.driver_cpu_s / number)
    yield Row(f"{what}_machine_cpu_{size}", "share of all cores that was busy, whoever it was", found.machine_cpu)
    yield Row(
        f"{what}_load_average_{size}", "processes that were waiting for a core in the minute before", found.load_average
    )


def driver_costs(conditions: Conditions) -> Iterator[Row]:
    """What the one driver does for a report and a trial, as trials side by side and trials known grow; and a claim."""
    from scale_driver import beat_seconds, mlflow_seconds, pictures_seconds, report_seconds, suggest_seconds

    abreast, known = ((2, 4), (10, 20)) if conditions.tiny else ((8, 1000), (1000, 5000))
    for number in abreast:
        what = f"CPU milliseconds of the driver for a report, {number} trials side by side"
        yield Row(f"report_ms_{number}", what, 1e3 * report_seconds(conditions.folder / f"reports_{number}", number))
    for number in known:
        what = f"CPU milliseconds of TPE for a point, {number} trials known"
        yield Row(f"suggest_ms_{number}", what, 1e3 * suggest_seconds(number))
    trials = 2 if conditions.tiny else 20
    what = "seconds that the one writer to MLflow's SQLite takes for a trial of 7 reports"
    yield Row("mlflow_trial_s", what, mlflow_seconds(conditions.folder / "mlflow", trials))
    pairs, captions = (2, 10) if conditions.tiny else (100, 145_000)
    what = f"CPU seconds of the driver for the pictures of {pairs} pairs of 224 px beside {captions} captions"
    yield Row("pictures_s", what, pictures_seconds(conditions.folder / "pictures", pairs, captions))
    yield Row(
        "claim_beat_ms", "milliseconds of one beat of a claim, on this disk", 1e3 * beat_seconds(conditions.folder)
    )


FIGURES: dict[str, Callable[[Conditions], Iterator[Row]]] = named(
    experts_efficiency_8, trials_efficiency_8, driver_costs
)


def _sizes(text: str) -> tuple[int, ...]:
    sizes = sorted({int(part) for part in text.split(",")})
    if sizes[0] < 1:
        raise argparse.ArgumentTypeError(f"a cluster of {sizes[0]} nodes; allowed: 1 and more")
    return tuple(sizes)


def main() -> None:
    """Measure, print."""
    parser = figures_parser(__doc__, FIGURES)
    parser.add_argument("--nodes", type=_sizes, help="sizes of clusters, with commas between; default: 1,2,4,8")
    arguments = parser.parse_args()
    sizes = arguments.nodes or ((1, 2) if arguments.tiny else (1, 2, 4, 8))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        conditions = Conditions(Path(folder), sizes, arguments.tiny)
        try:
            found = measured(FIGURES, arguments.only, conditions)
            rows = print_rows(found, sys.stderr if arguments.json else sys.stdout)
        finally:
            conditions.close()
    if arguments.json:
        print(as_json(rows, "cpu"))


if __name__ == "__main__":
    main()
