"""Encoders on the command line: a name, a name with its weights or pooling, or a file with all settings."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import yaml

from rayvldd.errors import Fault
from rayvldd.records.json_values import JsonObject

if TYPE_CHECKING:
    from rayvldd.config.settings import ImageEncoderSettings, TextEncoderSettings

_Encoder = TypeVar("_Encoder")

FORMS = "NAME of timm, NAME=WEIGHTS-FILE, or FILE.yaml with the keys of model.image_encoder"


def read_encoders(entries: list[str], option: str) -> tuple[dict[str, "ImageEncoderSettings"], list[Fault]]:
    """Parse image encoders; return them by displayed name, and a fault for every invalid entry.

    Args:
        entries: Each in one of ``FORMS``. Whether timm has the model is checked later, with the other models.
        option: Name of the option, for the faults.
    """
    return _by_name(entries, option, FORMS, _settings, lambda settings: settings.name)


TEXT_FORMS = (
    "POOLING:NAME with cls, mean or clip, hashed_ngrams[:WIDTH], or FILE.yaml with the keys of model.text_encoder"
)


def read_text_encoders(entries: list[str], option: str) -> tuple[dict[str, "TextEncoderSettings"], list[Fault]]:
    """Parse text encoders; return them by displayed name, and a fault for every invalid entry.

    Args:
        entries: Each in one of ``TEXT_FORMS``. Whether there is such an encoder is checked later.
        option: Name of the option, for the faults.
    """
    from rayvldd.library.set_groups import words_of_text_encoder

    def name_of(settings: "TextEncoderSettings") -> str:
        return words_of_text_encoder({"text_encoder": settings.model_dump(mode="json")})

    return _by_name(entries, option, TEXT_FORMS, _text_settings, name_of)


def _by_name(
    entries: list[str], option: str, forms: str, parse: Callable[[str], _Encoder], name_of: Callable[[_Encoder], str]
) -> tuple[dict[str, _Encoder], list[Fault]]:
    """Parse entries; of two with one name, the second is displayed as it was given."""
    encoders: dict[str, _Encoder] = {}
    faults = []
    for entry in entries:
        try:
            settings = parse(entry)
        except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
            faults.append(Fault(option, f"cannot use {entry!r}: {' '.join(str(error).split())}", forms))
        else:
            name = name_of(settings)
            encoders[entry if name in encoders else name] = settings
    return encoders, faults


def _text_settings(entry: str) -> "TextEncoderSettings":
    from rayvldd.config.settings import TextEncoderSettings

    if entry.endswith((".yaml", ".yml")):
        return TextEncoderSettings.model_validate(_section(entry))
    pooling, _, name = entry.partition(":")
    values: dict[str, str | int] = {"pooling": pooling}
    if pooling == "hashed_ngrams":
        values |= {"width": name} if name else {}
    else:
        values["name"] = name
    return TextEncoderSettings.model_validate(values)


def _section(file: str) -> JsonObject:
    """The keys of a YAML file."""
    from rayvldd.config.bounded_yaml import parsed_documents

    documents = parsed_documents(Path(file).read_text(encoding="utf-8"))
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise ValueError("the file has no keys")
    return documents[0]


def _settings(entry: str) -> "ImageEncoderSettings":
    from rayvldd.config.settings import ImageEncoderSettings

    if entry.endswith((".yaml", ".yml")):
        return ImageEncoderSettings.model_validate(_section(entry))
    name, _, weights = entry.partition("=")
    return ImageEncoderSettings(name=name.strip(), weights=weights.strip() or None)
