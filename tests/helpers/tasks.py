"""Small models, inner batches and tasks for the tests of the tensor rooms."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rayvldd.config.distillation import DistillationSettings
from rayvldd.config.methods.trajectory_matching import TrajectoryMatchingSettings
from rayvldd.config.settings import ModelSettings
from rayvldd.config.study import Study, set_dotted
from rayvldd.data.array_cache import ArrayCache
from rayvldd.distillation.unroll.batches import InnerBatches, StudentInputs
from rayvldd.experts.trajectory import Segment, Trajectory
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_model import RetrievalModel
from rayvldd.models.retrieval_task import RetrievalTask, load_task

TEXT_WIDTH = 12
CONVNET = {"name": "convnet_d3", "pretrained": False, "options": {"img_size": 16, "width": 4}}


def encoder(name: str, **options: Any) -> dict[str, Any]:
    """Settings of a timm model that is not pretrained."""
    return {"name": name, "pretrained": False, "options": options}


def small_model(protocol: str, image_encoder: dict[str, Any], image_size: int = 16, **settings: Any) -> RetrievalModel:
    """A float64 model with a shared space of width 8 and the given settings of ``ModelSettings``."""
    values = {
        "protocol": protocol,
        "image_encoder": image_encoder,
        "text_encoder": {"pooling": "hashed_ngrams"},
        "width": 8,
        **settings,
    }
    return RetrievalModel(ModelSettings.model_validate(values), image_size, TEXT_WIDTH).double()


def drawn_like(values: Tensor, seed: int, scale: float = 1.0) -> Tensor:
    """Normal noise with the shape and type of ``values``, from a separate generator."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(values.shape, generator=generator, dtype=torch.float64).to(values) * scale


def random_segment(model: RetrievalModel, seed: int) -> Segment:
    """A segment that starts near the model's initialisation and ends close to it; no parameter is zero."""
    initial = model.initial_parameters(seed)
    start = Parameters(*(side + drawn_like(side, seed + 1, 0.02) for side in initial))
    return Segment(start, Parameters(*(side + drawn_like(side, seed + 2, 0.02) for side in start)))


def random_inputs(
    model: RetrievalModel,
    seed: int,
    pairs: int = 4,
    image_size: int = 16,
    step_sizes: tuple[float, float] = (0.05, 0.1),
    with_similarity: bool = False,
) -> StudentInputs:
    """Random synthetic pairs as outputs of the frozen part, and two different step sizes."""
    dtype = next(model.text_part.parameters()).dtype
    with torch.no_grad():
        frozen_output = model.frozen_part(drawn_like(torch.empty(pairs, 3, image_size, image_size, dtype=dtype), seed))
    texts = drawn_like(torch.empty(pairs, TEXT_WIDTH, dtype=dtype), seed + 1)
    lr_image, lr_text = (torch.tensor(size, dtype=dtype) for size in step_sizes)
    similarity = torch.eye(pairs, dtype=dtype) + drawn_like(torch.empty(pairs, pairs, dtype=dtype), seed + 2, 0.1)
    return StudentInputs(frozen_output, texts, lr_image, lr_text, similarity if with_similarity else None)


def random_batches(seed: int, pairs: int = 4, steps: int = 3, batch_size: int | None = None) -> InnerBatches:
    """Batches of ``batch_size`` pairs, sampled without replacement within a step."""
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randperm(pairs, generator=generator)[: batch_size or pairs] for _ in range(steps)]
    return InnerBatches(batches, torch.randint(2**31, (steps,), generator=generator).tolist())


@dataclass(frozen=True, kw_only=True)
class StudyTask(RetrievalTask):
    """A task with the study that it was loaded for."""

    study: Study


def load(study: Study, cache: Path, **changes: Any) -> StudyTask:
    """The task of a study with dotted keys changed, e.g. ``**{"model.width": 8}``, on the CPU."""
    point = study.at(changes)
    task = load_task(point.data, point.model, ArrayCache(cache), device="cpu")
    return StudyTask(**vars(task), study=point)


def distillation_settings(**flat: Any) -> DistillationSettings:
    """Settings by name without section, e.g. ``syn_steps=3``."""
    values: dict[str, Any] = {}
    for name, value in flat.items():
        set_dotted(values, distillation_key(name).removeprefix("distillation."), value)
    return DistillationSettings.model_validate(values)


def distillation_key(name: str) -> str:
    """The dotted key of a setting below ``distillation`` from its name, e.g. ``syn_steps``."""
    if name in TrajectoryMatchingSettings.model_fields:
        return f"distillation.trajectory_matching.{name}"
    inside = name.removeprefix("start_")
    return f"distillation.initialisation.{inside}" if name.startswith("start_") else f"distillation.{name}"


def random_trajectory(model: RetrievalModel, seed: int = 0, epochs: int = 2) -> Trajectory:
    """A random walk of the parameters of a new model, in place of a trained expert."""
    snapshots = [model.initial_parameters(seed)]
    for epoch in range(epochs):
        snapshots.append(Parameters(*(side + drawn_like(side, seed + epoch, 0.02) for side in snapshots[-1])))
    return Trajectory.of_every_epoch(snapshots)
