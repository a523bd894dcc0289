"""What a GPU does with the engine: seconds, memory, what fits, experts, students, energy. No Ray, no network.

    python tests/benchmarks/gpu.py --minutes 25 --json      on a GPU; writes gpu.json and gpu.md into --out
    python tests/benchmarks/gpu.py --tiny --device cpu      few numbers on small models, to test the script

Pictures are drawn, weights are random. Parts are measured in the order of their importance until the minutes are over;
what did not fit in memory or in the time is empty. On ``--device pretend`` the CPU computes, and the waits for the
device are counted.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests/helpers

from figures import Row, machine, print_rows
from helpers import pretend_device
from helpers.tasks import distillation_settings, encoder
from unroll_cases import (
    Case,
    Size,
    batches_of,
    build_case,
    forget,
    full_unroll,
    matching_from,
    outer_step,
    relative_error,
)
from unroll_measuring import Run, peak_bytes, seconds

from rayvldd.config.methods.trajectory_matching import TrajectoryMatchingSettings
from rayvldd.config.settings import EvaluationSettings, ToyScenesData
from rayvldd.data.dataset import Split
from rayvldd.data.toy_scenes import draw_split
from rayvldd.distillation.unroll.inner_loop import InnerLoop
from rayvldd.evaluation.scoring import score
from rayvldd.evaluation.students import Pairs, train_student, train_students_stacked
from rayvldd.models.device_options import DeviceOptions
from rayvldd.models.gpus import compute_in_float32, tf32
from rayvldd.models.retrieval_task import RetrievalTask, SplitInputs
from rayvldd.models.text_encoder import HashedNgrams
from rayvldd.tracking.machine_use import MachineEnergy
from rayvldd.training.real_batches import RealEpoch
from rayvldd.training.sgd import SgdSettings, TrainingBatch, train_on_batches
from rayvldd.training.stacked import StackedBatch, train_stacked


@dataclass(frozen=True)
class Plan:
    """Models, and how much is measured."""

    encoders: dict[str, dict[str, Any]]
    """Settings of each model's image side; the first one is that of the published times."""
    image_size: int
    text_width: int
    pairs: tuple[int, ...]
    steps: tuple[int, ...]
    most: tuple[int, int]
    """Where the searches for the most steps and the most pairs end."""
    batch: int
    """Pairs in a batch of an expert."""
    expert_batches: int
    """Batches that are timed."""
    student_epochs: int


