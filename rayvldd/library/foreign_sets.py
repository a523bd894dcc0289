"""Files and encoders that a set from elsewhere would load, which are refused unless the user trusts the set.

The card of a set is a study: it names folders, weights and encoders of hubs. That of a set which was made with the
workspace was written there. Anybody may have written another one.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rayvldd.config.settings import HuggingFaceData, ImageEncoderSettings, ToyScenesData
from rayvldd.config.study import Study
from rayvldd.errors import ConfigError, Fault, InputError
from rayvldd.library.set_groups import study_of_card
from rayvldd.printable import quoted
from rayvldd.records.made_sets import is_made_set
from rayvldd.tracking.opening import TRACKING_URI
from rayvldd.user_paths import is_folder, user_path

if TYPE_CHECKING:
    from rayvldd.distillation.distilled_set import DistilledSet

_OWN_ENCODER = "convnet_d3"
"""The image encoder of this package, which ships its weights."""
_OF_MLFLOW = ("models:/", "runs:/")
_OPTIONS_WITH_FILES = ("cache", "checkpoint", "pretrained")
"""Beginnings of the arguments of ``timm.create_model`` that name files or hubs."""


def refuse_untrusted(
    sets: Mapping[str, "DistilledSet"],
    workspace: Path,
    overrides: Sequence[str] = (),
    encoders: Mapping[str, ImageEncoderSettings] | None = None,
    *,
    next_command: str,
) -> None:
    """Raise an error if sets from elsewhere would load files or encoders that the user has not named.

    Args:
        sets: The sets by their folders.
        workspace: The workspace; sets in it, and copies of sets that were made with it, are trusted.
        overrides: ``KEY=VALUE`` texts of the user, whose values are trusted.
        encoders: The user's encoders for the students; without any, the set's own encoder is loaded.
        next_command: Command that trusts the sets.

    Raises:
        InputError: listing what would be loaded.
    """
    named = [override.partition("=")[0].strip() for override in overrides]
    faults = []
    for place, distilled in sets.items():
        if _is_own(place, workspace):
            continue
        try:
            study = study_of_card(place, distilled.card, overrides)
        except ConfigError:
            continue  # reported where the sets are grouped
        replaces_encoder = bool(encoders) and study.model.image_encoder.name not in (encoders or {})
        for key, value in _loaded(study):
            is_named = any(key == name or key.startswith(f"{name}.") for name in named)
            if not is_named and not (replaces_encoder and key.startswith("model.image_encoder.")):
                problem = f"a set from elsewhere would load {quoted(value)}"
                faults.append(Fault(f"{place}/card.json: {key}", problem, f"--trust, or --set {key}=VALUE"))
    if faults:
        raise InputError(faults, next_command=f"{next_command}, if you know who made the set")


def _is_own(place: str, workspace: Path) -> bool:
    """Whether a set is of the workspace or of its MLflow database; one of another source, as of a plug-in, is not."""
    if place.startswith(_OF_MLFLOW):
        return TRACKING_URI not in os.environ
    if not is_folder(place):
        return False
    folder, own = user_path(place).resolve(), user_path(workspace).resolve()
    return folder.is_relative_to(own) or is_made_set(own, folder)


def _loaded(study: Study) -> Iterator[tuple[str, object]]:
    """Key and value of every setting that names something outside of the package and the set."""
    if isinstance(study.data, HuggingFaceData):
        yield "data.name", study.data.name
    elif not isinstance(study.data, ToyScenesData):
        yield "data.root", study.data.root
        for key in ("annotations", "images", "test_annotations", "test_images", "shards"):
            path = Path(getattr(study.data, key, None) or "")
            if user_path(path).is_absolute() or ".." in path.parts:
                yield f"data.{key}", str(path)
    image, text = study.model.image_encoder, study.model.text_encoder
    if image.weights:
        yield "model.image_encoder.weights", image.weights
    elif ":" in image.name or (image.pretrained and image.name != _OWN_ENCODER):
        yield "model.image_encoder.name", image.name
    if any(name.startswith(_OPTIONS_WITH_FILES) for name in image.options):
        yield "model.image_encoder.options", image.options
    if text.pooling != "hashed_ngrams":
        yield "model.text_encoder.name", text.name
