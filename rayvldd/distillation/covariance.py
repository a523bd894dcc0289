"""Covariance matching: linear heads that the synthetic pairs determine in closed form should be those of real pairs.

With linear heads G_v and G_l on features h_v and h_l, the linearised contrastive loss -Tr(G_v C G_l^T) has its optimum
at G_v^T G_l = C / rho, with C the cross-covariance of the features. Features here have the mean of the real ones
subtracted, and are divided by the root mean square length that the real ones then have: a mean is 0 and a mean square
length 1 on real pairs, so that settings have one meaning for every encoder. With H the rows of M synthetic features,
H' the same without their own mean, K = H H^T, and T and S the matrices of real and synthetic pairs:

    plain     L = |rho T - S|^2 / |T|^2,    S = H'_v^T H'_l / (M - 1)
    whitened  L = |rho T - S|^2 / |T|^2,    S = (Cov_v + e_v I)^-1 Cov_vl (Cov_l + e_l I)^-1
    ridge     L = InfoNCE(norm(A_v), norm(A_l)),    A = X H^T (K + e I)^-1

plus weight_mean times the squared length of the mean synthetic feature of each side, which a matrix of rank M - 1
leaves free. No matrix as wide as the features is built for the synthetic pairs: with S = H_v^T B H_l,

    |rho T - S|^2 = rho^2 |T|^2 - 2 rho <B, H_v T H_l^T> + Tr(B^T K_v B K_l)

and B = I / (M - 1) under ``plain``, (M - 1) (K_v + (M - 1) e_v I)^-1 (K_l + (M - 1) e_l I)^-1 under ``whitened``. Under
``ridge``, a head maps a real feature x to its coefficients on the M pairs: the ridge regression from synthetic features
to the number of the pair, in kernel form. The contrastive loss of a batch X of real pairs is then a meta-gradient
through two M x M solves, exact and without steps.

With ``image_encoders`` the losses behind several frozen encoders are averaged. Each has its own scale of pixels, its
own features and moments; texts and the drawn real pairs are the same for all.

Source of ``plain``: CovMatch (arXiv 2510.18583, NeurIPS 2025). Deviations: CovMatch trains the text encoder too, moves
the model by one contrastive step on real pairs in every outer step and resets it every 50; here both encoders are
frozen, so T is one constant matrix of all real pairs. CovMatch has the mean features behind the heads; here they are
those before the heads. The loss is relative to |T|^2. ``whitened`` is related to APM (ICML 2026), whose exact equation
was not available: it is not APM. ``ridge`` is related to KIP (arXiv 2011.00050) and FRePo (arXiv 2206.00719); both
regress on labels of classes. Students have nonlinear heads and are trained by SGD: the linear heads approximate them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rayvldd.config.distillation import DistillationSettings
from rayvldd.config.methods.covariance import CovarianceSettings
from rayvldd.distillation.frozen_features import FrozenFeatures, ScaledPixels
from rayvldd.distillation.method import MethodStep
from rayvldd.distillation.synthetic_set import SyntheticSet, Tensors
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.pair_losses import PAIR_LOSSES
from rayvldd.models.retrieval_task import EncodedImages, RetrievalTask, SplitInputs
from rayvldd.randomness import SEED_END
from rayvldd.training.real_batches import draw_real_pairs

_IMAGES_AT_A_TIME = 4096
"""Real images whose features are in memory at a time."""


@dataclass(frozen=True)
class Scale:
    """Centre and scale of one side's features, from the real pairs."""

    mean: Float[Tensor, " dim"]
    length: Float[Tensor, ""]
    """Root mean square distance from the mean."""

    def __call__(self, features: Float[Tensor, "item dim"]) -> Float[Tensor, "item dim"]:
        """Return features with mean 0 and mean square length 1 on real pairs."""
        return (features - self.mean) / self.length


@dataclass(frozen=True)
class RealMoments:
    """Moments of the scaled features over all real pairs: every caption with its image."""

    image: Scale
    text: Scale
    cross: Float[Tensor, "image_dim text_dim"]
    """Cross-covariance of both sides."""
    within_image: Float[Tensor, "image_dim image_dim"]
    """Covariance of the image side."""
    within_text: Float[Tensor, "text_dim text_dim"]
    """Covariance of the text side."""


@dataclass(frozen=True)
class Target:
    """Real pairs behind one frozen image encoder."""

    encoder: EncodedImages
    real: RealMoments
    matrix: Float[Tensor, "image_dim text_dim"]
    """Matrix of the real pairs that ``plain`` and ``whitened`` match."""


class RealBatch(NamedTuple):
    """Real pairs of an outer step, the same for every image encoder."""

    captions: np.ndarray
    """Indices of the captions; each image once."""
    noise_seed: int | None
    """Seed of the noise on their features; None: no noise."""


