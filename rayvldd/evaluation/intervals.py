"""Confidence intervals of a mean over few students and of a share of few captions."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return Student's t interval of the mean of at least two independent, roughly normal values."""
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return mean - half, mean + half


def nested_interval(groups: Sequence[Sequence[float]], confidence: float = 0.95) -> tuple[float, float]:
    """Return Student's t interval of the mean over groups (e.g. synthetic sets) of the mean within each group.

    The group means contain the variation between sets and between students, so they are the sample; pooling all
    students would treat each student as a separate set. For a single group, the interval is over its own values and
    does not extend to other groups.
    """
    return t_interval([float(np.mean(group)) for group in groups] if len(groups) > 1 else groups[0], confidence)


def share_interval(hits: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a share, as a fraction; it is within 0 and 1 even if none or all are hits."""
    z = float(stats.norm.ppf((1 + confidence) / 2))
    share, weight = hits / count, z * z / count
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * float(np.sqrt(share * (1 - share) / count + weight / (4 * count)))
    return max(0.0, middle - half), min(1.0, middle + half)
