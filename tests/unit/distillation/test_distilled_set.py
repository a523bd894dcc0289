"""A distilled set on disk and in a DataLoader, and rejection of incompatible or damaged sets."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tasks import StudyTask, load, random_trajectory
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from rayvldd.config.study import Study
from rayvldd.distillation.distilled_set import TENSORS, DistilledSet
from rayvldd.distillation.loop import OuterLoop
from rayvldd.errors import StoreError
from rayvldd.records.set_card import CARD, BareCard, DistilledCard, ParameterCounts
from rayvldd.storage.tensor_source import checksum


@pytest.fixture
def task(tiny_study: Study, tiny_cache: Path) -> StudyTask:
    own_scale = {"model.image_encoder.mean": [0.4, 0.5, 0.6], "model.image_encoder.std": [0.2, 0.25, 0.5]}
    return load(tiny_study, tiny_cache, **own_scale)


@pytest.fixture
def distilled(task: StudyTask) -> DistilledSet:
    distiller = OuterLoop(task.study, task, [random_trajectory(task.model)], seed=0)
    distiller.step()
    return distiller.distilled_set({"val_mean_recall": 12.5})


def assert_same(left: DistilledSet, right: DistilledSet) -> None:
    for name in ("images", "texts", "start_images", "start_texts"):
        assert torch.equal(getattr(left, name), getattr(right, name))
    for name in ("start_captions", "lr_student_image", "lr_student_text"):
        assert getattr(left, name) == getattr(right, name)


def test_a_set_is_read_as_it_was_written(tmp_path: Path, distilled: DistilledSet) -> None:
    folder = tmp_path / "made" / "on demand"
    distilled.save(folder)
    loaded = DistilledSet.load(folder)
    assert_same(loaded, distilled)
    assert isinstance(loaded.card, DistilledCard) and loaded.card == distilled.card
    assert sorted(path.name for path in folder.iterdir()) == [CARD, TENSORS]
    loaded.save(folder)  # over itself
    assert DistilledSet.load(str(folder)).card == loaded.card


def test_the_card_contains_the_settings_of_the_set(distilled: DistilledSet, task: StudyTask) -> None:
    card = distilled.origin
    assert Study.model_validate(card.study) == task.study
    assert card.fingerprints == task.fingerprints
    assert card.normalisation.std == pytest.approx([0.2, 0.25, 0.5])
    layouts = task.model.image_layout, task.model.text_layout
    assert card.matched_parameters == ParameterCounts(image=layouts[0].size, text=layouts[1].size)
    assert (card.seed, card.outer_step, card.metrics) == (0, 1, {"val_mean_recall": 12.5})
    values = distilled.card_values()
    assert json.loads(json.dumps(values)) == values and "images_left_out" not in values


def test_a_data_loader_gives_normalised_images_and_their_embeddings(
    tmp_path: Path, distilled: DistilledSet, task: StudyTask
) -> None:
    distilled.save(tmp_path)
    loaded = DistilledSet.load(tmp_path)
    assert len(loaded) == 4
    images, texts = next(iter(DataLoader(loaded, batch_size=3)))
    assert images.shape == (3, 3, 16, 16) and images.dtype == torch.float32
    assert torch.equal(texts, distilled.texts[:3])
    assert torch.allclose(images, task.model.normalise(distilled.images[:3]), atol=1e-5)
    assert len(list(DataLoader(loaded, batch_size=3, shuffle=True))) == 2


def test_the_description_names_the_trained_parts(distilled: DistilledSet, task: StudyTask) -> None:
    text = distilled.describe()
    for part in ("4 pairs", "16 px", "32 wide", "convnet_d3", "hashed_ngrams", "heads_only", "0.07", "16 wide on each"):
        assert part in text
    assert distilled.origin.fingerprints["image_encoder"] in text
    assert distilled.origin.fingerprints["text_encoder"] in text
    assert f"{distilled.lr_student_image:.4g}" in text and text.endswith("(text), each constant")
    falling = task.study.at({"evaluation.learning_rate_decay": "step"}).model_dump(mode="json")
    distilled.card = distilled.origin.model_copy(update={"study": falling})
    assert distilled.describe().endswith("each a tenth of it from half of the steps on")
    other = task.study.at({"model.protocol": "full_image_encoder"}).model_dump(mode="json")
    distilled.card = distilled.origin.model_copy(update={"study": other})
    assert "a text head" in distilled.describe()


def test_pairs_are_on_the_scale_of_the_model(distilled: DistilledSet, task: StudyTask) -> None:
    pairs = distilled.pairs(task)
    assert torch.equal(pairs.images, task.model.normalise(distilled.images))
    assert torch.equal(pairs.texts, distilled.texts)
    assert (pairs.lr_image, pairs.lr_text) == (distilled.lr_student_image, distilled.lr_student_text)


def test_embeddings_of_another_text_encoder_are_refused(
    distilled: DistilledSet, tiny_study: Study, tiny_cache: Path
) -> None:
    other = load(tiny_study, tiny_cache, **{"model.text_encoder.width": 64})
    with pytest.raises(StoreError, match=r"(?s)another text encoder.*ngrams-32.*ngrams-64.*Next: rayvldd evaluate"):
        distilled.pairs(other)


def test_images_of_another_size_are_refused(distilled: DistilledSet, tiny_study: Study, tiny_cache: Path) -> None:
    size = {"data.image_size": 24, "model.image_encoder.options": {"img_size": 24, "width": 8}}
    message = "(?s)images are 16 px, data.image_size is 24.*Next: rayvldd evaluate SET --set data.image_size=16"
    with pytest.raises(StoreError, match=message):
        distilled.pairs(load(tiny_study, tiny_cache, **size))


@pytest.mark.parametrize("name", [CARD, TENSORS])
def test_a_folder_without_both_files_is_not_a_set(tmp_path: Path, distilled: DistilledSet, name: str) -> None:
    distilled.save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(StoreError, match=f"(?s){tmp_path} is not a distilled set: it has no {name}.*Next: rayvldd"):
        DistilledSet.load(tmp_path)


def test_a_missing_folder_is_not_a_set(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere is not a distilled set"):
        DistilledSet.load(tmp_path / "nowhere")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def without(key: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        card = json.loads(path.read_text())
        del card[key]
        path.write_text(json.dumps(card))

    return change


def other_tensors(path: Path) -> None:
    save_file({"pixels": torch.zeros(2)}, path)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (TENSORS, cut),
        (TENSORS, lambda path: path.write_bytes(b"")),
        (TENSORS, other_tensors),
        (CARD, cut),
        (CARD, lambda path: path.write_text("[]")),
        (CARD, lambda path: path.write_bytes(b"\xff\xfe")),
        (CARD, without("start_captions")),
        (CARD, without("lr_student_text")),
        (CARD, without("checksums")),
        (CARD, without("format")),
        (CARD, without("study")),
        (CARD, without("fingerprints")),
        (CARD, without("metrics")),
        (CARD, without("rollbacks")),
    ],
)
def test_a_damaged_set_is_refused(
    tmp_path: Path, distilled: DistilledSet, name: str, damage: Callable[[Path], Any]
) -> None:
    distilled.save(tmp_path)
    damage(tmp_path / name)
    message = "/card.json: not readable as the card of a distilled set" if name == CARD else " is damaged"
    with pytest.raises(StoreError, match=f"(?s){tmp_path}{message}: .*Next: rayvldd distill"):
        DistilledSet.load(tmp_path)


@pytest.mark.parametrize("name", ["images", "texts", "start_images", "start_texts"])
def test_a_changed_tensor_is_found_by_its_checksum(tmp_path: Path, distilled: DistilledSet, name: str) -> None:
    distilled.save(tmp_path)
    tensors = load_file(tmp_path / TENSORS)
    tensors[name].view(-1)[-1] += 1e-3
    save_file(tensors, tmp_path / TENSORS)
    recorded = json.loads((tmp_path / CARD).read_text(encoding="utf-8"))["checksums"][name]
    found = f"(?s)the checksum of {name} is [0-9a-f]{{32}}, in the card {recorded}.*Next: rayvldd distill"
    with pytest.raises(StoreError, match=found):
        DistilledSet.load(tmp_path)


def test_an_added_tensor_is_refused(tmp_path: Path, distilled: DistilledSet) -> None:
    distilled.save(tmp_path)
    added = {"similarity.scores": torch.eye(len(distilled))}
    save_file(load_file(tmp_path / TENSORS) | added, tmp_path / TENSORS)
    with pytest.raises(StoreError, match=r"the checksum of similarity\.scores is .*, in the card missing"):
        DistilledSet.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors["images"].view(-1)[0].fill_(float("nan")), "images has values that are not finite"),
        (lambda tensors: tensors.update(texts=tensors["texts"][:3].clone()), "texts has the shape"),
        (
            lambda tensors: tensors.update(start_images=tensors["start_images"].double()),
            "start_images is torch.float64",
        ),
        (lambda tensors: tensors.update(texts=tensors["texts"].flatten()), "texts has the shape"),
    ],
)
def test_tensors_that_do_not_belong_together_are_refused(
    tmp_path: Path, distilled: DistilledSet, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    distilled.save(tmp_path)
    tensors = load_file(tmp_path / TENSORS)
    change(tensors)
    save_file(tensors, tmp_path / TENSORS)
    card = json.loads((tmp_path / CARD).read_text())
    card["checksums"] = {name: checksum(tensor) for name, tensor in tensors.items()}
    (tmp_path / CARD).write_text(json.dumps(card))
    with pytest.raises(StoreError, match=message):
        DistilledSet.load(tmp_path)


def test_the_card_of_a_newer_release_is_refused(tmp_path: Path, distilled: DistilledSet) -> None:
    distilled.save(tmp_path)
    card = json.loads((tmp_path / CARD).read_text(encoding="utf-8"))
    (tmp_path / CARD).write_text(json.dumps({**card, "format": 2}), encoding="utf-8")
    message = "(?s)card.json: the card of a distilled set in format 2, of a newer release.*Next: pip install --upgrade"
    with pytest.raises(StoreError, match=message):
        DistilledSet.load(tmp_path)


def test_losses_of_a_card_may_be_infinite_or_not_a_number(tmp_path: Path, distilled: DistilledSet) -> None:
    metrics = {"val_mean_recall": 12.5, "matching_loss": float("inf"), "drift": float("nan")}
    dataclasses.replace(distilled, card=distilled.origin.model_copy(update={"metrics": metrics})).save(tmp_path)
    read = DistilledSet.load(tmp_path).origin.metrics
    assert read["matching_loss"] == float("inf") and read["drift"] != read["drift"]


def test_a_set_of_unknown_origin_has_its_tensors_alone(
    tmp_path: Path, distilled: DistilledSet, task: StudyTask
) -> None:
    dataclasses.replace(distilled, card=BareCard()).save(tmp_path)
    bare = DistilledSet.load(tmp_path)
    assert_same(bare, distilled)
    assert bare.card == BareCard() and "no study" in repr(bare) and bare != distilled
    uses: list[Callable[[], object]] = [bare.describe, lambda: bare.pairs(task), lambda: bare[0], lambda: bare.origin]
    for use in uses:
        with pytest.raises(StoreError, match=r"(?s)no entries about its origin.*Next: rayvldd distill"):
            use()


def test_settings_of_another_release_are_not_described(distilled: DistilledSet) -> None:
    distilled.card = distilled.origin.model_copy(update={"study": {"name": "tiny", "model": "large"}})
    with pytest.raises(StoreError, match=r"(?s)the settings in the card of the set do not fit this release: 2 values"):
        distilled.describe()


@pytest.mark.parametrize("broken_at", [CARD, TENSORS])
def test_a_write_cut_short_never_mixes_two_sets(
    tmp_path: Path, distilled: DistilledSet, monkeypatch: pytest.MonkeyPatch, broken_at: str
) -> None:
    distilled.save(tmp_path)
    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target).name == broken_at:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    distilled.texts, distilled.lr_student_text = distilled.texts + 1, 0.5
    with pytest.raises(KeyboardInterrupt):
        distilled.save(tmp_path)
    with pytest.raises(StoreError, match="is not a distilled set"):
        DistilledSet.load(tmp_path)
    monkeypatch.setattr(os, "replace", replace)
    distilled.save(tmp_path)
    assert_same(DistilledSet.load(tmp_path), distilled)
