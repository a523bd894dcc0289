"""Warm start from earlier trials in MLflow: which are found, which are compatible, and their use by the sampler."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.searches import evaluated

from rayvldd.cli.main import main
from rayvldd.config.domains import as_number
from rayvldd.config.study import Study
from rayvldd.errors import ConfigError, Fault, RayvlddError
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.hyperparameter_search.strategy import make_strategy
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.hyperparameter_search.sweep import sweep
from rayvldd.hyperparameter_search.transfer import EarlierStudies, keep_earlier_trials, known_points, lines_of
from rayvldd.records.trial import Trial
from rayvldd.storage.folder import FolderStorage
from rayvldd.tracking import mlflow_tracker
from rayvldd.tracking.earlier_trials import earlier_trials
from rayvldd.tracking.folder_tracker import FolderTracker
from rayvldd.tracking.mlflow_tracker import MlflowTracker
from rayvldd.tracking.protocol import EarlierTrial, Origins
from rayvldd.workspace import Workspace

LR, STEPS, START = (
    "distillation.lr_image",
    "distillation.trajectory_matching.syn_steps",
    "distillation.initialisation.texts",
)
SPACE = {
    LR: {"type": "float", "low": 1.0, "high": 1000.0, "log": True},
    STEPS: {"type": "int", "low": 1, "high": 4},
    START: {"type": "choice", "values": ["real", "noise"]},
}
PRINTS = {"data": "d" * 16, "image_encoder": "i" * 16, "text_encoder": "t" * 16}


def study_named(name: str, **changes: Any) -> Study:
    from helpers.studies import TINY_STUDY

    values: dict[str, Any] = {**TINY_STUDY, "name": name, "search": {"space": SPACE}}
    for section, new in changes.items():
        values[section] = {**values[section], **new}
    return Study.model_validate(values)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two studies: one measured as the new one will be, with a trial of every kind; one with other evaluations."""
    root = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{root / 'mlflow.db'}"
    tracker = MlflowTracker(uri, root / "artifacts")
    tracker.start_study(study_named("same"), "rayvldd sweep same.yaml")
    points: list[dict[str, Any]] = [{LR: 0.5 * 4.0**number, STEPS: 2, START: "noise"} for number in range(5)]
    for number, point in enumerate(points):
        name = f"trial_00{number}"
        tracker.start_trial(name, point)
        tracker.log_origins(name, Origins(PRINTS if number != 2 else {**PRINTS, "data": "x" * 16}))
        if number != 3:
            for step in (0, 2):
                tracker.log_metrics(name, {"best_val_mean_recall": 10.0 + number + step}, step)
    for number, state in enumerate(["finished", "stopped", "finished", "failed"]):
        tracker.end_trial(f"trial_00{number}", state, None, {})  # type: ignore[arg-type]
    tracker.start_trial("trial_001_again_0", points[1])
    tracker.end_trial("trial_001_again_0", "finished", None, {"finalist": "trial_001"})
    with pytest.MonkeyPatch.context() as patience:  # an interrupted study waits for 10 s, and a busy machine is slower
        patience.setitem(mlflow_tracker._PATIENCE_S, "interrupted", 200.0)
        tracker.end_study("interrupted", {}, None)
    other = MlflowTracker(uri, root / "artifacts")
    other.start_study(study_named("other", evaluation={"epochs": 7}, distillation={"num_pairs": 6}), "rayvldd sweep")
    other.start_trial("trial_000", points[1])
    other.log_origins("trial_000", Origins(PRINTS))
    other.log_metrics("trial_000", {"best_val_mean_recall": 99.0}, 0)
    other.end_trial("trial_000", "finished", None, {})
    other.end_study("finished", {}, None)
    return uri


def test_a_study_is_found_by_name_and_an_experiment_whole(database: str) -> None:
    same = [f"same/trial_00{number}" for number in range(5)]
    found = earlier_trials(database, "same")
    assert [trial.name for trial in found] == same, "what a finalist's point made again is none"
    assert [trial.state for trial in found] == ["finished", "stopped", "finished", "failed", "interrupted"]
    assert [trial.best_val_mean_recall for trial in found] == [12.0, 13.0, 14.0, None, 16.0]
    assert found[0].settings[LR] == "0.5" and found[0].settings["data.num_train"] == "40"
    assert [trial.name for trial in earlier_trials(database, "rayvldd")] == [*same, "other/trial_000"]


def test_missing_names_are_reported_with_existing_ones(database: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"study 'smae' \(did you mean 'same'\?\); allowed: .*: other, same"):
        earlier_trials(database, "smae")
    missing = f"sqlite:///{tmp_path / 'none.db'}"
    with pytest.raises(ConfigError, match="no study yet"):
        earlier_trials(missing, "same")
    assert not list(tmp_path.iterdir()), "asking makes no database"


def test_a_source_that_cannot_be_read_leaves_no_study(tiny_study: Study, tmp_path: Path) -> None:
    def nothing() -> list[EarlierTrial]:
        raise ConfigError([Fault("--learn-from", "got 'nobody'", "a study")], next_command="rayvldd compare")

    workspace = Workspace(tmp_path / "workspace")
    store = ExpertStore(FolderStorage(workspace.experts))
    tracker = FolderTracker(tmp_path / "tracking")
    with pytest.raises(ConfigError, match="nobody"):
        sweep(tiny_study, workspace, store, tracker, learn_from=EarlierStudies("nobody", nothing))
    assert not workspace.study(tiny_study.name).exists()


