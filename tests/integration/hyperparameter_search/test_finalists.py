"""Finalists: selection, seeds, comparison, and resuming after an interruption."""

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.searches import evaluated
from rich.console import Console

from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.data.array_cache import ArrayCache
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.errors import ConfigError, DivergedError
from rayvldd.evaluation.intervals import nested_interval, recall_interval
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.hyperparameter_search import finalists as module
from rayvldd.hyperparameter_search.finalists import (
    Finalist,
    distinct,
    finalists_of,
    line_of_finalist,
    rerun_finalists,
    winner_of,
)
from rayvldd.hyperparameter_search.ledger import Ledger
from rayvldd.hyperparameter_search.objectives import ranked
from rayvldd.hyperparameter_search.stages import _none_again
from rayvldd.hyperparameter_search.study_folder import StudyFolder, study_of_set
from rayvldd.hyperparameter_search.trial import TrialContext
from rayvldd.models.retrieval_task import RetrievalTask, load_task
from rayvldd.randomness import StudentPurpose, finalist_seed, student_seeds
from rayvldd.records.json_values import value_at
from rayvldd.records.study_choice import FinalistScores
from rayvldd.records.study_outcome import StudyOutcome
from rayvldd.records.trial import Trial
from rayvldd.reports.renderers import as_terminal
from rayvldd.reports.tables import finalists_table, importance_line, trust_of
from rayvldd.storage.folder import FolderStorage

SPACE = {"distillation.lr_image": {"type": "float", "low": 1.0, "high": 1000.0, "log": True}}


@pytest.fixture
def study(tiny_study: Study) -> Study:
    values = tiny_study.model_dump(mode="json")
    return Study.model_validate({**values, "search": {"space": SPACE, "num_finalists": 2, "finalist_seeds": 3}})


def ledger_of(folder: Path, recalls: list[float], rates: list[float]) -> Ledger:
    ledger = Ledger(folder)
    for number, (recall, rate) in enumerate(zip(recalls, rates, strict=True)):
        trial = ledger.start(number, 1, {"distillation.lr_image": rate})
        ledger.add_evaluation(trial.trial_id, evaluated(4, recall))
        ledger.end(trial.trial_id, "finished")
    return ledger


def best_of(ledger: Ledger, study: Study, count: int) -> list[Trial]:
    return distinct(ranked(ledger.ended, study), count)


@pytest.fixture
def two(study: Study, tmp_path: Path) -> list[Finalist]:
    """Two finalists whose sets are still to be made."""
    trials = best_of(ledger_of(tmp_path / "trials", [5.0, 9.0, 7.0], [10.0, 20.0, 30.0]), study, 2)
    return finalists_of(study, trials, tmp_path / "finalists")


def write_scores(finalist: Finalist, recalls: list[float | None]) -> None:
    """Let the finalist's sets have these recalls; None for one that diverged."""
    for one, recall in zip(finalist.sets, recalls, strict=True):
        made = {"state": "finished", "outer_step": 4, "val_mean_recall": recall, "students": [recall]}
        FinalistScores.model_validate({"state": "failed", "reason": "diverged"} if recall is None else made).write(
            one.record
        )


# --- selection and comparison -------------------------------------------------------------------------------------


def test_the_finalists_are_the_best_trials_at_different_points(study: Study, tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path, [5.0, 9.0, 9.0, 7.0, 9.0], [1.0, 2.0, 3.0, 4.0, 2.0])
    ledger.end("trial_003", "failed")
    assert [trial.trial_id for trial in best_of(ledger, study, 9)] == ["trial_001", "trial_002", "trial_000"]
    assert [trial.trial_id for trial in best_of(ledger, study, 1)] == ["trial_001"]


