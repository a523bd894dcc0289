"""Compare the engine's gradient with the full unroll: memory, time, error.

    python tests/benchmarks/unroll.py                       all figures, about half an hour on one core
    python tests/benchmarks/unroll.py --only NAME,NAME      some of them
    python tests/benchmarks/unroll.py --gpu-report          seconds, memory and most steps at full size, on a GPU

Times are ratios of processor time, both sides taken in turns in one process, best of several. Memory is the peak of
one outer step in a process of its own, above model, synthetic set and segment. Needs torch, timm and peft.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests/helpers

from figures import Row, figures_parser, measured, named, print_figures
from unroll_cases import FAMILIES, SIZES, Size, build_case, forget, full_unroll, outer_step, relative_error
from unroll_gpu import FULL_SIZE, TINY, gpu_report
from unroll_measuring import MemoryJob, Run, fastest

MODELS = {"vit_lora": "ViT-tiny LoRA", "resnet18": "ResNet18-GN"}
STEPS_TIMED = 8
IN_MEMORY = {"graph_budget_gb": 100.0}
SWEEP = {"graph_budget_gb": 0.0}


@dataclass(frozen=True)
class Conditions:
    """Where and how carefully figures are measured."""

    device: str
    compile: bool
    rounds: int
    tiny: bool


def memory_growth_vit_lora(conditions: Conditions) -> Iterator[Row]:
    """Steps of the reverse sweep, wherever the parameter vectors wait."""
    yield from _growth_in_steps("vit_lora", ("memory", "offload", "recompute"), conditions, 1.15)


def memory_growth_resnet18(conditions: Conditions) -> Iterator[Row]:
    """Both ways that do not keep every parameter vector in memory."""
    yield from _growth_in_steps("resnet18", ("offload", "recompute"), conditions, 1.25)


def _growth_in_steps(model: str, kinds: Sequence[str], conditions: Conditions, to_reach: float) -> Iterator[Row]:
    growths = []
    for kind in kinds:
        engine = {**SWEEP, "parameter_checkpoints": kind}
        one, many = (_peak(MemoryJob(model, steps, conditions.device, engine)) for steps in (1, 32))
        growths.append(many / one)
        what = f"peak memory, syn_steps 32 ÷ 1, {MODELS[model]}, parameter_checkpoints: {kind}; {_megabytes(one, many)}"
        yield Row(f"memory_growth_{model}_{kind}", what, growths[-1])
    yield Row(f"memory_growth_{model}", "the best of these", min(growths), to_reach)


def memory_growth_pairs(conditions: Conditions) -> Iterator[Row]:
    """Micro-batches: what grows with the pairs is three times the pixels, so larger parts hide more of it."""
    growths = []
    for part in (25, 50):
        engine = {**SWEEP, "micro_batch": part}
        few, many = (_peak(MemoryJob(f"vit_lora_{n}_pairs", 4, conditions.device, engine)) for n in (100, 400))
        growths.append(many / few)
        what = f"peak memory above model and set, 400 pairs ÷ 100, micro_batch {part}, ViT-tiny LoRA; "
        yield Row(f"memory_growth_pairs_{part}", what + _megabytes(few, many), growths[-1])
    yield Row("memory_growth_pairs", "the better of these", min(growths), 1.3)


def _peak(job: MemoryJob) -> int:
    return job.peak_in_fresh_process(Path(__file__).resolve())


def _megabytes(small: int, large: int) -> str:
    return f"{small / 1e6:.0f} to {large / 1e6:.0f} MB"


def time_in_memory(conditions: Conditions) -> Iterator[Row]:
    """All graphs kept."""
    worst = 0.0
    for name, title in MODELS.items():
        ratios = _ratios_to_full_unroll(name, {"kept": IN_MEMORY}, conditions)
        yield Row(f"time_in_memory_{name}", f"outer step ÷ full unroll, all graphs kept, {title}", ratios["kept"])
        worst = max(worst, ratios["kept"])
    yield Row("time_in_memory", "the worse of both", worst, 1.0)


def time_reverse_sweep(conditions: Conditions) -> Iterator[Row]:
    """No graph kept: compiled or not, whichever is faster with a model."""
    worst = 0.0
    for name, title in MODELS.items():
        engines = {"eager": SWEEP, **({"compiled": {**SWEEP, "compile": True}} if conditions.compile else {})}
        ratios = _ratios_to_full_unroll(name, engines, conditions)
        for kind, ratio in ratios.items():
            what = f"outer step ÷ full unroll, reverse sweep, {kind}, {title}"
            yield Row(f"time_reverse_sweep_{name}_{kind}", what, ratio)
        best = min(ratios.values())
        yield Row(f"time_reverse_sweep_{name}", "the better of these", best)
        worst = max(worst, best)
    yield Row("time_reverse_sweep", "the worse of both models", worst, 1.05)


def _ratios_to_full_unroll(name: str, engines: dict[str, dict[str, float]], conditions: Conditions) -> dict[str, float]:
    case = build_case(SIZES[name], conditions.device)
    runs: dict[str, Run] = {"full": full_unroll(case, STEPS_TIMED)}
    runs |= {kind: outer_step(case, STEPS_TIMED, engine=engine) for kind, engine in engines.items()}
    times = fastest(runs, conditions.rounds, conditions.device)
    forget()
    return {kind: times[kind] / times["full"] for kind in engines}


def heads_only_growth(conditions: Conditions) -> Iterator[Row]:
    """The frozen encoder runs once there and once back, however many steps follow."""
    case = build_case(SIZES["heads_only"], conditions.device)
    engines = {"eager": {}, **({"compiled": {**SWEEP, "compile": True}} if conditions.compile else {})}
    runs: dict[str, Run] = {
        f"{kind} {steps}": outer_step(case, steps, engine=engine)
        for kind, engine in engines.items()
        for steps in (1, 16)
    }
    times = fastest(runs, conditions.rounds, conditions.device)
    growths = {kind: times[f"{kind} 16"] / times[f"{kind} 1"] for kind in engines}
    for kind, growth in growths.items():
        what = f"heads_only: outer step, syn_steps 16 ÷ 1, MobileNet at 96 px, 100 pairs, {kind}"
        yield Row(f"heads_only_growth_{kind}", what, growth)
    yield Row("heads_only_growth", "the better of these", min(growths.values()), 1.3)


def gradient_error(conditions: Conditions) -> Iterator[Row]:
    """Every family of encoders, every way to compute."""
    worst = 0.0
    for name, size in FAMILIES.items():
        if conditions.tiny and name not in ("convnet", "heads_only"):
            continue
        case = build_case(size, conditions.device, torch.float64)
        expected = full_unroll(case, 3)()
        error = max(
            relative_error(outer_step(case, 3, engine=engine)(), expected)
            for engine in (IN_MEMORY, SWEEP, {"micro_batch": 2})
        )
        yield Row(f"gradient_error_{name}", f"largest error of the gradient, float64, {name}", error)
        worst = max(worst, error)
        forget()
    yield Row("gradient_error", "the largest of these", worst, 1e-12)


def gradient_error_tesla(conditions: Conditions) -> Iterator[Row]:
    """The two-pass form as released, against the exact gradient."""
    errors = []
    for step_size in (0.002, 0.01, 0.03):
        size = Size(SIZES["vit_lora"].model, 64, pairs=8, step_sizes=(step_size, step_size))
        case = build_case(size, conditions.device)
        for steps in (4, 8, 32):
            exact, tesla = (outer_step(case, steps, engine=SWEEP, gradient=kind)() for kind in ("exact", "tesla"))
            errors.append(relative_error(tesla, exact))
            name = f"gradient_error_tesla_{step_size}_{steps}"
            yield Row(name, f"the same for TESLA as released, step size {step_size}, syn_steps {steps}", errors[-1])
    yield Row("gradient_error_tesla", "the largest of these", max(errors))


FIGURES = named(
    gradient_error,
    gradient_error_tesla,
    memory_growth_vit_lora,
    memory_growth_resnet18,
    memory_growth_pairs,
    heads_only_growth,
    time_in_memory,
    time_reverse_sweep,
)


def _arguments() -> argparse.Namespace:
    parser = figures_parser(__doc__, FIGURES)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="times each run is timed")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--gpu-report", action="store_true", help="in place of the figures, under 10 minutes on a GPU")
    parser.add_argument("--measure-memory", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, print."""
    arguments = _arguments()
    if arguments.measure_memory:
        print(MemoryJob(**json.loads(arguments.measure_memory)).measure())
        return
    torch.set_num_threads(arguments.threads)
    found = "cuda" if torch.cuda.is_available() else "cpu"
    device = found if arguments.device == "auto" else arguments.device
    conditions = Conditions(device, arguments.compile, arguments.rounds, arguments.tiny)
    if arguments.gpu_report:
        rows_measured = gpu_report(TINY if arguments.tiny else FULL_SIZE, device, arguments.compile)
    else:
        rows_measured = measured(FIGURES, arguments.only, conditions)
    print_figures(rows_measured, device, as_object=arguments.json)


if __name__ == "__main__":
    main()
