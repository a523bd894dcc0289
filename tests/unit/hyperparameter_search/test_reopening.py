"""A finished study that is reopened: when it has more to run, and what is kept."""

import json
from pathlib import Path

import pytest
from helpers.searches import evaluated, with_search

from rayvldd.config.study import Study
from rayvldd.errors import ConfigError
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.storage.json_files import write_json_whole

STEPS = "distillation.trajectory_matching.syn_steps"


@pytest.fixture
def finished(tiny_study: Study, tmp_path: Path) -> tuple[Study, StudyFolder]:
    """A finished study with two trials, of which the last ended after 40 seconds of search."""
    study, folder = with_search(tiny_study, num_trials=2), StudyFolder(tmp_path / "tiny")
    with folder.opened(study):
        ledger = folder.ledger()
    for number in range(2):
        ledger.start(number, 1, {"distillation.lr_image": 10.0 + number, STEPS: 2})
        ledger.add_evaluation(f"trial_00{number}", evaluated(2, 7.0, 20.0 * (number + 1)))
        ledger.end(f"trial_00{number}", "finished")
    write_json_whole(folder.choice, {"trial_id": "trial_001"})
    folder.best.mkdir()
    (folder.best / "card.json").write_text("{}")
    folder.add_test_evaluation("rayvldd sweep", 1, 5)
    write_json_whole(folder.test, {"mean_recall": 7.0})
    write_json_whole(folder.result_file, {"study": "tiny"})
    return study, folder


def test_a_finished_study_has_more_only_with_trials_and_time(finished: tuple[Study, StudyFolder]) -> None:
    study, folder = finished

    def has_more(**search: float) -> bool:
        return folder.has_more(study.override({f"search.{name}": value for name, value in search.items()}))

    assert not has_more() and not has_more(num_trials=2, time_budget_s=1000)
    assert has_more(num_trials=3) and has_more(num_trials=3, time_budget_s=41)
    assert not has_more(num_trials=3, time_budget_s=40), "its search has taken 40 seconds"


def test_a_reopened_study_keeps_its_result(finished: tuple[Study, StudyFolder]) -> None:
    study, folder = finished
    more = study.override({"search.num_trials": 3})
    with pytest.raises(ConfigError, match=r"search.num_trials: is 2 there, 3 here"), folder.opened(more):
        pass
    with folder.opened(study, reopens=True):
        assert folder.result_file.is_file(), "nothing is left to run"
    with folder.opened(more, reopens=True):
        kept = folder.earlier_results / "1"
        assert json.loads((kept / "result.json").read_text()) == {"study": "tiny"}
        assert json.loads((kept / "test.json").read_text()) == {"mean_recall": 7.0}
        assert (kept / "best" / "card.json").is_file() and folder.best.is_dir()
        assert not (folder.result_file.exists() or folder.test.exists() or folder.choice.exists())
        assert folder.saved_study() == more
    with folder.opened(more, reopens=True):
        assert len(list(folder.earlier_results.iterdir())) == 1, "the same command continues it"
    assert folder.test_evaluations() == 1, "and the further one will be added"


@pytest.mark.parametrize("moved", range(4))
def test_a_reopening_that_is_cut_off_is_completed_by_the_same_command(
    finished: tuple[Study, StudyFolder], monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    study, folder = finished
    more, left, replace = study.override({"search.num_trials": 3}), [moved], Path.replace

    def cut_off(file: Path, target: Path) -> Path:
        if file in (folder.result_file, folder.test, folder.choice):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
        return replace(file, target)

    def killed(_: Study) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", cut_off)
        patched.setattr(folder, "save_settings", killed)
        with pytest.raises(KeyboardInterrupt), folder.opened(more, reopens=True):
            pass
    with folder.opened(more, reopens=True):
        (kept,) = folder.earlier_results.iterdir()
        assert {file.name for file in kept.iterdir()} == {"best", "result.json", "test.json", "choice.json"}
        assert not (folder.result_file.exists() or folder.test.exists() or folder.choice.exists())
        assert folder.saved_study() == more


def test_other_settings_are_refused_all_the_same(finished: tuple[Study, StudyFolder]) -> None:
    study, folder = finished
    other = study.override({"search.num_trials": 3, "distillation.lr_text": 3.0})
    with pytest.raises(ConfigError, match=r"distillation\.lr_text"), folder.opened(other, reopens=True):
        pass
    assert folder.result_file.is_file()
