"""Image encoders on the command line: a timm name, a name with its weights, or a file with all settings."""

from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from rayvldd.errors import Fault

if TYPE_CHECKING:
    from rayvldd.config.settings import ImageEncoderSettings

FORMS = "NAME of timm, NAME=WEIGHTS-FILE, or FILE.yaml with the keys of model.image_encoder"


def read_encoders(entries: list[str], option: str) -> tuple[dict[str, "ImageEncoderSettings"], list[Fault]]:
    """Parse image encoders; return them by displayed name, and a fault for every invalid entry.

    Args:
        entries: Each in one of ``FORMS``. Whether timm has the model is checked later, with the other models.
        option: Name of the option, for the faults.
    """
    encoders: dict[str, ImageEncoderSettings] = {}
    faults = []
    for entry in entries:
        try:
            settings = _settings(entry)
        except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            faults.append(Fault(option, f"cannot use {entry!r}: {reason}", FORMS))
        else:
            encoders[entry if settings.name in encoders else settings.name] = settings
    return encoders, faults


def _settings(entry: str) -> "ImageEncoderSettings":
    from rayvldd.config.bounded_yaml import parsed_documents
    from rayvldd.config.settings import ImageEncoderSettings

    if entry.endswith((".yaml", ".yml")):
        documents = parsed_documents(Path(entry).read_text(encoding="utf-8"))
        if len(documents) != 1 or not isinstance(documents[0], dict):
            raise ValueError("the file has no keys")
        return ImageEncoderSettings.model_validate(documents[0])
    name, _, weights = entry.partition("=")
    return ImageEncoderSettings(name=name.strip(), weights=weights.strip() or None)
