"""Learning rates to try after a search or a distillation in which nothing rose above its start."""

from collections.abc import Mapping, Sequence
from typing import Final

from pydantic import Field

from rayvldd.config.domains import SettingValue
from rayvldd.config.study import Study
from rayvldd.records.form import Values
from rayvldd.records.trial import Trial

LR_IMAGE, LR_TEXT = "distillation.lr_image", "distillation.lr_text"
METRICS_TO_TRY = {LR_IMAGE: "try_lr_image", LR_TEXT: "try_lr_text"}
"""Names of the rates to try first in trackers."""
_FACTOR: Final = 10.0
"""Between the rates of a run and those to try next: published rates differ by a factor of 50 between settings (LoRS,
``lr_image``), and the wrong ones here were wrong by about ten (docs/guides/rates.md)."""
_FELL: Final = 0.9
"""Share of the first recall below which a later one has fallen, not changed by the noise of students."""


class RatesToTry(Values):
    """What the run that came nearest to its start shows, and rates around its own; recalls in percent."""

    run: str
    """Name of the trial."""
    start_recall: float
    lowest_recall: float | None
    """Of its later evaluations; None if it ended before one."""
    lower: dict[str, float]
    """Its outer learning rates divided by ten, by dotted key."""
    higher: dict[str, float]
    """Ten times its rates."""
    point: dict[str, SettingValue] = Field(default_factory=dict)
    """Its other searched settings."""

    @property
    def fell(self) -> bool:
        """Whether its recall fell, or it ended, as with rates that are too high; with too low ones it stays there."""
        return self.lowest_recall is None or self.lowest_recall < _FELL * self.start_recall

    @property
    def in_order(self) -> tuple[dict[str, float], dict[str, float]]:
        """The lower and the higher rates, the more promising ones first."""
        return (self.lower, self.higher) if self.fell else (self.higher, self.lower)

    @property
    def numbers(self) -> dict[str, float]:
        """The rates to try first, for trackers."""
        return {METRICS_TO_TRY[key]: rate for key, rate in self.in_order[0].items()}


def rates_to_try(study: Study, trials: Sequence[Trial]) -> RatesToTry | None:
    """Return rates around those of the trial that came nearest to its start.

    Args:
        study: The study, whose constants the trials share.
        trials: Its trials.

    Returns:
        The rates; None if no trial has an evaluation, or one rose above its own start: where starts differ, another
        start can be the best set all the same, which says nothing about the rates.
    """
    known = [trial for trial in trials if trial.evaluations]
    if not known:
        return None
    nearest = max(known, key=_later_gain)
    if _later_gain(nearest) > 0:
        return None
    recalls = [one.recall for one in nearest.evaluations]
    settings = study.at(nearest.point).distillation
    rates = {LR_IMAGE: settings.lr_image, LR_TEXT: settings.lr_text}
    return RatesToTry(
        run=nearest.trial_id,
        start_recall=recalls[0],
        lowest_recall=min(recalls[1:], default=None),
        lower=_scaled(rates, 1 / _FACTOR),
        higher=_scaled(rates, _FACTOR),
        point={key: value for key, value in nearest.point.items() if key not in rates},
    )


def _later_gain(trial: Trial) -> float:
    """Highest recall after the start, minus that of the start; a trial without a later evaluation is the last one."""
    first, *later = trial.evaluations
    return max((one.recall for one in later), default=float("-inf")) - first.recall


def _scaled(rates: Mapping[str, float], factor: float) -> dict[str, float]:
    return {key: float(f"{rate * factor:.3g}") for key, rate in rates.items()}
