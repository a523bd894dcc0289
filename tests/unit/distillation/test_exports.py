"""Exports of a distilled set: nothing is lost except the precision that PNG does not have."""

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers.tasks import load, random_trajectory
from PIL import Image

from rayvldd.cli.main import main
from rayvldd.config.study import Study
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.distillation.exports import FORMS, export
from rayvldd.distillation.loop import OuterLoop
from rayvldd.errors import ConfigError, RayvlddError, StoreError


@pytest.fixture
def distilled(tiny_study: Study, tiny_cache: Path) -> DistilledSet:
    """Four pairs with a learned similarity; pixels reach beyond black and white, and captions are known."""
    learned = {"distillation.similarity": "low_rank", "distillation.student_loss": "weighted_bce"}
    task = load(tiny_study, tiny_cache, **learned)
    made = OuterLoop(task.study, task, [random_trajectory(task.model)], seed=0).distilled_set({"val_mean_recall": 12.5})
    made.images = made.images * 1.5 - 0.25
    made.nearest_captions = [
        {"pair": pair, "start": start, "nearest": f"ein Bär, Nr. {pair}", "similarity": 0.5}
        for pair, start in enumerate(made.start_captions)
    ]
    return made


def clipped(distilled: DistilledSet) -> np.ndarray:
    """The images [pair, height, width, 3] as 8 bits hold them."""
    scaled = np.round(np.clip(distilled.images.numpy(), 0, 1) * 255)
    return scaled.astype(np.uint8).transpose(0, 2, 3, 1)


def test_png_and_json_lines(tmp_path: Path, distilled: DistilledSet) -> None:
    folder = distilled.export(tmp_path / "made" / "pairs")
    assert folder == tmp_path / "made" / "pairs" and [found.name for found in folder.parent.iterdir()] == ["pairs"]
    lines = [json.loads(line) for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert np.array_equal([np.asarray(Image.open(folder / line["image"])) for line in lines], clipped(distilled))
    assert np.array_equal([np.load(folder / line["embedding"]) for line in lines], distilled.texts.numpy())
    assert [line["captions"] for line in lines] == [[f"ein Bär, Nr. {pair}"] for pair in range(len(distilled))]
    assert [line["start_caption"] for line in lines] == distilled.start_captions
    assert {line["split"] for line in lines} == {"train"}
    matrix = distilled.similarity.matrix()
    assert matrix is not None and np.array_equal(np.load(folder / "similarity.npy"), matrix.numpy())
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert card["lr_student_text"] == distilled.lr_student_text
    assert card["metrics"] == {"val_mean_recall": 12.5}


def test_a_folder_of_hugging_face_datasets(tmp_path: Path, distilled: DistilledSet, capfd: Any) -> None:
    datasets = pytest.importorskip("datasets")
    distilled.export(tmp_path / "pairs", "datasets")
    assert capfd.readouterr() == ("", ""), "no progress bar for a hundred pairs"
    read = datasets.load_from_disk(str(tmp_path / "pairs"))["train"]
    assert np.array_equal([np.asarray(image) for image in read["image"]], clipped(distilled))
    assert np.array_equal(np.asarray(read["pixels"], dtype=np.float32), distilled.images.numpy()), "not clipped"
    batch = read.with_format("torch")[:]
    assert torch.equal(batch["caption_embedding"], distilled.texts)
    assert read["start_caption"][:] == distilled.start_captions
    assert read["captions"][1] == ["ein Bär, Nr. 1"]
    assert (tmp_path / "pairs" / "card.json").is_file()


def test_without_the_library_the_error_names_the_command(
    tmp_path: Path, distilled: DistilledSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "datasets":
            raise ModuleNotFoundError("No module named 'datasets'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(RayvlddError, match=r"(?s)needs the library datasets.*Next: pip install .*\[datasets\]"):
        export(distilled, tmp_path / "pairs", "datasets")
    assert not list(tmp_path.iterdir())


def test_an_unknown_form(tmp_path: Path, distilled: DistilledSet) -> None:
    with pytest.raises(ConfigError, match="no form 'zip'; allowed: png, datasets"):
        export(distilled, tmp_path / "pairs", "zip")


def test_an_empty_folder_is_taken_and_a_full_one_refused(tmp_path: Path, distilled: DistilledSet) -> None:
    (tmp_path / "empty").mkdir()
    assert (export(distilled, tmp_path / "empty") / "captions.jsonl").is_file()
    for taken in (tmp_path / "empty", tmp_path / "empty" / "card.json"):
        with pytest.raises(StoreError, match=r"(?s)not free for an export.*Next: the same command with another FOLDER"):
            export(distilled, taken)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_export_cut_short_leaves_nothing(
    tmp_path: Path, distilled: DistilledSet, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def write(_: DistilledSet, folder: Path) -> None:
        (folder / "first").write_text("half")
        raise error

    monkeypatch.setitem(FORMS, "png", write)
    with pytest.raises((KeyboardInterrupt, StoreError), match=r"cannot be written: No space left|^$"):
        export(distilled, tmp_path / "pairs")
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path: Path, distilled: DistilledSet) -> None:
    distilled.save(tmp_path / "set")
    command = ["export", str(tmp_path / "set"), str(tmp_path / "pairs"), "--json"]
    planned = CliRunner().invoke(main, [*command, "--dry-run"])
    assert planned.exit_code == 0 and not (tmp_path / "pairs").exists()
    result = CliRunner().invoke(main, command)
    values = json.loads(result.stdout.splitlines()[-1])
    outside = (distilled.images < 0) | (distilled.images > 1)
    assert values["clipped_share"] == pytest.approx(float(outside.float().mean())) and values["clipped_share"] > 0
    assert len((tmp_path / "pairs" / "captions.jsonl").read_text(encoding="utf-8").splitlines()) == values["num_pairs"]
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 2 and "not free for an export" in again.stderr


def test_captions_travel_with_a_set_and_never_stay_with_another(tmp_path: Path, distilled: DistilledSet) -> None:
    distilled.save(tmp_path)
    assert DistilledSet.load(tmp_path).nearest_captions == distilled.nearest_captions
    distilled.nearest_captions = []
    distilled.save(tmp_path)
    assert DistilledSet.load(tmp_path).nearest_captions == []
    (tmp_path / "nearest_captions.jsonl").write_text('{"pair": 0, "nearest": "a dog"}\n')
    with pytest.raises(StoreError, match=r"is damaged: .*without a pair, its captions and their similarity"):
        DistilledSet.load(tmp_path)
    row = '{"pair": 0, "nearest": "a dog", "similarity": 0.5, "start": "a cat"}\n'
    (tmp_path / "nearest_captions.jsonl").write_text(row)
    with pytest.raises(StoreError, match=r"is damaged: .*not one line for each of the 3 pairs"):
        DistilledSet.load(tmp_path)
