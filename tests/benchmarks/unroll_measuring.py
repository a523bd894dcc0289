"""Seconds and bytes: two runs against each other in one process, and a run's peak memory in a process of its own."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from peak_memory import peak_bytes, peak_in_fresh_process
from unroll_cases import SIZES, build_case, outer_step

Run = Callable[[], Any]


def seconds(run: Run, device: str) -> float:
    """Of processor time; on a GPU of time until it has finished."""
    if device == "cuda":
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return time.perf_counter() - begin
    begin = time.process_time()
    run()
    return time.process_time() - begin


def fastest(runs: dict[str, Run], rounds: int, device: str) -> dict[str, float]:
    """The shortest of ``rounds`` times of each, taken in turns: a machine that slows down slows all of them."""
    for run in runs.values():  # compiles, and touches memory for the first time
        run()
    times = [{name: seconds(run, device) for name, run in runs.items()} for _ in range(rounds)]
    return {name: min(taken[name] for taken in times) for name in runs}


@dataclass(frozen=True)
class MemoryJob:
    """One outer step whose peak memory is measured."""

    case: str
    """A name in ``SIZES``."""
    steps: int
    device: str
    engine: dict[str, Any] = field(default_factory=dict)

    def peak_in_fresh_process(self, script: Path) -> int:
        """Bytes above what was there before the step, measured by ``script --measure-memory``."""
        return peak_in_fresh_process(script, json.dumps(asdict(self)), num_threads=torch.get_num_threads())

    def measure(self) -> int:
        """Take the step here, in a process in which nothing else was done, and return its peak in bytes.

        The step is the first one: what torch loads for it counts in small and in large cases alike.
        """
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        case = build_case(SIZES[self.case], self.device)
        return peak_bytes(outer_step(case, self.steps, engine=self.engine), self.device)