FULL_SIZE = Plan(
    {
        "nfnet": {"protocol": "full_image_encoder", "image_encoder": encoder("nfnet_l0")},
        "vit_lora": {"protocol": "lora", "image_encoder": encoder("vit_base_patch16_224")},
        "resnet50_heads": {"protocol": "heads_only", "image_encoder": encoder("resnet50")},
    },
    image_size=224,
    text_width=768,
    pairs=(100, 500),
    steps=(8, 32),
    most=(512, 4000),
    batch=128,
    expert_batches=20,
    student_epochs=100,
)
_CONVNET = encoder("convnet_d3", img_size=16, width=4)
TINY = Plan(
    {
        "nfnet": {"protocol": "full_image_encoder", "image_encoder": _CONVNET},
        "vit_lora": {
            "protocol": "lora",
            "image_encoder": _CONVNET,
            "lora": {"targets": ["blocks.0", "blocks.4"], "rank": 2},
        },
        "resnet50_heads": {"protocol": "heads_only", "image_encoder": _CONVNET},
    },
    image_size=16,
    text_width=16,
    pairs=(4,),
    steps=(1, 2),
    most=(2, 4),
    batch=4,
    expert_batches=2,
    student_epochs=2,
)
EXPERT_BATCHES_OF_FLICKR30K = 10 * -(-29_000 // 128)
"""Ten epochs of 29,000 images, one caption each, in batches of 128."""
STUDENTS = 5
MEMORY_GB = 70.0
"""The largest steps and pairs are searched within it."""


class Bench:
    """The plan on a device, until its end."""

    def __init__(self, plan: Plan, device: str, minutes: float) -> None:
        self.plan, self.device, self.end = plan, device, time.monotonic() + 60 * minutes
        self.pixels, captions = draw_split(
            ToyScenesData(source="toy_scenes", image_size=plan.image_size, num_train=max(plan.pairs)), "train"
        )
        self.captions = [of_image[0] for of_image in captions]
        self.embeddings = HashedNgrams(plan.text_width).embed(self.captions).numpy()

    @property
    def is_over(self) -> bool:
        """Whether nothing new is begun."""
        return time.monotonic() >= self.end

    def case(self, name: str, pairs: int, dtype: torch.dtype = torch.float32) -> Case:
        """A model, a set of drawn pictures and a segment; pictures repeat if there are too few."""
        plan = self.plan
        size = Size(plan.encoders[name], plan.image_size, pairs, plan.text_width)
        case, chosen = build_case(size, self.device, dtype), np.arange(pairs) % len(self.pixels)
        images = torch.from_numpy(self.pixels[chosen]).to(self.device)
        texts = torch.from_numpy(self.embeddings[chosen]).to(self.device, dtype)
        return replace(case, images=case.model.normalise(images.to(dtype) / 255), texts=texts)

    def task(self, name: str, case: Case) -> RetrievalTask:
        """The same model with the drawn pictures as every split."""
        split = Split("train", self.captions, self.pixels, self.captions, np.arange(len(self.captions)))
        images: np.ndarray = self.pixels
        if case.model.encoder_is_frozen:
            with torch.no_grad():
                images = case.model.frozen_part(self.case(name, len(self.pixels)).images).cpu().numpy()
        inputs = SplitInputs(split, images, self.embeddings)
        return RetrievalTask(case.model, inputs, inputs, inputs, {}, torch.device(self.device))

    def measured(self, run: Callable[[], Run]) -> tuple[float | None, float | None]:
        """Seconds of a second run, and peak GB of it; None if it does not fit in memory or in the time."""
        if self.is_over:
            return None, None
        try:
            ready = run()
            ready()  # compiles, and touches memory for the first time
            peak = max(0, peak_bytes(ready, self.device)) / 1e9
            return seconds(ready, self.device), peak
        except torch.OutOfMemoryError:
            return None, None
        finally:
            forget()

    def fits(self, run: Callable[[], Run]) -> bool:
        """Whether a run fits in memory."""
        try:
            run()()
            return True
        except torch.OutOfMemoryError:
            return False
        finally:
            forget()

    def most(self, fits: Callable[[int], bool], first: int, last: int) -> int:
        """The largest number that fits, to one eighth: doubled until it does not, then halved between."""
        good, bad = 0, None
        while not self.is_over and good < last and (bad is None or bad - good > max(1, good // 8)):
            number = min(last, max(first, 2 * good)) if bad is None else (good + bad) // 2
            if fits(number):
                good = number
            else:
                bad = number
        return good


@contextmanager
def precision(name: str) -> Iterator[bool]:
    """Set the precision of products in this block; yields whether bfloat16 is used where torch allows it."""
    with tf32(name != "float32"):
        yield name == "bf16"


def steps_of_models(bench: Bench) -> Iterator[Row]:
    """Seconds and peak memory of an outer step."""
    forms = ("eager", "compiled", "cuda_graphs") if bench.device == "cuda" else ("eager",)
    precisions = ("float32", "tf32", "bf16") if bench.device == "cuda" else ("float32",)
    for form in forms:
        for pairs in bench.plan.pairs:
            for steps in bench.plan.steps:
                for name in bench.plan.encoders:
                    for kind in precisions:
                        yield from _step(bench, name, pairs, steps, kind, form)


_COMPILE: dict[str, bool | str] = {"eager": False, "compiled": True, "cuda_graphs": "cuda_graphs"}
"""The setting of each form of a step."""


def _step(bench: Bench, name: str, pairs: int, steps: int, kind: str, form: str) -> Iterator[Row]:
    with precision(kind) as autocast:
        engine = {"compile": _COMPILE[form], "autocast": autocast}
        taken, peak = bench.measured(lambda: outer_step(bench.case(name, pairs), steps, engine=engine))
    label = f"{name}_{pairs}_pairs_{steps}_steps_{kind}_{form}"
    first = label == f"{next(iter(FULL_SIZE.encoders))}_100_pairs_8_steps_float32_eager"
    what = f"{name}, {pairs} pairs, {steps} steps, {kind}, {form}"
    yield Row(f"{label}_seconds", f"{what}: seconds an outer step", taken, 1.0 if first else None)
    yield Row(f"{label}_gb", f"{what}: peak GB above model and set", peak, 12.0 if first else None)


def precision_errors(bench: Bench) -> Iterator[Row]:
    """Error of the gradient in TF32, which only GPUs have, and in bfloat16, against float32."""
    kinds = {"cuda": ("tf32", "bf16"), "cpu": ("bf16",)}.get(bench.device, ())
    if bench.is_over:
        return
    for name in bench.plan.encoders:
        case, steps = bench.case(name, bench.plan.pairs[0]), bench.plan.steps[0]
        with precision("float32"):
            expected = outer_step(case, steps)()
        for kind in kinds:
            with precision(kind) as autocast:
                found = outer_step(case, steps, engine={"autocast": autocast})()
            error = relative_error(found, expected)
            yield Row(f"{name}_{kind}_error", f"{name}, {kind}: relative error of the gradient", error)
        forget()


def channels_last(bench: Bench) -> Iterator[Row]:
    """Seconds of an outer step with the channels last in memory, and how far its gradient is from that without."""
    plan = bench.plan
    for name in plan.encoders:
        if bench.is_over or bench.case(name, plan.pairs[0]).model.encoder_is_frozen:
            continue
        for kind in ("float32", "tf32", "bf16") if bench.device == "cuda" else ("float32",):
            yield from _channels_last(bench, name, kind)


def _channels_last(bench: Bench, name: str, kind: str) -> Iterator[Row]:
    pairs, steps = bench.plan.pairs[0], bench.plan.steps[0]

    def run(last: bool, autocast: bool) -> Run:
        case = bench.case(name, pairs)
        if last:
            case.model.with_channels_last()
        return outer_step(case, steps, engine={"autocast": autocast})

    with precision(kind) as autocast:
        taken, _ = bench.measured(lambda: run(True, autocast))
        error = None if taken is None else relative_error(run(True, autocast)(), run(False, autocast)())
    forget()
    what = f"{name}, {pairs} pairs, {steps} steps, {kind}, channels last"
    yield Row(f"{name}_channels_last_{kind}_seconds", f"{what}: seconds an outer step", taken)
    yield Row(f"{name}_channels_last_{kind}_error", f"{what}: difference of the gradient from channels first", error)


def reading_ahead(bench: Bench) -> Iterator[Row]:
    """Seconds of an expert's batches from arrays that do not stay on the device, read ahead and read when needed."""
    for name in bench.plan.encoders:
        if bench.is_over:
            return
        task = replace(bench.task(name, bench.case(name, bench.plan.pairs[0])), device_cache_gb=0.0)
        found = {}
        for prefetch in (True, False):
            at = replace(task, options=DeviceOptions(prefetch=prefetch))
            found[prefetch], _ = bench.measured(partial(_real_batches, bench.plan, at))
        what = f"{name}: seconds of {bench.plan.expert_batches} batches of an expert from the host"
        yield Row(f"batches_prefetched_{name}_seconds", f"{what}, read ahead", found[True])
        yield Row(f"batches_on_demand_{name}_seconds", f"{what}, read when needed", found[False])


def _real_batches(plan: Plan, task: RetrievalTask) -> Run:
    epoch, start = RealEpoch(task, plan.batch, "all"), task.model.initial_parameters(0)

    def batches(generator: np.random.Generator) -> Iterator[TrainingBatch]:
        epochs = chain.from_iterable(epoch.batches(generator) for _ in repeat(None))
        return islice(epochs, plan.expert_batches)

    return lambda: train_on_batches(task.model, start, batches(np.random.default_rng(0)), SgdSettings(0.1, 0.1))


def full_unrolls(bench: Bench) -> Iterator[Row]:
    """The same gradient with one graph over all steps."""
    name = next(iter(bench.plan.encoders))
    for steps in bench.plan.steps:
        yield from _full_unroll(bench, name, steps)


def _full_unroll(bench: Bench, name: str, steps: int) -> Iterator[Row]:
    with precision("float32"):
        taken, peak = bench.measured(lambda: full_unroll(bench.case(name, bench.plan.pairs[0]), steps))
    yield Row(f"full_unroll_{steps}_steps_seconds", f"{name}, full unroll of {steps} steps: seconds", taken)
    yield Row(f"full_unroll_{steps}_steps_gb", f"{name}, full unroll of {steps} steps: peak GB", peak)


def largest(bench: Bench) -> Iterator[Row]:
    """The most steps, and the most pairs in micro-batches, that fit."""
    name, plan = next(iter(bench.plan.encoders)), bench.plan
    if bench.device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, MEMORY_GB * 1e9 / total))
    case = bench.case(name, plan.pairs[0])
    steps = bench.most(lambda number: bench.fits(lambda: outer_step(case, number)), plan.steps[0], plan.most[0])
    yield Row("gpu_steps", f"{name}: most steps in {MEMORY_GB:g} GB", float(steps), 64.0, at_least=True)
    engine = {"graph_budget_gb": 0, "micro_batch": plan.pairs[0]}
    pairs = bench.most(
        lambda number: bench.fits(lambda: outer_step(bench.case(name, number), plan.steps[0], engine=engine)),
        plan.pairs[0],
        plan.most[1],
    )
    yield Row("gpu_pairs", f"{name}: most pairs in micro-batches in {MEMORY_GB:g} GB", float(pairs))
    if bench.device == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0)


