"""The command line: help without waiting, faults before work, exit codes, and one object for programs."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from helpers.cli import HEAVY, last_object, run, run_alone
from helpers.s3_server import Fault, S3Server
from helpers.studies import ONE_AT_A_TIME, ONE_RATE_OF_TWO, TINY_STUDY

from rayvldd.cli import preparation
from rayvldd.cli.invocation import EXIT_UNSENT, EXIT_USER_ERROR, RunCommand
from rayvldd.cli.main import COMMANDS, main
from rayvldd.records.made_sets import is_made_set


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
    """Imports make ``--help`` slow, so they are checked instead of the time, which depends on the machine."""
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


def test_the_package_runs_as_a_module() -> None:
    arguments = [sys.executable, "-m", "rayvldd", "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: rayvldd [OPTIONS] COMMAND")


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


def test_faults_of_a_file_are_reported_at_once_without_traceback(study_file: Path, workspace: Path) -> None:
    result = run("sweep", study_file, "--workspace", workspace, "--set", "distillation.lr_imgs=3", "--set", "seed=-1")
    assert result.exit_code == EXIT_USER_ERROR
    assert "2 faults found, nothing was started" in result.stderr
    assert "unknown key 'lr_imgs' (did you mean 'lr_image'?)" in result.stderr
    same = f"rayvldd sweep {study_file} --workspace {workspace} --set distillation.lr_imgs=3 --set seed=-1"
    assert f"Next: correct the file or add --set KEY=VALUE, then: {same}" in result.stderr
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


def test_faults_of_models_and_data_are_reported_together(study_file: Path, workspace: Path) -> None:
    overrides = ["model.image_encoder.name=convnet_d4", "distillation.num_pairs=41"]
    result = run("sweep", study_file, "--workspace", workspace, *(w for o in overrides for w in ("--set", o)))
    assert result.exit_code == EXIT_USER_ERROR
    assert f"{study_file}: model.image_encoder.name: no timm model is called 'convnet_d4'" in result.stderr
    assert f"{study_file}: distillation.num_pairs: got 41; allowed: 2 to 40" in result.stderr
    assert not list(workspace.rglob("*"))


@pytest.mark.parametrize(("name", "option"), [("check", "--store"), ("sweep", "--store"), ("sweep", "--study-store")])
def test_a_store_that_cannot_be_written_is_refused_before_work(
    study_file: Path, workspace: Path, tmp_path: Path, name: str, option: str
) -> None:
    (tmp_path / "file").touch()
    result = run(name, study_file, "--workspace", workspace, option, str(tmp_path / "file" / "store"))
    assert result.exit_code == EXIT_USER_ERROR
    assert f"{tmp_path}/file/store: cannot be written" in result.stderr
    assert not list(workspace.rglob("*"))


@pytest.mark.parametrize(("name", "option"), [("experts", "--store"), ("sweep", "--study-store")])
def test_a_bucket_that_cannot_be_written_is_refused_before_work(
    study_file: Path, workspace: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch, name: str, option: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    s3.faults.append(Fault("answer", "PUT", "", 99, 403, "AccessDenied"))
    result = run(name, study_file, "--workspace", workspace, option, "s3://experts/mine")
    assert result.exit_code == EXIT_USER_ERROR
    assert "could not be written: S3 answered 403 AccessDenied" in result.stderr
    assert "s3:PutObject" in result.stderr
    assert not list(workspace.rglob("*"))


def test_start_epoch_beyond_the_experts(study_file: Path, workspace: Path) -> None:
    result = run(
        "distill", study_file, "--workspace", workspace, "--set", "distillation.trajectory_matching.max_start_epoch=5"
    )
    assert result.exit_code == EXIT_USER_ERROR
    assert "beyond the experts' last epoch 2" in result.stderr


def test_an_interruption_names_the_kept_results(
    study_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(preparation, "check_models_and_data", interrupted)
    result = run("sweep", study_file, "--workspace", workspace)
    assert result.exit_code == 128 + signal.SIGINT
    assert "Kept: experts and trials that were finished" in result.stderr
    assert f"The same command continues: rayvldd sweep {study_file} --workspace {workspace}" in result.stderr


# --- plans --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sweep", "check", "experts", "distill"])
def test_dry_run_prints_settings_and_plan_and_does_nothing(name: str, study_file: Path, workspace: Path) -> None:
    result = run(name, study_file, "--workspace", workspace, "--dry-run", "--set", "evaluation.num_test_students=3")
    assert result.exit_code == 0, result.output
    assert "num_test_students: 3  # --set" in result.output
    assert "ema_decay" not in result.output, "it has its default"
    assert re.search(r"^# \d+ other settings have their defaults; --json has all of them\.$", result.output, re.M)
    assert "experts" in result.output
    assert not list(workspace.rglob("*"))


def test_check_prints_the_plan_as_one_object(study_file: Path, workspace: Path) -> None:
    result = run("check", study_file, "--workspace", workspace, "--json", "--set", "search.num_trials=3")
    assert result.exit_code == 0, result.output
    assert last_object(result)["trials"]["total"] == 3
    assert len(result.stdout.splitlines()) == 1


@pytest.mark.parametrize("values", [None, [10.0]], ids=["no space", "one point"])
def test_a_study_with_nothing_to_search_is_distilled(
    values: list[float] | None, study_file: Path, workspace: Path
) -> None:
    """A sweep of it would repeat the same trial; check names the suitable command."""
    space = {"distillation.lr_image": {"type": "choice", "values": values}} if values else {}
    study_file.write_text(yaml.safe_dump({**TINY_STUDY, "search": {"space": space}}), encoding="utf-8")
    for more in ([], ["--submit"]):
        result = run("sweep", study_file, "--workspace", workspace, *more)
        assert result.exit_code == EXIT_USER_ERROR
        assert f"{study_file}: search.space: {'has a single point' if values else 'is empty'}" in result.stderr
        assert f"Next: rayvldd distill {study_file}" in result.stderr
    assert f"Next: rayvldd distill {study_file}" in run("check", study_file, "--workspace", workspace).output


# --- compare ------------------------------------------------------------------------------------------------------


def test_compare_without_studies(workspace: Path) -> None:
    result = run("compare", "--workspace", workspace)
    assert result.exit_code == EXIT_USER_ERROR
    assert "no study" in result.stderr and "rayvldd sweep" in result.stderr


# --- the commands that work, on the tiny study ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> tuple[Path, Path]:
    """A study file with one trial, and a workspace in which it was swept; the tests below share both.

    Those that run trials come first: the kept actors of the later ones leave them no CPU.
    """
    folder = tmp_path_factory.mktemp("worked")
    file = folder / "tiny.yaml"
    study = {**TINY_STUDY, "search": ONE_RATE_OF_TWO, "resources": ONE_AT_A_TIME}
    file.write_text(yaml.safe_dump(study), encoding="utf-8")
    result = run("sweep", file, "--workspace", folder / "workspace", "--json", "--tracking-uri", "none")
    assert result.exit_code == 0, result.output
    return file, folder / "workspace"


@pytest.mark.timeout(600)  # it starts Ray and makes the experts that the tests below take
def test_sweep_ends_with_its_result_and_shows_it_again(worked: tuple[Path, Path]) -> None:
    file, workspace = worked
    again = run("sweep", file, "--workspace", workspace, "--json", "--tracking-uri", "none")
    values = last_object(again)
    assert values.keys() >= {"study", "trials", "best", "test", "distilled_set", "tracking_uri", "seconds"}
    assert values["best"].keys() >= {"config", "val_mean_recall"}
    assert values["test"].keys() >= {"mean_recall", "interval", "random_mean_recall", "full_data_mean_recall"}
    assert values["trials"]["finished"] == 1
    assert Path(values["distilled_set"], "card.json").is_file()
    assert "is finished" in again.stderr
    assert "before_after.jpg and recall_by_outer_step.png in its folder" in again.stderr
    assert f"rayvldd compare tiny --workspace {workspace}, which writes {workspace}/comparison/" in again.stderr
    assert f"rayvldd export {values['distilled_set']} tiny_pairs" in again.stderr
    assert len(again.stdout.splitlines()) == 1


def test_the_result_of_a_finished_study_needs_no_search(worked: tuple[Path, Path], tmp_path: Path) -> None:
    """Neither models nor data are looked at, and nothing heavy is imported; another study is refused as before."""
    file, workspace = worked
    sweep = ("sweep", file, "--workspace", workspace, "--tracking-uri", "none")
    done = run_alone(*sweep, "--json")
    assert done.code == 0, done.errors
    assert not done.libraries
    values = json.loads(done.output)
    kept = json.loads((workspace / "studies" / "tiny" / "result.json").read_text(encoding="utf-8"))
    assert {key: values[key] for key in ("best", "test", "trials", "seconds")} == {
        key: kept[key] for key in ("best", "test", "trials", "seconds")
    }
    again = run_alone(*sweep, "--reopen")
    assert "has no trial or time left to continue with" in again.errors and not again.libraries
    other = run_alone(*sweep, "--set", "distillation.lr_text=3.5")
    assert other.code == EXIT_USER_ERROR
    assert "study.json: distillation.lr_text: is " in other.errors and not other.libraries


@pytest.mark.timeout(600)  # a study with its own trial
def test_a_study_whose_artifacts_were_refused_sends_them_with_the_same_command(
    worked: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    file, workspace = worked
    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    command = ("sweep", file, "--workspace", workspace, "--set", "name=rights", "--json", "--tracking-uri", database)
    with monkeypatch.context() as refusing:
        refusing.setattr(MlflowClient, "log_artifacts", refuse)
        result = run(*command)
    assert result.exit_code == EXIT_UNSENT, result.output
    assert f"4 records are missing in {database}, the first: the artifacts of trial_000: " in result.stderr
    assert "Next: the same command" in result.stderr
    assert last_object(result)["test"]["mean_recall"] >= 0, "the result is printed all the same"

    client = MlflowClient(tracking_uri=database)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    with monkeypatch.context() as refusing:
        refusing.setattr(MlflowClient, "log_artifacts", refuse)
        assert run(*command).exit_code == EXIT_UNSENT, "as long as they are refused"
    again = run(*command)
    assert again.exit_code == 0, again.output
    assert "4 records are missing" in again.stderr
    runs = client.search_runs(ids)
    assert len(runs) == 2, "the same runs are completed"
    assert {found.info.status for found in runs} == {"FINISHED"}
    assert all("rayvldd.missing" not in found.data.tags for found in runs)
    artifacts = [{file.path for file in client.list_artifacts(found.info.run_id)} for found in runs]
    assert all(artifacts) and sum("MLmodel" in paths for paths in artifacts) == 1, "the model can be served again"
    assert len(client.search_model_versions("name = 'rights'")) == 1
    assert "records are missing" not in run(*command).output, "nothing is left to send"


def test_experts_are_kept_and_added_to(worked: tuple[Path, Path], kept_actors: None) -> None:
    file, workspace = worked
    assert last_object(run("experts", file, "--workspace", workspace, "--json"))["made"] == 0
    more = last_object(run("experts", file, "--workspace", workspace, "--json", "--num-experts", "3"))
    assert more["made"] == 1
    assert [known["num_experts"] for known in more["sets"]] == [3]


def test_distill_hands_over_a_set_and_continues_where_it_was(worked: tuple[Path, Path], tmp_path: Path) -> None:
    file, workspace = worked
    first = run("distill", file, "--workspace", workspace, "--out", tmp_path / "set", "--json")
    assert "outer step     4" in first.stderr
    again = run("distill", file, "--workspace", workspace, "--out", tmp_path / "set", "--json")
    assert "outer step     " not in again.stderr  # nothing was left to do
    assert last_object(again) == last_object(first)
    names = {path.name for path in (tmp_path / "set").iterdir()}
    assert names >= {"card.json", "distilled_set.safetensors", "before_after.jpg", "nearest_captions.jsonl"}
    assert "the set        concentration" in again.stderr and "to the nearest real image" in again.stderr
    assert "before_after.jpg and recall_by_outer_step.png in its folder" in again.stderr
    assert f"rayvldd compare --workspace {workspace}, which writes {workspace}/comparison/compare.html" in again.stderr
    assert f"rayvldd export {tmp_path / 'set'} tiny_pairs" in again.stderr
    assert f"Next: rayvldd evaluate {tmp_path / 'set'} --coresets random" in again.stderr
    assert is_made_set(workspace, tmp_path / "set"), "the next command evaluates it, without --trust"


def test_a_distillation_that_gains_nothing_says_so_with_the_rates_to_try(worked: tuple[Path, Path]) -> None:
    file, workspace = worked
    still = ("--set", "distillation.lr_image=1e-9", "--set", "distillation.lr_text=1e-9")
    result = run("distill", file, "--workspace", workspace, "--tracking-uri", "none", *still, "--json")
    values = last_object(result)
    assert values["outer_step"] == 0, "nothing moves at these rates"
    assert "WARNING        no evaluation on validation was above" in result.stderr
    assert "stayed near its start, as with rates that are too low" in result.stderr
    first, then = values["rates_to_try"]["higher"], values["rates_to_try"]["lower"]
    assert first == {"distillation.lr_image": 1e-8, "distillation.lr_text": 1e-8}
    assert then == {"distillation.lr_image": 1e-10, "distillation.lr_text": 1e-10}
    assert f"rates to try   rayvldd distill {file} --set distillation.lr_image=1e-08" in result.stderr


def test_a_distillation_that_diverges_names_lower_rates(worked: tuple[Path, Path]) -> None:
    file, workspace = worked
    absurd = ("--set", "distillation.lr_image=1e9", "--set", "distillation.lr_text=7")
    result = run("distill", file, "--workspace", workspace, "--tracking-uri", "none", *absurd, "--json")
    assert result.exit_code == EXIT_USER_ERROR
    values = last_object(result)
    assert values["error"] == "DivergedError" and "distillation diverged at outer step" in values["message"]
    lower = "--set distillation.lr_image=1e+08 --set distillation.lr_text=0.7"
    where = f"--tracking-uri none --workspace {workspace}"
    assert values["next_command"] == f"rayvldd distill {file} {lower} {where}"


def test_evaluate_repeats_the_test_of_the_sweep(worked: tuple[Path, Path], kept_actors: None) -> None:
    _, workspace = worked
    best = workspace / "studies" / "tiny" / "best"
    tested = json.loads((workspace / "studies" / "tiny" / "result.json").read_text(encoding="utf-8"))["test"]
    assert is_made_set(workspace, best), "copies of it are evaluated without --trust"
    (scored,) = last_object(run("evaluate", best, "--workspace", workspace, "--split", "test", "--json"))["sets"]
    assert scored["num_students"] == 2
    assert scored["mean"]["mean_recall"] == pytest.approx(tested["sets"][0]["mean_recall"])
    assert scored["std"]["mean_recall"] is not None


def test_every_look_at_test_is_counted(worked: tuple[Path, Path], tmp_path: Path, kept_actors: None) -> None:
    file, workspace = worked
    best = workspace / "studies" / "tiny" / "best"
    sweep = ("sweep", file, "--workspace", workspace, "--json", "--tracking-uri", "none")
    before = last_object(run(*sweep))["test_evaluations"]
    arguments = ("--workspace", workspace, "--students", "1", "--no-full-data")
    scored = run("evaluate", best, *arguments)  # on validation, unless test is named
    assert scored.exit_code == 0 and "--split test" in scored.output
    assert last_object(run(*sweep))["test_evaluations"] == before
    shutil.copytree(best, tmp_path / "elsewhere")  # its card names the study
    assert run("evaluate", best, tmp_path / "elsewhere", *arguments, "--split", "test").exit_code == 0
    again = run(*sweep)
    assert last_object(again)["test_evaluations"] == before + 1
    told = f"over students, 1 set × 2 students, protocol heads_only; test evaluated {before + 1} times"
    assert told in again.stderr


def test_coreset_scores_every_method_and_number(worked: tuple[Path, Path], kept_actors: None) -> None:
    file, workspace = worked
    arguments = ["--method", "random,herding", "--pairs", "2,4", "--students", "1"]
    result = run("coreset", file, "--workspace", workspace, *arguments, "--json")
    rows = last_object(result)["coresets"]
    assert [(row["method"], row["num_pairs"]) for row in rows] == [
        ("random", 2),
        ("herding", 2),
        ("random", 4),
        ("herding", 4),
    ]
    assert all(0 <= row["mean"]["mean_recall"] <= 100 for row in rows)
    assert "4 pairs, herding (1)" in result.stderr
    lines = (workspace / "studies" / "tiny" / "tracking" / "evaluations.jsonl").read_text().splitlines()
    logged = {row["name"]: row for row in map(json.loads, lines) if row["split"] == "val"}
    herding = logged["4 pairs, herding"]
    assert (herding["kind"], logged["all pairs"]["kind"]) == ("coreset", "full_data")
    assert herding["students"][0]["mean_recall"] == pytest.approx(rows[3]["mean"]["mean_recall"])
    assert herding["settings"]["num_pairs"] == 4 and herding["command"].startswith("rayvldd coreset ")


def test_compare_shows_finished_studies(worked: tuple[Path, Path]) -> None:
    _, workspace = worked
    result = run("compare", "tiny", "--workspace", workspace)
    assert result.exit_code == 0, result.output
    assert "heads_only" in result.output
    page = (workspace / "comparison" / "compare.html").read_text(encoding="utf-8")
    assert "rayvldd sweep" in page and "rayvldd compare tiny" in page  # the commands that made study and page
    unknown = run("compare", "tiyn", "--workspace", workspace)
    assert unknown.exit_code == EXIT_USER_ERROR
    assert "no study 'tiyn' (did you mean 'tiny'?)" in unknown.stderr


def test_sweep_refuses_other_settings_under_the_same_name(worked: tuple[Path, Path]) -> None:
    file, workspace = worked
    result = run(
        "sweep",
        file,
        "--workspace",
        workspace,
        "--tracking-uri",
        "none",
        "--set",
        "distillation.trajectory_matching.lr_lr=0.5",
    )
    assert result.exit_code == EXIT_USER_ERROR
    assert "distillation.trajectory_matching.lr_lr: is 0.01 there, 0.5 here" in result.stderr
    assert "--set name=" in result.stderr


def test_evaluate_of_a_folder_without_a_set(tmp_path: Path) -> None:
    result = run("evaluate", tmp_path, "--workspace", tmp_path / "workspace")
    assert result.exit_code == EXIT_USER_ERROR
    assert "is not a distilled set: it has no card.json" in result.stderr


def test_coreset_tells_all_wrong_words_at_once(study_file: Path, workspace: Path) -> None:
    result = run("coreset", study_file, "--workspace", workspace, "--method", "herdin", "--pairs", "1,4,x")
    assert result.exit_code == EXIT_USER_ERROR
    assert "3 faults found" in result.stderr
    assert "no coreset method 'herdin' (did you mean 'herding'?)" in result.stderr


def test_coreset_of_more_pairs_than_there_are(study_file: Path, workspace: Path) -> None:
    result = run("coreset", study_file, "--workspace", workspace, "--pairs", "4,400")
    assert result.exit_code == EXIT_USER_ERROR
    assert "--pairs: got 400; allowed: 2 to 40, the training images" in result.stderr
