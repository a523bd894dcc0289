"""A trajectory: the flat parameters of both sides after the epochs of one expert."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rayvldd.errors import StoreError
from rayvldd.models.parameters import Parameters


@dataclass(frozen=True)
class Segment:
    """Where a student starts and what it should reach."""

    start: Parameters
    target: Parameters


@runtime_checkable
class Snapshots(Protocol):
    """Parameters by epoch, perhaps read when asked for: so it is no ``Mapping``, whose content checkers look at."""

    def __getitem__(self, epoch: int, /) -> Parameters: ...

    def __iter__(self) -> Iterator[int]: ...


class Trajectory:
    """Snapshots of one expert by epoch, 0 being its start; in memory, or in a store that is read as needed.

    A store may keep only the epochs that a study can reach.
    """

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots

    @classmethod
    def of_every_epoch(cls, snapshots: Sequence[Parameters]) -> "Trajectory":
        """The trajectory of snapshots 0, 1, 2 and so on."""
        return cls(dict(enumerate(snapshots)))

    @property
    def epochs(self) -> list[int]:
        """The epochs that there are snapshots of, sorted."""
        return sorted(self._snapshots)

    @property
    def num_epochs(self) -> int:
        """The last epoch that there is a snapshot of."""
        return max(self.epochs)

    def __getitem__(self, epoch: int) -> Parameters:
        """The parameters after ``epoch`` epochs; 0 is the start."""
        return self._snapshots[epoch]

    def segment(self, start: int, target: int) -> Segment:
        """The parameters at two epochs.

        Raises:
            StoreError: when one of them is not there.
        """
        if not 0 <= start < target or not {start, target} <= set(self._snapshots):
            raise StoreError(
                f"a segment from epoch {start} to {target} is outside a trajectory of {self.num_epochs} epochs; "
                f"allowed: epochs {', '.join(map(str, self.epochs))}",
                next_command="the same command with --set experts.keep_epochs=all, or another start epoch",
            )
        return Segment(self[start], self[target])