class Covariance:
    """Covariance matching method; see the module docstring."""

    lr_step_sizes: float | None = None

    def __init__(self, task: RetrievalTask, settings: DistillationSettings, experts: Sequence[Trajectory]) -> None:
        self._task, self._common, self._settings = task, settings, settings.of(CovarianceSettings)
        encoders = self._settings.image_encoders or (task.model.settings.image_encoder,)
        self._targets = [self._target(task.encoded_by(encoder)) for encoder in encoders]

    def _target(self, encoder: EncodedImages) -> Target:
        real = real_moments(self._task, encoder.inputs)
        whitened = self._settings.variant == "whitened"
        return Target(encoder, real, whitened_cross(real, self._settings.regularisation) if whitened else real.cross)

    def gradient(self, synthetic_set: SyntheticSet, outer_step: int, generator: np.random.Generator) -> MethodStep:
        """Return the loss of the set and its gradient; only ``ridge`` draws a batch of real pairs."""
        seed = int(generator.integers(SEED_END))
        batch = self._draw(generator) if self._settings.variant == "ridge" else None
        # One encoder after the other, so that the graph of one alone is in memory.
        steps = [self._of_target(target, synthetic_set, seed, batch) for target in self._targets]
        log = {name: torch.stack([step.log[name] for step in steps]).mean() for name in steps[0].log}
        gradients = {name: torch.stack([step.gradients[name] for step in steps]).mean(0) for name in steps[0].gradients}
        return MethodStep(log["covariance_loss"], gradients, log)

    def _of_target(self, target: Target, synthetic_set: SyntheticSet, seed: int, batch: RealBatch | None) -> MethodStep:
        """Return loss and gradient behind one encoder."""
        pixels = ScaledPixels(self._task.model, target.encoder.model, synthetic_set.images)
        features = FrozenFeatures(target.encoder.model, self._common, pixels.output, seed)
        images = features.output.detach().requires_grad_()
        texts = synthetic_set.texts.detach().requires_grad_()
        scaled = target.real.image(images), target.real.text(texts)
        if batch is not None:
            main = ridge_loss(scaled, self._real_sides(target, batch), self._settings)
        else:
            main = matrix_distance(scaled, target.matrix, self._settings)
        mean = scaled[0].mean(0).square().sum() + scaled[1].mean(0).square().sum()
        loss = main + self._settings.weight_mean * mean
        by_output, by_texts = torch.autograd.grad(loss, (images, texts))
        log = {"covariance_loss": loss, f"covariance_{self._settings.variant}": main, "covariance_mean": mean}
        return MethodStep(
            loss.detach(),
            {"images": pixels.back(features.back(by_output)), "texts": by_texts},
            {name: value.detach() for name, value in log.items()},
        )

    def state_dict(self) -> Tensors:
        """Return an empty state: every step depends only on the random stream of the run."""
        return {}

    def load_state_dict(self, state: Tensors) -> None:
        """Do nothing, because the method has no state."""

    def _draw(self, generator: np.random.Generator) -> RealBatch:
        """Draw real images, each with one of its captions, and the noise on their features if enabled."""
        captions = draw_real_pairs(self._task.train, self._settings.real_batch_size, generator)
        return RealBatch(captions, int(generator.integers(SEED_END)) if self._settings.real_noise else None)

    def _real_sides(self, target: Target, batch: RealBatch) -> "RealSides":
        """Return the scaled features of a batch behind one encoder, with noise if enabled."""
        inputs, task = target.encoder.inputs, self._task
        images = target.real.image(task.frozen_outputs(inputs, inputs.split.caption_image[batch.captions]))
        texts = target.real.text(task.texts(inputs, batch.captions))
        if batch.noise_seed is None:
            return images, texts
        noise = torch.Generator().manual_seed(batch.noise_seed)
        return self._with_noise(images, noise), self._with_noise(texts, noise)

    def _with_noise(self, features: Float[Tensor, "real dim"], noise: torch.Generator) -> Float[Tensor, "real dim"]:
        """Add noise; a scaled feature has a mean square length of 1, so a variance of 1 / dim in each number."""
        drawn = torch.randn(features.shape, generator=noise).to(features)
        return features + drawn * (self._settings.real_noise / math.sqrt(features.shape[1]))


Sides = tuple[Float[Tensor, "pair image_dim"], Float[Tensor, "pair text_dim"]]
"""Scaled features of synthetic pairs."""

RealSides = tuple[Float[Tensor, "real image_dim"], Float[Tensor, "real text_dim"]]
"""Scaled features of real pairs."""


