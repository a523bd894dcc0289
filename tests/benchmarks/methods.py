"""Cost and results of distillation methods.

    python tests/benchmarks/methods.py                       all figures
    python tests/benchmarks/methods.py --only NAME,NAME      some of them
    python tests/benchmarks/methods.py --json                one JSON object on standard output, the table aside

``shortcut_bytes``, a second: bytes of an expert that stores just the ends of a shortcut trajectory, in float16, as part
of those of a ten-epoch expert in float32, with their records.

``meta_memory_growth``, a minute: peak memory of an outer step of ``meta_model`` through a ViT-tiny with LoRA at 32
student steps, as a multiple of that at one step, without kept graphs; each in a process of its own.

The others are long, and distil Flickr8k at the first points of shipped spaces. They need the environment variables of
``search_spaces/flickr8k_cpu.yaml`` and ``--workspace FOLDER``, which keeps features, sets and bound. Each distillation
of 100 pairs took 2 to 5 minutes of one core, evaluations included:

``share_20``, ``share_100``, ``share_500``: recall on test of sets of so many pairs, as a share of the full-data bound,
for each of ``--methods`` and, without a suffix, for the one that is the best on validation.
``expert_free_share_100``: the same for the best method that makes no experts, 100 pairs.
``cost_to_same``: CPU seconds, experts included, until a method has 29.5 on validation, which is what the set of
trajectory matching with 28.7 on test had; the cheapest method as a multiple of trajectory matching.
``transfer``: recall on MobileNetV2 of a set made with MobileNetV1, as a share of that of a set made with MobileNetV2,
whose weights are ``RAYVLDD_OTHER_IMAGE_WEIGHTS``; with ``--methods covariance``, of a set made with both. Each set is
chosen on validation with the encoder of its study.

A further figure is a function from ``Conditions`` to rows, and its name in ``FIGURES``.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import method_runs
import numpy as np
import torch
import yaml
from figures import Row, figures_parser, measured, named, print_figures
from peak_memory import peak_bytes, peak_in_fresh_process
from torch import Tensor

from rayvldd.config.domains import SettingValue
from rayvldd.config.settings import ModelSettings
from rayvldd.config.study import Study
from rayvldd.distillation.meta_model import MetaModel
from rayvldd.distillation.synthetic_set import SyntheticSet
from rayvldd.experts.movement import Layouts
from rayvldd.experts.recipe import ExpertRecipe
from rayvldd.experts.store.expert_store import ExpertStore, MadeExpert
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_model import RetrievalModel
from rayvldd.storage.folder import FolderStorage
from rayvldd.testing.toy import toy_study, toy_task

EPOCHS = 10
"""Epochs of the expert that is compared with."""
MANY_STEPS = 32
"""Student steps whose memory is compared with that of one."""
TARGET = 29.5
"""Recall on validation of the set of trajectory matching that has 28.7 on test."""
SHORTCUT_TO = 5
"""End of the shortcut; that of PTM-ST."""

SPACES: dict[str, tuple[str, ...]] = {
    "trajectory_matching": ("flickr8k_cpu",),
    "expert_fit": ("flickr8k_expert_fit_cpu",),
    "covariance": ("flickr8k_covariance_cpu",),
    "covariance+meta_model": ("flickr8k_covariance_cpu", "flickr8k_meta_model_cpu"),
}
"""The shipped space of each method, whose first point is distilled; of several, each from the set of the one before."""


@dataclass(frozen=True)
class Conditions:
    """Size of the measured case."""

    tiny: bool
    workspace: Path | None = None
    """Folder of features, sets and bound; the figures on Flickr8k need it."""
    sets: int = 3
    """Sets of each method, each with its own seed."""
    methods: tuple[str, ...] = tuple(SPACES)
    """Methods that are compared."""

    @property
    def folder(self) -> Path:
        """The workspace of a figure that needs one."""
        assert self.workspace is not None
        return self.workspace


def shortcut_bytes(conditions: Conditions) -> Iterator[Row]:
    """An expert of ``heads_only``, whose two sides both start at numbers of its own: the most that can be to store."""
    width = 16 if conditions.tiny else 256
    model = _heads(width)
    layouts = Layouts(model.image_layout, model.text_layout)
    expert = _drawn_expert(model)
    with tempfile.TemporaryDirectory() as room:
        store = ExpertStore(FolderStorage(Path(room)))
        whole = _stored_bytes(store, "float32", expert, layouts)
        ends = Trajectory({epoch: expert[epoch] for epoch in (0, SHORTCUT_TO)}, expert.movements(SHORTCUT_TO, layouts))
        part = _stored_bytes(store, "float16", ends, layouts)
    yield Row("shortcut_bytes", f"ends in float16 / {EPOCHS} epochs in float32, heads {width} wide", part / whole, 0.11)


def _heads(width: int) -> RetrievalModel:
    encoder = {"name": "convnet_d3", "pretrained": False, "options": {"img_size": 32}}
    settings = {"protocol": "heads_only", "image_encoder": encoder, "width": width}
    texts = {"text_encoder": {"pooling": "hashed_ngrams"}}
    return RetrievalModel(ModelSettings.model_validate({**settings, **texts}), image_size=32, text_width=384)


def _drawn_expert(model: RetrievalModel) -> Trajectory:
    generator, snapshots = torch.Generator().manual_seed(0), [model.initial_parameters(0)]

    def moved(side: Tensor) -> Tensor:
        return side + 1e-3 * torch.randn(len(side), generator=generator)

    for _ in range(EPOCHS):
        snapshots.append(Parameters(*(moved(side) for side in snapshots[-1])))
    return Trajectory.of_every_epoch(snapshots)


def _stored_bytes(store: ExpertStore, storage: str, expert: Trajectory, layouts: Layouts) -> int:
    """Return the bytes of the set's folder without its manifest, which all experts of a set share."""
    recipe = ExpertRecipe({"benchmark": "methods", "experts": {"storage": storage}})
    store.save(recipe, 0, MadeExpert(expert, [], *layouts))
    names = [name for name in store.storage.names(recipe.key) if not name.endswith("manifest.json")]
    return sum(store.storage.size(name) or 0 for name in names)


