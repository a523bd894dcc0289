"""The last lines of commands that make a set."""

import json
import shlex
import signal
from pathlib import Path

import pytest
import yaml
from helpers.cli import run
from helpers.mutated_files import KINDS
from helpers.studies import RATES_TO_TRY, TINY_STUDY

from rayvldd.cli import preparation
from rayvldd.cli.invocation import EXIT_USER_ERROR
from rayvldd.errors import RayvlddError
from rayvldd.tracking.opening import open_tracker
from rayvldd.workspace import Workspace


@pytest.fixture
def finished(tmp_path: Path) -> tuple[Path, Path]:
    """The file of a study, and a workspace in which it is finished."""
    KINDS["results"].make(tmp_path / "a workspace")
    file = tmp_path / "tiny.yaml"
    space = {"distillation.lr_image": {"type": "float", "low": 1.0, "high": 100.0, "log": True}}
    settings = tmp_path / "a workspace" / "studies" / "tiny" / "study.json"
    study = {**TINY_STUDY, "search": {"space": space, "num_trials": 2}}
    file.write_text(yaml.safe_dump(study), encoding="utf-8")
    settings.unlink()
    (tmp_path / "a workspace" / "studies" / "tiny" / "unsent.json").unlink()
    _saved(file, settings)
    return file, tmp_path / "a workspace"


def _saved(file: Path, settings: Path) -> None:
    from rayvldd.config.loading import load_study
    from rayvldd.hyperparameter_search.study_folder import StudyFolder

    StudyFolder(settings.parent).save_settings(load_study(file))


def _lines(file: Path, workspace: Path) -> list[str]:
    result = run("sweep", file, "--workspace", workspace, "--tracking-uri", "none")
    assert result.exit_code == 0, result.output
    return [line.rstrip() for line in result.stdout.splitlines()]


def test_a_search_in_which_nothing_rose_says_so_with_the_rates_to_try(finished: tuple[Path, Path]) -> None:
    file, workspace = finished
    assert not any(line.startswith("WARNING") for line in _lines(file, workspace))

    written = workspace / "studies" / "tiny" / "result.json"
    values = json.loads(written.read_text(encoding="utf-8"))
    values["best"]["outer_step"] = 0
    written.write_text(json.dumps({**values, "rates_to_try": RATES_TO_TRY.as_json()}), encoding="utf-8")

    lines = _lines(file, workspace)
    place = next(place for place, line in enumerate(lines) if line.startswith("WARNING"))
    assert "so the set is its 4 starting pairs. The usual cause is a learning rate" in lines[place]
    assert (
        "trial_000 fell from 13.97 to 2.57, as with rates that are too high: try distillation.lr_image=3"
        in lines[place]
    )
    where = shlex.join(["--tracking-uri", "none", "--workspace", str(workspace)])
    for line, label, lr_image, lr_text in (
        (lines[place + 1], "rates to try   ", 3, 10),
        (lines[place + 2], "then           ", 300, 1000),
    ):
        tried = f"--set distillation.lr_image={lr_image} --set distillation.lr_text={lr_text}"
        assert line == f"{label}rayvldd distill {file} {tried} {where}"


def test_an_old_result_without_rates_has_the_advice_in_words(finished: tuple[Path, Path]) -> None:
    file, workspace = finished
    written = workspace / "studies" / "tiny" / "result.json"
    values = json.loads(written.read_text(encoding="utf-8"))
    values["best"]["outer_step"] = 0
    written.write_text(json.dumps(values), encoding="utf-8")
    (warning,) = (line for line in _lines(file, workspace) if line.startswith("WARNING"))
    assert warning.endswith("ten times lower and higher, and lr_lr of the method.")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--store", "s3:/bucket", "--store: got 's3:/bucket'"),
        ("--store", "/proc/experts", "/proc/experts: cannot be written"),
        ("--learn-from", "tiny", "--learn-from: got 'tiny', which is this study"),
        ("--learn-from", "nothing_of_this_name", "--learn-from: got 'nothing_of_this_name', no study of"),
        ("--tracking-uri", "ftp://host/x", "tracking URI ftp://host/x: cannot be used: "),
    ],
)
def test_options_are_checked_on_a_finished_study_too(
    finished: tuple[Path, Path], option: str, value: str, said: str
) -> None:
    result = run("sweep", finished[0], "--workspace", finished[1], option, value)
    assert result.exit_code == EXIT_USER_ERROR
    assert said in result.stderr and not result.stdout
    assert "this is its result" not in result.stderr, "a result that is not shown is not announced"


def test_an_earlier_study_is_looked_up_in_the_database_on_a_finished_study_too(finished: tuple[Path, Path]) -> None:
    database = ("--tracking-uri", f"sqlite:///{finished[1]}/mlflow.db")
    result = run("sweep", finished[0], "--workspace", finished[1], "--learn-from", "nothing", *database)
    assert result.exit_code == EXIT_USER_ERROR
    assert "mlflow.db has no trials of an experiment or study 'nothing'" in result.stderr and not result.stdout


@pytest.mark.parametrize("uri", ["databricks", "databricks://profile", "ftp://host/x"])
def test_a_tracker_is_refused_in_the_words_of_a_new_study(finished: tuple[Path, Path], uri: str) -> None:
    with pytest.raises(RayvlddError) as refused:
        open_tracker(uri, "new", Workspace(finished[1]))
    result = run("sweep", finished[0], "--workspace", finished[1], "--tracking-uri", uri)
    assert result.exit_code == EXIT_USER_ERROR
    assert result.stderr.strip() == f"Error: {refused.value}"


def test_faults_of_the_data_are_said_before_models_are_tried(
    finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "check_models_and_data", interrupted)
    monkeypatch.setattr(preparation, "_check_resources", interrupted)
    for command in ("check", "distill"):
        result = run(command, finished[0], "--workspace", tmp_path / "new", "--set", "distillation.num_pairs=41")
        assert result.exit_code == 128 + signal.SIGINT
        said, interruption, _ = result.stderr.partition("Interrupted.")
        assert interruption
        assert f"  {finished[0]}: distillation.num_pairs: got 41; allowed: 2 to 40, the training images" in said
