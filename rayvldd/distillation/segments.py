"""Draw the expert and the trajectory segment for an outer step.

Sources: a uniform start below ``max_start_epoch``, Wu et al. and MTT; a start range for image and text each, AMD (ICLR
2026), whose rule is :func:`drift_bounds`; the shortcut trajectory, PTM-ST (see :mod:`rayvldd.experts.movement`); a
start range that widens during distillation, DATM (arXiv 2310.05773). DATM's released code widens from a separate
setting (``current_max_start_epoch``); here the range widens from ``min_start_epoch``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rayvldd.config.methods.trajectory_matching import TrajectoryMatchingSettings
from rayvldd.experts.movement import Layouts
from rayvldd.experts.trajectory import Segment, Trajectory
from rayvldd.models.parameters import Parameters


class StartBounds(NamedTuple):
    """Upper bounds of the start epochs of each side, exclusive."""

    image: int
    text: int


def draw_segment(
    trajectories: Sequence[Trajectory],
    settings: TrajectoryMatchingSettings,
    outer_step: int,
    generator: np.random.Generator,
    layouts: Layouts | None = None,
    bounds: StartBounds | None = None,
) -> Segment:
    """Draw an expert and a start epoch (or one for each side), and read both ends.

    Args:
        trajectories: The experts.
        settings: Range and length of segments.
        outer_step: Number of outer steps taken so far; used only while the range widens.
        generator: Draws the expert, the start, and with ``separate_start_epochs`` also the start of the text side.
        layouts: Tensors of both sides; needed under ``shortcut_to``.
        bounds: Ranges of starts; default: those of the settings.

    Raises:
        StoreError: when the drawn expert has too few epochs.
    """
    bounds = bounds or fixed_bounds(settings)
    trajectory = trajectories[int(generator.integers(len(trajectories)))]

    def drawn(bound: int) -> Segment:
        start = int(generator.integers(settings.min_start_epoch, start_bound(settings, outer_step, bound)))
        target = start + settings.expert_epochs
        if not settings.shortcut_to:
            return trajectory.segment(start, target)
        assert layouts is not None, "a shortcut is a matter of tensors"
        return trajectory.shortcut(start, target, settings.shortcut_to, layouts)

    segment = drawn(bounds.image)
    if not settings.separate_start_epochs:
        return segment
    of_text = drawn(bounds.text)
    return Segment(
        Parameters(segment.start.image, of_text.start.text), Parameters(segment.target.image, of_text.target.text)
    )


def fixed_bounds(settings: TrajectoryMatchingSettings) -> StartBounds:
    """Return the bounds that the settings state."""
    return StartBounds(
        settings.max_start_epoch_image or settings.max_start_epoch,
        settings.max_start_epoch_text or settings.max_start_epoch,
    )


def drift_bounds(
    trajectories: Sequence[Trajectory], settings: TrajectoryMatchingSettings, layouts: Layouts
) -> StartBounds:
    """Return the bounds of AMD's rule, from how far the experts move in each epoch.

    With r(t) the mean movement of the image side in epoch t over that of the text side, and T the median of all r,
    image starts end at the first t with r(t) > T and text starts at the last t with r(t) <= T, both inclusive. Starts
    whose target would lie beyond the last epoch are left out.

    Args:
        trajectories: The experts.
        settings: Length of segments and end of the shortcut.
        layouts: Tensors of both sides.

    Raises:
        StoreError: when the movement of an epoch is neither stored nor computable.
    """
    last = min(trajectory.num_epochs for trajectory in trajectories)
    end = settings.shortcut_to or last
    norms = np.array([[each.norms() for each in trajectory.movements(end, layouts)] for trajectory in trajectories])
    image, text = norms.mean(0).T
    ratios = image / np.maximum(text, np.finfo(np.float64).tiny)
    above = np.flatnonzero(ratios > np.median(ratios)) + 1
    below = np.flatnonzero(ratios <= np.median(ratios)) + 1
    latest = end - settings.expert_epochs
    return StartBounds(min(int(above[0]) if len(above) else end, latest) + 1, min(int(below[-1]), latest) + 1)


def start_bound(settings: TrajectoryMatchingSettings, outer_step: int, bound: int | None = None) -> int:
    """Return the exclusive upper bound of start epochs at an outer step.

    With ``widen_over`` it increases linearly from one above the first epoch, at outer step 0, to the whole range.

    Args:
        settings: First epoch, bound and number of steps.
        outer_step: Number of outer steps taken so far.
        bound: Upper bound of the whole range; default: ``max_start_epoch``.
    """
    bound = bound or settings.max_start_epoch
    if settings.widen_over is None:
        return bound
    first = settings.min_start_epoch + 1
    taken = min(outer_step, settings.widen_over)
    return first + (bound - first) * taken // settings.widen_over
