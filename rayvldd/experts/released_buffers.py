"""Read trajectories of the released code of Wu et al.: ``img_replay_buffer_N.pt`` and ``txt_replay_buffer_N.pt``.

Each file is a list of experts; an expert is a list of epochs, beginning with the initial state; an epoch is a list of
the tensors of one side in the order of ``nn.Module.parameters()``. The file does not record its settings: the user
declares them, and numbers and shapes are compared with the study's model. The files are pickles, which may contain
arbitrary code: only tensors and lists of tensors are accepted, and any other content is refused without unpickling it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
import xxhash
from jaxtyping import Float
from torch import Tensor

from rayvldd.data.array_cache import fingerprint
from rayvldd.errors import Fault, InputError
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.parameters import ParameterLayout, Parameters
from rayvldd.storage.tensor_files import load_tensors_only

_BLOCK = 2**22
"""Block size in bytes for computing a digest."""

_SAVE_AGAIN = (
    "in the code that wrote it: torch.save([[[p.detach().cpu() for p in epoch] for epoch in expert] for expert in "
    "buffer], FILE), then the same command"
)
_SET_OTHERWISE = (
    "the same command with files of these experts, or with --set model.… and --set experts.epochs=… as they were made"
)

OnFile = Callable[[str, int, int], None]
"""Called with (description of the step, files done, files in total)."""


@dataclass(frozen=True)
class BufferPair:
    """Image and text file of the released code for the same experts."""

    image: Path
    text: Path


_Side = Sequence[Sequence[Tensor]]
"""The parameters of one side of an expert, by epoch."""


@dataclass(frozen=True)
class ReleasedExpert:
    """One expert in a pair of files, memory-mapped and read on demand."""

    pair: BufferPair
    position: int
    """Number of the expert in the files."""
    image_epochs: Sequence[Sequence[Tensor]] = field(repr=False)
    """Parameters of the image side by epoch."""
    text_epochs: Sequence[Sequence[Tensor]] = field(repr=False)
    """Parameters of the text side by epoch."""

    @property
    def origin(self) -> str:
        """Description of its origin for the record."""
        return f"{self.pair.image.name} and {self.pair.text.name}, number {self.position}"

    def trajectory(self, epochs: Sequence[int]) -> Trajectory:
        """Return the flat float32 parameters at the given epochs.

        Args:
            epochs: Epochs to include.
        """
        return Trajectory(
            {epoch: Parameters(_flat(self.image_epochs[epoch]), _flat(self.text_epochs[epoch])) for epoch in epochs}
        )


def digest_of_buffers(pairs: Sequence[BufferPair], on_file: OnFile | None = None) -> str:
    """Return 16 hex digits that identify the files by content and order, independent of their location.

    Raises:
        InputError: when a file cannot be read.
    """
    digests, faults = [], []
    paths = [path for pair in pairs for path in (pair.image, pair.text)]
    for done, path in enumerate(paths):
        if on_file:
            on_file("reading buffers", done, len(paths))
        digest = xxhash.xxh3_128()
        try:
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
        except OSError as error:
            faults.append(
                Fault(str(path), f"cannot be read: {error.strerror or error}", "a file that torch.save wrote")
            )
        digests.append(digest.hexdigest())
    if faults:
        raise InputError(faults, next_command="the same command with the right files")
    return fingerprint(digests)


def read_buffers(
    pairs: Sequence[BufferPair],
    image_layout: ParameterLayout,
    text_layout: ParameterLayout,
    epochs: int,
    on_file: OnFile | None = None,
) -> list[ReleasedExpert]:
    """Open the experts of all pairs, in order, after checking them against the model.

    Args:
        pairs: The files.
        image_layout: Parameters of the image side of the study's model.
        text_layout: Parameters of the text side of the study's model.
        epochs: Epochs of each expert, not counting the initial state.
        on_file: Called before each file is read.

    Raises:
        InputError: naming every expert, epoch and parameter in all files that does not match.
    """
    experts: list[ReleasedExpert] = []
    faults: list[Fault] = []
    unread, layouts = False, (image_layout, text_layout)
    for number, pair in enumerate(pairs):
        sides = []
        for side, (path, layout) in enumerate(zip((pair.image, pair.text), layouts, strict=True)):
            if on_file:
                on_file("checking buffers", 2 * number + side, 2 * len(pairs))
            content = _loaded(path, faults)
            sides.append(content)
            unread |= content is None
            if content is not None:
                faults += _faults_of(path, content, layout, epochs)
        images, texts = sides
        if images is not None and texts is not None and len(images) != len(texts):
            problem = f"has {len(texts)} experts, {pair.image} has {len(images)}"
            faults.append(Fault(str(pair.text), problem, "two files of the same experts"))
        both = enumerate(zip(images or [], texts or [], strict=False))
        experts += [ReleasedExpert(pair, position, *sides) for position, sides in both]
    if faults:
        raise InputError(faults, next_command=_SAVE_AGAIN if unread else _SET_OTHERWISE)
    return experts


def _loaded(path: Path, faults: list[Fault]) -> list[_Side] | None:
    """Load the lists in a file; on failure, add a fault and return None."""
    allowed = "lists of experts, of epochs, of tensors, as torch.save wrote them"
    try:
        content = load_tensors_only(path)
    except ValueError as error:
        faults.append(Fault(str(path), str(error), allowed))
        return None
    wrong = _not_lists(content)
    if wrong:
        faults.append(Fault(str(path), wrong, allowed))
        return None
    assert isinstance(content, list | tuple)
    return list(content)


def _not_lists(content: object) -> str:
    """Describe the first place that breaks the nesting of lists of tensors; empty if there is none."""
    if not isinstance(content, list | tuple) or not content:
        return f"holds {_kind(content)}"
    for position, expert in enumerate(content):
        if not isinstance(expert, list | tuple) or not expert:
            return f"expert {position}: is {_kind(expert)}"
        for epoch, tensors in enumerate(expert):
            if not isinstance(tensors, list | tuple):
                return f"expert {position}, epoch {epoch}: is {_kind(tensors)}"
            for number, tensor in enumerate(tensors):
                if not isinstance(tensor, Tensor):
                    return f"expert {position}, epoch {epoch}, parameter {number}: is {_kind(tensor)}"
    return ""


def _kind(value: object) -> str:
    return f"an empty {type(value).__name__}" if isinstance(value, list | tuple) else f"a {type(value).__name__}"


def _faults_of(path: Path, experts: list[_Side], layout: ParameterLayout, epochs: int) -> list[Fault]:
    """Return each kind of mismatch once, at its first place, with the number of further places."""
    places: dict[tuple[str, str], list[str]] = {}
    for where, problem, allowed in _misfits(experts, layout, epochs):
        places.setdefault((problem, allowed), []).append(where)
    return [
        Fault(f"{path}: {where}", problem + (f", and so in {len(others)} more places" if others else ""), allowed)
        for (problem, allowed), (where, *others) in places.items()
    ]


def _misfits(experts: list[_Side], layout: ParameterLayout, epochs: int) -> Iterator[tuple[str, str, str]]:
    for position, expert in enumerate(experts):
        if len(expert) != epochs + 1:
            allowed = f"{epochs + 1}: the start and experts.epochs={epochs}"
            yield f"expert {position}", f"has {len(expert)} snapshots", allowed
        for epoch, tensors in enumerate(expert):
            where = f"expert {position}, epoch {epoch}"
            if len(tensors) != len(layout.names):
                yield where, f"has {len(tensors)} parameters", _shapes_as_text(layout)
                continue
            for number, (name, shape, tensor) in enumerate(zip(layout.names, layout.shapes, tensors, strict=True)):
                parameter = f"parameter {number} ({name})"
                if tuple(tensor.shape) != shape:
                    problem = f"{parameter} has the shape {tuple(tensor.shape)}"
                    yield where, problem, f"{shape}, as the model of the study has it"
                elif not tensor.is_floating_point():
                    yield where, f"{parameter} is of {tensor.dtype}", "floating point numbers"
                elif not bool(torch.isfinite(tensor).all()):
                    yield where, f"{parameter} has numbers that are not finite", "finite numbers"


def _shapes_as_text(layout: ParameterLayout) -> str:
    shapes = [f"{name} {shape}" for name, shape in zip(layout.names, layout.shapes, strict=True)]
    more = f" and {len(shapes) - 4} more" if len(shapes) > 4 else ""
    numbers = sum(prod(shape) for shape in layout.shapes)
    return f"the {len(shapes)} of the model of the study, {numbers:,} numbers: {', '.join(shapes[:4])}{more}"


def _flat(tensors: Sequence[Tensor]) -> Float[Tensor, " param"]:
    """Concatenate the tensors into memory, independent of the mapped file."""
    return torch.cat([tensor.detach().reshape(-1).to(torch.float32) for tensor in tensors])
