"""``rayvldd init``: the study it writes loads, fits the data and the machine, and replaces nothing."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from click.testing import Result
from helpers.cli import last_object, run
from jsonschema import Draft202012Validator

from rayvldd.config.domains import IntDomain
from rayvldd.config.loading import load_study
from rayvldd.config.settings import HuggingFaceData
from rayvldd.config.study import Study
from rayvldd.config.study_files import parsed_yaml
from rayvldd.library import new_study
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


@pytest.mark.parametrize("name", ["2024", "no", "1e3"])
def test_a_name_that_yaml_reads_as_a_number_or_a_word_is_a_text(table: Path, name: str) -> None:
    target = table.with_name(f"{name}.yaml")
    result = run("init", target, "--csv", table, "--images", table.with_name("photos"))
    assert result.exit_code == 0, result.output
    assert load_study(target).name == name


def test_captions_of_a_study_that_was_not_written_are_in_nobodys_way(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = table.with_name("my study.yaml")
    assert "got 'my study'" in run("init", target, "--csv", table, "--images", table.with_name("photos")).stderr

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(new_study, "counted_images", cut_off)
        assert made(table).exit_code == 130
    assert sorted(path.name for path in table.parent.iterdir()) == ["captions.csv", "photos"]
    assert made(table).exit_code == 0


def test_captions_that_a_killed_command_left_are_those_of_the_same_table_alone(table: Path) -> None:
    assert made(table).exit_code == 0
    study, captions = table.with_name("mine.yaml"), table.with_name("mine.captions.jsonl")
    before = study.read_bytes()
    study.unlink()  # as after a kill before it was written, which comes last
    assert made(table).exit_code == 0
    assert study.read_bytes() == before
    study.unlink()
    captions.write_text(captions.read_text().replace("A dog", "A cat", 1))
    result = made(table)
    assert result.exit_code == 2 and f"{captions}: is there already, and has other captions" in result.stderr
    assert "A cat" in captions.read_text() and not study.exists()


def test_a_dry_run_removes_no_captions_of_another_study(table: Path) -> None:
    assert made(table).exit_code == 0
    captions = table.with_name("mine.captions.jsonl")
    table.with_name("mine.yaml").rename(table.with_name("renamed.yaml"))
    assert made(table, "--dry-run").exit_code == 0
    assert captions.is_file()
    data = table.with_name("more")
    data.mkdir()
    shutil.copy(captions, data / "captions.jsonl")
    (data / "images").symlink_to(table.with_name("photos"))
    assert run("init", table.with_name("mine.yaml"), "--data", data, "--dry-run").exit_code == 0
    assert captions.is_file()


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


_CARD = """\
---
dataset_info:
  features:
  - {{name: photo, dtype: image}}
  - {{name: {captions}, dtype: string}}
  splits:
  - {{name: train, num_bytes: 1, num_examples: 300}}
  - {{name: test, num_bytes: 1, num_examples: 50}}
---
"""


def as_on_the_hub(folder: Path, captions: str = "caption") -> None:
    """A card and Parquet files, as a repository on the hub has them; the files are not readable."""
    pytest.importorskip("datasets")
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(_CARD.format(captions=captions))
    for split in ("train", "test"):
        (folder / "data" / f"{split}-00000-of-00001.parquet").write_bytes(b"no Parquet file")


def test_the_card_of_a_data_set_of_the_hub_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_the_hub(tmp_path / "user" / "data")
    monkeypatch.chdir(tmp_path)
    assert run("init", "mine.yaml", "--hf", "user/data", "--dry-run").exit_code == 0
    assert not (tmp_path / "mine.yaml").exists()
    result = run("init", "mine.yaml", "--hf", "user/data", "--hf-config", "default", "--json")
    assert result.exit_code == 0, result.output
    assert last_object(result)["images"] == {"train": 270, "val": 30, "test": 50}
    study = load_study(tmp_path / "mine.yaml")
    assert study.data == HuggingFaceData(
        source="huggingface",
        name=str(tmp_path / "user" / "data"),
        config="default",
        image="photo",
        captions=("caption",),
        image_size=96,
    )
    check_space(study)


def test_a_data_set_without_a_card_is_read_whole(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"photo": datasets.Image(), "text": datasets.Value("string")})
    rows = {"photo": [{"bytes": b"any", "path": None}] * 20, "text": ["A dog"] * 20}
    datasets.Dataset.from_dict(rows, features).save_to_disk(str(tmp_path / "saved"))
    result = run("init", tmp_path / "mine.yaml", "--hf", tmp_path / "saved", "--json")
    assert result.exit_code == 0, result.output
    assert "does not tell the images of each split, so all of it is read" in result.stderr
    assert last_object(result)["images"] == {"train": 16, "val": 2, "test": 2}
    assert load_study(tmp_path / "mine.yaml").data.source == "huggingface"


def test_a_hub_that_cannot_be_reached_is_named_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    target = tmp_path / "mine.yaml"
    for is_offline in (False, True):  # as HF_HUB_OFFLINE=1 sets it
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", is_offline)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", is_offline)
        result = run("init", target, "--hf", "user/data", "--hf-config", "small")
        assert result.exit_code == 2 and "--hf: user/data: the hub cannot be reached" in result.stderr
        assert """python -c 'import datasets; datasets.load_dataset("user/data", "small").save_to""" in result.stderr
        assert "rayvldd init STUDY --data FOLDER" in result.stderr and not target.exists()


