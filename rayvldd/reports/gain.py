"""Whether distillation has improved a set: a warning, and the gain over its start."""

import shlex
from collections.abc import Sequence
from typing import Final

from rayvldd.config.distillation import DistillationSettings
from rayvldd.printable import value_as_text
from rayvldd.records.gain import RatesToTry

_CAUSE: Final = "The usual cause is a learning rate that is far too low or too high"
_ADVICE: Final = (
    ": search distillation.lr_image and distillation.lr_text ten times lower and higher, and lr_lr of the method"
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


def short_words_without_gain(outer_step: int) -> str:
    """``the set is its starting pairs`` if the best set is the one at outer step 0; otherwise an empty text.

    Args:
        outer_step: Outer step of the best evaluation on validation.
    """
    return "" if outer_step > 0 else "the set is its starting pairs"


def words_without_gain(outer_step: int, num_pairs: int, rates: RatesToTry | None = None) -> str:
    """A warning with advice if the best set is the one at outer step 0; otherwise an empty text.

    Args:
        outer_step: Outer step of the best evaluation on validation.
        num_pairs: Pairs of the set.
        rates: Rates to try; None in a file of an earlier release.
    """
    if not short_words_without_gain(outer_step):
        return ""
    return (
        "no evaluation on validation was above the one before the first outer step, so the set is its "
        f"{num_pairs} starting pairs. {_CAUSE}{_ADVICE if rates is None else f'. {_seen(rates)}'}"
    )


def _seen(rates: RatesToTry) -> str:
    """What a run shows about its rates, and which ones to try."""
    first, second = (" and ".join(f"{key}={rate:g}" for key, rate in tried.items()) for tried in rates.in_order)
    if rates.lowest_recall is None:
        shows = f"{rates.run} ended before its second evaluation, as with rates that are too high"
    elif rates.fell:
        shows = (
            f"The recall of {rates.run} fell from {rates.start_recall:.2f} to {rates.lowest_recall:.2f}, as with rates "
            "that are too high"
        )
    else:
        shows = f"The recall of {rates.run} stayed near its start, as with rates that are too low"
    return f"{shows}: try {first}, then {second}"


def next_after_divergence(rates: RatesToTry, command: str) -> str:
    """The next command after a distillation that diverged, which rates that are too high alone can make it do.

    Args:
        rates: Rates around those of the distillation.
        command: The user's command line.
    """
    given = shlex.join([word for key, rate in rates.lower.items() for word in ("--set", f"{key}={rate:g}")])
    of_distill = command.startswith("rayvldd distill ")
    return f"rayvldd distill STUDY.yaml {given}" if of_distill else f"the same command with {given}"


def commands_to_try(verb_and_file: Sequence[str], overrides: Sequence[str], rates: RatesToTry) -> list[str]:
    """The distillations at the rates to try, with the other settings of the run that they are around.

    Args:
        verb_and_file: ``rayvldd distill`` and the study file.
        overrides: ``KEY=VALUE`` of the user.
        rates: The rates.
    """
    commands = []
    for tried in rates.in_order:
        point = {key: value_as_text(value) for key, value in rates.point.items()}
        point |= {key: f"{rate:g}" for key, rate in tried.items()}
        kept = [one for one in overrides if one.partition("=")[0] not in point]
        given = [*kept, *(f"{key}={value}" for key, value in point.items())]
        commands.append(shlex.join([*verb_and_file, *(word for one in given for word in ("--set", one))]))
    return commands