def test_an_unavailable_server_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RayvlddError, match=r"--learn-from same: http://127.0.0.1:9 cannot be read"):
        earlier_trials("http://127.0.0.1:9", "same")


def kept(folder: StudyFolder, study: Study, database: str, name: str) -> tuple[list[Trial], dict[str, str]]:
    folder.root.mkdir(parents=True, exist_ok=True)
    keep_earlier_trials(study, folder, EarlierStudies(name, lambda: earlier_trials(database, name)))
    return known_points(study, folder, lambda point: PRINTS)


def test_trials_that_fit_come_with_their_recall_and_others_are_named(database: str, tmp_path: Path) -> None:
    found, left_out = kept(StudyFolder(tmp_path), study_named("new"), database, "rayvldd")
    assert [(trial.trial_id, trial.state) for trial in found] == [
        ("same/trial_001", "stopped"),
        ("same/trial_003", "failed"),
    ]
    assert found[0].point == {LR: 2.0, STEPS: 2, START: "noise"} and type(found[0].point[STEPS]) is int
    assert found[0].best is not None and found[0].best.recall == 13.0
    assert left_out == {
        "same/trial_000": f"{LR}=0.5 is outside 1 to 1000",
        "same/trial_002": "another data (by fingerprint)",
        "same/trial_004": "has not ended (interrupted)",
        "other/trial_000": "distillation.num_pairs was 6, is 4, evaluation.epochs was 7, is 2",
    }
    lines = lines_of("rayvldd", found, left_out)
    assert lines[0] == "earlier trials of rayvldd: 2 comparable by recall, 4 not" and len(lines) == 5
    assert lines_of("none", [], {}) == lines_of("workspace", [], {}) == []


def test_settings_without_effect_on_recall_and_paths_do_not_matter(database: str, tmp_path: Path) -> None:
    study = study_named("new", evaluation={"num_test_students": 9}, experts={"keep_epochs": "reached"})
    found, _ = kept(StudyFolder(tmp_path), study, database, "same")
    assert [trial.trial_id for trial in found] == ["same/trial_001", "same/trial_003"]


def test_settings_of_another_release_are_reported(tmp_path: Path) -> None:
    odd = EarlierTrial("old/trial_000", {"distillation.lr_imgs": "3"}, PRINTS, "finished", 3.0)
    folder = StudyFolder(tmp_path)
    keep_earlier_trials(study_named("new"), folder, EarlierStudies("old", lambda: [odd]))
    found, left_out = known_points(study_named("new"), folder, lambda point: PRINTS)
    assert not found and left_out["old/trial_000"].startswith("its settings do not fit this release: ")


def test_a_resumed_study_needs_no_server(database: str, tmp_path: Path) -> None:
    folder, study = StudyFolder(tmp_path), study_named("new")
    first = kept(folder, study, database, "same")

    def away() -> Any:
        raise AssertionError("the server was queried again")

    for option in (EarlierStudies("same", away), None):
        keep_earlier_trials(study, folder, option)
        assert known_points(study, folder, lambda point: PRINTS) == first
    with pytest.raises(ConfigError, match="got 'other'; the study began with 'same'"):
        keep_earlier_trials(study, folder, EarlierStudies("other", away))


def test_a_study_does_not_begin_with_its_own_trials(database: str, tmp_path: Path) -> None:
    found, left_out = kept(StudyFolder(tmp_path), study_named("same"), database, "rayvldd")
    assert not found and list(left_out) == ["other/trial_000"]


def test_the_sampler_begins_where_earlier_trials_were_good() -> None:
    """First proposals of 30 studies lie near the best rate that others found, and are trial 0 all the same."""
    rates = np.geomspace(1, 1000, 30)
    earlier = []
    for number, rate in enumerate(rates):
        only = evaluated(0, 20 - 4 * abs(float(np.log(rate / 30))))
        point: dict[str, Any] = {LR: float(rate), STEPS: 2, START: "real"}
        earlier.append(Trial(f"old/trial_{number:03d}", -1, 0, point, Path(), "finished", "", [only]))

    def distances(known: list[Trial]) -> list[float]:
        studies = [study_named("new").model_copy(update={"seed": seed}) for seed in range(30)]
        drawn = [make_strategy(study, earlier=known).propose(()) for study in studies]
        assert {proposal.trial_id for proposal in drawn} == {"trial_000"}
        return [abs(float(np.log(as_number(proposal.point[LR]) / 30))) for proposal in drawn]

    warm, cold = np.median(distances(earlier)), np.median(distances([]))
    assert warm < 0.5 * cold


def test_the_command_rejects_impossible_options(tmp_path: Path) -> None:
    import yaml
    from helpers.studies import ONE_RATE_OF_TWO, TINY_STUDY

    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump({**TINY_STUDY, "search": ONE_RATE_OF_TWO}), encoding="utf-8")

    def error_of(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["sweep", str(file), "--workspace", str(tmp_path / "w"), *arguments])
        assert result.exit_code == 2
        return result.stderr

    assert "got 'tiny', which is this study" in error_of("--warm-start", "tiny")
    assert "others need MLflow, and the tracker is none" in error_of("--learn-from", "x", "--tracking-uri", "none")
    uri = f"sqlite:///{tmp_path / 'none.db'}"
    assert "no trials of an experiment or study 'x'" in error_of(
        "--warm-start", "x", "--tracking-uri", uri, "--dry-run"
    )