def meta_memory_growth(conditions: Conditions) -> Iterator[Row]:
    """A graph over all steps would grow in proportion to them."""
    many = 4 if conditions.tiny else MANY_STEPS
    tiny = ["--tiny"] if conditions.tiny else []
    peaks = {steps: peak_in_fresh_process(Path(__file__), str(steps), *tiny) for steps in (1, many)}
    megabytes = " and ".join(f"{peak / 2**20:.0f} MB" for peak in peaks.values())
    what = f"meta_model, peak of {many} student steps ÷ that of one: {megabytes}"
    yield Row("meta_memory_growth", what, peaks[many] / peaks[1], 1.15)


def measured_memory(steps: int, tiny: bool) -> int:
    """Take one outer step on drawn scenes here, and return its peak in bytes."""
    image_size, pairs = (16, 4) if tiny else (64, 32)
    changes: dict[str, Any] = {
        "data.image_size": image_size,
        "data.num_train": 2 * pairs,
        "distillation.num_pairs": pairs,
        "distillation.engine.graph_budget_gb": 0.0,  # else graphs of the last steps are kept where memory allows
    }
    changes["model.image_encoder"] = {
        "name": "convnet_d3" if tiny else "vit_tiny_patch16_224",
        "pretrained": False,
        "options": {"img_size": image_size},
    }
    if not tiny:
        changes |= {"model.protocol": "lora", "model.width": 256}
    study = toy_study("meta_model", {"syn_steps": steps, "window": None, "real_batch_size": pairs}, **changes)
    with tempfile.TemporaryDirectory() as room:
        task, _ = toy_task(study, Path(room))
        method = MetaModel(task, study.completed_distillation, [])
        synthetic_set = SyntheticSet(task, study.distillation, np.random.default_rng(0), seed=0)
        return peak_bytes(lambda: method.gradient(synthetic_set, 0, np.random.default_rng(0)), "cpu")


def share_20(conditions: Conditions) -> Iterator[Row]:
    """20 pairs."""
    yield from _shares("share_20", conditions, 20)


def share_100(conditions: Conditions) -> Iterator[Row]:
    """100 pairs."""
    yield from _shares("share_100", conditions, 100, to_reach=0.92)


def share_500(conditions: Conditions) -> Iterator[Row]:
    """500 pairs."""
    yield from _shares("share_500", conditions, 500, to_reach=0.97)


def expert_free_share_100(conditions: Conditions) -> Iterator[Row]:
    """100 pairs, by methods that make no experts."""
    free = tuple(name for name in conditions.methods if not any(study.requires_experts for study in _studies(name, {})))
    yield from _shares("expert_free_share_100", replace(conditions, methods=free), 100)


def _shares(name: str, conditions: Conditions, pairs: int, to_reach: float | None = None) -> Iterator[Row]:
    """The share of each method, and that of the best one on validation."""
    best, share_of_best = -1.0, 0.0
    for method in conditions.methods:
        runs = _runs(conditions, method, {"distillation.num_pairs": pairs})
        found = method_runs.scores([run.folder for run in runs], conditions.folder)
        validation, share = fmean(max(run.recalls) for run in runs), method_runs.share(found)
        seconds = fmean(run.seconds[-1] for run in runs)
        recalls = f"{validation:.2f} on validation, {method_runs.mean_recall(found):.2f} on test"
        what = f"{len(runs)} sets of {pairs} pairs: {recalls}, {seconds:.0f} CPU s each"
        yield Row(f"{name}_{method}", what, share)
        if validation > best:
            best, share_of_best = validation, share
    yield Row(
        name, "share of the full-data bound by the method that is best on validation", share_of_best, to_reach, True
    )


