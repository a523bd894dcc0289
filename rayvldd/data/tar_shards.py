"""Tar files in WebDataset's form: members with the same name up to the first dot are one image with its caption.

Only the headers of a tar file are read for the records. An image is later read at its offset, so that images can be
decoded in any order and on several machines; nothing is unpacked. A tar file with compression has no such offsets.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rayvldd.config.settings import WebDatasetData
from rayvldd.data.drawn_splits import FEWEST_IMAGES, drawn_splits
from rayvldd.data.record_reader import SPLITS, RecordReader, SplitName, shown
from rayvldd.errors import message_of
from rayvldd.storage.json_files import json_value
from rayvldd.user_paths import is_file

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm")
"""Extensions of the member with the image."""


@dataclass(frozen=True)
class TarMember:
    """An image in a tar file."""

    tar: Path
    offset: int
    """First byte of the image in the tar file."""
    size: int
    """Encoded size in bytes."""
    time: int
    """Modification time of the tar file, in nanoseconds."""

    def read(self) -> bytes:
        """The encoded image.

        Raises:
            OSError: if the tar file cannot be read.
            ValueError: if the tar file ends within the image.
        """
        with self.tar.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise ValueError(f"{self.tar} ends within the image")
        return content


@dataclass
class _Sample:
    """The members of one name."""

    image: TarMember | None = None
    image_name: str = ""
    captions: list[object] = field(default_factory=list)


def read_tar_shards(settings: WebDatasetData, reader: RecordReader) -> None:
    """Add the images of all tar files that the setting names."""
    if Path(settings.shards).is_absolute() or ".." in Path(settings.shards).parts:
        reader.fault("data.shards", f"is {shown(settings.shards)}", "names in data.root, relative to it")
        return
    samples: list[tuple[Path, _Sample, SplitName | None]] = []
    for split in SPLITS if "{split}" in settings.shards else (None,):
        pattern = settings.shards.replace("{split}", split or "")
        shards = [path for path in sorted(reader.root.glob(pattern)) if is_file(path)]
        if not shards:
            reader.fault("data.shards", f"no file {reader.root / pattern}", "tar files, relative to data.root")
        for shard in shards:
            samples += [(shard, sample, split) for sample in _samples(shard, settings.captions, reader)]
    if reader.faults:
        return
    if "{split}" in settings.shards:
        splits = {_name(reader, shard, sample): split for shard, sample, split in samples}
    elif len(samples) < FEWEST_IMAGES:
        reader.fault("data.shards", f"have {len(samples)} images to split", f"at least {FEWEST_IMAGES} images")
        return
    else:
        names = [_name(reader, shard, sample) for shard, sample, _ in samples]
        splits = {**drawn_splits(names, settings.held_out, settings.split_seed)}
    for shard, sample, _ in samples:
        name = _name(reader, shard, sample)
        reader.add(
            f"{shard}: {sample.image_name}",
            name,
            sample.captions,
            splits[name],
            sample.image,
            shard / sample.image_name,
        )


def _name(reader: RecordReader, shard: Path, sample: _Sample) -> str:
    return f"{shard.relative_to(reader.root)}/{sample.image_name}"


def _samples(shard: Path, captions: str, reader: RecordReader) -> Iterator[_Sample]:
    """The samples of a tar file with an image, in the order of the file."""
    extension, _, key = captions.partition(":")
    found: dict[str, _Sample] = {}
    try:
        time = shard.stat().st_mtime_ns
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                folder, _, last = member.name.rpartition("/")
                stem, _, kind = last.partition(".")
                if not member.isfile() or not stem:
                    continue
                sample = found.setdefault(f"{folder}/{stem}", _Sample())
                if kind.lower() in IMAGE_EXTENSIONS and sample.image is None:
                    sample.image = TarMember(shard, member.offset_data, member.size, time)
                    sample.image_name = member.name
                elif kind.lower() == extension.lower():
                    content = tar.extractfile(member)
                    assert content is not None
                    sample.captions += _texts(content.read(), key, f"{shard}: {member.name}", reader)
    except (tarfile.TarError, OSError) as error:
        allowed = "a tar file without compression, as img2dataset writes it"
        reader.fault(str(shard), f"cannot be read: {message_of(error)}", allowed)
        return
    if not any(sample.image for sample in found.values()):
        reader.fault(str(shard), "has no images", f"members that end in {', '.join(IMAGE_EXTENSIONS)}")
    yield from (sample for sample in found.values() if sample.image)


def _texts(content: bytes, key: str, where: str, reader: RecordReader) -> list[object]:
    """The captions of a member: its text, or the value of a key of its JSON."""
    try:
        text = content.decode("utf-8-sig")
        if not key:
            return [text]
        value = json_value(text)
    except ValueError as error:
        reader.fault(where, f"cannot be read: {message_of(error)}", "UTF-8 text" if not key else "a JSON object")
        return []
    if not isinstance(value, dict) or key not in value:
        reader.fault(where, f"has no key {key!r}: {shown(value)}", "the key after 'json:' in data.captions")
        return []
    captions = value[key]
    return [*captions] if isinstance(captions, list) else [captions]
