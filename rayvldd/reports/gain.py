"""Whether distillation has improved a set: a warning, and the gain over its start."""

from typing import Final

from rayvldd.config.distillation import DistillationSettings

_ADVICE: Final = (
    "The usual cause is a learning rate that is far too low or too high: search distillation.lr_image and "
    "distillation.lr_text ten times lower and higher, and lr_lr of the method"
)


_METHODS: Final = {"k_center": "k-centre", "k_means": "k-means"}
"""Methods that select starting pairs, whose words differ from their names in settings."""


def words_of_start(settings: DistillationSettings, num_pairs: int) -> str:
    """What a set began as, e.g. ``100 random pairs``."""
    start = settings.initialisation
    if settings.initialise_from is not None or "noise" in (start.images, start.texts):
        return f"{num_pairs} starting pairs"
    kind = _METHODS.get(start.pairs, start.pairs)
    return f"{num_pairs} pairs by {kind}" if start.pairs != "random" else f"{num_pairs} random pairs"


def sentence_of_gain(settings: DistillationSettings, num_pairs: int, recall: float, start: float) -> str:
    """Say how far the validation recall of a set is above that of the pairs that it began as.

    Args:
        settings: Its initialisation.
        num_pairs: Pairs of the set.
        recall: Mean recall on validation, in percent.
        start: The same before the first outer step.
    """
    began = words_of_start(settings, num_pairs)
    return (
        f"{num_pairs} distilled pairs have {recall - start:+.1f} points of mean recall over the {began} that they "
        "began as, on the validation images that chose them"
    )


def words_without_gain(outer_step: int, num_pairs: int) -> str:
    """A warning with advice if the best set is the one at outer step 0; otherwise an empty text.

    Args:
        outer_step: Outer step of the best evaluation on validation.
        num_pairs: Pairs of the set.
    """
    if outer_step > 0:
        return ""
    return (
        "no evaluation on validation was above the one before the first outer step, so the set is its "
        f"{num_pairs} starting pairs. {_ADVICE}"
    )
