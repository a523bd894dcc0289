"""Trajectories as safetensors files, one tensor per epoch and side, so that a segment reads only two epochs.

``float32`` stores snapshots unchanged. ``float16_deltas`` stores the initial state in float32 and every later epoch as
a float16 difference from the previous stored epoch *as it is read back*; ``float16`` stores the initial state in
float16, too. Rounding therefore affects the parameter
change of an epoch, and the errors do not accumulate as they would in differences from the initial state. The image side
of the initial state, which experts with a pretrained encoder share, is stored once in its own file, named by its
content.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NoReturn

from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, float16

from rayvldd.config.settings import TrajectoryStorage
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.parameters import Parameters
from rayvldd.storage.tensor_files import save_tensors
from rayvldd.storage.tensor_source import DamagedFileError, TensorSource, checksum

SHARED_START = "start"
"""Name of the single tensor in the file of a shared initial state."""


class CheckedTensors:
    """A tensor file that verifies the checksum of each tensor once per process."""

    _seen: ClassVar[set[tuple[str, str, str]]] = set()
    """Verified in this process: (identity of the file, tensor, checksum)."""

    def __init__(
        self, open_file: Callable[[], TensorSource], checksums: Mapping[str, str], refuse: Callable[[str], NoReturn]
    ) -> None:
        """Wrap a file that is opened on first use.

        Args:
            open_file: Opens the file; may raise ``DamagedFileError``.
            checksums: Checksum of every tensor by name.
            refuse: Called with the description of the damage; raises the error for users.
        """
        self._open_file, self._checksums, self._refuse = open_file, checksums, refuse
        self._source: TensorSource | None = None

    def tensor(self, name: str) -> Float[Tensor, " param"]:
        """Return one tensor after verifying its checksum.

        Raises:
            StoreError: when the tensor is missing or damaged.
        """
        try:
            if self._source is None:
                self._source = self._open_file()
            tensor = self._source.tensor(name)
        except DamagedFileError as error:
            self._refuse(str(error))
        except (SafetensorError, KeyError) as error:
            self._refuse(f"{name} cannot be read ({error})")
        expected = self._checksums.get(name, "")
        seen = (self._source.identity, name, expected)
        if seen not in self._seen:
            if checksum(tensor) != expected:
                self._refuse(f"the checksum of {name} is not the recorded one")
            self._seen.add(seen)
        return tensor


class StoredSnapshots:
    """Snapshots that are read from files on demand."""

    def __init__(self, file: CheckedTensors, start: CheckedTensors | None, epochs: list[int]) -> None:
        """Open a trajectory.

        Args:
            file: File with the expert's own tensors.
            start: Shared initial state of the image side, if later epochs are stored as differences.
            epochs: Stored epochs.
        """
        self._file, self._start, self._epochs = file, start, epochs

    def __iter__(self) -> Iterator[int]:
        return iter(self._epochs)

    def __getitem__(self, epoch: int) -> Parameters:
        if epoch not in self._epochs:
            raise KeyError(epoch)
        if self._start is None:
            return Parameters(self._file.tensor(f"image.{epoch}"), self._file.tensor(f"text.{epoch}"))
        reached = Parameters(self._start.tensor(SHARED_START).float(), self._file.tensor("text.start").float())
        for step in self._epochs:
            if 0 < step <= epoch:
                reached = _moved(
                    reached, Parameters(self._file.tensor(f"image.{step}"), self._file.tensor(f"text.{step}"))
                )
        return reached


def tensors_to_keep(trajectory: Trajectory, storage: TrajectoryStorage) -> tuple[dict[str, Tensor], Tensor | None]:
    """Return the tensors of the expert's own file and, if stored separately, the image side of its initial state.

    Args:
        trajectory: The trajectory; must include epoch 0 unless ``storage`` is ``float32``.
        storage: Number format.
    """
    if storage == "float32":
        named = {}
        for epoch in trajectory.epochs:
            named[f"image.{epoch}"], named[f"text.{epoch}"] = trajectory[epoch]
        return named, None
    start = trajectory[0]
    if storage == "float16":
        start = Parameters(*(side.to(float16) for side in start))
    reached = Parameters(*(side.float() for side in start))
    named = {"text.start": start.text}
    for epoch in trajectory.epochs:
        if epoch:
            move = Parameters(*((to - back).to(float16) for to, back in zip(trajectory[epoch], reached, strict=True)))
            named[f"image.{epoch}"], named[f"text.{epoch}"] = move
            reached = _moved(reached, move)
    return named, start.image


def _moved(start: Parameters, move: Parameters) -> Parameters:
    """Add a difference to ``start``; writing and reading use the same order, so the results are bitwise equal."""
    return Parameters(start.image + move.image, start.text + move.text)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> dict[str, str]:
    """Write a safetensors file and return the checksum of each tensor."""
    save_tensors(path, tensors, metadata)
    return {name: checksum(value) for name, value in tensors.items()}