def test_a_missing_library_is_named_also_where_the_hub_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setitem(sys.modules, "datasets", None)
    result = run("init", tmp_path / "mine.yaml", "--hf", "user/data")
    assert result.exit_code == 2 and "needs the library datasets" in result.stderr
    assert "pip install 'rayvldd[datasets]'" in result.stderr and "cache" not in result.stderr


def test_faults_of_a_data_set_of_the_hub(tmp_path: Path) -> None:
    as_on_the_hub(tmp_path / "data", captions="words")
    target = tmp_path / "mine.yaml"
    result = run("init", target, "--hf", tmp_path / "data")
    assert result.exit_code == 2 and "'train' has no column of captions" in result.stderr
    assert "rayvldd spaces copy flickr8k_cpu STUDY" in result.stderr and "captions: [COLUMN]" in result.stderr
    card = tmp_path / "data" / "README.md"
    card.write_text(_CARD.format(captions="text").replace("name: test,", "name: elsewhere,"))
    result = run("init", target, "--hf", tmp_path / "data")
    assert result.exit_code == 2 and "unknown split 'elsewhere'" in result.stderr
    assert "correct a copy of the data set, save it with save_to_disk" in result.stderr
    (tmp_path / "empty").mkdir()
    assert "--hf-config NAME if it has several" in run("init", target, "--hf", tmp_path / "empty").stderr
    result = run("init", target, "--hf", "https://host/user/data")
    assert "--hf: 'https://host/user/data' is no name on the hub; allowed: USER/NAME" in result.stderr
    result = run("init", target, "--data", tmp_path, "--hf-config", "small")
    assert "--hf-config: small given without --hf" in result.stderr
    assert not target.exists()


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    both: list[str | Path] = ["--data", tmp_path, "--csv", tmp_path / "x.csv"]
    for options in ([], both, ["--hf", "user/data", *both[:2]]):
        result = run("init", tmp_path / "mine.yaml", *options)
        assert result.exit_code == 2 and "--data, --csv, --hf: exactly one of the three is needed" in result.stderr
    result = run("init", tmp_path / "mine.yaml", "--data", tmp_path / "none", "--images", tmp_path)
    assert "no such folder" in result.stderr and "--images: given without --csv" in result.stderr
    result = run("init", tmp_path / "mine.yaml", "--csv", tmp_path / "no.csv", "--images", tmp_path / "none")
    assert f"--csv: no such file: {tmp_path / 'no.csv'}" in result.stderr
    assert f"--images: no such folder: {tmp_path / 'none'}" in result.stderr
    result = run("init", tmp_path / "mine.yaml", "--data", tmp_path, "--image-weights", "model.safetensors")
    assert "--image-weights: model.safetensors without the name of its model" in result.stderr
    empty = run("init", tmp_path / "mine.yaml", "--data", tmp_path)
    assert empty.exit_code == 2 and "has no annotation file; allowed: captions.jsonl" in empty.stderr


def check_schema_of(study_file: Path) -> None:
    """The first line names a file beside the study, and the study fits the schema in it."""
    first, _, _ = study_file.read_text().partition("\n")
    named = first.removeprefix("# yaml-language-server: $schema=")
    assert named != first and Path(named).name == named, "it is found beside the study wherever both are"
    schema = json.loads(study_file.with_name(named).read_text())
    Draft202012Validator.check_schema(schema)
    values = parsed_yaml(study_file.read_text())
    assert isinstance(values, dict)
    assert not list(Draft202012Validator(schema).iter_errors(values))
    assert list(Draft202012Validator(schema).iter_errors({**values, "serach": {}})), "it finds a wrong key"


def test_a_new_study_names_the_schema_beside_it(table: Path) -> None:
    assert made(table).exit_code == 0
    check_schema_of(table.with_name("mine.yaml"))
    second = run("init", table.with_name("second.yaml"), "--csv", table, "--images", table.with_name("photos"))
    assert second.exit_code == 0, "the schema of the first study is that of the second"
    check_schema_of(table.with_name("second.yaml"))


def test_another_file_with_the_name_of_the_schema_is_kept(table: Path) -> None:
    table.with_name("study.schema.json").write_text('{"title": "mine"}')
    result = made(table)
    assert result.exit_code == 2 and "study.schema.json: is there already, and is no schema of studies" in result.output
    assert not table.with_name("mine.yaml").exists() and not table.with_name("mine.captions.jsonl").exists()


def test_nothing_is_written_by_a_dry_run(table: Path) -> None:
    assert "$schema=study.schema.json" in made(table, "--dry-run").output
    assert not table.with_name("study.schema.json").exists() and not table.with_name("mine.yaml").exists()


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