def experts(bench: Bench) -> Iterator[Row]:
    """Experts an hour, with one to four in one pass."""
    for name in bench.plan.encoders:
        case = bench.case(name, max(bench.plan.pairs))
        with torch.no_grad():
            features = case.model.frozen_part(case.images)
        for graphs in (False, True) if bench.device == "cuda" else (False,):
            for count in (1, 2, 3, 4):
                if count == 1 or case.model.settings.protocol != "full_image_encoder":
                    yield _experts(bench, name, case, features, count, graphs)


def _experts(bench: Bench, name: str, case: Case, features: torch.Tensor, count: int, graphs: bool) -> Row:
    taken, _ = bench.measured(lambda: _expert_batches(bench.plan, case, features, count, graphs))
    rate = None
    if taken is not None:
        rate = 3600 * count * bench.plan.expert_batches / (taken * EXPERT_BATCHES_OF_FLICKR30K)
    what = f"{name}: experts an hour, {count} in one pass, for 10 epochs of 29,000 images, from some batches"
    key = f"experts_an_hour_{name}_{count}"
    return Row(f"{key}_graphs" if graphs else key, f"{what}, as CUDA graphs" if graphs else what, rate)


def _expert_batches(plan: Plan, case: Case, features: torch.Tensor, count: int, graphs: bool = False) -> Run:
    starts = [case.model.initial_parameters(seed) for seed in range(count)]
    generator, device = torch.Generator().manual_seed(0), case.texts.device
    size = min(plan.batch, len(features))
    drawn = [
        torch.stack([torch.randperm(len(features), generator=generator)[:size] for _ in range(count)]).to(device)
        for _ in range(plan.expert_batches)
    ]

    def run() -> Any:
        if count == 1:
            batches = (TrainingBatch(features[rows[0]], case.texts[rows[0]]) for rows in drawn)
            return train_on_batches(case.model, starts[0], batches, SgdSettings(0.1, 0.1), cuda_graphs=graphs)
        stacked = (StackedBatch(features[rows], case.texts[rows]) for rows in drawn)
        return train_stacked(case.model, starts, stacked, SgdSettings(0.1, 0.1), cuda_graphs=graphs)

    return run


