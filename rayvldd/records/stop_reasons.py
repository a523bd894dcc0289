"""Why a trial was stopped early: the texts that the search records, and their short forms for a narrow table."""

HALVED = "halved"
BELOW_MEDIAN = "below the median"
NO_GAIN = "no gain"
TIME_USED_UP = "the search's time was used up"
"""Why a trial was stopped that nothing else has stopped."""
BY_COMMAND = "stopped by rayvldd stop"

_SHORT = {
    HALVED: "halved",
    BELOW_MEDIAN: "median",
    NO_GAIN: "no gain",
    TIME_USED_UP: "time",
    BY_COMMAND: "rayvldd stop",
}
"""Short forms, by the beginning of the recorded text; numbers follow it."""


def short_reason(reason: str) -> str:
    """A recorded reason in one or two words; ``its rule`` for the text of another package's stopping rule."""
    if not reason:
        return ""
    return next((short for begin, short in _SHORT.items() if reason.startswith(begin)), "its rule")
