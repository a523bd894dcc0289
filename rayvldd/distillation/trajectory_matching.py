"""Bi-trajectory matching: a student of the synthetic set should reach the parameters of an expert, on both sides.

    L = |student_img - target_img|^2 / |start_img - target_img|^2  +  the same for text

An outer step draws a segment of an expert, unrolls a student from its start on the synthetic set, and computes the
gradient of L with respect to pixels, embeddings, similarity and step sizes. :mod:`rayvldd.distillation.reference` is a
direct implementation in thirty lines.

Source: Wu et al., algorithm 1, equation 2 and the released ``distill.py``; the normalisation by the distance that the
expert covers is that of MTT (arXiv 2203.11932). Deviation: the gradient is exact for any number of steps (see
``unroll.inner_loop``).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from rayvldd.config.distillation import DistillationSettings
from rayvldd.config.methods.trajectory_matching import TrajectoryMatchingSettings
from rayvldd.distillation.method import MethodStep
from rayvldd.distillation.segments import draw_segment, drift_bounds, fixed_bounds
from rayvldd.distillation.set_inputs import SetInputs
from rayvldd.distillation.synthetic_set import SyntheticSet, Tensors
from rayvldd.distillation.unroll.batches import draw_batches
from rayvldd.distillation.unroll.inner_loop import EndLoss, InnerLoop
from rayvldd.experts.movement import Layouts
from rayvldd.experts.trajectory import Segment, Trajectory
from rayvldd.models.copies import parameters_to_device
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import RetrievalTask


class MatchingLoss(NamedTuple):
    """Both parts of the loss; a value of 1 means that the student ended as far from the target as it started."""

    image: Float[Tensor, ""]
    text: Float[Tensor, ""]
    total: Float[Tensor, ""]
    """Minimised loss: the sum, or the matched part."""


def matching_loss(student: Parameters, segment: Segment, matched: str = "both") -> MatchingLoss:
    """Return the loss of a student that started at ``segment.start`` and ended at ``student``.

    Args:
        student: Final parameters of the student.
        segment: Its start parameters and the target parameters of the expert.
        matched: ``both`` sides, or the ``image`` or ``text`` side alone (Wu et al., ablation of single modalities).
    """
    image = _relative_distance(student.image, segment.start.image, segment.target.image)
    text = _relative_distance(student.text, segment.start.text, segment.target.text)
    return MatchingLoss(image, text, {"both": image + text, "image": image, "text": text}[matched])


def _relative_distance(
    end: Float[Tensor, " param"], start: Float[Tensor, " param"], target: Float[Tensor, " param"]
) -> Float[Tensor, ""]:
    return (end - target).square().sum() / (start - target).square().sum()


class TrajectoryMatching:
    """Trajectory matching method; see the module docstring."""

    def __init__(self, task: RetrievalTask, settings: DistillationSettings, experts: Sequence[Trajectory]) -> None:
        self._task, self._common, self._experts = task, settings, experts
        self._settings = settings.of(TrajectoryMatchingSettings)
        self._layouts = Layouts(task.model.image_layout, task.model.text_layout)
        drift = self._settings.start_ranges == "drift"
        self._bounds = drift_bounds(experts, self._settings, self._layouts) if drift else fixed_bounds(self._settings)
        self._inner_loop = InnerLoop(task.model, settings, self._settings, further_devices=task.further_devices)
        self.lr_step_sizes: float | None = self._settings.lr_lr

    def gradient(self, synthetic_set: SyntheticSet, outer_step: int, generator: np.random.Generator) -> MethodStep:
        """Draw a segment, and return the matching loss and its gradient."""
        drawn = draw_segment(self._experts, self._settings, outer_step, generator, self._layouts, self._bounds)
        segment = self._on_device(drawn)
        batches = draw_batches(self._settings, synthetic_set.num_pairs, generator, self._task.device)
        source = SetInputs(self._task.model, self._common, synthetic_set, batches.seeds[0])

        def end_loss(student: Parameters) -> EndLoss:
            loss = matching_loss(student, segment, self._settings.matched)
            return EndLoss(loss.total, {"matching_loss_image": loss.image, "matching_loss_text": loss.text})

        loss, by = self._inner_loop.gradient(segment.start, end_loss, source.inputs, batches)
        gradients = source.back(by, images=self._settings.matched != "text", texts=self._settings.matched != "image")
        return MethodStep(loss.value, gradients, {"matching_loss": loss.value, **loss.log})

    def state_dict(self) -> Tensors:
        """Return an empty state: every step depends only on the random stream of the run."""
        return {}

    def load_state_dict(self, state: Tensors) -> None:
        """Do nothing, because the method has no state."""

    def _on_device(self, segment: Segment) -> Segment:
        device = self._task.device
        return Segment(parameters_to_device(segment.start, device), parameters_to_device(segment.target, device))
