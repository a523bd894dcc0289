"""Conditions of measurement: recalls with another dataset, image size, encoder or protocol are not comparable."""

from collections.abc import Mapping
from pathlib import Path

from rayvldd.records.json_values import JsonValue, number_at, object_at, text_at


def measured_on(settings: Mapping[str, JsonValue], protocol: str = "") -> tuple[str, ...]:
    """Data, image size, encoders and protocol as texts; values that the settings do not state are left out.

    Args:
        settings: The nested values of a study, possibly incomplete.
        protocol: The protocol, if it is not part of the settings.
    """
    data, model = object_at(settings, "data"), object_at(settings, "model")
    source = text_at(data, "source") or "unknown data"
    if source == "toy_scenes":
        source = f"{int(number_at(data, 'num_train')):,} drawn scenes"
    elif source == "huggingface":
        source = "/".join(Path(text_at(data, "name")).parts[-2:]) or source
    elif source in ("folder", "table", "coco", "webdataset"):
        source = Path(text_at(data, "root")).name or source
    else:
        source = Path(text_at(data, "annotations")).stem.removesuffix("_{split}") or source
    text_name = "/".join(Path(text_at(model, "text_encoder", "name")).parts[-2:])
    size = f"{text_at(data, 'image_size')} px" if data.get("image_size") else ""
    parts = (
        source,
        size,
        text_at(model, "image_encoder", "name"),
        text_name or text_at(model, "text_encoder", "pooling"),
        protocol or text_at(model, "protocol"),
    )
    return tuple(part for part in parts if part)
