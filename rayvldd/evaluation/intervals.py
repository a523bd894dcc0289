"""Confidence intervals of a mean over few students and of a share of few captions."""

from collections.abc import Sequence

import numpy as np
from scipy import special  # not scipy.stats, whose import takes a second of CPU in each process


def recall_interval(recalls: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of the mean of at least two independent recalls in percent; it is within 0 and 100.

    Student's t interval on the logit scale, with the standard error by the delta method, as surveys report shares
    (Korn and Graubard, 1998). Away from 0 and 100 it is Student's interval but for the last digit; near them that one
    would contain impossible recalls. If all recalls are 0 or all are 100, both ends are that value.
    """
    mean = float(np.mean(recalls)) / 100
    if not 0 < mean < 1:
        return 100 * mean, 100 * mean
    error = float(np.std(recalls, ddof=1)) / 100 / np.sqrt(len(recalls)) / (mean * (1 - mean))
    half = float(special.stdtrit(len(recalls) - 1, (1 + confidence) / 2)) * error
    low, high = 100 * special.expit(special.logit(mean) + np.array([-half, half]))
    return float(low), float(high)


FEWEST_VALUES = 3
"""Minimum number of values of a published interval: that of two spans most of the scale."""


def interval_if_enough(recalls: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean; None for fewer than three recalls."""
    return recall_interval(recalls) if len(recalls) >= FEWEST_VALUES else None


def nested_interval(groups: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean over groups (e.g. synthetic sets) of the mean recall within each group.

    The group means contain the variation between sets and between students, so they are the sample; pooling all
    students would treat each student as a separate set. For a single group, the interval is over its own values and
    does not extend to other groups. None for a sample of fewer than three.
    """
    return interval_if_enough([float(np.mean(group)) for group in groups] if len(groups) > 1 else groups[0])


def share_interval(hits: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a fraction; it is within 0 and 1 even if none or all are hits.

    Args:
        hits: Number of hits.
        count: Number of samples, at least 1.
        confidence: Confidence level, between 0 and 1.
    """
    z = float(special.ndtri((1 + confidence) / 2))
    share, weight = hits / count, z * z / count
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * float(np.sqrt(share * (1 - share) / count + weight / (4 * count)))
    # The ends are exact without hits and with hits alone: rounding left 3e-18 in place of 0.
    return middle - half if hits else 0.0, middle + half if hits < count else 1.0