def students(bench: Bench) -> Iterator[Row]:
    """Students in one pass and one after another, and the time to score one."""
    for name in bench.plan.encoders:
        if not bench.is_over:
            yield from _students(bench, name)


def _students(bench: Bench, name: str) -> Iterator[Row]:
    settings, seeds = EvaluationSettings(epochs=bench.plan.student_epochs), range(STUDENTS)
    case = bench.case(name, bench.plan.pairs[0])
    task, pairs = bench.task(name, case), Pairs(case.images, case.texts, 0.1, 0.1)
    with torch.no_grad():
        features = case.model.frozen_part(case.images)
    apart, _ = bench.measured(lambda: lambda: [train_student(task, pairs, features, settings, s) for s in seeds])
    yield Row(f"students_a_second_apart_{name}", f"{name}: students a second, apart", _rate(apart))
    if bench.device == "cuda":
        yield from _students_as_graphs(bench, name, task, pairs, features, settings)
    if case.model.settings.protocol != "full_image_encoder":
        stacked, _ = bench.measured(lambda: lambda: train_students_stacked(task, pairs, features, settings, seeds))
        yield Row(f"students_a_second_stacked_{name}", f"{name}: students a second, in one pass", _rate(stacked))
        ratio = stacked / apart if stacked and apart else None
        to_reach = 0.4 if bench.device == "cuda" else None
        yield Row(f"students_stacked_{name}", f"{name}: five students in one pass ÷ apart", ratio, to_reach)
    student = case.model.initial_parameters(0)
    scored, _ = bench.measured(lambda: lambda: score(task, student, task.train))
    what = f"{name}: seconds to score a student on {len(bench.pixels)} images"
    yield Row(f"evaluation_seconds_{name}", what, scored)


