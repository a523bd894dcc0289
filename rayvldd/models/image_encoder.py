"""Any timm model as an image encoder, with its weights, its normalisation and a fingerprint of both."""

import hashlib
from pathlib import Path
from typing import Any

import timm
from timm.data import resolve_model_data_config
from torch import nn

from rayvldd.config.settings import ImageEncoderSettings
from rayvldd.errors import Fault, ModelError, did_you_mean, message_of
from rayvldd.models import convnet  # noqa: F401 - registers convnet_d3 with timm
from rayvldd.randomness import seeded


def build_image_encoder(settings: ImageEncoderSettings, seed: int = 0) -> nn.Module:
    """Return the encoder without its classifier; weights that are not loaded are drawn from ``seed``.

    Raises:
        ModelError: when timm cannot build the model or load the weights.
    """
    arguments: dict[str, Any] = dict(settings.options)
    if settings.weights:
        arguments["checkpoint_path"] = settings.weights
    from_hub = settings.pretrained and not settings.weights
    try:
        with seeded(seed):
            encoder: nn.Module = timm.create_model(settings.name, pretrained=from_hub, num_classes=0, **arguments)
    except Exception as error:  # timm and the hub raise whatever their own libraries raise
        raise ModelError([_fault(settings, error)], next_command=_NEXT) from error
    return encoder


def faults_of_image_encoder(settings: ImageEncoderSettings) -> list[Fault]:
    """What can be told to be wrong without building the model: its name and its weights file."""
    faults = []
    if not timm.is_model(settings.name.removeprefix("hf-hub:")) and not settings.name.startswith("hf-hub:"):
        hint = did_you_mean(settings.name, timm.list_models())
        faults.append(
            Fault("model.image_encoder.name", f"no timm model is called {settings.name!r}{hint}", "timm.list_models()")
        )
    if settings.weights and not Path(settings.weights).is_file():
        faults.append(Fault("model.image_encoder.weights", f"no such file: {settings.weights}", "a checkpoint file"))
    return faults


def normalisation(settings: ImageEncoderSettings, encoder: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """RGB mean and standard deviation that the weights expect, on a 0 to 1 scale."""
    known = resolve_model_data_config(encoder)
    return settings.mean or tuple(known["mean"]), settings.std or tuple(known["std"])


def fingerprint_of_weights(settings: ImageEncoderSettings, encoder: nn.Module) -> str:
    """16 hex digits over the values of all weights: a retrained checkpoint of the same name is another encoder."""
    digest = hashlib.sha256(settings.name.encode())
    for name, value in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


_NEXT = "rayvldd check STUDY.yaml after mending model.image_encoder"


def _fault(settings: ImageEncoderSettings, error: Exception) -> Fault:
    source = settings.weights or ("timm's hub" if settings.pretrained else "random weights")
    return Fault(
        "model.image_encoder",
        f"timm could not build {settings.name!r} from {source}: {message_of(error)}",
        "a timm model whose options and weights fit; without network: weights: FILE, or pretrained: false",
    )