def test_every_set_has_a_seed_that_nothing_else_has(two: list[Finalist], study: Study) -> None:
    seeds = [one.seed for finalist in two for one in finalist.sets]
    own = study.model_copy(update={"search": study.search.model_copy(update={"trial_seeds": "own"})})
    trials = [own.trial_seed(number) for number in range(100)] + [study.trial_seed(0)]
    assert len({*seeds, *trials}) == 6 + 100, "trial 0 has the seed that all have in common"
    assert seeds[0] == finalist_seed(study.seed, 1, 0), "a function of study, trial and repeat alone"


def test_the_mean_over_fresh_sets_chooses(two: list[Finalist]) -> None:
    lucky, steady = two
    write_scores(lucky, [4.0, 5.0, 6.0])
    write_scores(steady, [6.0, 8.0, 7.0])
    winner = winner_of(two)
    assert winner is steady, "the trial with the higher recall in the search was the luckier one"
    assert [one.number for one in steady.made()] == [1, 2, 0]
    values = steady.outcome()
    assert values.val_mean_recall == pytest.approx(7.0) and values.search_val_mean_recall == 7.0
    assert values.val_interval == recall_interval([6.0, 8.0, 7.0])
    assert line_of_finalist(lucky).startswith("trial_001  val mean recall  9.00 in the search,  5.00 again (")
    written = values.model_dump(mode="json")["sets"][0]
    assert written == {
        "name": "trial_002_again_0",
        "seed": steady.sets[0].seed,
        "state": "finished",
        "outer_step": 4,
        "val_mean_recall": 6.0,
        "students": [6.0],
    }


def test_a_set_that_diverged_is_in_no_mean_and_does_not_win_by_it(two: list[Finalist], study: Study) -> None:
    fragile, steady = two
    write_scores(fragile, [9.0, None, 9.0])
    write_scores(steady, [8.0, None, 8.0])
    assert winner_of(two) is fragile, "with as many failures the means decide, 9 to 8"
    write_scores(fragile, [9.0, 9.0, None])
    write_scores(steady, [1.0, 1.0, 1.0])
    assert winner_of(two) is steady, "a point whose bad seeds failed has a mean of the good ones"
    write_scores(fragile, [9.0, None, 9.0])
    write_scores(steady, [7.0, 7.0, 7.0])
    assert winner_of(two) is steady
    assert len(fragile.made()) == 2 and line_of_finalist(fragile).endswith("9.00 again (2 sets, 1 of 3 failed)")
    values = fragile.outcome()
    assert values.val_mean_recall == 9.0 and values.num_failed == 1, "the failed set is counted apart"
    assert values.val_interval is None, "two sets are too few for an interval"
    for finalist in two:
        write_scores(finalist, [None, None, None])
    assert winner_of(two) is None
    message = str(_none_again(study, two))
    assert message.count("diverged") == 6 and "search.num_finalists=4" in message


def test_the_interval_is_over_sets_with_their_students_inside() -> None:
    """All students of three sets are three values: in one pot their interval would shrink to nothing."""
    sets = [[10.0] * 50, [14.0] * 50, [12.0] * 50]
    assert nested_interval(sets) == recall_interval([10.0, 14.0, 12.0])
    assert nested_interval(sets[:2]) is None, "two values are too few"
    assert nested_interval([[10.0, 12.0, 14.0]]) == recall_interval([10.0, 12.0, 14.0])


def test_nested_intervals_have_their_coverage() -> None:
    """Of 2,000 draws of 3 sets × 4 students, 95 % have the true mean inside; over all students far fewer."""
    generator = np.random.default_rng(0)
    draws = 20 + generator.normal(size=(2000, 3, 1)) + 0.5 * generator.normal(size=(2000, 3, 4))
    nested = [ends for draw in draws if (ends := nested_interval(draw.tolist()))]
    pooled = [recall_interval(draw.ravel().tolist()) for draw in draws]
    assert np.mean([low < 20 < high for low, high in nested]) == pytest.approx(0.95, abs=0.015)
    assert np.mean([low < 20 < high for low, high in pooled]) < 0.8


