"""Draw the expert and the trajectory segment for an outer step.

Sources: a uniform start below ``max_start_epoch``, Wu et al. and MTT; separate start epochs for image and text, AMD; a
start range that widens during distillation, DATM (arXiv 2310.05773). DATM's released code widens from a separate
setting (``current_max_start_epoch``); here the range widens from ``min_start_epoch``.
"""

from collections.abc import Sequence

import numpy as np

from rayvldd.config.methods.trajectory_matching import TrajectoryMatchingSettings
from rayvldd.experts.trajectory import Segment, Trajectory
from rayvldd.models.parameters import Parameters


def draw_segment(
    trajectories: Sequence[Trajectory],
    settings: TrajectoryMatchingSettings,
    outer_step: int,
    generator: np.random.Generator,
) -> Segment:
    """Draw an expert and a start epoch (or one for each side), and read both ends.

    Args:
        trajectories: The experts.
        settings: Range and length of segments.
        outer_step: Number of outer steps taken so far; used only while the range widens.
        generator: Draws the expert, the start, and with ``separate_start_epochs`` also the start of the text side.

    Raises:
        StoreError: when the drawn expert has too few epochs.
    """
    trajectory = trajectories[int(generator.integers(len(trajectories)))]
    end = start_bound(settings, outer_step)
    start = int(generator.integers(settings.min_start_epoch, end))
    segment = trajectory.segment(start, start + settings.expert_epochs)
    if not settings.separate_start_epochs:
        return segment
    start = int(generator.integers(settings.min_start_epoch, end))
    of_text = trajectory.segment(start, start + settings.expert_epochs)
    return Segment(
        Parameters(segment.start.image, of_text.start.text), Parameters(segment.target.image, of_text.target.text)
    )


def start_bound(settings: TrajectoryMatchingSettings, outer_step: int) -> int:
    """Return the exclusive upper bound of start epochs at an outer step.

    With ``widen_over`` it increases linearly from one above the first epoch, at outer step 0, to ``max_start_epoch``.
    """
    if settings.widen_over is None:
        return settings.max_start_epoch
    first = settings.min_start_epoch + 1
    taken = min(outer_step, settings.widen_over)
    return first + (settings.max_start_epoch - first) * taken // settings.widen_over
