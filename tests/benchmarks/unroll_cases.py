"""The models, synthetic sets and expert segments that the benchmark measures on, and the full unroll beside them."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from helpers.tasks import distillation_settings, drawn_like, encoder, random_batches
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rayvldd.config.distillation import DistillationSettings
from rayvldd.config.methods.trajectory_matching import TrajectoryMatchingSettings
from rayvldd.config.settings import ModelSettings
from rayvldd.distillation.frozen_features import FrozenFeatures
from rayvldd.distillation.reference import unrolled_matching_loss
from rayvldd.distillation.trajectory_matching import matching_loss
from rayvldd.distillation.unroll.batches import InnerBatches, StudentInputs
from rayvldd.distillation.unroll.inner_loop import EndLoss, InnerLoop
from rayvldd.experts.trajectory import Segment
from rayvldd.models.copies import to_device
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_model import RetrievalModel


@dataclass(frozen=True)
class Size:
    """A model and how much it is shown."""

    model: dict[str, Any]
    """What of ``ModelSettings`` decides the image side."""
    image_size: int
    pairs: int = 32
    text_width: int = 384
    step_sizes: tuple[float, float] = (0.1, 0.1)


VIT_LORA = {"protocol": "lora", "image_encoder": encoder("vit_tiny_patch16_224", img_size=64)}
SIZES: dict[str, Size] = {
    "vit_lora": Size(VIT_LORA, 64),
    "resnet18": Size(
        {"protocol": "full_image_encoder", "image_encoder": encoder("resnet18", norm_layer="groupnorm")}, 64
    ),
    "vit_lora_100_pairs": Size(VIT_LORA, 64, pairs=100),
    "vit_lora_400_pairs": Size(VIT_LORA, 64, pairs=400),
    "heads_only": Size({"protocol": "heads_only", "image_encoder": encoder("mobilenetv1_100")}, 96, pairs=100),
    "nfnet": Size({"protocol": "full_image_encoder", "image_encoder": encoder("nfnet_l0")}, 224, 100, 768),
    "tiny": Size({"protocol": "full_image_encoder", "image_encoder": encoder("test_nfnet")}, 32, 4, 16),
}


def _family(protocol: str, image_encoder: dict[str, Any]) -> Size:
    return Size({"protocol": protocol, "image_encoder": image_encoder}, 64, pairs=4, step_sizes=(0.05, 0.1))


FAMILIES: dict[str, Size] = {
    "vit_lora": _family("lora", encoder("vit_tiny_patch16_224", img_size=64)),
    "resnet18_group_norm": _family("full_image_encoder", encoder("resnet18", norm_layer="groupnorm")),
    "mobilenet_frozen_batch_norm": _family("full_image_encoder", encoder("mobilenetv1_100")),
    "nfnet": _family("full_image_encoder", encoder("nfnet_l0")),
    "nf_resnet": _family("full_image_encoder", encoder("nf_resnet26")),
    "nf_regnet": _family("full_image_encoder", encoder("nf_regnet_b1")),
    "convnet": _family("full_image_encoder", encoder("convnet_d3", img_size=64, width=32)),
    "heads_only": _family("heads_only", encoder("mobilenetv1_100")),
}
"""Encoders whose gradients are compared, with few pairs: an error would not wait for more."""


@dataclass(frozen=True)
class Case:
    """Everything that an outer step reads, except the batches."""

    model: RetrievalModel
    images: Tensor
    texts: Tensor
    step_sizes: tuple[float, float]
    segment: Segment

    def inputs(self, frozen_output: Tensor) -> StudentInputs:
        """What the student sees, given the images after the frozen part."""
        kind, device = self.texts.dtype, self.texts.device
        lr_image, lr_text = (to_device(torch.tensor(size, dtype=kind), device) for size in self.step_sizes)
        return StudentInputs(frozen_output, self.texts, lr_image, lr_text)


def build_case(size: Size, device: str, dtype: torch.dtype = torch.float32) -> Case:
    """A model with drawn weights, a synthetic set of noise, and a segment of a student trained on other noise."""
    values = {**size.model, "text_encoder": {"pooling": "hashed_ngrams"}}
    model = RetrievalModel(ModelSettings.model_validate(values), size.image_size, size.text_width).to(device, dtype)
    images = drawn_like(torch.empty(size.pairs, 3, size.image_size, size.image_size, dtype=dtype), 1).to(device)
    texts = drawn_like(torch.empty(size.pairs, size.text_width, dtype=dtype), 2).to(device)
    start = Parameters(*(side.to(device, dtype) for side in model.initial_parameters(0)))
    target = Parameters(*(side + (drawn_like(side.cpu(), 3) * 1e-3).to(side) for side in start))
    return Case(model, images, texts, size.step_sizes, Segment(start, target))


def batches_of(case: Case, steps: int) -> InnerBatches:
    """Steps on all pairs."""
    batches = random_batches(seed=4, pairs=len(case.texts), steps=steps)
    return InnerBatches([batch.to(case.texts.device) for batch in batches.batches], batches.seeds)


def matching_from(segment: Segment) -> Callable[[Parameters], EndLoss]:
    """The matching loss of a student that started where the segment does, as the inner loop differentiates it."""

    def end_loss(student: Parameters) -> EndLoss:
        return EndLoss(matching_loss(student, segment).total, {})

    return end_loss


def outer_step(case: Case, steps: int, **settings: Any) -> Callable[[], list[Tensor]]:
    """The engine's gradient by pixels, texts and step sizes, with an inner loop that is kept from call to call."""
    options = distillation_settings(num_pairs=len(case.texts), **settings)
    loop = InnerLoop(case.model, options, options.of(TrajectoryMatchingSettings))
    batches = batches_of(case, steps)

    def run() -> list[Tensor]:
        stem = FrozenFeatures(case.model, options, case.images, seed=5)
        _, by_inputs = loop.gradient(case.segment.start, matching_from(case.segment), case.inputs(stem.output), batches)
        return [stem.back(by_inputs.frozen_output), by_inputs.texts, by_inputs.lr_image, by_inputs.lr_text]

    return run


def full_unroll(case: Case, steps: int, autocast: bool = False) -> Callable[[], list[Tensor]]:
    """The same gradient as the released code computes it: one graph over all steps, one backward pass at its end."""
    batches, options = batches_of(case, steps), DistillationSettings(num_pairs=len(case.texts))

    def run() -> list[Tensor]:
        leaves = case.inputs(case.images)
        values = [leaf.detach().requires_grad_() for leaf in leaves if leaf is not None]
        inputs = StudentInputs(case.model.frozen_part(values[0]), *values[1:])
        case.model.train()
        cast = torch.autocast(case.texts.device.type, dtype=torch.bfloat16, enabled=autocast)
        with sdpa_kernel(SDPBackend.MATH), cast:
            loss = unrolled_matching_loss(case.model, case.segment, inputs, batches, options)
        gradient = torch.autograd.grad(loss, values)
        case.model.train(False)
        return list(gradient)

    return run


def relative_error(gradient: list[Tensor], expected: list[Tensor]) -> float:
    """The largest |gradient - expected| / |expected| over pixels, texts and both step sizes."""
    return max(float((one - other).norm() / other.norm()) for one, other in zip(gradient, expected, strict=True))


def forget() -> None:
    """Free what a finished or failed measurement left behind."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
