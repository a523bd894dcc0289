"""Conditions of measurement: recalls with another dataset, image size, encoder or protocol are not comparable."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def measured_on(settings: Mapping[str, Any], protocol: str = "") -> tuple[str, ...]:
    """Data, image size, encoders and protocol as texts; values that the settings do not state are left out.

    Args:
        settings: The nested values of a study, possibly incomplete.
        protocol: The protocol, if it is not part of the settings.
    """
    data, model = _section(settings.get("data")), _section(settings.get("model"))
    image, text = _section(model.get("image_encoder")), _section(model.get("text_encoder"))
    source = str(data.get("source", "unknown data"))
    if source == "toy_scenes":
        source = f"{data.get('num_train', 0):,} drawn scenes"
    elif source == "folder":
        source = Path(str(data.get("root", ""))).name or source
    else:
        source = Path(str(data.get("annotations", ""))).stem.removesuffix("_{split}") or source
    text_name = "/".join(Path(str(text.get("name", ""))).parts[-2:]) or str(text.get("pooling", ""))
    size = f"{data['image_size']} px" if data.get("image_size") else ""
    parts = (source, size, image.get("name"), text_name, protocol or model.get("protocol"))
    return tuple(str(part) for part in parts if part)


def _section(values: Any) -> Mapping[str, Any]:
    return values if isinstance(values, Mapping) else {}
