"""Everything that the outcome of trying a study's models depends on makes a check try them again."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import cast

import pytest
from huggingface_hub import constants

import rayvldd
from rayvldd.cli import preparation
from rayvldd.cli.invocation import Invocation
from rayvldd.config.methods.declaration import MethodDeclaration, MethodSettings
from rayvldd.config.methods.registry import register_method, unregister_method
from rayvldd.config.study import Study
from rayvldd.library import model_tries
from rayvldd.library.model_tries import ingredients_of_try
from rayvldd.records.passed_try import note_passed, passed_before
from rayvldd.workspace import Workspace

CAPTIONS = ("a red square", "a green block on blue ground")


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of the hubs that only the test writes to, and a machine without GPUs."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(model_tries, "gpu_files", list)


def written(file: Path, text: str = "weights") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def changed(study: Study, before: dict[str, str] | None, captions: tuple[str, ...] = CAPTIONS) -> set[str]:
    """Names of the ingredients that are not as before."""
    now = ingredients_of_try(study, captions)
    assert now is not None and before is not None
    return {name for name, value in now.items() if before.get(name) != value}


def with_text_folder(study: Study, folder: Path) -> Study:
    return study.override({"model.text_encoder.pooling": "mean", "model.text_encoder.name": str(folder)})


def test_a_try_is_the_same_until_something_changes(tiny_study: Study) -> None:
    before = ingredients_of_try(tiny_study, CAPTIONS)
    assert changed(tiny_study, before) == set()
    for key in ("search.num_trials", "seed", "resources.cpus_per_trial"):
        assert changed(tiny_study.override({key: 3}), before) == set(), f"{key} reaches no model"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.width", 48),
        ("model.protocol", "full_image_encoder"),
        ("model.image_encoder.mean", [0.4, 0.4, 0.4]),
        ("data.image_size", 32),
        ("distillation.method", "covariance"),
        ("distillation.num_pairs", 6),
        ("distillation.trajectory_matching.syn_steps", 3),
        ("experts.epochs", 3),
    ],
)
def test_settings_of_a_point_are_an_ingredient(key: str, value: object, tiny_study: Study) -> None:
    before = ingredients_of_try(tiny_study, CAPTIONS)
    assert "settings" in changed(tiny_study.override({key: value}), before)


def test_captions_are_an_ingredient(tiny_study: Study) -> None:
    before = ingredients_of_try(tiny_study, CAPTIONS)
    assert changed(tiny_study, before, ("a red square",)) == {"captions"}
    assert changed(tiny_study, before, tuple(reversed(CAPTIONS))) == {"captions"}


def test_the_weights_of_an_image_encoder_are_an_ingredient(tiny_study: Study, tmp_path: Path) -> None:
    file = written(tmp_path / "weights.safetensors")
    study = tiny_study.override({"model.image_encoder.weights": str(file)})
    before = ingredients_of_try(study, CAPTIONS)
    later = file.stat().st_mtime_ns + 1
    os.utime(file, ns=(later, later))
    assert changed(study, before) == {"encoder files"}, "the time alone"
    before = ingredients_of_try(study, CAPTIONS)
    written(file, "other weights")
    os.utime(file, ns=(later, later))
    assert changed(study, before) == {"encoder files"}, "the size alone"
    link = tmp_path / "link"
    link.symlink_to(file)
    linked = tiny_study.override({"model.image_encoder.weights": str(link)})
    before = ingredients_of_try(linked, CAPTIONS)
    link.unlink()
    link.symlink_to(written(tmp_path / "second", "other weights"))
    os.utime(tmp_path / "second", ns=(later, later))
    assert changed(linked, before) == {"encoder files"}, "the file that a link leads to"


def test_the_folder_of_a_text_encoder_is_an_ingredient(tiny_study: Study, tmp_path: Path) -> None:
    written(tmp_path / "bert" / "config.json")
    study = with_text_folder(tiny_study, tmp_path / "bert")
    before = ingredients_of_try(study, CAPTIONS)
    written(tmp_path / "elsewhere" / "config.json")
    assert changed(study, before) == set()
    written(tmp_path / "bert" / "model.safetensors")
    assert changed(study, before) == {"encoder files"}


@pytest.mark.parametrize(
    "file", ["hub/models--user--bert/snapshots/1/model.safetensors", "torch/hub/checkpoints/a.pth"]
)
def test_the_caches_of_hubs_are_an_ingredient_of_their_encoders_alone(
    file: str, tiny_study: Study, tmp_path: Path
) -> None:
    """Which file of the cache an encoder is read from is not known without its library."""
    of_text = tiny_study.override({"model.text_encoder.pooling": "mean", "model.text_encoder.name": "user/bert"})
    of_images = tiny_study.override({"model.image_encoder.name": "resnet18", "model.image_encoder.pretrained": True})
    studies = of_text, of_images, tiny_study
    before = [ingredients_of_try(study, CAPTIONS) for study in studies]
    written(tmp_path / file)
    found = [changed(study, one) for study, one in zip(studies, before, strict=True)]
    assert found == [{"encoder files"}, {"encoder files"}, set()]


def test_a_note_is_of_the_caches_with_what_the_try_fetched(
    tiny_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check with the cache emptied afterwards tries again, one with the cache as it is now does not."""
    study = tiny_study.override({"model.text_encoder.pooling": "mean", "model.text_encoder.name": "user/bert"})
    fetched = tmp_path / "hub" / "models--user--bert" / "snapshots" / "1" / "model.safetensors"
    tries = list[str]()

    def fetching(*_: object, **__: object) -> None:
        tries.append("try")
        written(fetched)

    monkeypatch.setattr(preparation, "check_study", fetching)
    monkeypatch.setattr(preparation, "_read_data", lambda study: preparation.RealData(2, list(CAPTIONS), []))
    monkeypatch.setattr(preparation, "_pair_errors", lambda *_: [])
    workspace = Workspace(tmp_path / "workspace")
    invocation = cast(Invocation, SimpleNamespace(waiting=lambda text: nullcontext(), line=None))

    def check() -> None:
        preparation.check_study_once(invocation, study, Path("study.yaml"), workspace).note(workspace)

    check()
    check()
    assert tries == ["try"]
    fetched.unlink()
    check()
    assert tries == ["try", "try"]


