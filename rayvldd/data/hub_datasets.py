"""Data sets of Hugging Face: rows of memory-mapped Arrow files, read by the library ``datasets``.

A folder that ``save_to_disk`` has written is read where it is. For another folder, and for a name on the hub, the
library fills its own cache (``HF_HOME``) once. Images stay encoded until they are decoded into the array cache.
"""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from rayvldd.config.settings import HuggingFaceData
from rayvldd.data.drawn_splits import FEWEST_IMAGES, drawn_splits, num_held_out
from rayvldd.data.record_reader import SPLITS, RecordReader, SplitName, shown
from rayvldd.errors import DataError, Fault, message_of
from rayvldd.storage.hub_access import HubAwayError, hub_or_cache
from rayvldd.user_paths import is_file, is_folder, user_path

if TYPE_CHECKING:
    import datasets

SAVED = ("dataset_info.json", "dataset_dict.json")
"""Files of a data set, or of several splits, that ``save_to_disk`` has written."""
_SPLITS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "restval": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""Names of splits, as data sets on the hub have them."""
_CAPTIONS = ("caption", "captions", "text", "sentences", "raw", "description")
"""Names of the column of captions, in order of preference."""
INSTALL_LIBRARY = "pip install 'rayvldd[datasets]'; in the clone: pip install -c constraints.txt '.[datasets]'"
"""The commands that install the library datasets."""
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
"""Names that the hub can have; others, e.g. a folder that is missing, are not asked for there."""
_NUMBERED = re.compile(r"caption_?\d+")


@dataclass(frozen=True)
class Origin:
    """A data set, by what is needed to open it on any machine."""

    name: str
    config: str | None
    revision: str | None


@dataclass(frozen=True)
class RowImage:
    """An image in a row of a data set."""

    origin: Origin
    split: str
    """Name of the split in the data set."""
    row: int
    column: str
    size: int
    """Encoded size in bytes."""
    time: int
    """Number made of the data set's fingerprint, which changes with its content."""

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            ValueError: if the row has no image.
        """
        value = _encoded(self.origin, self.split, self.column)[self.row][self.column]
        content = (value or {}).get("bytes")
        if not isinstance(content, bytes):
            raise ValueError("the row has no image")
        return content


@dataclass(frozen=True)
class Description:
    """What a data set says of itself, known without its rows."""

    image: str
    """Column of the images."""
    captions: tuple[str, ...]
    """Columns of the captions."""
    num_images: dict[SplitName, int] | None
    """Images by split, with those that are drawn; None if only the rows tell."""


def read_description(settings: HuggingFaceData) -> "datasets.DatasetInfo | None":
    """The information that a data set comes with, without its rows; None for a folder of ``save_to_disk``.

    Raises:
        DataError: if the library is missing.
        Exception: as the library raises it, also errors of other libraries; ``ConnectionError`` without the hub.
    """
    check_library()
    import datasets

    folder = user_path(settings.name)
    if any(is_file(folder / name) for name in SAVED):
        return None
    name = str(folder.absolute()) if is_folder(folder) else settings.name
    with _quiet():
        return datasets.load_dataset_builder(name, settings.config, revision=settings.revision).info


def described(settings: HuggingFaceData, info: "datasets.DatasetInfo") -> Description | None:
    """The columns and splits as :func:`read_hub_dataset` finds them; None if the information lacks the columns.

    Raises:
        DataError: listing the faults: no column of images or captions, unknown or missing splits.
    """
    if info.features is None:
        return None
    reader = RecordReader(user_path(settings.name).absolute(), ".")
    splits = info.splits or {}
    columns = _columns(settings, next(iter(splits), "train"), info.features, reader)
    sizes = {name: split.num_examples for name, split in splits.items()}
    # A card can lack the numbers; a column names the split of each row.
    is_known = bool(sizes) and all(sizes.values()) and "split" not in info.features
    num_images = _described_splits(settings, sizes, reader) if is_known else None
    if columns is None or reader.faults:
        raise DataError(reader.faults)
    return Description(*columns, num_images)


def _described_splits(settings: HuggingFaceData, sizes: dict[str, int], reader: RecordReader) -> dict[SplitName, int]:
    """Images by split, of the number of rows by their names in the data set."""
    counts: Counter[SplitName] = Counter()
    for name, size in sizes.items():
        split = _SPLITS.get(name.lower())
        if split is None:
            _unknown_split(settings.name, name, reader)
        else:
            counts[split] += size
    missing: list[SplitName] = [split for split in ("val", "test") if not counts[split]]
    if _can_be_drawn(settings, missing, counts["train"], reader):
        if not counts["train"]:
            reader.fault(settings.name, "the split 'train' is empty", "at least one image per split")
        drawn = num_held_out(settings.held_out, counts["train"])
        for split in missing:
            counts[split] += drawn
            counts["train"] -= drawn
    return {split: counts[split] for split in SPLITS}


def read_hub_dataset(settings: HuggingFaceData, reader: RecordReader) -> None:
    """Add the rows of all splits.

    Raises:
        DataError: if the library is missing, or the data set cannot be opened.
    """
    _encoded.cache_clear()  # the folder may have changed
    _opened.cache_clear()
    origin = Origin(settings.name, settings.config, settings.revision)
    splits = _opened(origin)
    of_dataset = {name: _SPLITS.get(name.lower()) for name in splits}
    rows: dict[str, tuple[str, _Row, SplitName]] = {}
    for name, found in splits.items():
        columns = _columns(settings, name, found.features, reader)
        if columns is None:
            continue
        for row in _rows(origin, name, found, *columns):
            split = of_dataset[name] if row.split is None else _SPLITS.get(row.split.lower())
            where = f"{settings.name}: row {row.number} of {name!r}"
            # A split of another name is reported with its first row alone.
            if split is None:
                _unknown_split(where, row.split or name, reader)
                break
            rows[f"{name}/{row.number}"] = (where, row, split)
    if not reader.faults:
        _add(settings, rows, reader)


@dataclass(frozen=True)
class _Row:
    number: int
    captions: list[object]
    image: RowImage | None
    """None if the image is a file."""
    file: str | None
    split: str | None
    """Value of the column ``split``."""


def _add(settings: HuggingFaceData, rows: dict[str, tuple[str, _Row, SplitName]], reader: RecordReader) -> None:
    """Add the rows to the reader; missing splits are drawn from the training images."""
    known: dict[str, SplitName] = {key: split for key, (_, _, split) in rows.items()}
    missing: list[SplitName] = [split for split in ("val", "test") if split not in known.values()]
    train = [key for key, split in known.items() if split == "train"]
    if not _can_be_drawn(settings, missing, len(train), reader):
        return
    if missing:
        known |= drawn_splits(train, settings.held_out, settings.split_seed, missing)
    for key, (where, row, _) in rows.items():
        if row.image is None and row.file is not None:
            path = Path(row.file)
            name = str(path.relative_to(reader.images)) if path.is_relative_to(reader.images) else row.file
            reader.add(where, name, row.captions, known[key])
        else:
            reader.add(where, key, row.captions, known[key], row.image, Path(settings.name, key))


def _unknown_split(where: str, split: str, reader: RecordReader) -> None:
    reader.fault(where, f"unknown split {shown(split)}", "splits named train, validation and test")


def _can_be_drawn(
    settings: HuggingFaceData, missing: Sequence[SplitName], num_train: int, reader: RecordReader
) -> bool:
    """Whether the training images suffice for the splits that are missing; else a fault is added."""
    if not missing or num_train >= FEWEST_IMAGES:
        return True
    problem = f"has no split for {' and '.join(missing)}, and {num_train} images to draw it from"
    reader.fault(settings.name, problem, f"at least {FEWEST_IMAGES} images")
    return False


def _columns(
    settings: HuggingFaceData, split: str, features: "datasets.Features", reader: RecordReader
) -> tuple[str, tuple[str, ...]] | None:
    """The columns of image and captions of a split; None after a fault."""
    import datasets

    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    have = ", ".join(features)
    image = settings.image or (images[0] if len(images) == 1 else "")
    if image not in images:
        words = f"no column {image!r} of images" if image else f"{len(images)} columns of images"
        reader.fault(
            "data.image",
            f"{settings.name}: {split!r} has {words}",
            f"one of: {', '.join(images) or 'none'}; all columns: {have}",
        )
    captions = settings.captions
    if not captions:
        named = next(((name,) for name in _CAPTIONS if name in features), ())
        captions = named or tuple(name for name in features if _NUMBERED.fullmatch(name))
    unknown = [name for name in captions if name not in features]
    if unknown or not captions:
        problem = (
            f"{settings.name}: {split!r} has no column {shown(unknown[0])}"
            if unknown
            else f"{split!r} has no column of captions"
        )
        reader.fault("data.captions", problem, f"columns of texts; all columns: {have}")
    return None if reader.faults else (image, captions)


def _rows(origin: Origin, split: str, found: "datasets.Dataset", image: str, captions: Sequence[str]) -> Iterator[_Row]:
    import pyarrow.compute as arrow

    time = int(sha256(str(found._fingerprint).encode()).hexdigest()[:15], 16)
    texts = [found[name][:] for name in captions]
    of_rows = found["split"][:] if "split" in found.column_names else None
    number = 0
    # The lengths are read without the images themselves.
    for chunk in _encoded(origin, split, image).data.column(image).chunks:
        sizes = arrow.binary_length(arrow.struct_field(chunk, "bytes")).to_pylist()
        files = arrow.struct_field(chunk, "path").to_pylist()
        for size, file in zip(sizes, files, strict=True):
            packed = None if size is None and file else RowImage(origin, split, number, image, size or 0, time)
            row_split = str(of_rows[number]) if of_rows is not None else None
            yield _Row(number, _texts([column[number] for column in texts]), packed, file, row_split)
            number += 1


def _texts(values: Sequence[object]) -> list[object]:
    """The captions of a row: texts, lists of texts, or lists of objects with a text ``raw``."""
    found: list[object] = []
    for value in values:
        for one in value if isinstance(value, list) else [value]:
            found.append(one.get("raw") if isinstance(one, dict) else one)
    return found


@lru_cache(maxsize=8)
def _encoded(origin: Origin, split: str, column: str) -> "datasets.Dataset":
    """A split with the column of encoded images alone."""
    import datasets

    with _quiet():
        return _opened(origin)[split].select_columns([column]).cast_column(column, datasets.Image(decode=False))


@lru_cache(maxsize=4)
def _opened(origin: Origin) -> "dict[str, datasets.Dataset]":
    """The splits of a data set by name.

    Raises:
        DataError: if the library is missing, or the data set cannot be opened.
    """
    check_library()
    import datasets  # before hub_or_cache: the library reads at its import whether the hub may be used

    folder = user_path(origin.name)
    is_saved = any(is_file(folder / name) for name in SAVED)
    is_local = is_saved or is_folder(folder)
    try:
        with _quiet(), hub_or_cache() if not is_local and HUB_NAME.fullmatch(origin.name) else nullcontext():
            if is_saved:
                found = datasets.load_from_disk(str(folder))
            else:
                name = str(folder.absolute()) if is_local else origin.name
                found = datasets.load_dataset(name, origin.config, revision=origin.revision)
    except (HubAwayError, ConnectionError) as error:
        problem = f"{origin.name}: the hub cannot be reached: {message_of(error)}"
        saving = command_to_save(origin.name, origin.config, origin.revision)
        # Among what is allowed, since `check` has a next command of its own for all faults.
        allowed = f"a data set in this machine's cache, or the FOLDER that a machine with a network writes by: {saving}"
        raise DataError(
            [Fault("data.name", problem, allowed)],
            next_command="the same command with a network; or, in the study: data: {source: huggingface, name: FOLDER}",
        ) from None
    except Exception as error:  # the library raises errors of many other libraries
        problem = f"{origin.name} cannot be opened: {message_of(error)}"
        allowed = "a folder that datasets.load_from_disk or load_dataset reads, or a name on the hub"
        raise DataError(
            [Fault("data.name", problem, allowed)],
            next_command="correct the data or its settings, then: rayvldd check STUDY.yaml",
        ) from None
    return dict(found) if isinstance(found, datasets.DatasetDict) else {str(found.split or "train"): found}


def command_to_save(name: str, config: str | None, revision: str | None = None) -> str:
    """The command that saves a data set of the hub in a folder, for a machine with a network."""
    arguments = ", ".join(json.dumps(value) for value in (name, config) if value is not None)
    arguments += f", revision={json.dumps(revision)}" if revision is not None else ""
    script = f'import datasets; datasets.load_dataset({arguments}).save_to_disk("FOLDER")'
    return f"python -c {shlex.quote(script)}"


def check_library() -> None:
    """Check that the library can be imported.

    Raises:
        DataError: with the command that installs it.
    """
    try:
        import datasets  # noqa: F401
    except ImportError as error:
        problem = f"huggingface needs the library datasets, which cannot be imported: {error}"
        raise DataError(
            [Fault("data.source", problem, "another source, or the library")],
            next_command=INSTALL_LIBRARY,
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars of the library, which would mix with ours."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown_before = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown_before:
            enable_progress_bars()
