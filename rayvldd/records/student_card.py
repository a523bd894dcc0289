"""The card of a kept student: the model that its weights belong to."""

from typing import ClassVar

from rayvldd.records.form import Record
from rayvldd.records.json_values import JsonObject

STUDENT = "student"
"""Name of the folder of a student, beside the set that it was trained on."""
STUDENT_CARD = "student.json"


class StudentCard(Record):
    """The content of the file."""

    version: ClassVar[int] = 1
    title: ClassVar[str] = "the card of a student"
    remedy: ClassVar[str] = "copy the folder {folder} again from where it was made"

    seed: int
    """Seed of the student's initialisation, batches and dropout."""
    model: JsonObject
    """Settings of the model, with absolute paths of local encoders."""
    image_size: int
    """Side of the square images, in pixels."""
    text_width: int
    """Dimension of the caption embeddings that the text side begins with."""
    fingerprints: dict[str, str]
    """Fingerprints of ``image_encoder`` and ``text_encoder``."""
    checksums: dict[str, str]
    """Of the weights by side, ``image`` and ``text``."""
