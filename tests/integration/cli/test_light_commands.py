"""Commands that need no tensors do not import torch, which takes seconds of CPU.

Each command runs in a process of its own. Imports are compared, and not the time, which depends on the machine.
``test_cli.py`` has the same test of the result of a finished study.
"""

import json
from pathlib import Path

import pytest
import yaml
from helpers.cli import last_object, run, run_alone
from helpers.expert_sets import RECIPE, expert
from helpers.studies import ONE_RATE_OF_TWO, TINY_STUDY

from rayvldd.cli import check, preparation
from rayvldd.cli.invocation import EXIT_USER_ERROR
from rayvldd.config.study import Study
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.records.trial import Trial
from rayvldd.runtime.machine import gpu_files
from rayvldd.storage.folder import FolderStorage


def test_lists_of_expert_sets_import_no_torch(tmp_path: Path) -> None:
    ExpertStore(FolderStorage(tmp_path / "experts")).save(RECIPE, 0, expert())
    for words in (["list"], ["show", RECIPE.key], ["prune", "--dry-run"]):
        done = run_alone("experts", *words, "--workspace", tmp_path)
        assert done.code == 0, done.errors
        assert RECIPE.key in done.output or words[0] == "prune"
        assert not done.libraries, words


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({**TINY_STUDY, "search": ONE_RATE_OF_TWO}), encoding="utf-8")
    return file


def data_folder(folder: Path) -> Path:
    """Five images, which no test opens, with a caption each."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for number, split in enumerate(("train", "train", "train", "val", "test")):
        (folder / "images" / f"{number}.jpg").touch()
        lines.append(json.dumps({"image": f"{number}.jpg", "captions": [f"a {number}"], "split": split}))
    (folder / "captions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_a_check_that_passed_before_imports_no_torch(study_file: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    first = run("check", study_file, "--workspace", workspace)
    assert first.exit_code == 0, first.output
    assert "tried before" not in first.output
    done = run_alone("check", study_file, "--workspace", workspace)
    assert done.code == 0, done.errors
    assert "; --probe tries again\n" in done.output and "No faults." in done.output
    heavy = {"ray", "mlflow", "timm", "transformers", *([] if gpu_files() else ["torch"])}
    assert not done.libraries & heavy, "only the number of GPUs is asked of torch"
    kept = [line for line in done.output.splitlines() if "tried before" not in line]
    assert kept == first.output.splitlines(), "everything else is printed as before"
    more = run_alone("check", study_file, "--workspace", workspace, "--set", "distillation.num_pairs=41")
    assert more.code == EXIT_USER_ERROR, "it has not been tried"
    assert "distillation.num_pairs: got 41; allowed: 2 to 40" in more.errors


def test_models_are_tried_again_after_a_fault_a_change_and_with_probe(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, really = list[str](), preparation.check_study

    def noted(*arguments: object, **options: object) -> None:
        tried.append("again")
        really(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(preparation, "check_study", noted)
    monkeypatch.setattr(check, "_probed", lambda *_: None)
    workspace = ("--workspace", str(tmp_path / "workspace"))
    wrong = ("--set", "model.image_encoder.name=convnet_d4")
    for words, times in (
        (wrong, 1),
        (wrong, 2),  # a try that failed is not remembered
        (("--dry-run",), 3),
        ((), 4),  # neither is one of a dry run, which writes nothing
        ((), 4),
        (("--dry-run",), 4),
        (("--set", "search.num_trials=2"), 4),
        (("--set", "model.width=24"), 5),
        (("--probe",), 6),
        ((), 6),
    ):
        result = run("check", study_file, *workspace, *words)
        assert result.exit_code == (EXIT_USER_ERROR if words == wrong else 0), result.output
        assert len(tried) == times, words
    assert last_object(run("check", study_file, *workspace, "--json"))["models_tried"]
    assert len(tried) == 6


def test_faults_of_the_data_are_found_after_a_check_that_passed(tmp_path: Path) -> None:
    """The annotations are read in every check, since files may have gone."""
    folder = data_folder(tmp_path / "data")
    data = {"source": "folder", "root": str(folder), "image_size": 16}
    distillation = {**TINY_STUDY["distillation"], "num_pairs": 2}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**TINY_STUDY, "data": data, "distillation": distillation}), encoding="utf-8")
    first = run("check", file, "--workspace", tmp_path / "workspace")
    assert first.exit_code == 0, first.output
    (folder / "images" / "0.jpg").unlink()
    again = run("check", file, "--workspace", tmp_path / "workspace")
    assert again.exit_code == EXIT_USER_ERROR and "0.jpg" in again.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["spaces"],
        ["schema"],
        ["status", "--workspace", "{study}"],
        ["logs", "tiny", "--trial", "0", "--workspace", "{study}"],
        ["compare", "--dry-run", "--workspace", "{study}"],
        ["init", "{new}", "--data", "{data}"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_commands_that_read_small_files_import_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    study = StudyFolder(tmp_path / "workspace" / "studies" / "tiny")
    study.root.mkdir(parents=True)
    study.save_settings(Study.model_validate(TINY_STUDY))
    Trial("trial_000", 0, 1, {}, study.trials / "trial_000", "finished").write()
    places = {"study": study.root.parent.parent, "new": tmp_path / "new.yaml", "data": data_folder(tmp_path / "data")}
    done = run_alone(*(word.format(**places) for word in words))
    assert done.code == 0, done.errors
    # Where a cluster runs on this machine, its jobs are listed; where there may be GPUs, torch counts them.
    asked = {"ray"} if words[0] == "status" else {"torch"} if words[0] == "init" and gpu_files() else set()
    assert done.libraries <= asked
