"""How far a mean over a few students, or a share of a few captions, can be trusted."""

from collections.abc import Sequence

import numpy as np
from scipy import stats  # type: ignore[import-untyped]


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean of independent, roughly normal values; it needs two of them."""
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * error
    return mean - half, mean + half


def nested_interval(groups: Sequence[Sequence[float]], confidence: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean over groups, e.g. synthetic sets, of the mean within each, e.g. of its students.

    What varies from set to set and from student to student is in the means of the sets, so these are the values that
    count; all students in one pot would count as many sets as there are students. Of a single group the interval is
    over its own values and says nothing of other groups.
    """
    return t_interval([float(np.mean(group)) for group in groups] if len(groups) > 1 else groups[0], confidence)


def share_interval(hits: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share, as a fraction: it stays within 0 and 1 also where none or all are hits."""
    z = float(stats.norm.ppf((1 + confidence) / 2))
    share, weight = hits / count, z * z / count
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * float(np.sqrt(share * (1 - share) / count + weight / (4 * count)))
    return max(0.0, middle - half), min(1.0, middle + half)
