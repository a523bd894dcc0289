"""Cards of distilled sets that no distillation made."""

import json
from pathlib import Path
from typing import Any

from helpers.studies import TINY_STUDY
from rayvldd.config.study import Study
from rayvldd.records.set_card import DistilledCard, SetCard


def card_with(**changes: Any) -> DistilledCard:
    """The card of a set of the tiny study, with other entries."""
    values = {
        "study": Study.model_validate(TINY_STUDY).model_dump(mode="json"),
        "fingerprints": {"data": "0", "image_encoder": "1", "text_encoder": "2"},
        "normalisation": {"mean": [0.5] * 3, "std": [0.5] * 3},
        "matched_parameters": {"image": 10, "text": 20},
        "seed": 0,
        "rayvldd_version": "0.1.0",
        "outer_step": 4,
        "rollbacks": 0,
        "metrics": {"val_mean_recall": 12.5},
    }
    return DistilledCard.model_validate({**values, **changes})


def card_text(**changes: Any) -> str:
    """The file of such a card, without tensors."""
    card = SetCard(
        origin=card_with(**changes), lr_student_image=0.1, lr_student_text=0.1, start_captions=[], checksums={}
    )
    return json.dumps(card.as_json())


def write_card(file: Path, **changes: Any) -> None:
    """Write such a card beside no tensors."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(card_text(**changes), encoding="utf-8")