def test_the_sets_to_begin_with_are_an_ingredient(tiny_study: Study, tmp_path: Path) -> None:
    card = written(tmp_path / "set" / "card.json")
    study = tiny_study.override({"distillation.initialise_from": str(card.parent)})
    before = ingredients_of_try(study, CAPTIONS)
    written(card, "another set")
    assert changed(study, before) == {"initial sets"}


@pytest.mark.parametrize("library", ["torch", "timm", "transformers", "peft"])
def test_the_versions_of_libraries_are_an_ingredient(
    library: str, tiny_study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, version = ingredients_of_try(tiny_study, CAPTIONS), model_tries.version
    monkeypatch.setattr(model_tries, "version", lambda name: "0.0.1" if name == library else version(name))
    assert changed(tiny_study, before) == {"libraries"}


def _newer_release(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(rayvldd, "__version__", "99.0")


def _changed_checkout(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    own = model_tries._own_files()
    monkeypatch.setattr(model_tries, "_own_files", lambda: [*own[1:], written(folder / own[0].name)])


@pytest.mark.parametrize("change", [_newer_release, _changed_checkout])
def test_the_package_is_an_ingredient(
    change: Callable[[pytest.MonkeyPatch, Path], None],
    tiny_study: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = ingredients_of_try(tiny_study, CAPTIONS)
    change(monkeypatch, tmp_path)
    assert changed(tiny_study, before) == {"rayvldd"}


def test_gpus_are_an_ingredient(tiny_study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ingredients_of_try(tiny_study, CAPTIONS)
    monkeypatch.setattr(model_tries, "gpu_files", lambda: ["/dev/nvidia0"])
    assert changed(tiny_study, before) == {"machine"}


class _OtherSettings(MethodSettings):
    method = "of_another_package"


def test_what_cannot_be_identified_is_tried_every_time(tiny_study: Study) -> None:
    fetched = tiny_study.override({"distillation.initialise_from": "hf://user/set"})
    assert ingredients_of_try(fetched, CAPTIONS) is None
    register_method(MethodDeclaration(settings=_OtherSettings, implementation="another.package:Method"))
    try:
        study = tiny_study.override({"distillation.method": "of_another_package"})
        assert ingredients_of_try(study, CAPTIONS) is None
    finally:
        unregister_method("of_another_package")


def test_a_note_is_read_again_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    assert passed_before(tmp_path, "key") is None
    note_passed(tmp_path, "key", MappingProxyType({"captions": "12"}))
    date = passed_before(tmp_path, "key")
    assert date is not None and len(date) == len("2026-11-30")
    (file,) = tmp_path.rglob("key.json")
    file.write_text(file.read_text()[:-9])
    assert passed_before(tmp_path, "key") is None
