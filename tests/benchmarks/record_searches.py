"""Runs real searches over a recorded study, one after the other, and keeps what each of their trials reached.

    python tests/benchmarks/record_searches.py STUDY --table TABLE --workspace WORKSPACE --out SEARCHES --until 330

Points that are spread over a space lie too far apart to answer for one another where a search closes in. So here the
searcher and the scheduler of the study meet real distillations: as many workers as it has in simulated time, each trial
as far as the scheduler lets it go, every search until it has spent a number of trial-seconds. ``search.py`` replays
them beside the table of ``record_responses.py``, with whose seconds they can be compared: before each search one of the
table's best runs is made again, another one each time. It shows how much slower the machine is than the table's was
(``pace``), by which the seconds of the search are divided. It has to begin as it began then; where it ends is another
matter, because processors round differently and that grows to a point of recall in 36 outer steps.

A line is a trial: the seed of its search, its point, its evaluations, and whether the scheduler stopped it or the
search was over (``stopped``). Ctrl-C keeps finished searches, and the same command goes on.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from figures import machine
from record_responses import MACHINES_OWN, Clock, Recorder
from recorded_responses import DEFAULT_TABLE, Table
from search_replay import Replay

from rayvldd.config.domains import SettingValue
from rayvldd.config.loading import load_study
from rayvldd.config.study import Study
from rayvldd.distillation.evaluations import EvaluationResult
from rayvldd.errors import DivergedError, without_next_command

_PACERS = 10
"""Best runs of the table that measure the machine's speed, in turns."""
_BEGINNING = 3
"""Evaluations at which it has to be the same run."""
_SAME_RECALL = 0.5
"""How far it may be from itself on another processor by then; 0.1 was seen, and 1.2 at the end."""


@dataclass
class LiveRun:
    """A distillation that runs as far as requested."""

    point: dict[str, SettingValue]
    clock: Clock
    coming: Iterator[tuple[EvaluationResult, dict[str, float]]]
    pace: float = 1.0
    failed: str = ""
    rows: list[dict[str, float]] = field(default_factory=list)
    has_ended: bool = False

    def has(self, number: int) -> bool:
        """Whether it comes to an evaluation of this number, which is made if need be."""
        while len(self.rows) <= number and not self.has_ended:
            try:
                self.rows.append(next(self.coming)[1])
            except (StopIteration, DivergedError) as end:
                self.failed = "" if isinstance(end, StopIteration) else without_next_command(end)
                self.has_ended = True
                self.clock.stop()
        return len(self.rows) > number

    @property
    def outer_steps(self) -> list[int]:
        """Those of the evaluations so far."""
        return [int(row["outer_step"]) for row in self.rows]

    @property
    def seconds(self) -> list[float]:
        """From the start until each evaluation so far, on the machine of the table."""
        return [round(row["seconds"] / self.pace, 3) for row in self.rows]

    @property
    def val_mean_recalls(self) -> list[float]:
        """Results of the evaluations so far."""
        return [row["val_mean_recall"] for row in self.rows]

    @property
    def seconds_in_all(self) -> float:
        """All that it took so far, on the machine of the table."""
        return round(self.clock.seconds / self.pace, 3)

    def as_row(self, seed: int) -> dict[str, Any]:
        """The trial as a line of the file."""
        timed = ("seconds", "seconds_evaluating")
        rows = [{**row, **{name: round(row[name] / self.pace, 3) for name in timed}} for row in self.rows]
        return {
            "seed": seed,
            "point": self.point,
            "failed": self.failed,
            "evaluations": rows,
            "seconds": self.seconds_in_all,
            "stopped": not self.has_ended,
            "pace": self.pace,
        }


class LiveAnswers:
    """Distillations that are run when a search requests them."""

    def __init__(self, recorder: Recorder, pace: float) -> None:
        self._recorder, self._pace = recorder, pace
        self.runs: list[LiveRun] = []

    def nearest(self, point: Mapping[str, SettingValue]) -> LiveRun:
        """The distillation at this very point."""
        self.runs.append(live_run(self._recorder, point, len(self.runs), self._pace))
        return self.runs[-1]


