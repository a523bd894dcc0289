"""Image encoders from timm, with weights, normalisation and a fingerprint of both.

timm is imported where one of its models is used: it imports torchvision and torch's compiler, which take longer than
the rest of a small trial's process.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from rayvldd.config.settings import OWN_ENCODER, ImageEncoderSettings
from rayvldd.errors import Fault, ModelError, did_you_mean, message_of
from rayvldd.models.convnet import ConvNet, convnet_d3
from rayvldd.randomness import seeded
from rayvldd.storage.hub_access import hub_or_cache
from rayvldd.user_paths import is_file, user_path

_OWN: Mapping[str, Callable[..., nn.Module]] = {OWN_ENCODER: convnet_d3}
"""Encoders of this package, by name."""


def build_image_encoder(settings: ImageEncoderSettings, seed: int = 0) -> nn.Module:
    """Return the encoder without its classifier; weights that are not loaded are initialised from ``seed``.

    Raises:
        ModelError: if timm cannot build the model or load the weights.
    """
    try:
        with seeded(seed):
            encoder = _created(settings)
        if settings.weights:
            _load(encoder, str(user_path(settings.weights)))
    except Exception as error:  # timm and the hub raise errors of many libraries
        raise ModelError([_fault(settings, error)], next_command=_NEXT) from error
    return encoder


def _created(settings: ImageEncoderSettings) -> nn.Module:
    from_hub = settings.pretrained and not settings.weights
    options: dict[str, Any] = dict(settings.options)
    if settings.name in _OWN:
        return _OWN[settings.name](pretrained=from_hub, **options)
    timm = _imported_timm()
    with hub_or_cache() if from_hub else nullcontext():
        encoder: nn.Module = timm.create_model(settings.name, pretrained=from_hub, num_classes=0, **options)
    return encoder


def _imported_timm() -> ModuleType:
    """Import timm without wandb, which it imports, if it is installed, for the logs of its own training script.

    That takes half of the CPU time of importing timm after torch and torchvision, and a process that is killed, as
    those of trials are, leaves two folders of wandb in the system's temporary folder. A wandb that is imported already
    stays.
    """
    is_kept_out = "wandb" not in sys.modules
    if is_kept_out:
        sys.modules["wandb"] = None  # type: ignore[assignment]  # Python's mark of a module that is not to be imported
    try:
        import timm
    finally:
        if is_kept_out:
            del sys.modules["wandb"]
    return timm  # type: ignore[no-any-return, unused-ignore]


def faults_of_image_encoder(settings: ImageEncoderSettings) -> list[Fault]:
    """Faults that can be found without building the model: its name and its weights file."""
    faults = _faults_of_name(settings.name)
    if settings.weights and not is_file(settings.weights):
        faults.append(Fault("model.image_encoder.weights", f"no such file: {settings.weights}", "a checkpoint file"))
    return faults


def _faults_of_name(name: str) -> list[Fault]:
    if name in _OWN or name.startswith("hf-hub:"):
        return []
    timm = _imported_timm()
    if timm.is_model(name):
        return []
    hint = did_you_mean(name, [*_OWN, *timm.list_models()])
    return [
        Fault(
            "model.image_encoder.name",
            f"no timm model is called {name!r}{hint}",
            "convnet_d3, or one of timm.list_models()",
        )
    ]


def normalisation(settings: ImageEncoderSettings, encoder: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """RGB mean and standard deviation that the weights expect, on a scale from 0 to 1."""
    mean, std = _normalisation_of(encoder)
    return settings.mean or mean, settings.std or std


def _normalisation_of(encoder: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if isinstance(encoder, ConvNet):
        return encoder.pretrained_cfg["mean"], encoder.pretrained_cfg["std"]
    from timm.data.config import resolve_model_data_config

    known = resolve_model_data_config(encoder)
    return tuple(known["mean"]), tuple(known["std"])


def image_identity(settings: ImageEncoderSettings, encoder: nn.Module) -> str:
    """Hash of everything that determines the features, 16 hex digits.

    It includes the model, its options, the pixel normalisation and the values of its weights. A retrained checkpoint
    with the same name is another encoder; the same weights from another file are the same encoder.
    """
    stated = [settings.name, settings.options, *map(list, normalisation(settings, encoder))]
    digest = hashlib.sha256(json.dumps(stated, sort_keys=True).encode())
    for name, value in encoder.state_dict().items():
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _load(encoder: nn.Module, file: str) -> None:
    """Load a checkpoint of this model, or one from timm's hub with a classifier or another image size.

    Raises:
        RuntimeError: naming the weights that do not match.
    """
    _imported_timm()
    from timm.models import load_checkpoint, load_state_dict

    if file.lower().endswith((".npz", ".npy")):
        load_checkpoint(encoder, file)
        return
    values = load_state_dict(file)
    if set(values) != set(encoder.state_dict()) or any(
        values[name].shape != value.shape for name, value in encoder.state_dict().items()
    ):
        values = _adapted(values, encoder)
    fit = encoder.load_state_dict(values, strict=False)
    if fit.missing_keys or fit.unexpected_keys:
        problems = [
            f"{len(names)} {what}: {_few(names)}"
            for names, what in (
                (fit.missing_keys, "of the model's weights are not in the file"),
                (fit.unexpected_keys, "in the file are none of the model's"),
            )
            if names
        ]
        raise RuntimeError("; ".join(problems))


def _adapted(values: dict[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """Convert weights as timm does for its hub: without the classifier, and to the form and size of the model."""
    adapt = getattr(sys.modules[type(encoder).__module__], "checkpoint_filter_fn", None)
    classifiers = (getattr(encoder, "pretrained_cfg", None) or {}).get("classifier") or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    kept = {
        name: value for name, value in values.items() if not name.startswith(tuple(f"{one}." for one in classifiers))
    }
    return dict(adapt(kept, encoder)) if adapt else kept


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


_NEXT = "rayvldd check STUDY.yaml, after correcting model.image_encoder"


def _fault(settings: ImageEncoderSettings, error: Exception) -> Fault:
    source = settings.weights or ("timm's hub" if settings.pretrained else "random weights")
    return Fault(
        "model.image_encoder",
        f"timm could not build {settings.name!r} from {source}: {message_of(error)}",
        "a timm model whose options and weights fit; without network: weights: FILE, or pretrained: false",
    )
