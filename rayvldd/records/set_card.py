"""The card of a distilled set, ``card.json``: the origin of the set, and what belongs to its tensors.

There is one class for each kind of origin. The file has the entries of the origin beside those of the tensors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, AllowInfNan, ConfigDict, Discriminator, Field, JsonValue, Tag, model_validator

from rayvldd.records.form import FORMAT, FileForm, Values
from rayvldd.records.json_values import JsonObject

CARD = "card.json"
"""Name of the file."""
VERSION = 1
"""Format version of a card; newer ones are refused."""


def _with_all_parts(fingerprints: dict[str, str]) -> dict[str, str]:
    missing = {"data", "image_encoder", "text_encoder"} - fingerprints.keys()
    if missing:
        raise ValueError(f"no {', '.join(sorted(missing))}")
    return fingerprints


class Normalisation(Values):
    """Mean and standard deviation of the channels with which the image encoder normalises images."""

    mean: list[float] = Field(min_length=3, max_length=3)
    std: list[float] = Field(min_length=3, max_length=3)


class ParameterCounts(Values):
    """Number of parameters of each side of the model that the method optimised for."""

    image: int
    text: int


class OriginCard(Values):
    """Origin of a set: settings, point and fingerprints."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    study: dict[str, JsonValue]
    """The settings of the study at the point of the set."""
    fingerprints: Annotated[dict[str, str], AfterValidator(_with_all_parts)]
    """Fingerprints of ``data``, ``image_encoder`` and ``text_encoder``."""
    normalisation: Normalisation
    matched_parameters: ParameterCounts
    seed: int
    """Seed of the distillation or of the selection of the coreset."""
    rayvldd_version: str
    images_left_out: dict[str, list[str]] | None = None
    """By split, images that could not be read; None if there were none."""
    outer_step: int
    metrics: dict[str, Annotated[float, AllowInfNan(True)]]
    """Metrics on validation and diagnostics, by name; losses may be infinite or not a number."""


class DistilledCard(OriginCard):
    """A set that a distillation made: a trial, a finalist, or one distillation at one point."""

    rollbacks: int
    """How often the distillation returned to an earlier state."""


class CoresetOrigin(Values):
    """How the pairs of a coreset were selected."""

    method: str
    seed: int
    images: list[str]
    """Names of the images, in the order of the pairs."""


class CoresetCard(OriginCard):
    """Real pairs in the form of a distilled set."""

    coreset: CoresetOrigin


class ReleasedOrigin(Values):
    """The files of another program that a set was read from."""

    files: list[str]
    """Names of the files."""
    pixels: str
    """Scale of the images in the files."""


class ReleasedCard(OriginCard):
    """A set that another program distilled, with the settings that the user declared."""

    released: ReleasedOrigin


class BareCard(Values):
    """A set of unknown origin, made in Python or by another program."""


def _kind_of(values: object) -> str:
    """The kind of origin, by the entries of a card; with any of those of an origin it must have all of them."""
    if isinstance(values, OriginCard | BareCard):
        return _KINDS[type(values)]
    names = set(values) if isinstance(values, Mapping) else set()
    for kind in ("coreset", "released"):
        if kind in names:
            return kind
    return "distilled" if names & DistilledCard.model_fields.keys() else "bare"


Card = DistilledCard | CoresetCard | ReleasedCard | BareCard
"""The origin of a set."""

_KINDS: dict[type[OriginCard | BareCard], str] = {
    DistilledCard: "distilled",
    CoresetCard: "coreset",
    ReleasedCard: "released",
    BareCard: "bare",
}


class SetCard(Values):
    """The content of the file."""

    model_config = ConfigDict(ser_json_inf_nan="constants")

    lr_student_image: float
    lr_student_text: float
    start_captions: list[str]
    similarity_scale: float = 1.0
    checksums: dict[str, str]
    """Checksum of every tensor by name."""
    origin: Annotated[
        Annotated[DistilledCard, Tag("distilled")]
        | Annotated[CoresetCard, Tag("coreset")]
        | Annotated[ReleasedCard, Tag("released")]
        | Annotated[BareCard, Tag("bare")],
        Discriminator(_kind_of),
    ]

    @model_validator(mode="before")
    @classmethod
    def _separated(cls, values: object) -> object:
        """Separate the entries of the origin from those of the tensors."""
        if not isinstance(values, dict) or isinstance(values.get("origin"), OriginCard | BareCard):
            return values
        own = {name: value for name, value in values.items() if name in cls.model_fields and name != "origin"}
        return {**own, "origin": {name: value for name, value in values.items() if name not in own}}

    def as_json(self) -> JsonObject:
        """The object of the file."""
        values = self.model_dump(mode="json")
        origin = values.pop("origin")
        return {FORMAT: VERSION, **origin, **values}


SET_CARD = FileForm(
    SetCard,
    VERSION,
    "the card of a distilled set",
    "rayvldd distill STUDY.yaml, which makes the set again; or copy the set again from where it was made",
)
"""How cards are read."""


def card_in(folder: Path) -> OriginCard | None:
    """The card of the set in a folder; None if there is none, or its origin is unknown.

    Raises:
        StoreError: if it cannot be read.
    """
    origin = SET_CARD.read(folder / CARD).origin if (folder / CARD).is_file() else None
    return origin if isinstance(origin, OriginCard) else None
