"""Next commands are of the same study, settings, workspace and store."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import yaml
from filelock import FileLock
from helpers.cli import last_object, run
from helpers.studies import TINY_STUDY

from rayvldd.cli.check import _next_command
from rayvldd.cli.further import read_further, refuse_further
from rayvldd.cli.invocation import _OF_A_STUDY, _OPTIONS, DEFAULT_WORKSPACE, EXIT_USER_ERROR, Invocation
from rayvldd.cli.main import main
from rayvldd.cli.preparation import _raise_together
from rayvldd.cli.scoring import together_with
from rayvldd.cli.sweep import _how_to_look
from rayvldd.config.study import Study
from rayvldd.data.hub_datasets import INSTALL_LIBRARY, SAVED
from rayvldd.errors import DataError, Fault, InputError, ModelError, next_after
from rayvldd.library.further import TEMPLATE, FurtherEvaluations
from rayvldd.workspace import Workspace, database_uri


def invocation(workspace: Path, *overrides: str) -> Invocation:
    return Invocation("rayvldd check x.yaml", overrides, workspace, False, False, False, sys.stdout)


@pytest.mark.parametrize(
    ("overrides", "workspace", "store", "options"),
    [
        ((), DEFAULT_WORKSPACE, None, ""),
        (("name=other", "search.num_trials=3"), DEFAULT_WORKSPACE, None, " --set name=other --set search.num_trials=3"),
        (("data.root=/a b",), DEFAULT_WORKSPACE, None, " --set 'data.root=/a b'"),
        ((), Path("/a w"), "s3://b/p", " --store s3://b/p"),
    ],
)
def test_every_option_of_the_check_is_repeated(
    overrides: tuple[str, ...], workspace: Path, store: str | None, options: str
) -> None:
    given = invocation(workspace, *overrides)
    where = "" if workspace == DEFAULT_WORKSPACE else " --workspace '/a w'"
    assert _next_command("sweep", given, Path("x.yaml"), store) == f"rayvldd sweep x.yaml{options}{where}"


@pytest.mark.parametrize(
    ("text", "completed"),
    [
        ("rayvldd status", "rayvldd status --workspace /w"),
        ("rayvldd status, or --workspace FOLDER", "rayvldd status --workspace /w, or --workspace FOLDER"),
        ("correct it, then: rayvldd check x.yaml", "correct it, then: rayvldd check x.yaml --workspace /w"),
        ("rayvldd experts list --store s", "rayvldd experts list --store s --workspace /w"),
        ("rayvldd evaluate s --lr-student 1,1 --workspace /v", "rayvldd evaluate s --lr-student 1,1 --workspace /v"),
        ("rayvldd experts x.yaml (trains them)", "rayvldd experts x.yaml --workspace /w (trains them)"),
        ("rayvldd check x.yaml --set 'a=[1, 2]'", "rayvldd check x.yaml --set 'a=[1, 2]' --workspace /w"),
        ("rayvldd coreset --help", "rayvldd coreset --help"),
        ("rayvldd spaces", "rayvldd spaces"),
        ("the same command with --set name=OTHER", "the same command with --set name=OTHER"),
    ],
)
def test_the_workspace_is_added_to_commands_without_it(text: str, completed: str) -> None:
    assert invocation(Path("/w")).in_this_workspace(text) == completed
    assert invocation(DEFAULT_WORKSPACE).in_this_workspace(text) == text


def test_the_command_that_installs_a_library_for_other_inputs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also beside other faults of options and sets."""
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / SAVED[0]).touch()
    _, errors = read_further(False, None, str(tmp_path), TEMPLATE, False)

    def raised(faults: Sequence[Fault], by_sets: Sequence[Fault]) -> list[str]:
        with pytest.raises(InputError, match=r"--zero-shot .*: a data set of Hugging Face") as caught:
            with_sets(faults, by_sets)
        return caught.value.next_command.split("\n      ")

    def with_sets(faults: Sequence[Fault], by_sets: Sequence[Fault]) -> None:
        with together_with(faults, "rayvldd evaluate --help", errors):
            if by_sets:
                raise InputError(by_sets, next_command="correct them")

    other = [Fault("--coresets", "no method")]
    assert raised([], []) == [INSTALL_LIBRARY]
    assert raised(other, []) == [INSTALL_LIBRARY, "rayvldd evaluate --help"]
    assert raised([], other) == [INSTALL_LIBRARY, "correct them"]
    data = {"source": "huggingface", "name": "somebody/data", "image_size": 16}
    on_hub = FurtherEvaluations(on=Study.model_validate({**TINY_STUDY, "data": data}))
    with pytest.raises(InputError, match=r"--on data\.source: huggingface needs") as caught:
        refuse_further(on_hub, [], "rayvldd evaluate my_set")
    assert caught.value.next_command.split("\n      ") == [INSTALL_LIBRARY, "then: rayvldd evaluate my_set"]


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A workspace with a study that is not running."""
    folder = tmp_path / "studies" / "made"
    folder.mkdir(parents=True)
    (folder / "study.json").write_text("{}", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("command", [["pause", "made"], ["pause", "other"], ["logs", "made", "--trial", "0"]])
def test_the_next_command_of_an_error_is_of_the_same_workspace(studies: Path, command: list[str]) -> None:
    result = run(*command, "--workspace", studies, "--json")
    assert result.exit_code == EXIT_USER_ERROR
    assert last_object(result)["next_command"].startswith(f"rayvldd status --workspace {studies}")
    assert f"Next: rayvldd status --workspace {studies}" in result.output


def test_a_study_that_is_paused_is_followed_in_its_workspace(studies: Path) -> None:
    with FileLock(studies / "studies" / "made" / ".lock"):
        result = run("pause", "made", "--workspace", studies)
    assert result.exit_code == 0, result.output
    assert f"Next: rayvldd status --workspace {studies}" in result.output


def test_logs_of_a_study_without_a_cluster_name_the_log_of_its_last_trial(tmp_path: Path) -> None:
    for number in (0, 11):
        (tmp_path / "studies" / "made" / "trials" / f"trial_{number:03d}").mkdir(parents=True)
    words: list[str | Path] = ["logs", "made", "--workspace", tmp_path, "--address", "http://127.0.0.1:9"]
    found = last_object(run(*words, "--json"))
    assert found["next_command"] == f"rayvldd logs made --trial 11 --workspace {tmp_path}"
    assert "cannot be reached" in found["message"] and "made is a study of the workspace" in found["message"]
    other = last_object(run("logs", "another", *words[2:], "--json"))
    assert "ray attach" in other["next_command"]


def test_a_finished_study_in_a_workspace_that_was_moved_names_the_database_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayvldd.tracking.mlflow_pages.trials_page", lambda uri, study: f"{study} in {uri}")
    moved, gone = Workspace(tmp_path / "100% moved"), database_uri(tmp_path / "gone" / "mlflow.db")
    outcome: Any = SimpleNamespace(tracking_uri=gone, study="one")
    moved.root.mkdir()

    def shown() -> str:
        return _how_to_look(invocation(moved.root), outcome, None, moved)

    assert shown().endswith(f"opens one in {gone}"), "neither is there"
    (moved.root / "mlflow.db").touch()
    assert shown().endswith(f"opens one in {moved.tracking_uri}") and "--tracking-uri" not in shown()
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "mlflow.db").touch()
    assert f"--tracking-uri {gone}" in shown(), "a database elsewhere is what the user named"


@pytest.mark.parametrize(
    ("text", "completed"),
    [
        ("rayvldd prepare STUDY.yaml (makes it)", "rayvldd prepare 'a b.yaml' --set seed=3 --store s3://b (makes it)"),
        (
            "rayvldd distill 'a b.yaml', which",
            "rayvldd distill 'a b.yaml' --set seed=3 --store s3://b --tracking-uri none, which",
        ),
        ("rayvldd check 'a b.yaml' --set seed=4", "rayvldd check 'a b.yaml' --set seed=4 --store s3://b"),
        (
            "rayvldd check 'a b.yaml' --set=seed=4 --store=s3://c",
            "rayvldd check 'a b.yaml' --set=seed=4 --store=s3://c",
        ),
        (
            "rayvldd prepare STUDY.yaml --set name=ANOTHER, which",
            "rayvldd prepare 'a b.yaml' --set name=ANOTHER --set seed=3 --store s3://b, which",
        ),
        (
            "rayvldd experts import STUDY.yaml --image-buffer i.pt",
            "rayvldd experts import 'a b.yaml' --image-buffer i.pt --set seed=3 --store s3://b",
        ),
        ("rayvldd experts list", "rayvldd experts list"),
        ("rayvldd check another.yaml", "rayvldd check another.yaml"),
        ("rayvldd check 'a b.yaml.old'", "rayvldd check 'a b.yaml.old'"),
        ("rayvldd status", "rayvldd status"),
    ],
)
def test_a_command_on_the_same_study_has_its_settings_and_options(text: str, completed: str) -> None:
    options = {"--store": "s3://b", "--tracking-uri": "none"}
    given = replace(invocation(DEFAULT_WORKSPACE, "seed=3"), study_file=Path("a b.yaml"), options=options)
    assert given.in_this_workspace(text) == completed


def test_a_command_that_imports_experts_has_a_store_and_no_tracker() -> None:
    usage = run("experts", "import", "--help").output
    assert "--store" in usage and "--set" in usage and "--tracking-uri" not in usage


@pytest.mark.parametrize("option", ["--store", "--tracking-uri"])
def test_the_options_that_the_next_command_repeats_are_those_of_its_verb(option: str) -> None:
    having = {
        name
        for name in _OF_A_STUDY
        if (found := main.get_command(click.Context(main), name)) and any(option in one.opts for one in found.params)
    }
    assert having == set(_OPTIONS[option])


def test_after_a_fault_of_the_file_the_next_command_is_the_same_one_with_its_options(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY_STUDY), encoding="utf-8")
    given: list[str | Path] = ["--workspace", tmp_path / "w", "--set", "seed=-1", "--tracking-uri", "none"]
    line = shlex.join(map(str, ["rayvldd", "sweep", file, "--study-store", tmp_path / "s", *given]))
    result = run(*shlex.split(line)[1:])
    assert result.exit_code == EXIT_USER_ERROR
    assert result.stderr.endswith(f"Next: correct the file or add --set KEY=VALUE, then: {line}\n")

    file.write_text("{", encoding="utf-8")
    assert run("sweep", file).stderr.endswith(f"Next: correct the file, then: rayvldd sweep {file}\n")
    assert run("sweep", tmp_path / "none.yaml").stderr.endswith("Next: rayvldd check quickstart\n")

    file.write_text(yaml.safe_dump(TINY_STUDY), encoding="utf-8")
    result = run("sweep", file, "--set", "seed=4")
    assert f"Next: rayvldd distill {file} --set seed=4, which distils the point once" in result.stderr


def test_each_fault_keeps_its_own_next_command() -> None:
    missing = DataError([Fault("data", "no library")], next_command="pip install 'rayvldd[datasets]'")
    wrong = ModelError([Fault("model", "unknown")], next_command="rayvldd check STUDY.yaml, after correcting it")
    assert next_after([wrong], "rayvldd sweep a") == "correct them, then: rayvldd sweep a"
    assert next_after([missing], "rayvldd sweep a") == "pip install 'rayvldd[datasets]'\n      then: rayvldd sweep a"
    both = next_after([missing, wrong], "rayvldd sweep a")
    assert both == "pip install 'rayvldd[datasets]'\n      correct the others, then: rayvldd sweep a"
    again = DataError([Fault("data", "no library")], next_command=both)
    assert next_after([again], "rayvldd sweep a") == "pip install 'rayvldd[datasets]'\n      then: rayvldd sweep a"
    with pytest.raises(InputError) as raised:
        _raise_together([missing, wrong], "x.yaml", "rayvldd sweep a")
    assert raised.value.next_command == both
