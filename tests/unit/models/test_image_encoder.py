"""Checkpoints of image encoders: with a classifier, at another size, and what does not fit; and their fingerprints."""

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from rayvldd.config.settings import ImageEncoderSettings
from rayvldd.errors import ModelError
from rayvldd.models.image_encoder import (
    _imported_timm,
    build_image_encoder,
    faults_of_image_encoder,
    image_identity,
)

VIT = {"name": "test_vit", "options": {"img_size": 32}}


@pytest.mark.parametrize("is_imported", [False, True])
def test_timm_is_imported_without_wandb(is_imported: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless that is imported already; it stays importable."""
    (tmp_path / "wandb.py").touch()
    (tmp_path / "timm.py").write_text("try:\n    import wandb\nexcept ImportError:\n    wandb = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("timm", "wandb"):
        monkeypatch.setitem(sys.modules, name, timm)  # restores what is there after the test
        monkeypatch.delitem(sys.modules, name)
    before = importlib.import_module("wandb") if is_imported else None
    assert _imported_timm().wandb is before
    assert sys.modules.get("wandb") is before
    assert importlib.import_module("wandb").__file__ == str(tmp_path / "wandb.py")


def settings(file: Path | None, **values: Any) -> ImageEncoderSettings:
    weights = str(file) if file else None
    return ImageEncoderSettings.model_validate({"name": "resnet10t", "pretrained": False, "weights": weights, **values})


def kept(folder: Path, values: dict[str, torch.Tensor]) -> Path:
    torch.save(values, folder / "weights.pth")
    return folder / "weights.pth"


def weights_of(name: str, seed: int = 3, **options: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return dict(timm.create_model(name, **options).state_dict())


def test_a_checkpoint_with_its_classifier_gives_the_features_of_one_without(tmp_path: Path) -> None:
    whole = weights_of("resnet10t")
    assert "fc.weight" in whole
    encoder = build_image_encoder(settings(kept(tmp_path, whole)))
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, whole[name]), name


def test_a_checkpoint_at_another_size_is_resized_as_the_hub_would(tmp_path: Path) -> None:
    """What ``pretrained: true`` does with the same file."""
    file = kept(tmp_path, weights_of("test_vit"))
    encoder = build_image_encoder(settings(file, **VIT))
    overlay = {"file": str(file), "hf_hub_id": None, "url": ""}
    expected = timm.create_model(
        "test_vit", pretrained=True, num_classes=0, img_size=32, pretrained_cfg_overlay=overlay
    )
    for name, value in expected.state_dict().items():
        assert torch.equal(value, encoder.state_dict()[name]), name
    assert encoder.state_dict()["pos_embed"].shape != weights_of("test_vit")["pos_embed"].shape


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda values: {f"backbone.{name}": value for name, value in values.items()}, "backbone.conv1.0.weight"),
        (
            lambda values: {name: value for name, value in values.items() if "layer4" not in name},
            "layer4.0.conv1.weight",
        ),
        (lambda values: {**values, "layer9.weight": torch.zeros(1)}, "layer9.weight"),
        (lambda values: {**values, "layer1.0.conv1.weight": torch.zeros(2)}, "size mismatch for layer1.0.conv1.weight"),
    ],
)
def test_keys_that_do_not_fit_are_named(tmp_path: Path, change: Any, expected: str) -> None:
    with pytest.raises(ModelError) as caught:
        build_image_encoder(settings(kept(tmp_path, change(weights_of("resnet10t")))))
    (fault,) = caught.value.faults
    assert fault.where == "model.image_encoder" and expected in fault.problem


def test_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(tmp_path, weights_of("resnet10t"))
    monkeypatch.setenv("HOME", str(tmp_path))
    short = settings(Path("~/weights.pth"))
    assert faults_of_image_encoder(short) == []
    assert image_identity(short, build_image_encoder(short)) == image_identity(
        settings(None), build_image_encoder(settings(tmp_path / "weights.pth"))
    )


def test_the_fingerprint_depends_exactly_on_the_features(tmp_path: Path) -> None:
    file = kept(tmp_path, weights_of("test_vit", img_size=32))

    def identity(**values: Any) -> str:
        chosen = settings(file, **{**VIT, **values})
        return image_identity(chosen, build_image_encoder(chosen))

    before = identity()
    moved = tmp_path / "moved.pth"
    moved.write_bytes(file.read_bytes())
    assert identity() == identity(weights=str(moved)) == before
    assert identity(mean=(0.1, 0.5, 0.5)) != before
    assert identity(std=(0.1, 0.5, 0.5)) != before
    assert identity(options={"img_size": 32, "act_layer": "relu"}) != before
    kept(tmp_path, weights_of("test_vit", seed=4, img_size=32))
    assert identity() != before


def test_processes_with_our_network_import_neither_timm_nor_scikit_learn() -> None:
    """They double the time of the imports, which small trials and scores spend in each of their processes."""
    code = """
import sys
from rayvldd.evaluation import privacy, robustness, zero_shot
from rayvldd.runtime import evaluation
from rayvldd.config.settings import ImageEncoderSettings
from rayvldd.hyperparameter_search import trial, tune_adapter
from rayvldd.models.image_encoder import build_image_encoder, faults_of_image_encoder, image_identity
settings = ImageEncoderSettings(name="convnet_d3")
assert not faults_of_image_encoder(settings)
image_identity(settings, build_image_encoder(settings))
print({"timm", "torchvision", "sklearn", "scipy.stats", "torch._dynamo"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "set()\n", done.stderr