def test_the_end_of_a_sweep_states_the_basis_of_its_result(two: list[Finalist]) -> None:
    write_scores(two[0], [4.0, 5.0, None])
    write_scores(two[1], [6.0, 8.0, 7.0])
    tested: dict[str, Any] = {
        "mean_recall": 6.5,
        "interval": [5.0, 8.0],
        "interval_over": "sets",
        "num_sets": 3,
        "num_students": 5,
    }
    tested |= {"random_mean_recall": 3.0, "full_data_mean_recall": 20.0, "share_of_full_data": 0.325}
    values = {
        "study": "two",
        "num_pairs": 4,
        "trials": {"finished": 2},
        "finalists": [finalist.outcome() for finalist in two],
        "best": {"trial_id": "trial_002", "config": {}, "outer_step": 1, "val_mean_recall": 7.0},
        "test": tested,
        "test_evaluations": 1,
        "protocol": "lora",
        "importance": {"a.x": 0.2, "a.lr_image": 0.5, "b": 0.1, "c": 0.2},
    }
    result = StudyOutcome.model_validate(values, strict=False)
    assert trust_of(result) == (
        "6.50 on test, 95 % interval 5.00 to 8.00 over sets, 3 sets × 5 students, protocol lora; test evaluated once"
    )
    assert "evaluated 3 times" in trust_of(result.model_copy(update={"test_evaluations": 3}))
    assert importance_line(result.importance) == "lr_image 50 %, x 20 %, c 20 %" and importance_line({}) == ""
    console = Console(file=StringIO(), width=200)
    console.print(as_terminal(finalists_table(result)))
    assert isinstance(console.file, StringIO)
    rows = [line.split() for line in console.file.getvalue().splitlines() if line.startswith("trial_")]
    assert [row[:3] for row in rows] == [["trial_002", "*", "7.00"], ["trial_001", "4.50", "too"]]
    assert rows[1][-6:] == ["2", "1", "of", "3", "failed", "9.00"], "sets, failed, in the search"


# --- one more distillation ----------------------------------------------------------------------------------------


@pytest.fixture
def job(study: Study, tiny_cache: Path, tmp_path: Path) -> TrialContext:
    return TrialContext(study, tmp_path / "trials", tiny_cache, ExpertStore(FolderStorage(tmp_path / "experts")))


@pytest.fixture
def task(study: Study, tiny_cache: Path) -> RetrievalTask:
    return load_task(study.data, study.model, ArrayCache(tiny_cache))


def in_this_process(monkeypatch: pytest.MonkeyPatch, task: RetrievalTask, note: Callable[[int], None]) -> list[str]:
    """Let jobs be done here, one after the other, and return the list in which their titles will be."""
    done: list[str] = []

    def run_work(jobs: list[Any], *_: Any, at_a_time: int) -> None:
        for one in jobs:
            done.append(one.title)
            one.do(task, note)

    monkeypatch.setattr(module, "run_work", run_work)
    monkeypatch.setattr(module, "resources_of_trials", lambda _: None)  # those of a Ray, which is not needed here
    return done


QUIET = ProgressDisplay(Console(quiet=True))


