"""The learning rate of students on a coreset, chosen on validation."""

from rayvldd.records.form import Values


class ChosenRate(Values):
    """The best of several learning rates."""

    learning_rate: float
    val_mean_recall: float | None
    """Mean over the students on validation, in percent; None if there was no other rate."""
    num_rates: int

    @property
    def words(self) -> str:
        """The choice in a few words."""
        return f"{self.learning_rate:g}" + (f" of {self.num_rates}" if self.num_rates > 1 else "")
