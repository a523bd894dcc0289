"""Trajectories as safetensors files: one tensor an epoch and side, so a segment reads two epochs and nothing else.

``float32`` keeps snapshots as they are. ``float16_deltas`` keeps the start in float32 and every later epoch as its
difference, in 16 bits, from the epoch kept before it *as that is read back*: what is rounded is the move of an epoch,
which is what a segment is made of, and errors do not add up as they do in differences from the start. The image side of
the start, which the experts of a set share where the encoder is pretrained, goes into a file of its own, named by its
content and kept once.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import xxhash
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, float16

from rayvldd.config.settings import TrajectoryStorage
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.parameters import Parameters
from rayvldd.storage.tensor_files import DamagedFileError, TensorSource, save_tensors

SHARED_START = "start"
"""Name of the one tensor in a file of a shared start."""


class CheckedTensors:
    """A file whose tensors are compared with their checksums, each once a process."""

    _seen: set[tuple[str, str, str]] = set()
    """What this process has compared: identity of the file, tensor, checksum."""

    def __init__(
        self, open_file: Callable[[], TensorSource], checksums: Mapping[str, str], refuse: Callable[[str], NoReturn]
    ) -> None:
        """Take a file that is opened when it is first needed.

        Args:
            open_file: Opens it; may raise ``DamagedFileError``.
            checksums: Of every tensor, by name.
            refuse: Told what is wrong with a damaged file; raises the error for users.
        """
        self._open_file, self._checksums, self._refuse = open_file, checksums, refuse
        self._source: TensorSource | None = None

    def tensor(self, name: str) -> Float[Tensor, " param"]:
        """One tensor, as it was written.

        Raises:
            StoreError: when it is missing or not what was written.
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
    """Snapshots that are read when asked for."""

    def __init__(self, file: CheckedTensors, start: CheckedTensors | None, epochs: list[int]) -> None:
        """Open a trajectory.

        Args:
            file: The expert's own tensors.
            start: The shared start of the image side, where later epochs are kept as differences.
            epochs: The epochs kept.
        """
        self._file, self._start, self._epochs = file, start, epochs

    def __iter__(self) -> Iterator[int]:
        return iter(self._epochs)

    def __getitem__(self, epoch: int) -> Parameters:
        if epoch not in self._epochs:
            raise KeyError(epoch)
        if self._start is None:
            return Parameters(self._file.tensor(f"image.{epoch}"), self._file.tensor(f"text.{epoch}"))
        reached = Parameters(self._start.tensor(SHARED_START), self._file.tensor("text.start"))
        for step in self._epochs:
            if 0 < step <= epoch:
                reached = _moved(
                    reached, Parameters(self._file.tensor(f"image.{step}"), self._file.tensor(f"text.{step}"))
                )
        return reached


def tensors_to_keep(trajectory: Trajectory, storage: TrajectoryStorage) -> tuple[dict[str, Tensor], Tensor | None]:
    """The tensors of an expert's own file, and the image side of its start where that is kept apart.

    Args:
        trajectory: With its epoch 0 where ``storage`` keeps differences.
        storage: How numbers are kept.
    """
    if storage == "float32":
        named = {}
        for epoch in trajectory.epochs:
            named[f"image.{epoch}"], named[f"text.{epoch}"] = trajectory[epoch]
        return named, None
    reached = start = trajectory[0]
    named = {"text.start": start.text}
    for epoch in trajectory.epochs:
        if epoch:
            move = Parameters(*((to - back).to(float16) for to, back in zip(trajectory[epoch], reached, strict=True)))
            named[f"image.{epoch}"], named[f"text.{epoch}"] = move
            reached = _moved(reached, move)
    return named, start.image


def _moved(start: Parameters, move: Parameters) -> Parameters:
    """``start`` and a difference; writing and reading add in the same order, so that they arrive at the same bits."""
    return Parameters(start.image + move.image, start.text + move.text)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> dict[str, str]:
    """Write a safetensors file and return the checksum of each tensor."""
    save_tensors(path, tensors, metadata)
    return {name: checksum(value) for name, value in tensors.items()}


def checksum(tensor: Float[Tensor, " param"]) -> str:
    """32 hex digits that name a tensor's bytes: against damage, not against somebody who wants to deceive.

    xxh3 reads about ten times as fast as SHA-256, which would be most of the time a segment takes.
    """
    return xxhash.xxh3_128_hexdigest(tensor.detach().cpu().contiguous().numpy().data)