def matrix_distance(
    synthetic: Sides, target: Float[Tensor, "image_dim text_dim"], settings: CovarianceSettings
) -> Float[Tensor, ""]:
    """Return the relative squared distance of the synthetic matrix from ``rho`` times the target.

    Args:
        synthetic: Scaled features of the synthetic pairs.
        target: Matrix of the real pairs: their cross-covariance under ``plain``, ``whitened_cross`` under ``whitened``.
        settings: Variant, ``rho`` and regularisation.
    """
    image, text = (side - side.mean(0) for side in synthetic)
    count = len(image)
    kernels = image @ image.T, text @ text.T
    if settings.variant == "whitened":
        inverses = (
            _inverse(kernel, (count - 1) * settings.regularisation / side.shape[1])
            for kernel, side in zip(kernels, (image, text), strict=True)
        )
        between = (count - 1) * torch.matmul(*inverses)
    else:
        between = torch.eye(count, dtype=image.dtype, device=image.device) / (count - 1)
    agreement = (between * (image @ target @ text.T)).sum()
    size = (between.T @ kernels[0] @ between * kernels[1]).sum()  # the trace of a product with a symmetric matrix
    target_size = target.square().sum()
    return settings.rho**2 + (size - 2 * settings.rho * agreement) / target_size


def ridge_loss(synthetic: Sides, real: RealSides, settings: CovarianceSettings) -> Float[Tensor, ""]:
    """Return the contrastive loss of real pairs under heads that ridge regression fits to the synthetic pairs.

    Args:
        synthetic: Scaled features of the synthetic pairs.
        real: Scaled features of real pairs.
        settings: Regularisation and temperature.
    """
    embedded = []
    for pairs, others in zip(synthetic, real, strict=True):
        inverse = _inverse(pairs @ pairs.T, settings.regularisation)
        embedded.append(F.normalize(others @ pairs.T @ inverse, dim=1))
    return PAIR_LOSSES["info_nce"](embedded[0], embedded[1], None, settings.temperature)


def _inverse(kernel: Float[Tensor, "pair pair"], added: float) -> Float[Tensor, "pair pair"]:
    """Return (kernel + added I)^-1 of a positive semidefinite kernel."""
    identity = torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    return torch.cholesky_inverse(torch.linalg.cholesky(kernel + added * identity))


def whitened_cross(real: RealMoments, regularisation: float) -> Float[Tensor, "image_dim text_dim"]:
    """Return the cross-covariance between the regularised inverse covariances of both sides."""
    solved = real.cross
    for within, turned in ((real.within_image, False), (real.within_text, True)):
        matrix = within + torch.eye(len(within), dtype=within.dtype, device=within.device) * (
            regularisation / len(within)
        )
        solved = torch.linalg.solve(matrix, solved.T if turned else solved)
        solved = solved.T if turned else solved
    return solved


@torch.no_grad()
def real_moments(task: RetrievalTask, inputs: SplitInputs) -> RealMoments:
    """Return the moments of all pairs of a split, summed in double precision.

    Args:
        task: Model and data.
        inputs: The split; features of its images are those of the frozen encoder.
    """
    sums: dict[str, Tensor] = {}

    def add(name: str, value: Tensor) -> None:
        sums[name] = sums[name] + value if name in sums else value

    captions = np.argsort(inputs.split.caption_image, kind="stable")
    per_image = np.bincount(inputs.split.caption_image, minlength=inputs.num_images)
    ends = np.concatenate([[0], np.cumsum(per_image)])
    for start in range(0, inputs.num_images, _IMAGES_AT_A_TIME):
        stop = min(start + _IMAGES_AT_A_TIME, inputs.num_images)
        image = task.frozen_outputs(inputs, np.arange(start, stop)).double()
        text = task.texts(inputs, captions[ends[start] : ends[stop]]).double()
        repeats = torch.from_numpy(per_image[start:stop]).to(image.device)
        owner = torch.repeat_interleave(torch.arange(stop - start, device=image.device), repeats)
        of_image = torch.zeros(len(image), text.shape[1], dtype=text.dtype, device=text.device)
        of_image.index_add_(0, owner, text)
        weighted = image * repeats[:, None]
        add("image", weighted.sum(0))
        add("text", text.sum(0))
        add("cross", image.T @ of_image)
        add("within_image", weighted.T @ image)
        add("within_text", text.T @ text)
    return _moments(sums, len(captions), task.texts(inputs, captions[:1]).dtype)


def _moments(sums: Tensors, count: int, dtype: torch.dtype) -> RealMoments:
    """Centre and scale sums over pairs."""
    mean = {side: sums[side] / count for side in ("image", "text")}
    within = {
        side: (sums[f"within_{side}"] - count * torch.outer(mean[side], mean[side])) / (count - 1)
        for side in ("image", "text")
    }
    cross = (sums["cross"] - count * torch.outer(mean["image"], mean["text"])) / (count - 1)
    length = {side: within[side].trace().sqrt() for side in within}
    length = {
        side: torch.where(value > 0, value, 1) for side, value in length.items()
    }  # equal features stay as they are
    return RealMoments(
        Scale(mean["image"].to(dtype), length["image"].to(dtype)),
        Scale(mean["text"].to(dtype), length["text"].to(dtype)),
        (cross / (length["image"] * length["text"])).to(dtype),
        (within["image"] / length["image"] ** 2).to(dtype),
        (within["text"] / length["text"] ** 2).to(dtype),
    )
