"""Export a distilled set for other programs: PNG with JSON lines, or folders for Hugging Face datasets and its hub.

PNG images have 8 bits per channel between black and white; distilled pixels are floats and may be outside this range.
They are clipped for PNG, so the ``datasets`` form has an additional column with the exact pixels.
"""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from rayvldd.data.hub_datasets import INSTALL_LIBRARY
from rayvldd.distillation.hub_card import HUB_CARD, hub_card, without_folders
from rayvldd.distillation.similarity import SimilarityParameters
from rayvldd.errors import ConfigError, Fault, RayvlddError
from rayvldd.records.json_values import JsonObject, JsonValue, object_at
from rayvldd.records.set_card import CARD
from rayvldd.records.set_scores import EvaluatedBound, EvaluatedSet
from rayvldd.storage.json_files import parsed
from rayvldd.storage.new_folders import new_folder_written_whole
from rayvldd.user_paths import user_path

if TYPE_CHECKING:
    import datasets

LINES = "captions.jsonl"
"""File with one line per pair: image, captions and split, as in a dataset folder, and the embedding file."""
SIMILARITY = "similarity.npy"
"""File of the similarity [pair, pair] of image i and text j; only if it was learned."""
SPLIT = "train"
"""Split name of the exported pairs: a distilled set is for training; validation and test use real data."""
_HUB_PAIRS = f"data/{SPLIT}.parquet"


class NearestCaption(TypedDict):
    """The real training caption nearest to the embedding of a pair."""

    pair: int
    nearest: str
    similarity: float
    """Cosine of both embeddings."""
    start: str
    """Caption of the initial pair."""


class _Texts(TypedDict):
    captions: list[str]
    start_caption: str


@runtime_checkable  # for runtime type checks of signatures in tests
class ExportedSet(Protocol):
    """The parts of a distilled set that an export reads."""

    @property
    def images(self) -> Float[Tensor, "pair 3 height width"]:
        """RGB on a 0 to 1 scale, not clamped."""
        ...

    @property
    def texts(self) -> Float[Tensor, "pair text_dim"]:
        """Caption embeddings."""
        ...

    @property
    def start_captions(self) -> list[str]:
        """Caption of each initial pair."""
        ...

    @property
    def nearest_captions(self) -> list[NearestCaption]:
        """For each pair the real caption nearest to its embedding; empty if not computed."""
        ...

    @property
    def similarity(self) -> SimilarityParameters:
        """Learned similarity of image i and text j."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write the set into a folder, as :meth:`.DistilledSet.load` reads it."""
        ...

    def card_values(self) -> dict[str, JsonValue]:
        """Return the content of the card."""
        ...


def export(
    distilled: ExportedSet,
    folder: str | Path,
    form: str = "png",
    evaluated: Sequence[EvaluatedSet | EvaluatedBound] = (),
) -> Path:
    """Write a set for other programs, atomically.

    Args:
        distilled: The set.
        folder: A folder that does not exist yet or is empty.
        form: A name in ``FORMS``.
        evaluated: Rows of evaluations of the set and of their bounds on test, for the card of the form ``hub``.

    Returns:
        The folder, absolute.

    Raises:
        ConfigError: when the form does not exist.
        StoreError: when the folder is not empty or cannot be written.
        RayvlddError: when the form needs a library that is not installed.
    """
    write, target = _writer(form), user_path(folder).absolute()
    with new_folder_written_whole(target) as part:
        write(distilled, part)
        if form == "hub":
            (part / HUB_CARD).write_text(hub_card(distilled, evaluated), encoding="utf-8")
            distilled.save(part)  # with the card, whose checksums are needed to read it again
            values = values_for_hub(parsed((part / CARD).read_bytes()) or {})
            (part / CARD).write_text(json.dumps(values, indent=2, ensure_ascii=False), encoding="utf-8")
            return target
        (part / CARD).write_text(json.dumps(distilled.card_values(), indent=2, ensure_ascii=False), encoding="utf-8")
        similarity = distilled.similarity.matrix()
        if similarity is not None:
            np.save(part / SIMILARITY, similarity.detach().numpy())
    return target


def values_for_hub(values: JsonObject) -> JsonObject:
    """The content of a card in the form ``hub``: its study names no folders of this machine."""
    return values | {"study": without_folders(object_at(values, "study"))} if "study" in values else values


def has_hub_files(folder: Path) -> bool:
    """Whether a folder has the files of the form ``hub`` beside those of a set."""
    return (folder / HUB_CARD).is_file() and (folder / _HUB_PAIRS).is_file()


