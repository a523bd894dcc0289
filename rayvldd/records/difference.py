"""The difference of two mean recalls on the same queries."""

from rayvldd.records.form import Values


class Difference(Values):
    """How far one mean recall is above another, in percentage points."""

    mean: float
    interval: tuple[float, float] | None
    """95 % interval over images, sets and students; None for fewer than three of one of them."""

    @property
    def is_better(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.interval is not None and self.interval[0] > 0

    @property
    def is_worse(self) -> bool:
        """Whether the whole interval is below 0."""
        return self.interval is not None and self.interval[1] < 0

    @property
    def words(self) -> str:
        """The difference with its interval, e.g. ``+6.1 points (95 % interval 0.5 to 11.7)``."""
        ends = self.ends
        return f"{self.mean:+.1f} points" + (f" (95 % interval {ends})" if ends else "")

    @property
    def ends(self) -> str:
        """The ends of the interval, e.g. ``0.5 to 11.7``; empty if there is none."""
        return "" if self.interval is None else " to ".join(map(_points, self.interval))


def _points(value: float) -> str:
    """A number with one digit, or with the first one that is not zero: the sign of an end decides."""
    text = f"{value:.1f}"
    return text if float(text) or not value else f"{value:.1g}"