def test_an_interrupted_set_resumes_and_finished_ones_are_not_repeated(
    two: list[Finalist], job: TrialContext, task: RetrievalTask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done = in_this_process(monkeypatch, task, lambda step: None)
    rerun_finalists(two, job, QUIET)
    assert done == [f"trial_00{trial}_again_{number}" for number in range(3) for trial in (1, 2)]
    whole = {one.name: one.scores() for finalist in two for one in finalist.sets}
    assert len({json.dumps(scores.students) for scores in whole.values()}) > 1
    done.clear()
    (two[0].sets[0].checkpoint / "best").mkdir(parents=True)  # a process that was killed after its record left it
    rerun_finalists(two, job, QUIET)
    assert not done and not two[0].sets[0].checkpoint.exists()

    second = finalists_of(job.study, [finalist.trial for finalist in two], tmp_path / "second")

    def die(step: int) -> None:
        if step == 2 and len(done) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        done = in_this_process(patched, task, die)
        with pytest.raises(KeyboardInterrupt):
            rerun_finalists(second, job, QUIET)
    cut = second[1].sets[0]
    assert not cut.record.exists() and (cut.folder / "checkpoint" / "progress.json").is_file()
    done = in_this_process(monkeypatch, task, lambda step: None)
    rerun_finalists(second, job, QUIET)
    assert done == ["trial_002_again_0", *(f"trial_00{t}_again_{n}" for n in (1, 2) for t in (1, 2))]
    assert {one.name: one.scores() for finalist in second for one in finalist.sets} == whole


def test_every_set_is_scored_by_students_of_its_own(
    two: list[Finalist], job: TrialContext, task: RetrievalTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    used_seeds: list[int] = []
    evaluate = module.evaluate_pairs

    def noted(task: Any, pairs: Any, inputs: Any, settings: Any, seeds: list[int]) -> Any:
        used_seeds.extend(seeds)
        assert inputs is task.val
        return evaluate(task, pairs, inputs, settings, seeds)

    monkeypatch.setattr(module, "evaluate_pairs", noted)
    in_this_process(monkeypatch, task, lambda step: None)
    rerun_finalists(two[:1], job, QUIET)
    of_trials, of_test = student_seeds(job.study.seed, 9), student_seeds(job.study.seed, 9, StudentPurpose.TEST)
    assert len(used_seeds) == 3 * 2 and len({*used_seeds, *of_trials, *of_test}) == 6 + 18
    one = two[0].sets[0]
    assert value_at(DistilledSet.load(one.distilled_set).origin.study, "distillation", "lr_image") == 20.0
    assert one.scores().val_mean_recall == pytest.approx(sum(one.scores().students or []) / 2)


def test_a_distillation_that_diverges_again_is_entered_with_its_reason(
    two: list[Finalist], job: TrialContext, task: RetrievalTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(*_: Any) -> Any:
        raise DivergedError("distillation diverged at outer step 1", next_command="smaller rates")

    monkeypatch.setattr(module, "distill", diverge)
    in_this_process(monkeypatch, task, lambda step: None)
    rerun_finalists(two, job, QUIET)
    assert two[0].sets[0].scores() == FinalistScores(state="failed", reason="distillation diverged at outer step 1")


# --- the folder of a study ----------------------------------------------------------------------------------------


def test_how_many_finalists_may_change_until_one_is_chosen(study: Study, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "tiny")
    more = study.model_copy(update={"search": study.search.model_copy(update={"num_finalists": 5})})
    for variant in (study, more):
        with folder.opened(variant):
            pass
    folder.choice.write_text("{}")
    with pytest.raises(ConfigError, match=r"search.num_finalists: is 5 there, 2 here"), folder.opened(study):
        pass


def test_settings_that_are_new_count_with_their_defaults(study: Study, tmp_path: Path) -> None:
    """A study of an earlier release is not another one because a setting has come since."""
    folder = StudyFolder(tmp_path / "tiny")
    with folder.opened(study):
        pass
    saved = json.loads(folder.settings.read_text())
    assert saved["settings"]["experts"].pop("storage") == "float32"
    folder.settings.write_text(json.dumps(saved))
    folder.check_same(study)


def test_looks_at_test_are_counted_in_the_folder_of_the_study(study: Study, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path / "studies" / "tiny")
    with folder.opened(study):
        folder.trials.mkdir()
    assert folder.test_evaluations() == 0
    folder.test.write_text("{}")
    assert folder.test_evaluations() == 1, "of a study that was tested before looks were noted"
    for _ in range(2):
        folder.add_test_evaluation("rayvldd evaluate best --split test", 1, 5)
    assert folder.test_evaluations() == 2
    studies = tmp_path / "studies"
    for place in (folder.best, folder.finalists / "trial_000_again_1" / "distilled_set"):
        assert study_of_set(str(place), "other", studies) == folder.root
    assert study_of_set("models:/tiny@best", "tiny", studies) == folder.root
    assert study_of_set(str(tmp_path / "set"), "other", studies) is None
