"""The contracts that are shipped for plug-ins, on what ships itself, and on plug-ins that break them."""

from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rayvldd.config.domains import SettingValue
from rayvldd.config.methods.declaration import MethodDeclaration, MethodSettings
from rayvldd.config.methods.registry import method_names, register_method, unregister_method
from rayvldd.config.metrics import MetricInfo
from rayvldd.distillation.method import MethodStep
from rayvldd.evaluation.metric import RetrievalRecall
from rayvldd.storage.folder import FolderStorage
from rayvldd.testing import check_method, check_metric, check_storage, toy_study


class PullSettings(MethodSettings):
    """Settings of a method that needs no experts."""

    method = "pull"
    strength: float = 0.01


class Pull:
    """Pulls every image towards the mean of the real ones; no experts."""

    lr_step_sizes: float | None = None

    def __init__(self, task: Any, settings: Any, experts: Sequence[Any]) -> None:
        assert not experts, "none are required"
        index = np.arange(task.train.num_images)
        self.mean = task.pixels(task.train, index).mean(0)
        self.strength = settings.of(PullSettings).strength

    def gradient(self, synthetic_set: Any, outer_step: int, generator: np.random.Generator) -> MethodStep:
        away = synthetic_set.images - self.mean
        loss = away.square().mean()
        return MethodStep(loss, {"images": self.strength * away}, {"pull_loss": loss})

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        pass


class Stuck(Pull):
    """A method that does not move the set."""

    def gradient(self, synthetic_set: Any, outer_step: int, generator: np.random.Generator) -> MethodStep:
        loss, gradients, log = super().gradient(synthetic_set, outer_step, generator)
        return MethodStep(loss, {name: torch.zeros_like(part) for name, part in gradients.items()}, log)


@pytest.fixture
def pull(request: pytest.FixtureRequest) -> Iterator[str]:
    kind = getattr(request, "param", "Pull")
    register_method(MethodDeclaration(PullSettings, f"{__name__}:{kind}"))
    yield "pull"
    unregister_method("pull")


BUILT_IN: dict[str, dict[str, Any] | None] = {
    "trajectory_matching": {"syn_steps": 5, "expert_epochs": 1, "max_start_epoch": 1},
    "expert_fit": None,
    "meta_model": {"syn_steps": 5, "window": 2, "real_batch_size": 16},
}
"""By name: the settings that the contract is checked with, where they are not those of the probe."""


@pytest.mark.parametrize("name", BUILT_IN)
def test_methods_that_ship_keep_the_contract(name: str, tmp_path: Path) -> None:
    check_method(name, tmp_path, settings=BUILT_IN[name])


def test_covariance_keeps_the_contract(tmp_path: Path) -> None:
    for variant in ("plain", "whitened", "ridge"):
        check_method("covariance", tmp_path / variant, settings={"variant": variant}, protocols=["heads_only"])


def test_covariance_keeps_the_contract_with_several_encoders(tmp_path: Path) -> None:
    own = toy_study("covariance").model.image_encoder.model_dump(mode="json")
    encoders = [own, {**own, "options": {"img_size": 16, "width": 12}, "mean": [0.4, 0.5, 0.6]}]
    settings: dict[str, Any] = {"image_encoders": encoders}
    check_method("covariance", tmp_path, settings=settings, protocols=["heads_only"])


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("name", [*BUILT_IN, "covariance", "pull"])
def test_methods_keep_the_contract_on_a_pyramid(name: str, optimiser: str, pull: str, tmp_path: Path) -> None:
    changes: dict[str, SettingValue] = {"distillation.image_parametrisation": "pyramid", "distillation.ema_decay": 0.9}
    changes |= {"distillation.outer_optimiser": optimiser, "distillation.engine.micro_batch": 3}
    check_method(name, tmp_path, settings=BUILT_IN.get(name, {}), protocols=["heads_only"], changes=changes)


def test_every_built_in_method_is_checked() -> None:
    assert set(method_names()) == {*BUILT_IN, "covariance"}


def test_a_method_that_can_use_experts_keeps_the_contract_with_them(tmp_path: Path) -> None:
    settings = {**(BUILT_IN["meta_model"] or {}), "starts": "both"}
    check_method("meta_model", tmp_path, settings=settings, protocols=["heads_only"])


def test_a_method_without_experts_keeps_the_contract(pull: str, tmp_path: Path) -> None:
    assert not toy_study(pull, {}).requires_experts
    check_method(pull, tmp_path, settings={"strength": 0.1}, protocols=["heads_only"])


@pytest.mark.parametrize("pull", ["Stuck"], indirect=True)
def test_a_method_that_moves_nothing_breaks_it(pull: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="neither images nor texts moved"):
        check_method(pull, tmp_path, settings={}, protocols=["heads_only"])


def test_recall_keeps_the_contract_of_metrics(tmp_path: Path) -> None:
    check_metric(RetrievalRecall(), tmp_path)


class Undeclared:
    """A metric that returns another number than it declares."""

    infos: Sequence[MetricInfo] = (MetricInfo("one", "one", "%", "max"),)

    def __call__(self, *_: Any, **__: Any) -> dict[str, float]:
        return {"two": 2.0}


def test_undeclared_numbers_of_a_metric_violate_the_contract(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"returned \['two'\], declared \['one'\]"):
        check_metric(Undeclared(), tmp_path)


def test_a_folder_keeps_the_contract_of_storages(tmp_path: Path) -> None:
    check_storage(lambda: FolderStorage(tmp_path / "storage"))


class Careless(FolderStorage):
    """A storage whose swap ignores the present content."""

    def swap(self, name: str, old: bytes | None, new: bytes) -> bool:
        self.write(name, new)
        return True


def test_a_storage_that_lets_every_swap_win_breaks_it(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="swap"):
        check_storage(lambda: Careless(tmp_path / "storage"))


def test_a_method_of_another_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its entry point, in a folder that is on the path as an installed package is."""
    from rayvldd.config.methods import registry

    (tmp_path / "other_method.py").write_text(
        "from rayvldd.config.methods.declaration import MethodDeclaration, MethodSettings\n"
        "class OtherSettings(MethodSettings):\n    method = 'other'\n    depth: int = 3\n"
        "DECLARATION = MethodDeclaration(OtherSettings, 'other_method:Other')\n"
    )
    info = tmp_path / "other_method-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-method\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\nother = other_method:DECLARATION\n")
    assert Distribution.at(info).metadata["Name"] == "other-method"
    monkeypatch.syspath_prepend(tmp_path)
    registry._entry_points.cache_clear()
    try:
        assert "other" in method_names()
        study = toy_study("other", {"depth": 5})
        assert study.model_dump()["distillation"]["other"] == {"depth": 5} and not study.requires_experts
        with pytest.raises(ValueError, match="depth"):
            toy_study("other", {"depth": "deep"})
    finally:
        registry._entry_points.cache_clear()
        registry._loaded.cache_clear()