def _studies(method: str, changes: Mapping[str, SettingValue]) -> list[Study]:
    return [method_runs.first_point(space, changes) for space in SPACES[method]]


def _runs(conditions: Conditions, method: str, changes: Mapping[str, SettingValue]) -> list[method_runs.Run]:
    studies = _studies(method, changes)
    return [method_runs.distilled_in_turn(studies, seed, conditions.folder) for seed in range(conditions.sets)]


def cost_to_same(conditions: Conditions) -> Iterator[Row]:
    """A method that does not get there has no cost."""
    costs: dict[str, float | None] = {}
    for method in dict.fromkeys(["trajectory_matching", *conditions.methods]):
        reached = [run.seconds_to(TARGET) for run in _runs(conditions, method, {})]
        known = [seconds for seconds in reached if seconds is not None]
        costs[method] = fmean(known) if len(known) == len(reached) else None
        yield Row(f"cost_{method}", f"CPU s to {TARGET} on validation, experts included", costs[method])
    others = [cost for cost in costs.values() if cost is not None]
    matching = costs["trajectory_matching"]
    value = min(others) / matching if others and matching is not None else None
    yield Row("cost_to_same", "cheapest method ÷ trajectory matching", value, 0.25)


def transfer(conditions: Conditions) -> Iterator[Row]:
    """Sets of the method that is named first; of ``covariance`` also sets made with both encoders at once."""
    method = conditions.methods[0]
    own = _studies(method, {})[0].model.image_encoder
    other = own.model_copy(
        update={"name": "mobilenetv2_100", "weights": os.environ["RAYVLDD_OTHER_IMAGE_WEIGHTS"]}
    ).model_dump(mode="json")
    file = conditions.folder / "other_encoder.yaml"
    file.write_text(yaml.safe_dump(other))
    changes: dict[str, dict[str, Any]] = {"v2": {"model.image_encoder": other}, "v1": {}}
    if method == "covariance":
        changes["v1_and_v2"] = {"distillation.covariance.image_encoders": [own.model_dump(mode="json"), other]}
    recalls = {}
    for name, change in changes.items():
        runs = _runs(conditions, method, change)
        options = ("--no-full-data", *(() if name == "v2" else ("--image-encoder", str(file))))
        recalls[name] = method_runs.mean_recall(
            method_runs.scores([run.folder for run in runs], conditions.folder, *options)
        )
        validation = fmean(max(run.recalls) for run in runs)
        what = f"{len(runs)} sets of {method} made with {name.replace('_', ' ')}: {validation:.2f} on validation of "
        what += f"its encoder, {fmean(run.seconds[-1] for run in runs):.0f} CPU s each; recall on test of MobileNetV2"
        yield Row(f"transfer_from_{name}", what, recalls[name])
    made_with = list(recalls)[-1]
    what = f"{method}: recall on MobileNetV2 of sets made with {made_with.replace('_', ' ')} ÷ of sets made with v2"
    yield Row("transfer", what, recalls[made_with] / recalls["v2"], 0.85, at_least=True)


FIGURES = named(
    shortcut_bytes,
    meta_memory_growth,
    share_20,
    share_100,
    share_500,
    expert_free_share_100,
    cost_to_same,
    transfer,
)
SHORT = ("shortcut_bytes", "meta_memory_growth")
"""The figures that need no data."""


def main() -> None:
    """Measure the figures that the command line names; without --workspace, by default just the short ones."""
    parser = figures_parser(__doc__, FIGURES)
    parser.add_argument("--workspace", type=Path, help="folder of features, sets and bound, for the long figures")
    parser.add_argument("--sets", type=int, default=3, help="sets of each method")
    parser.add_argument("--methods", type=lambda text: tuple(text.split(",")), default=tuple(SPACES))
    parser.add_argument("--measure-memory", type=int, metavar="STEPS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.measure_memory:
        print(measured_memory(options.measure_memory, options.tiny))
        return
    names = list(SHORT) if options.workspace is None and options.only == list(FIGURES) else options.only
    if long := [name for name in names if name not in SHORT]:
        if options.workspace is None:
            parser.error(f"{', '.join(long)}: --workspace FOLDER is missing")
        if unknown := set(options.methods) - set(SPACES):
            parser.error(f"no method is called {sorted(unknown)}; there are {', '.join(SPACES)}")
    conditions = Conditions(options.tiny, options.workspace, options.sets, options.methods)
    print_figures(measured(FIGURES, names, conditions), as_object=options.json)


if __name__ == "__main__":
    main()