def clipped_share(distilled: ExportedSet) -> float:
    """Return the fraction of pixel values outside the range of PNG: below black or above white."""
    return float(((distilled.images < 0) | (distilled.images > 1)).float().mean())


def eight_bit(image: Float[Tensor, "3 height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Convert an image for PNG: clip to black and white, and round to 256 levels."""
    return (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def _write_png(distilled: ExportedSet, folder: Path) -> None:
    """Write ``images/0000.png``, ``embeddings/0000.npy`` (float32 [text_dim]) and ``captions.jsonl``."""
    for name in ("images", "embeddings"):
        (folder / name).mkdir()
    rows, lines = zip(distilled.images, distilled.texts, _captions(distilled), strict=True), []
    for pair, (image, text, captions) in enumerate(rows):
        names = {"image": f"images/{pair:04d}.png", "embedding": f"embeddings/{pair:04d}.npy"}
        Image.fromarray(eight_bit(image)).save(folder / names["image"])
        np.save(folder / names["embedding"], text.numpy())
        line = {"image": names["image"], **captions, "split": SPLIT, "embedding": names["embedding"]}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    (folder / LINES).write_text("".join(lines), encoding="utf-8")


def _write_datasets(distilled: ExportedSet, folder: Path) -> None:
    """Write a ``DatasetDict`` with one split, for ``datasets.load_from_disk``."""
    from datasets import DatasetDict

    with _without_progress_bars():
        DatasetDict({SPLIT: _as_dataset(distilled)}).save_to_disk(str(folder))


def _write_hub(distilled: ExportedSet, folder: Path) -> None:
    """Write the pairs as a Parquet file, which the hub's viewer and ``datasets.load_dataset`` read."""
    (folder / _HUB_PAIRS).parent.mkdir()
    with _without_progress_bars():
        _as_dataset(distilled).to_parquet(str(folder / _HUB_PAIRS))


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _as_dataset(distilled: ExportedSet) -> "datasets.Dataset":
    from datasets import Array3D, Dataset, Features, List, Value
    from datasets import Image as ImageColumn

    columns = Features(
        {
            "image": ImageColumn(),
            "pixels": Array3D(tuple(distilled.images.shape[1:]), "float32"),
            "caption_embedding": List(Value("float32"), length=distilled.texts.shape[1]),
            "captions": List(Value("string")),
            "start_caption": Value("string"),
        }
    )
    captions = _captions(distilled)
    values = {
        "image": [{"bytes": _png(image), "path": f"{pair:04d}.png"} for pair, image in enumerate(distilled.images)],
        "pixels": list(distilled.images.numpy()),
        "caption_embedding": list(distilled.texts.numpy()),
        "captions": [row["captions"] for row in captions],
        "start_caption": [row["start_caption"] for row in captions],
    }
    return Dataset.from_dict(values, columns)


def _captions(distilled: ExportedSet) -> list[_Texts]:
    """Return the readable texts of each pair: the nearest real caption, if computed, and the initial caption."""
    if not distilled.nearest_captions:
        return [{"captions": [], "start_caption": start} for start in distilled.start_captions]
    return [
        {"captions": [row["nearest"]] if "nearest" in row else [], "start_caption": start}
        for row, start in zip(distilled.nearest_captions, distilled.start_captions, strict=True)
    ]


def _png(image: Float[Tensor, "3 height width"]) -> bytes:
    written = io.BytesIO()
    Image.fromarray(eight_bit(image)).save(written, "PNG")
    return written.getvalue()


def check_form(form: str) -> None:
    """Check that an export can be written in a form on this machine.

    Raises:
        ConfigError: when the form does not exist.
        RayvlddError: when the form needs a library that is not installed.
    """
    _writer(form)


def _writer(form: str) -> Callable[[ExportedSet, Path], None]:
    if form not in FORMS:
        fault = Fault("format", f"no form {form!r}", ", ".join(FORMS))
        raise ConfigError([fault], next_command="rayvldd export --help")
    if form in ("datasets", "hub"):
        try:
            import datasets  # noqa: F401
        except ImportError as error:
            raise RayvlddError(
                f"the format {form!r} needs the library datasets, which cannot be imported ({error}); "
                f"allowed without it: png",
                next_command=INSTALL_LIBRARY,
            ) from error
    return FORMS[form]


FORMS: dict[str, Callable[[ExportedSet, Path], None]] = {
    "png": _write_png,
    "datasets": _write_datasets,
    "hub": _write_hub,
}
"""By name of ``--format``: the writer, which fills an empty folder."""
