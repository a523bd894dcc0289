"""What a search on a cluster waits for while none of its trials runs: a cluster that grows takes minutes for a node."""

from collections.abc import Callable

from rayvldd.console import time_as_text
from rayvldd.printable import counted
from rayvldd.runtime.actor_pool import ResourceRequest

FIRST_S, AGAIN_S = 60.0, 300.0
"""Seconds without a running trial before the first line, and between two lines."""


class WaitingForRoom:
    """Says now and then that no trial runs, what one of them needs, and what the cluster has.

    Args:
        needs: Of one trial.
        say: Prints a line.
        cluster: Returns the cluster in words; empty if it has no resources.
    """

    def __init__(self, needs: ResourceRequest, say: Callable[[str], None], cluster: Callable[[], str]) -> None:
        self._needs, self._say, self._cluster = needs, say, cluster
        self._since: float | None = None
        """When the last trial ended, or the search began."""
        self._next = 0.0

    def look(self, runs: bool, now: float) -> None:
        """Take note of whether a trial runs, and print the line if none did for long enough.

        Args:
            runs: Whether a trial runs.
            now: Seconds of a clock.
        """
        if runs:
            self._since = None
        elif self._since is None:
            self._since, self._next = now, now + FIRST_S
        elif now >= self._next:
            self._next = now + AGAIN_S
            self._say(
                f"no trial has run for {time_as_text(now - self._since)}: one needs {_in_words(self._needs)}, and the "
                f"cluster has {self._cluster() or 'none yet'}"
            )


def _in_words(needs: ResourceRequest) -> str:
    cpus = counted(needs.num_cpus, "CPU")
    return f"{cpus} and {counted(needs.num_gpus, 'GPU')}" if needs.num_gpus else cpus
