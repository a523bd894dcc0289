"""Trajectory of an expert: the flat parameters of both sides, by epoch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rayvldd.errors import StoreError
from rayvldd.experts.movement import Layouts, Movement, movement_between, shortcut_at
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

    def __init__(self, snapshots: Snapshots, movements: Sequence[Movement] = ()) -> None:
        """Wrap snapshots.

        Args:
            snapshots: Parameters by epoch.
            movements: Movement of every epoch from the first one on, if it is known without the snapshots.
        """
        self._snapshots = snapshots
        self._movements = list(movements)

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

    @property
    def known_movements(self) -> list[Movement]:
        """Movements of the first epochs, as far as they are known without reading snapshots."""
        return list(self._movements)

    def movements(self, epochs: int, layouts: Layouts) -> Sequence[Movement]:
        """Return the movements of the first epochs; those that were not stored are computed from snapshots.

        Raises:
            StoreError: when neither they nor all snapshots are there.
        """
        while len(self._movements) < epochs:
            epoch = len(self._movements)
            if not {epoch, epoch + 1} <= set(self._snapshots):
                raise StoreError(
                    f"a trajectory with the epochs {', '.join(map(str, self.epochs))} has no norms of its movement in "
                    f"epoch {epoch + 1}, which an earlier version did not store; allowed: norms of {epochs} epochs",
                    next_command="the same command with --set experts.keep_epochs=all, or --store ANOTHER",
                )
            self._movements.append(movement_between(self[epoch], self[epoch + 1], layouts))
        return self._movements[:epochs]

    def shortcut(self, start: int, target: int, end: int, layouts: Layouts) -> Segment:
        """Return a segment of the shortcut trajectory from epoch 0 to ``end`` (see :mod:`rayvldd.experts.movement`).

        Raises:
            StoreError: when the snapshots of epochs 0 and ``end``, or the norms between, are missing.
        """
        assert 0 <= start < target <= end, "settings are validated"
        whole, movements = self.segment(0, end), self.movements(end, layouts)
        ends = whole.start, whole.target
        return Segment(shortcut_at(start, ends, movements, layouts), shortcut_at(target, ends, movements, layouts))

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
