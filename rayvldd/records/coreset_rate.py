"""The learning rate and weight decay of students on a coreset, chosen on validation."""

from rayvldd.records.form import Values


class ChosenRate(Values):
    """The best of several learning rates, each with the weight decays that were asked for."""

    learning_rate: float
    val_mean_recall: float | None
    """Mean over the students on validation, in percent; None if there was no other rate."""
    num_rates: int
    """Pairs of a learning rate and a weight decay that were tried."""
    weight_decay: float | None = None
    """None: ``evaluation.weight_decay``."""

    @property
    def words(self) -> str:
        """The choice in a few words."""
        decay = "" if self.weight_decay is None else f" with weight decay {self.weight_decay:g}"
        return f"{self.learning_rate:g}{decay}" + (f" of {self.num_rates}" if self.num_rates > 1 else "")
