"""A set on the hub of Hugging Face, whose API a server of this machine answers: it comes back as it was."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.cli import last_object, run
from helpers.hub_server import HubServer, running_hub
from helpers.sets import card_with
from huggingface_hub import constants
from PIL import Image

from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.distillation.exports import export
from rayvldd.distillation.hub_card import hub_card
from rayvldd.distillation.similarity import SimilarityParameters
from rayvldd.errors import StoreError
from rayvldd.library.foreign_sets import refuse_untrusted
from rayvldd.records.set_card import BareCard
from rayvldd.records.set_scores import EvaluatedBound, EvaluatedSet

NAME = "somebody/pairs"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with running_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


@pytest.fixture
def distilled() -> DistilledSet:
    """Four pairs with a learned similarity and pixels beyond white."""
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.rand(4, 3, 16, 16, generator=generator) * 1.2, torch.randn(4, 8, generator=generator)
    learned = SimilarityParameters({"matrix": torch.rand(4, 4, generator=generator)})
    captions = [f"a dog | {number}" for number in range(4)]
    return DistilledSet(images, texts, images / 2, texts / 2, captions, 0.1, 0.2, card_with(), learned)


def test_a_set_is_uploaded_and_read_again(
    hub: HubServer, distilled: DistilledSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    distilled.save(tmp_path / "set")
    result = run("export", tmp_path / "set", tmp_path / "made", "--format", "hub", "--push", NAME, "--json")
    assert result.exit_code == 0, result.output
    assert last_object(result)["commit"].startswith(hub.address)
    assert hub.token not in result.output
    assert set(hub.repositories[NAME]) == {
        *("README.md", "card.json", "data/train.parquet", "distilled_set.safetensors"),
    }
    assert hub.created_private == {NAME: True}
    for address in (f"hf://{NAME}", f"hf://{NAME}@main"):
        assert DistilledSet.load(address) == distilled
    with pytest.raises(Exception, match="a set from elsewhere would load"):
        named = card_with(study={**distilled.origin.study, "data": {"source": "huggingface", "name": "a/b"}})
        distilled.card = named
        refuse_untrusted({f"hf://{NAME}": distilled}, tmp_path, next_command="--trust")


def test_the_pairs_are_read_without_rayvldd(distilled: DistilledSet, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = export(distilled, tmp_path / "made", "hub")
    found = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]
    assert np.array_equal(np.asarray(found["pixels"][:], dtype=np.float32), distilled.images.numpy())
    assert np.array_equal(np.asarray(found["caption_embedding"][:], dtype=np.float32), distilled.texts.numpy())
    assert isinstance(found[0]["image"], Image.Image) and found["start_caption"][:] == distilled.start_captions


def test_an_exported_card_names_no_folder_of_this_machine(distilled: DistilledSet, tmp_path: Path) -> None:
    paths = {"data": {"root": "/home/somebody/photos", "annotations": "captions.jsonl"}, "seeds": ["~/a/b.txt", 3]}
    card = distilled.origin.model_copy(update={"study": {**distilled.origin.study, **paths}})
    folder = export(replace(distilled, card=card), tmp_path / "made", "hub")
    study = DistilledSet.load(folder).origin.study
    assert study["data"] == {"root": "photos", "annotations": "captions.jsonl"} and study["seeds"] == ["b.txt", 3]
    assert study["model"] == distilled.origin.study["model"] and study["name"] == distilled.origin.study["name"]


def test_what_cannot_be_fetched_or_uploaded_is_refused(hub: HubServer, distilled: DistilledSet, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"hf://{NAME} cannot be fetched: .*"):
        DistilledSet.load(f"hf://{NAME}")
    with pytest.raises(StoreError, match="is no address of a data set on the hub; allowed: hf://USER/NAME"):
        DistilledSet.load("hf://pairs")
    hub.repositories[NAME] = {"other.json": b"{}"}
    with pytest.raises(StoreError, match=r"is not a distilled set: it has no card\.json"):
        DistilledSet.load(f"hf://{NAME}")
    distilled.save(tmp_path / "set")
    command = ("export", tmp_path / "set", tmp_path / "made")
    assert "--push needs --format hub" in run(*command, "--push", NAME).output
    assert not (tmp_path / "made").exists()
    wrong = run(*command, "--format", "hub", "--push", "name")
    assert "--push: got 'name'; allowed: USER/NAME" in wrong.output and not (tmp_path / "made").exists()
    pytest.importorskip("datasets")
    refused = run(*command, "--format", "hub", "--push", NAME)
    assert refused.exit_code == 2 and "was not uploaded" in refused.output and "hf auth login" in refused.output
    assert (tmp_path / "made" / "README.md").is_file()


def test_an_upload_that_was_cut_off_goes_on(
    hub: HubServer, distilled: DistilledSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets")
    study = {**distilled.origin.study, "data": {"root": "/home/somebody/photos"}}
    distilled.card = distilled.origin.model_copy(update={"study": study})
    distilled.save(tmp_path / "set")
    folder = export(distilled, tmp_path / "made", "hub")
    (folder / "README.md").write_text("with a licence")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    command = ("export", tmp_path / "set", folder, "--format", "hub")
    assert "not free for an export" in run(*command).output
    result = run(*command, "--push", NAME)
    assert result.exit_code == 0 and "uploaded as they are" in result.output
    assert hub.repositories[NAME]["README.md"] == b"with a licence"
    replace(distilled, lr_student_image=0.3).save(tmp_path / "set")
    assert "not free for an export" in run(*command, "--push", NAME).output, "another set is in the folder"


def evaluated(kind: type, mean: float, **more: object) -> EvaluatedSet | EvaluatedBound:
    values = {
        "num_students": 5,
        "mean": {"text_to_image_r1": mean - 1, "mean_recall": mean},
        "interval": {"mean_recall": (mean - 2, mean + 3)},
        "share_of_full_data": mean / 50,
        "measured_on": ("data",),
        "trained_with": "convnet_d3",
        "base": "b",
        "image_encoder": "convnet_d3",
        "fingerprints": {},
    }
    found: EvaluatedSet | EvaluatedBound = kind.model_validate(values | more)  # type: ignore[attr-defined]
    return found


def test_the_card_of_the_hub(distilled: DistilledSet) -> None:
    text = hub_card(distilled)
    metadata = yaml.safe_load(text.split("---")[1])
    assert metadata["size_categories"] == ["n<1K"] and "license" not in metadata
    assert metadata["configs"][0]["data_files"] == [{"split": "train", "path": "data/train.parquet"}]
    assert "12.5 % on validation, by which the set was chosen" in text
    assert "| image encoder | timm convnet_d3 (1) |" in text and "4 of the 4 pairs started from real pairs" in text
    assert "| course of each rate | constant |" in text
    study = distilled.origin.study
    cut = {**study["evaluation"], "learning_rate_decay": "step"}  # type: ignore[dict-item]
    distilled.card = distilled.origin.model_copy(update={"study": {**study, "evaluation": cut}})
    assert "| course of each rate | a tenth of it from half of the steps on |" in hub_card(distilled)
    rows = [
        evaluated(EvaluatedSet, 20.0, distilled_set="set", num_pairs=4, made_with="convnet_d3"),
        evaluated(EvaluatedBound, 50.0, sets=["set"]),
    ]
    text = hub_card(distilled, rows)
    assert "| this set | convnet_d3 | 5 | 19.0 | 20.0 [18.0, 23.0] | 40% |" in text
    assert "| all pairs (bound) | convnet_d3 | 5 | 49.0 | 50.0 [48.0, 53.0] | 100% |" in text
    distilled.card, distilled.start_captions = BareCard(), [""] * 4
    text = hub_card(distilled)
    assert "of unknown origin" in text and "did not start from real captions" in text
