"""The card of a distilled set, ``card.json``: what belongs to its tensors, and entries about its origin."""

from pydantic import BaseModel, ConfigDict

from rayvldd.records.form import FileForm

CARD = "card.json"
"""Name of the file."""
VERSION = 1
"""Format version of a card; newer ones are refused."""


class SetCard(BaseModel):
    """A card as it is read. Entries about the origin of the set are in ``model_extra``."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    start_captions: list[str]
    lr_student_image: float
    lr_student_text: float
    similarity_scale: float = 1.0
    checksums: dict[str, str]
    """Checksum of every tensor by name."""


SET_CARD = FileForm(
    SetCard,
    VERSION,
    "the card of a distilled set",
    "rayvldd distill STUDY.yaml, which makes the set again; or copy the set again from where it was made",
)
"""How cards are read."""
