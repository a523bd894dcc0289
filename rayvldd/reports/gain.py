"""Warning for a set that distillation has not improved."""

from typing import Final

_ADVICE: Final = (
    "The usual cause is a learning rate that is far too low or too high: search distillation.lr_image and "
    "distillation.lr_text ten times lower and higher, and lr_lr of the method"
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
