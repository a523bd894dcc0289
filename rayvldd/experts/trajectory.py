"""A trajectory: the flat parameters of both sides after every epoch, on disk as one safetensors file.

Each epoch of each side is one tensor, so a segment reads its two epochs and nothing else; the file is
memory-mapped, so processes of a machine share what they read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from rayvldd.errors import StoreError
from rayvldd.models.parameters import Parameters
from rayvldd.models.tensor_files import save_tensors


@dataclass(frozen=True)
class Segment:
    """Where a student starts and what it should reach."""

    start: Parameters
    target: Parameters


class Trajectory:
    """Snapshots 0 to ``num_epochs`` of one expert, in memory or in a file that is read as needed."""

    def __init__(self, snapshots: Sequence[Parameters]) -> None:
        self._snapshots = snapshots

    @property
    def num_epochs(self) -> int:
        """Epochs trained: one less than there are snapshots."""
        return len(self._snapshots) - 1

    def __getitem__(self, epoch: int) -> Parameters:
        """The parameters after ``epoch`` epochs; 0 is the start."""
        return self._snapshots[epoch]

    def segment(self, start: int, target: int) -> Segment:
        """The parameters at two epochs.

        Raises:
            StoreError: when the trajectory does not reach ``target``.
        """
        if not 0 <= start < target <= self.num_epochs:
            raise StoreError(
                f"a segment from epoch {start} to {target} is outside a trajectory of {self.num_epochs} epochs"
            )
        return Segment(self[start], self[target])


class _FileSnapshots(Sequence[Parameters]):
    """Snapshots read from a safetensors file when asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with safe_open(path, framework="pt") as file:
            self._count = sum(name.startswith("image.") for name in file.keys())

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, epoch: int) -> Parameters:  # type: ignore[override]  # slices are never asked for
        with safe_open(self._path, framework="pt") as file:
            return Parameters(file.get_tensor(f"image.{epoch}"), file.get_tensor(f"text.{epoch}"))


def write_trajectory(path: Path, trajectory: Trajectory, metadata: dict[str, str]) -> None:
    """Write a trajectory whole or not at all."""
    tensors: dict[str, Float[Tensor, " param"]] = {}
    for epoch in range(trajectory.num_epochs + 1):
        tensors[f"image.{epoch}"], tensors[f"text.{epoch}"] = trajectory[epoch]
    save_tensors(path, tensors, metadata)


def read_trajectory(path: Path) -> Trajectory:
    """Open a trajectory without reading its tensors."""
    return Trajectory(_FileSnapshots(path))
