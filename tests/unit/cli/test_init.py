"""``rayvldd init``: the study it writes loads, fits the data and the machine, and replaces nothing."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import Result
from helpers.cli import last_object, run

from rayvldd.config.domains import IntDomain
from rayvldd.config.loading import load_study
from rayvldd.config.study import Study
from rayvldd.config.study_files import parsed_yaml
from rayvldd.library.new_study import Encoders, data_section, study_text


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """500 photographs by name, with a caption each."""
    (tmp_path / "photos").mkdir()
    names = [f"{number:03d}.jpg" for number in range(500)]
    for name in names:
        (tmp_path / "photos" / name).touch()
    file = tmp_path / "captions.csv"
    file.write_text("image,caption\n" + "".join(f"{name},A dog\n" for name in names))
    return file


def made(table: Path, *more: str) -> Result:
    target = table.with_name("mine.yaml")
    return run("init", target, "--csv", table, "--images", table.with_name("photos"), "--json", *more)


def test_a_table_becomes_a_study_that_loads(table: Path) -> None:
    result = made(table)
    assert result.exit_code == 0, result.output
    found = last_object(result)
    assert found["images"] == {"train": 400, "val": 50, "test": 50}
    study = load_study(table.with_name("mine.yaml"))
    assert study.name == "mine" and study.distillation.num_pairs == 40
    assert study.experts.epochs == 40  # four batches an epoch
    check_space(study)
    assert not study.resources.gpus_per_trial and study.data.image_size == 96
    assert found["next_command"] == f"rayvldd check {table.with_name('mine.yaml')} --probe"


@pytest.mark.parametrize(("num_train", "epochs", "latest"), [(30, 40, 10), (400, 40, 10), (2000, 18, 5), (9000, 6, 5)])
def test_segments_start_in_epochs_in_which_experts_still_move(num_train: int, epochs: int, latest: int) -> None:
    text = study_text("mine", {"source": "toy_scenes", "image_size": 96}, num_train, Encoders(), 0)
    study = load_study(parsed_yaml(text))  # type: ignore[arg-type]
    assert study.experts.epochs == epochs
    domain = study.space.domains["distillation.trajectory_matching.max_start_epoch"]
    assert domain == IntDomain(type="int", low=1, high=latest)
    check_space(study)


def check_space(study: Study) -> None:
    """The first point has a value for every searched setting, within its range."""
    (first,) = study.search.initial_points
    assert set(first) == set(study.search.space)
    assert all(value in study.space.domains[key] for key, value in first.items())


def test_a_leading_tilde_is_the_home_folder(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(table.parent))
    result = run("init", table.with_name("mine.yaml"), "--csv", "~/captions.csv", "--images", "~/photos")
    assert result.exit_code == 0, result.output


def test_gpus_of_the_machine_are_used(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert made(table, "--image-encoder", "nfnet_l0", "--text-encoder", "/models/minilm").exit_code == 0
    study = load_study(table.with_name("mine.yaml"))
    assert (study.resources.gpus_per_trial, study.resources.gpus_per_expert) == (0.5, 0.5)
    assert study.data.image_size == 224
    assert (study.model.image_encoder.name, study.model.text_encoder.name) == ("nfnet_l0", "/models/minilm")


def test_nothing_is_replaced_and_a_dry_run_writes_nothing(table: Path) -> None:
    assert "outer_steps: 160" in made(table, "--dry-run").stderr
    assert sorted(path.name for path in table.parent.iterdir()) == ["captions.csv", "photos"]
    assert made(table).exit_code == 0
    before = table.with_name("mine.yaml").read_bytes()
    again = made(table)
    assert again.exit_code == 2 and "remove the files" in again.stderr
    assert "mine.yaml: is there already" in again.stderr and "mine.captions.jsonl: is there already" in again.stderr
    assert table.with_name("mine.yaml").read_bytes() == before


@pytest.mark.parametrize("form", ["folder", "karpathy", "blip"])
def test_the_format_of_a_folder_is_detected(form: str, tmp_path: Path) -> None:
    images = [
        {"image": f"{number}.jpg", "split": split} for number, split in enumerate(["train"] * 8 + ["val", "test"])
    ]
    (tmp_path / "images").mkdir()
    for image in images:
        (tmp_path / ("" if form == "blip" else "images") / image["image"]).touch()
    if form == "folder":
        lines = [f'{{"image": "{one["image"]}", "captions": ["A dog"], "split": "{one["split"]}"}}\n' for one in images]
        (tmp_path / "captions.jsonl").write_text("".join(lines))
    elif form == "karpathy":
        entries = [
            {"filename": one["image"], "split": one["split"], "sentences": [{"raw": "A dog"}], "imgid": number}
            for number, one in enumerate(images)
        ]
        (tmp_path / "dataset_mine.json").write_text(json.dumps({"images": entries}))
    else:
        for split in ("train", "val", "test"):
            rows = [{"image": one["image"], "caption": ["A dog"]} for one in images if one["split"] == split]
            (tmp_path / f"mine_{split}.json").write_text(json.dumps(rows))
    result = run("init", tmp_path / "mine.yaml", "--data", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    assert load_study(tmp_path / "mine.yaml").data.source == form
    assert last_object(result)["images"] == {"train": 8, "val": 1, "test": 1}


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    both: list[str | Path] = ["--data", tmp_path, "--csv", tmp_path / "x.csv"]
    for options in ([], both):
        result = run("init", tmp_path / "mine.yaml", *options)
        assert result.exit_code == 2 and "--data, --csv: one of the two is needed" in result.stderr
    result = run("init", tmp_path / "mine.yaml", "--data", tmp_path / "none", "--images", tmp_path)
    assert "no such folder" in result.stderr and "--images: given without --csv" in result.stderr
    result = run("init", tmp_path / "mine.yaml", "--csv", tmp_path / "no.csv", "--images", tmp_path / "none")
    assert f"--csv: no such file: {tmp_path / 'no.csv'}" in result.stderr
    assert f"--images: no such folder: {tmp_path / 'none'}" in result.stderr
    result = run("init", tmp_path / "mine.yaml", "--data", tmp_path, "--image-weights", "model.safetensors")
    assert "--image-weights: model.safetensors without the name of its model" in result.stderr
    empty = run("init", tmp_path / "mine.yaml", "--data", tmp_path)
    assert empty.exit_code == 2 and "has no annotation file; allowed: captions.jsonl" in empty.stderr


def test_shipped_studies_are_listed_shown_and_copied(tmp_path: Path) -> None:
    listed = run("spaces")
    assert "quickstart" in listed.output and "Toy scenes" in listed.output
    assert "max_start_epoch" in run("spaces", "quickstart").output
    assert run("spaces", "quickstart", "--copy", tmp_path / "mine.yaml").exit_code == 0
    assert load_study(tmp_path / "mine.yaml") == load_study("quickstart")
    assert "is there already" in run("spaces", "quickstart", "--copy", tmp_path / "mine.yaml").stderr
    assert "did you mean 'quickstart'" in run("spaces", "quickstrat").stderr
    assert run("spaces", "--copy", tmp_path / "x.yaml").exit_code == 2


def test_the_schema_is_one_object() -> None:
    assert last_object(run("schema", "--json"))["title"] == "A study of rayvldd"


@pytest.mark.parametrize(
    ("file", "source"),
    [("metadata.jsonl", "table"), ("annotations/captions_train2017.json", "coco"), ("00000.tar", "webdataset")],
)
def test_the_source_follows_from_the_files_of_a_folder(file: str, source: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert data_section(tmp_path, 96) == {"source": source, "root": str(tmp_path), "image_size": 96} | (
        {"annotations": "metadata.jsonl", "images": "."} if source == "table" else {}
    )
    (tmp_path / "dataset_info.json").touch()
    assert data_section(tmp_path, 96) == {"source": "huggingface", "name": str(tmp_path), "image_size": 96}