def _students_as_graphs(
    bench: Bench, name: str, task: RetrievalTask, pairs: Pairs, features: torch.Tensor, settings: EvaluationSettings
) -> Iterator[Row]:
    graphed, seeds = replace(task, options=DeviceOptions(cuda_graphs=True)), range(STUDENTS)
    what = f"{name}: students a second, as CUDA graphs"
    apart, _ = bench.measured(lambda: lambda: [train_student(graphed, pairs, features, settings, s) for s in seeds])
    yield Row(f"students_a_second_apart_graphs_{name}", f"{what}, apart", _rate(apart))
    if task.model.settings.protocol != "full_image_encoder":
        stacked, _ = bench.measured(lambda: lambda: train_students_stacked(graphed, pairs, features, settings, seeds))
        yield Row(f"students_a_second_stacked_graphs_{name}", f"{what}, in one pass", _rate(stacked))


def _rate(taken: float | None) -> float | None:
    return STUDENTS / taken if taken else None


def busy(bench: Bench) -> Iterator[Row]:
    """Share of time in which the device computes, in an outer step and in batches of an expert."""
    if bench.device != "cuda" or bench.is_over:
        return
    name, plan = next(iter(bench.plan.encoders)), bench.plan
    case = bench.case(name, plan.pairs[0])
    with torch.no_grad():
        features = case.model.frozen_part(case.images)
    runs = {
        "outer_step": outer_step(case, plan.steps[0]),
        "expert": _expert_batches(plan, case, features, 1),
    }
    for what, run in runs.items():
        run()
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            begun = time.perf_counter()
            run()
            torch.cuda.synchronize()
            wall = time.perf_counter() - begun
        kernels = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6
        yield Row(f"gpu_busy_{what}", f"{name}: share of time the device computes, {what}", kernels / wall, 0.9, True)


