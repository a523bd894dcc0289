"""Trajectory of an expert: the flat parameters of both sides, by epoch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rayvldd.errors import StoreError
from rayvldd.models.parameters import Parameters


@dataclass(frozen=True)
class Segment:
    """Start parameters of a student and the target parameters to match."""

    start: Parameters
    target: Parameters


@runtime_checkable
class Snapshots(Protocol):
    """Parameters by epoch, possibly read on demand; not a ``Mapping``, whose values type checkers would read."""

    def __getitem__(self, epoch: int, /) -> Parameters: ...

    def __iter__(self) -> Iterator[int]: ...


class Trajectory:
    """Snapshots of one expert by epoch, in memory or read from a store on demand; epoch 0 is the initial state.

    A store may hold only the epochs that a study can use.
    """

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots

    @classmethod
    def of_every_epoch(cls, snapshots: Sequence[Parameters]) -> "Trajectory":
        """Create a trajectory from the snapshots of epochs 0, 1, 2 and so on."""
        return cls(dict(enumerate(snapshots)))

    @property
    def epochs(self) -> list[int]:
        """Epochs with a snapshot, sorted."""
        return sorted(self._snapshots)

    @property
    def num_epochs(self) -> int:
        """Last epoch with a snapshot."""
        return max(self.epochs)

    def __getitem__(self, epoch: int) -> Parameters:
        """Return the parameters after ``epoch`` epochs; 0 is the initial state."""
        return self._snapshots[epoch]

    def segment(self, start: int, target: int) -> Segment:
        """Return the segment between two epochs.

        Raises:
            StoreError: when a snapshot of one of them is missing.
        """
        if not 0 <= start < target or not {start, target} <= set(self._snapshots):
            raise StoreError(
                f"a segment from epoch {start} to {target} is outside a trajectory of {self.num_epochs} epochs; "
                f"allowed: epochs {', '.join(map(str, self.epochs))}",
                next_command="the same command with --set experts.keep_epochs=all, or another start epoch",
            )
        return Segment(self[start], self[target])