def live_run(recorder: Recorder, point: Mapping[str, SettingValue], number: int, pace: float = 1.0) -> LiveRun:
    """A distillation that has not begun."""
    clock = Clock()
    seed = recorder.study.trial_seed(number)
    return LiveRun(dict(point), clock, recorder.evaluations(recorder.study.at(point), seed, clock), pace)


def pace_of(recorder: Recorder, table: Table, turn: int) -> float:
    """How much slower than the table's machine this one is.

    Raises:
        SystemExit: where a run of the table does not repeat.
    """
    best = sorted(range(len(table.responses)), key=lambda number: -table.responses[number].best)
    number = best[turn % min(_PACERS, len(best))]
    recorded, run = table.responses[number], live_run(recorder, table.responses[number].point, number)
    run.has(sys.maxsize)
    beginnings = zip(run.val_mean_recalls[:_BEGINNING], recorded.val_mean_recalls, strict=False)
    if any(abs(here - there) > _SAME_RECALL for here, there in beginnings):
        sys.exit(f"run {number} of the table does not repeat here\nNext: record_responses.py with another --out")
    return round(run.seconds_in_all / recorded.seconds_in_all, 4)


def record_search(recorder: Recorder, table: Table, seed: int, until: float) -> list[dict[str, Any]]:
    """Run the search of one seed; returns its trials."""
    answers = LiveAnswers(recorder, pace_of(recorder, table, seed))
    Replay(answers, table.study.model_copy(update={"seed": seed})).run(until)
    return [run.as_row(seed) for run in answers.runs]


def _finished_seeds(out: Path, head: Mapping[str, Any]) -> set[int]:
    """The searches that the file holds; it is made if there is none."""
    if not out.is_file():
        out.write_text(json.dumps(head) + "\n", encoding="utf-8")
    known, *rows = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    if known["until"] != head["until"]:
        sys.exit(f"{out} holds searches of {known['until']} trial-seconds\nNext: the same command with another --out")
    return {row["seed"] for row in rows}


def _keep(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with out.open("a", encoding="utf-8") as file:  # in one piece: a search that was cut off is run again
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def settings_of_runs(study: Study) -> dict[str, Any]:
    """What decides a run at a point, on every machine."""
    return study.model_dump(mode="json", exclude={"name": True, "resources": True, "search": True, **MACHINES_OWN})


def main() -> None:
    """Run the searches that are missing, and print their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--table", type=Path, default=DEFAULT_TABLE, help="the recorded runs of the same study")
    parser.add_argument("--workspace", type=Path, default=Path("rayvldd_workspace"), help="for cache and experts")
    parser.add_argument("--out", type=Path, required=True, help="the file with the searches")
    parser.add_argument("--seeds", type=int, default=20, help="searches in the file when this is done")
    parser.add_argument("--until", type=float, required=True, help="trial-seconds after which each of them ends")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table.load(options.table)
    study = load_study(options.study, [])
    if settings_of_runs(study) != settings_of_runs(table.study):
        parser.error(f"--table {options.table}: holds runs of other settings; allowed: that of the same study")
    recorder = Recorder(study, options.workspace, options.table, (), "")
    command = (
        f"python tests/benchmarks/record_searches.py {options.study} --table {options.table} --workspace WORKSPACE "
        f"--out SEARCHES --seeds {options.seeds} --until {options.until:g}"
    )
    head = {"command": command, "machine": machine("cpu"), "until": options.until}
    done = _finished_seeds(options.out, head)
    pace_of(recorder, table, 0)  # the process's first run takes longer
    for seed in range(options.seeds):
        if seed not in done:
            rows = record_search(recorder, table, seed, options.until)
            _keep(options.out, rows)
            best = max(each["val_mean_recall"] for row in rows if not row["failed"] for each in row["evaluations"])
            print(f"search {seed}: {len(rows)} trials, {best:.2f}, pace {rows[0]['pace']:.2f}", flush=True)


if __name__ == "__main__":
    main()
