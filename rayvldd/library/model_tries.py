"""What the outcome of trying the models of a study depends on, so that a check repeats no try that passed.

A try builds the encoders, embeds captions and takes a step of the study's method, for which torch is imported. The
outcome depends on the settings of the study's points, on the captions, on the files of the encoders and of the sets to
begin with, and on the installed code. Each of them is an ingredient: if one changes, the models are tried again. This
module does not import torch.
"""

import hashlib
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import rayvldd
from rayvldd.config.methods.declaration import MethodDeclaration
from rayvldd.config.settings import OWN_ENCODER, ImageEncoderSettings, TextEncoderSettings
from rayvldd.config.study import Study, sections_where
from rayvldd.data.array_cache import fingerprint
from rayvldd.runtime.machine import gpu_files
from rayvldd.storage.hub_access import cached_files
from rayvldd.user_paths import is_folder, user_path

_LIBRARIES = (
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "tokenizers",
    "peft",
    "safetensors",
    "huggingface_hub",
    "numpy",
    "scikit-learn",
)
"""Libraries that build and run the models."""
_SECTIONS = sections_where(lambda info: info.in_point)
"""Sections of the settings of a point."""
_URI = re.compile(r"[a-z][a-z0-9+.-]+:/")
"""Start of the address of a set that is fetched."""


def ingredients_of_try(study: Study, captions: Sequence[str]) -> dict[str, str] | None:
    """Hash of everything that the outcome of a try depends on, by name; None if a part of it cannot be identified.

    Args:
        study: The study, with or without a search space.
        captions: All captions of the data, as they are tried.
    """
    places = study.initial_sets()
    if not all(_is_own(method) for method in study.methods()) or any(_URI.match(place) for place in places):
        return None  # the code of another package, or a set that is fetched
    points = study.expert_points()
    images = [*(point.model.image_encoder for point in points), *study.further_image_encoders().values()]
    texts = [point.model.text_encoder for point in points]
    files = [*(_files_of_image_encoder(one) for one in images), *(_files_of_text_encoder(one) for one in texts)]
    values = {
        "settings": [point.model_dump(mode="json", include=set(_SECTIONS)) for point in points],
        "further encoders": {
            key: encoder.model_dump(mode="json") for key, encoder in study.further_image_encoders().items()
        },
        "captions": hashlib.sha256("\0".join(captions).encode(errors="surrogatepass")).hexdigest(),
        "encoder files": [list(map(_stamp, one)) for one in files],
        "initial sets": {place: list(map(_stamp, _files_in(user_path(place)))) for place in places},
        "libraries": {name: _version_of(name) for name in _LIBRARIES},
        "rayvldd": [rayvldd.__version__, *map(_stamp, _own_files())],
        "machine": [sys.version, sys.platform, platform.machine(), gpu_files()],
    }
    return {name: fingerprint(value) for name, value in values.items()}


def _is_own(method: MethodDeclaration) -> bool:
    return method.settings.__module__.startswith("rayvldd.") and method.implementation.startswith("rayvldd.")


def _files_of_image_encoder(encoder: ImageEncoderSettings) -> Iterator[Path]:
    """The files that an image encoder is built from, besides those of the package."""
    if encoder.weights:
        yield user_path(encoder.weights)
    from_hub = encoder.pretrained and not encoder.weights and encoder.name != OWN_ENCODER
    if from_hub or encoder.name.startswith("hf-hub:"):
        yield from cached_files()


def _files_of_text_encoder(encoder: TextEncoderSettings) -> Iterator[Path]:
    if encoder.pooling == "hashed_ngrams":
        return
    folder = user_path(encoder.name)
    yield from _files_in(folder) if is_folder(folder) else cached_files()


def _files_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file()) if folder.is_dir() else []


def _own_files() -> list[Path]:
    """Code and weights of the package, which change without its version in a checkout."""
    root = Path(rayvldd.__file__).parent
    return sorted(file for kind in ("*.py", "*.safetensors") for file in root.rglob(kind))


def _stamp(file: Path) -> list[str | int]:
    """Identity of a file without reading it: resolved path, size and time of the last change."""
    try:
        found = file.stat()
    except OSError:
        return [str(file), -1, -1]
    return [str(file.resolve()), found.st_size, found.st_mtime_ns]


def _version_of(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