def two_devices(bench: Bench) -> Iterator[Row]:
    """Gradient of a step over two devices, against one, in float64."""
    if bench.is_over:
        return
    second = f"cuda:{min(1, torch.cuda.device_count() - 1)}" if bench.device == "cuda" else "cpu"
    case, steps = bench.case(next(iter(bench.plan.encoders)), 4, torch.float64), bench.plan.steps[-1]
    expected = outer_step(case, steps)()
    options = distillation_settings(num_pairs=4)
    loop = InnerLoop(
        case.model, options, options.of(TrajectoryMatchingSettings), further_devices=[torch.device(second)]
    )
    _, by = loop.gradient(
        case.segment.start, matching_from(case.segment), case.inputs(case.images), batches_of(case, steps)
    )
    found = [by.frozen_output, by.texts, by.lr_image, by.lr_text]
    what = f"error of the gradient over {bench.device} and {second}, float64"
    yield Row("two_devices", what, relative_error(found, expected), 1e-12)


def syncs_inner(bench: Bench) -> Iterator[Row]:
    """How often the host waits for the device in an inner loop; only the pretend device counts."""
    if bench.device != pretend_device.NAME:
        return
    total = 0
    for name in bench.plan.encoders:
        run = outer_step(bench.case(name, bench.plan.pairs[0]), bench.plan.steps[-1])
        run()  # measures the size of a graph
        with pretend_device.counting() as found:
            run()
        total += found.total()
    yield Row("syncs_inner", "waits of the host for the device in an inner loop", float(total), 0.0)


PARTS: Sequence[Callable[[Bench], Iterator[Row]]] = (
    two_devices,
    syncs_inner,
    students,
    experts,
    steps_of_models,
    precision_errors,
    channels_last,
    reading_ahead,
    full_unrolls,
    busy,
    largest,
)


def as_markdown(rows: Sequence[Row], about: dict[str, Any]) -> str:
    """The rows as a table, below the machine."""
    lines = [", ".join(f"{name}: {value}" for name, value in about.items()), "", "| what | value | to reach |"]
    lines.append("|---|---|---|")
    for row in rows:
        value = "–" if row.value is None else f"{row.value:.3g}"
        sign = "≥" if row.at_least else "≤"
        lines.append(f"| {row.what} | {value} | {'' if row.to_reach is None else f'{sign} {row.to_reach:g}'} |")
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25.0, help="nothing new is begun after them")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", pretend_device.NAME), default="auto")
    parser.add_argument("--tiny", action="store_true", help="small models and few numbers, to test the script")
    parser.add_argument("--json", action="store_true", help="print the JSON too; the table goes to standard error")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of gpu.json and gpu.md")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write."""
    compute_in_float32()  # as every task of the package is loaded
    arguments = _arguments()
    found = "cuda" if torch.cuda.is_available() else "cpu"
    device = found if arguments.device == "auto" else arguments.device
    if device == pretend_device.NAME:
        pretend_device.register()
    if device != "cuda":
        torch.set_num_threads(1)
    bench, energy = Bench(TINY if arguments.tiny else FULL_SIZE, device, arguments.minutes), MachineEnergy()
    with energy.reading():
        rows = print_rows((row for part in PARTS for row in part(bench)), sys.stderr if arguments.json else sys.stdout)
    rows += [Row(name, "energy of the machine meanwhile, in kJ", value) for name, value in energy.metrics().items()]
    about = machine(device)
    result = json.dumps({"machine": about, "figures": {row.name: row.value for row in rows}})
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "gpu.json").write_text(result + "\n", encoding="utf-8")
    (arguments.out / "gpu.md").write_text(as_markdown(rows, about), encoding="utf-8")
    if arguments.json:
        print(result)


if __name__ == "__main__":
    main()
