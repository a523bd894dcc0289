"""Expert-fit: synthetic pairs that a trained expert matches, distributed as the real pairs are for it.

    L = InfoNCE(z_v, z_t) + w_u MMD(u) + w_g MMD(g),    u = norm(z_v + z_t),    g = norm(z_v - z_t)

with z the unit embeddings of the pairs under one snapshot of one expert, and MMD the distance between the synthetic and
the real batch under the geodesic kernel k(a, b) = exp(-arccos^2 <a, b> / (2 sigma^2)). There is no inner loop and no
second derivative.

Source: MDM (arXiv 2605.23482, CVPR 2026). Deviations: the paper merges two experts that share their start into a
teacher, here with ``teacher: merged`` and ``experts.shared_start``; by default experts do not share their start, and
the teacher is one snapshot. The paper clips the joint gradient norm of images and texts to 1; here each modality is
clipped by itself, since one norm starves the smaller side. Students train at ``lr_student_image`` and
``lr_student_text``: the method learns no step sizes.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rayvldd.config.distillation import DistillationSettings
from rayvldd.config.methods.expert_fit import ExpertFitSettings
from rayvldd.distillation.augmentation import augment, draw_augmentation
from rayvldd.distillation.frozen_features import FrozenFeatures
from rayvldd.distillation.method import MethodStep
from rayvldd.distillation.synthetic_set import SyntheticSet, Tensors
from rayvldd.experts.merging import merged
from rayvldd.experts.movement import Layouts
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.copies import parameters_to_device, to_device
from rayvldd.models.pair_losses import PAIR_LOSSES
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.randomness import SEED_END
from rayvldd.training.real_batches import draw_real_pairs

_MAX_COSINE = 1 - 1e-6
"""Upper bound for cosines: the derivative of arccos is infinite at 1."""
_TINY = 1e-12
"""Lower bound of square root arguments: the derivative is infinite at 0."""


class ExpertFit:
    """Expert-fit method; see the module docstring."""

    lr_step_sizes: float | None = None

    def __init__(self, task: RetrievalTask, settings: DistillationSettings, experts: Sequence[Trajectory]) -> None:
        self._task, self._common, self._experts = task, settings, experts
        self._settings = settings.of(ExpertFitSettings)

    def gradient(self, synthetic_set: SyntheticSet, outer_step: int, generator: np.random.Generator) -> MethodStep:
        """Draw a teacher and batches, and return the loss and its gradient, clipped per modality."""
        device, settings = self._task.device, self._settings
        teacher = self._draw_teacher(generator)
        size = min(settings.batch_size or synthetic_set.num_pairs, synthetic_set.num_pairs)
        chosen = to_device(torch.from_numpy(generator.permutation(synthetic_set.num_pairs)[:size]), device)
        real = self._embed_real(teacher, generator)
        seed = int(generator.integers(SEED_END))
        features = FrozenFeatures(self._task.model, self._common, synthetic_set.images[chosen], seed)
        images = features.output.detach().requires_grad_()
        texts = synthetic_set.texts[chosen].detach().requires_grad_()
        fit, joint, gap = self._parts(teacher, self._seen(images, seed), texts, real)
        loss = fit + settings.weight_joint * joint + settings.weight_gap * gap
        by_output, by_texts = torch.autograd.grad(loss, (images, texts))
        gradients = {
            name: torch.zeros_like(synthetic_set.values[name]).index_copy(0, chosen, self._clipped(part))
            for name, part in (("images", features.back(by_output)), ("texts", by_texts))
        }
        log = {"expert_fit_loss": loss, "fit_info_nce": fit, "fit_joint": joint, "fit_gap": gap}
        return MethodStep(loss.detach(), gradients, {name: value.detach() for name, value in log.items()})

    def state_dict(self) -> Tensors:
        """Return an empty state: every step depends only on the random stream of the run."""
        return {}

    def load_state_dict(self, state: Tensors) -> None:
        """Do nothing, because the method has no state."""

    def _draw_teacher(self, generator: np.random.Generator) -> Parameters:
        if self._settings.teacher == "merged":
            return self._merge_teacher(generator)
        expert = self._experts[int(generator.integers(len(self._experts)))]
        return self._on_device(expert[self._draw_epoch(generator)])

    def _merge_teacher(self, generator: np.random.Generator) -> Parameters:
        """Merge snapshots of two different experts, each after its own number of epochs."""
        model = self._task.model
        first, second = (self._experts[index] for index in generator.permutation(len(self._experts))[:2])
        snapshots = first[self._draw_epoch(generator)], second[self._draw_epoch(generator)]
        layouts = Layouts(model.image_layout, model.text_layout)
        return self._on_device(merged(first[0], snapshots, layouts, self._settings.merge_scale))

    def _draw_epoch(self, generator: np.random.Generator) -> int:
        return int(generator.integers(self._settings.min_epoch, self._settings.max_epoch + 1))

    def _on_device(self, parameters: Parameters) -> Parameters:
        return parameters_to_device(parameters, self._task.device)

    @torch.no_grad()
    def _embed_real(
        self, teacher: Parameters, generator: np.random.Generator
    ) -> tuple[Float[Tensor, "real dim"], Float[Tensor, "real dim"]]:
        """Return the embeddings of a batch of real images, each with one of its captions."""
        task, train = self._task, self._task.train
        captions = draw_real_pairs(train, self._settings.real_batch_size, generator)
        images = task.frozen_outputs(train, train.split.caption_image[captions])
        return task.model.embed_images(images, teacher.image), task.model.embed_texts(
            task.texts(train, captions), teacher.text
        )

    def _seen(self, images: Float[Tensor, "pair ..."], seed: int) -> Float[Tensor, "pair ..."]:
        """Return the inputs of the trained part; features of a frozen encoder are already augmented."""
        if not self._task.model.encoder_is_frozen and self._common.augmentation:
            images = augment(images, draw_augmentation(seed, self._common.augmentation))
        return self._task.model.laid_out(images)

    def _parts(
        self,
        teacher: Parameters,
        images: Float[Tensor, "pair ..."],
        texts: Float[Tensor, "pair text_dim"],
        real: tuple[Float[Tensor, "real dim"], Float[Tensor, "real dim"]],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
        """Return the InfoNCE loss of the synthetic pairs and both distribution distances."""
        model = self._task.model
        z_image, z_text = model.embed_images(images, teacher.image), model.embed_texts(texts, teacher.text)
        fit = PAIR_LOSSES["info_nce"](z_image, z_text, None, model.settings.temperature)
        joint, gap = (
            distribution_distance(
                F.normalize(z_image + sign * z_text), F.normalize(real[0] + sign * real[1]), self._settings.bandwidth
            )
            for sign in (1, -1)
        )
        return fit, joint, gap

    def _clipped(self, gradient: Float[Tensor, "pair ..."]) -> Float[Tensor, "pair ..."]:
        norm = gradient.square().sum().sqrt()
        return gradient * (self._settings.max_gradient_norm / norm.clamp(min=self._settings.max_gradient_norm))


def distribution_distance(
    synthetic: Float[Tensor, "pair dim"], real: Float[Tensor, "real dim"], bandwidth: float
) -> Float[Tensor, ""]:
    """Return the square root of the maximum mean discrepancy of two sets of unit vectors under the geodesic kernel.

        MMD^2 = mean_{i != j} k(s_i, s_j) + mean_{i != j} k(r_i, r_j) - 2 mean k(s_i, r_j)

    An estimate below 0 counts as 0.

    Args:
        synthetic: At least two unit vectors.
        real: At least two unit vectors.
        bandwidth: Sigma of the kernel, in radians.
    """
    within = [_mean_of_others(geodesic_kernel(each, each, bandwidth)) for each in (synthetic, real)]
    squared = within[0] + within[1] - 2 * geodesic_kernel(synthetic, real, bandwidth).mean()
    return (squared.clamp(min=0) + _TINY).sqrt()


def geodesic_kernel(
    left: Float[Tensor, "left dim"], right: Float[Tensor, "right dim"], bandwidth: float
) -> Float[Tensor, "left right"]:
    """Return exp(-arccos^2 <a, b> / (2 bandwidth^2)) of unit vectors, with cosines clamped to 1 - 1e-6.

    Source: MDM, arXiv 2605.23482.

    Args:
        left: Vectors of length 1.
        right: Vectors of length 1.
        bandwidth: Bandwidth of the kernel in radians.
    """
    angles = (left @ right.T).clamp(-_MAX_COSINE, _MAX_COSINE).arccos()
    return (-angles.square() / (2 * bandwidth**2)).exp()


def _mean_of_others(kernel: Float[Tensor, "item item"]) -> Float[Tensor, ""]:
    """Return the mean over pairs of different items."""
    count = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (count * (count - 1))
