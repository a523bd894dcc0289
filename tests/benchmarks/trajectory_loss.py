"""What a form of keeping trajectories does to the matching loss, on experts trained here on drawn scenes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers.tasks import distillation_settings, encoder, random_batches
from trajectory_cases import Layouts, save_expert
from unroll_cases import matching_from

from rayvldd.config.methods.trajectory_matching import TrajectoryMatchingSettings
from rayvldd.config.study import Study
from rayvldd.data.array_cache import ArrayCache
from rayvldd.distillation.unroll.batches import StudentInputs
from rayvldd.distillation.unroll.inner_loop import InnerLoop
from rayvldd.experts.recipe import expert_recipe, expert_training
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.experts.training import train_expert
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import RetrievalTask, load_task
from rayvldd.storage.folder import FolderStorage

STEP_SIZES = (0.1, 0.03, 0.01)
"""Learned step sizes start at 0.1 in print, and a smaller step leaves more of the expert's move to be matched."""

_PAIRS, _STEPS = 20, 8


@dataclass(frozen=True)
class LossCase:
    """A model whose experts are trained."""

    title: str
    model: dict[str, Any]


LOSS_CASES = {
    "resnet18": LossCase(
        "ResNet18-GN, full_image_encoder",
        {"protocol": "full_image_encoder", "image_encoder": encoder("resnet18", norm_layer="groupnorm")},
    ),
    "heads_only": LossCase(
        "ConvNet, heads_only",
        {"protocol": "heads_only", "image_encoder": encoder("convnet_d3", img_size=32, width=32)},
    ),
}


@dataclass(frozen=True)
class LossError:
    """How far the matching loss moves, relative to its size with float32."""

    deltas: float
    """With ``float16_deltas``, read back from a store."""
    bfloat16: float
    """With weights rounded to bfloat16."""
    noise: float
    """With noise of 1e-9 on every number: below that the loss is not resolved. Parameters that are zero, as the
    norms that end a fresh residual branch, put rectifiers on their kink, where a last bit decides."""


def study_of(case: LossCase, tiny: bool) -> Study:
    """Drawn scenes of 32 px, and few epochs at the rates of the paper."""
    data = {"source": "toy_scenes", "image_size": 32, "num_train": 32 if tiny else 600, "num_val": 8, "num_test": 8}
    model = {**case.model, "text_encoder": {"pooling": "hashed_ngrams", "width": 384}}
    experts = {
        "num_experts": 1,
        "epochs": 2 if tiny else 3,
        "batch_size": 32 if tiny else 100,
        "captions_per_image": "one",
        "storage": "float16_deltas",
    }
    return Study.model_validate({"name": "benchmark", "seed": 1, "data": data, "model": model, "experts": experts})


def loss_errors(case: LossCase, folder: Path, tiny: bool) -> Iterator[LossError]:
    """Train an expert, keep it, and compare the matching losses of a student, segment by segment and step size."""
    study = study_of(case, tiny)
    task = load_task(study.data, study.model, ArrayCache(folder / "cache"), device="cpu")
    trained, _ = train_expert(task, expert_training(study), 0)
    store, recipe = ExpertStore(FolderStorage(folder / "experts")), expert_recipe(study, task.fingerprints)
    save_expert(store, recipe, 0, trained, Layouts(task.model.image_layout, task.model.text_layout))
    kept = store.load(recipe, 0)
    rounded = Trajectory({epoch: _rounded(trained[epoch]) for epoch in trained.epochs})
    noisy = Trajectory({epoch: _noisy(trained[epoch], epoch) for epoch in trained.epochs})
    for start in trained.epochs[:-1]:
        for step_size in STEP_SIZES[:1] if tiny else STEP_SIZES:
            exact, *others = (_loss(task, one, start, step_size) for one in (trained, kept, rounded, noisy))
            yield LossError(*(abs(other / exact - 1) for other in others))


def _loss(task: RetrievalTask, trajectory: Trajectory, start: int, step_size: float) -> float:
    """The matching loss of a student that takes a few steps on real pairs, as a synthetic set starts."""
    steps = 2 if len(task.train.caption_embeddings) < 500 else _STEPS
    # Only the loss is used: the reverse sweep of one step is the shortest.
    settings = distillation_settings(num_pairs=_PAIRS, gradient="truncated", truncated_steps=1)
    chosen = np.arange(_PAIRS)
    captions = np.array([task.train.captions_of(int(image))[0] for image in chosen])
    images, texts = task.frozen_outputs(task.train, chosen), task.texts(task.train, captions)
    inputs = StudentInputs(images, texts, torch.tensor(step_size), torch.tensor(step_size))
    batches = random_batches(seed=3, pairs=_PAIRS, steps=steps)
    segment = trajectory.segment(start, start + 1)
    loop = InnerLoop(task.model, settings, settings.of(TrajectoryMatchingSettings))
    loss, _ = loop.gradient(segment.start, matching_from(segment), inputs, batches)
    return float(loss.value)


def _rounded(parameters: Parameters) -> Parameters:
    return Parameters(*(side.bfloat16().float() for side in parameters))


def _noisy(parameters: Parameters, seed: int) -> Parameters:
    generator = torch.Generator().manual_seed(seed)
    return Parameters(*(side + 1e-9 * torch.randn(side.shape, generator=generator) for side in parameters))
