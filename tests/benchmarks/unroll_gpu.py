"""The engine and the full unroll at full size: seconds, peak memory, and how many steps fit.

On a GPU this is nfnet_l0 at 224 px with 100 pairs; with the size ``tiny`` it runs anywhere, so that it can be tested.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from figures import Row
from peak_memory import peak_bytes
from unroll_cases import SIZES, Case, build_case, forget, full_unroll, outer_step
from unroll_measuring import Run, seconds

BUDGET_GB = 80.0

_Form = Callable[[Case, int, bool], Run]


def _engine(**engine: Any) -> _Form:
    return lambda case, steps, autocast: outer_step(case, steps, engine={**engine, "autocast": autocast})


FORMS: dict[str, _Form] = {
    "engine": _engine(),
    "sweep": _engine(graph_budget_gb=0, parameter_checkpoints="offload"),
    "micro_batches": _engine(graph_budget_gb=0, parameter_checkpoints="offload", micro_batch=25),
    "full_unroll": lambda case, steps, autocast: full_unroll(case, steps, autocast),
}
"""``engine`` is the default of a study: half of the free memory keeps graphs."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    size: str
    steps: tuple[int, ...]
    most_steps: int
    """Number of steps at which the search for the largest one ends."""
    seconds: float
    """From then on nothing new is begun."""


FULL_SIZE = Plan("nfnet", (8, 32), 128, 540.0)
TINY = Plan("tiny", (1, 2), 4, 60.0)


def gpu_report(plan: Plan, device: str, compiled: bool) -> Iterator[Row]:
    """A row for every form, precision and number of steps."""
    end = time.monotonic() + plan.seconds
    if device == "cuda":  # a larger GPU is made as small as the figure requires
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, BUDGET_GB * 1e9 / total))
    case = build_case(SIZES[plan.size], device)
    for precision in ("bf16", "float32"):
        for name, form in FORMS.items():
            for steps in plan.steps:
                yield from _time_and_peak(f"{name}_{precision}", form, case, steps, device, end)
    for precision in ("bf16", "float32"):
        for name in ("full_unroll", "sweep"):
            yield _largest(f"{name}_{precision}", FORMS[name], case, plan.most_steps, device, end)
    if compiled:  # last, as it may take minutes
        form = _engine(graph_budget_gb=0, compile=True)
        yield from _time_and_peak("compiled_sweep_bf16", form, case, plan.steps[0], device, end)


def _time_and_peak(name: str, form: _Form, case: Case, steps: int, device: str, end: float) -> Iterator[Row]:
    taken = peak = None
    if time.monotonic() < end:
        run = form(case, steps, "bf16" in name)
        try:
            peak = max(0, peak_bytes(run, device)) / 1e9  # a tiny step may give back more than it takes
            taken = seconds(run, device)
        except torch.OutOfMemoryError:
            pass
        forget()
    yield Row(f"gpu_{name}_{steps}_seconds", f"{name}, syn_steps {steps}: seconds an outer step", taken)
    yield Row(f"gpu_{name}_{steps}_peak_gb", f"{name}, syn_steps {steps}: peak GB above model and set", peak)


def _largest(name: str, form: _Form, case: Case, most: int, device: str, end: float) -> Row:
    """Double until it does not fit, then halve the distance; 0 is that not even one step fits."""
    fits, fails = 0, None
    while time.monotonic() < end and fits < most and (fails is None or fails - fits > 1):
        steps = max(1, 2 * fits) if fails is None else (fits + fails) // 2
        try:
            form(case, steps, "bf16" in name)()
            fits = steps
        except torch.OutOfMemoryError:
            fails = steps
        forget()
    more = "" if fails is not None and fails - fits == 1 else " at least (not searched further)"
    return Row(f"gpu_{name}_largest_syn_steps", f"{name}: largest syn_steps in {BUDGET_GB:.0f} GB{more}", float(fits))
