"""Study files in a folder, and the faults of loading them."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from rayvldd.config.loading import load_study
from rayvldd.config.study import Study, set_dotted
from rayvldd.errors import ConfigError

MINIMAL: dict[str, Any] = {
    "name": "minimal",
    "data": {"source": "toy_scenes"},
    "model": {
        "protocol": "lora",
        "image_encoder": {"name": "vit_tiny_patch16_224"},
        "text_encoder": {"pooling": "hashed_ngrams"},
    },
}


def write(folder: Path, **changes: Any) -> Path:
    """Write the minimal study with changed dotted keys (``__`` in place of a dot)."""
    values = copy.deepcopy(MINIMAL)
    for key, value in changes.items():
        set_dotted(values, key.replace("__", "."), value)
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def faults_of(path: Path, *overrides: str) -> list[str]:
    """Load a faulty study; return its faults without the file's name."""
    with pytest.raises(ConfigError) as caught:
        load_study(path, overrides)
    assert "Next: " in str(caught.value)
    return [str(fault).removeprefix(f"{path}: ") for fault in caught.value.faults]


def study_with(space: dict[str, Any], **changes: Any) -> Study:
    values = copy.deepcopy(MINIMAL) | {"search": {"space": space}}
    for key, value in changes.items():
        set_dotted(values, key.replace("__", "."), value)
    return Study.model_validate(values)
