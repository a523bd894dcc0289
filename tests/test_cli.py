"""The command line: help without waiting, faults before work, exit codes, and one object for programs."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner, Result
from conftest import TINY_STUDY

from rayvldd.cli import preparation
from rayvldd.cli.invocation import EXIT_INTERRUPTED, EXIT_USER_ERROR, RunCommand
from rayvldd.cli.main import COMMANDS, main

HEAVY = {"torch", "torchvision", "timm", "transformers", "peft", "ray", "optuna", "mlflow", "matplotlib", "sklearn"}


def run(*arguments: str | Path) -> Result:
    """Run ``rayvldd`` in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="rayvldd")


def last_object(result: Result) -> dict[str, Any]:
    """The object that ``--json`` ends standard output with."""
    values: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return values


def command_of(name: str) -> RunCommand:
    found = main.get_command(click.Context(main), name)
    assert isinstance(found, RunCommand)
    return found


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """The tiny study as a file, with one setting searched."""
    space = {"distillation.lr_image": {"type": "float", "low": 1.0, "high": 100.0, "log": True}}
    search = {"space": space, "num_trials": 2, "max_concurrent": 2}
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({**TINY_STUDY, "search": search}), encoding="utf-8")
    return file


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder that does not exist yet."""
    return tmp_path / "workspace"


# --- help ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)], ids=["rayvldd", *COMMANDS])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    """What makes ``--help`` slow is what it imports; a clock would measure the machine."""
    lines = [
        "import sys",
        "from rayvldd.cli.main import main",
        "try:",
        f"    main({[*arguments, '--help']!r})",
        "except SystemExit as end:",
        "    assert not end.code",
        f"print(sorted(set({sorted(HEAVY)!r}) & set(sys.modules)))",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: ")
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_examples_that_parse(name: str) -> None:
    command = command_of(name)
    assert command.examples
    shown = run(name, "--help").output
    for example in command.examples:
        assert example in shown
        program, word, *arguments = shlex.split(example)
        assert (program, word) == ("rayvldd", name)
        command.make_context(name, arguments)


def test_unknown_command_names_the_nearest() -> None:
    result = run("sweeep")
    assert result.exit_code == EXIT_USER_ERROR
    assert "did you mean 'sweep'?" in result.output


# --- faults -------------------------------------------------------------------------------------------------------


def test_faults_of_a_file_are_told_at_once_without_traceback(study_file: Path, workspace: Path) -> None:
    result = run("sweep", study_file, "--workspace", workspace, "--set", "distillation.lr_imgs=3", "--set", "seed=-1")
    assert result.exit_code == EXIT_USER_ERROR
    assert "2 faults found, nothing was started" in result.stderr
    assert "unknown key 'lr_imgs' (did you mean 'lr_image'?)" in result.stderr
    assert "Next: " in result.stderr and "rayvldd check" in result.stderr
    assert "Traceback" not in result.output
    assert not workspace.exists()


def test_debug_shows_the_traceback(study_file: Path, workspace: Path) -> None:
    result = run("sweep", study_file, "--workspace", workspace, "--set", "seed=-1", "--debug")
    assert result.exit_code == EXIT_USER_ERROR
    assert "Traceback" in result.stderr


def test_json_of_a_fault_is_one_object(study_file: Path, workspace: Path) -> None:
    result = run("check", study_file, "--workspace", workspace, "--set", "seed=-1", "--json")
    assert result.exit_code == EXIT_USER_ERROR
    told = last_object(result)
    assert told["error"] == "ConfigError"
    assert [fault["where"] for fault in told["faults"]] == [f"{study_file}: seed"]
    assert len(result.stdout.splitlines()) == 1


def test_missing_study_file(workspace: Path) -> None:
    result = run("check", "search_spaces/quickstrat.yaml", "--workspace", workspace)
    assert result.exit_code == EXIT_USER_ERROR
    assert "no such study file (did you mean 'search_spaces/quickstart.yaml'?)" in result.stderr


def test_workspace_that_cannot_be_written(study_file: Path, tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("not a folder")
    result = run("check", study_file, "--workspace", taken)
    assert result.exit_code == EXIT_USER_ERROR
    assert f"workspace {taken}: cannot be" in result.stderr


def test_faults_of_models_and_data_are_told_together(study_file: Path, workspace: Path) -> None:
    overrides = ["model.image_encoder.name=convnet_d4", "distillation.num_pairs=41"]
    result = run("sweep", study_file, "--workspace", workspace, *(w for o in overrides for w in ("--set", o)))
    assert result.exit_code == EXIT_USER_ERROR
    assert f"{study_file}: model.image_encoder.name: no timm model is called 'convnet_d4'" in result.stderr
    assert f"{study_file}: distillation.num_pairs: got 41; allowed: 2 to 40" in result.stderr
    assert not list(workspace.rglob("*"))


def test_start_epoch_beyond_the_experts(study_file: Path, workspace: Path) -> None:
    result = run("distill", study_file, "--workspace", workspace, "--set", "distillation.max_start_epoch=5")
    assert result.exit_code == EXIT_USER_ERROR
    assert "beyond the experts' last epoch 2" in result.stderr


def test_interruption_says_what_is_kept(study_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "check_models_and_data", interrupted)
    result = run("sweep", study_file, "--workspace", workspace)
    assert result.exit_code == EXIT_INTERRUPTED
    assert "Kept: experts and trials that were finished" in result.stderr
    assert f"The same command continues: rayvldd sweep {study_file} --workspace {workspace}" in result.stderr


# --- plans --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sweep", "check", "experts", "distill"])
def test_dry_run_prints_settings_and_plan_and_does_nothing(name: str, study_file: Path, workspace: Path) -> None:
    result = run(name, study_file, "--workspace", workspace, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "num_test_students: 2" in result.output
    assert "experts" in result.output
    assert not list(workspace.rglob("*"))


def test_check_prints_the_plan_as_one_object(study_file: Path, workspace: Path) -> None:
    result = run("check", study_file, "--workspace", workspace, "--json", "--set", "search.num_trials=3")
    assert result.exit_code == 0, result.output
    assert last_object(result)["trials"]["total"] == 3
    assert len(result.stdout.splitlines()) == 1


# --- compare ------------------------------------------------------------------------------------------------------


def test_compare_without_studies(workspace: Path) -> None:
    result = run("compare", "--workspace", workspace)
    assert result.exit_code == EXIT_USER_ERROR
    assert "no finished study" in result.stderr
