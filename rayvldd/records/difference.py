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
        if self.interval is None:
            return f"{self.mean:+.1f} points"
        return f"{self.mean:+.1f} points (95 % interval {self.interval[0]:.1f} to {self.interval[1]:.1f})"
