"""The time that the students of an evaluation have left, at a clock that the tests move."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.studies import TINY_STUDY
from helpers.tasks import StudyTask, load
from rich.console import Console

from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.coresets.selection import choose_coreset
from rayvldd.evaluation.recall import RetrievalRanks
from rayvldd.hyperparameter_search import parts_left
from rayvldd.library.scoring import choose_coresets, choose_recipe_in, score_sets, students_left
from rayvldd.records.set_scores import ALL_PAIRS
from rayvldd.runtime.evaluation import StudentScores, StudentSpec
from rayvldd.workspace import Workspace

TRIED = {"lr_coreset": [0.1], "weight_decay_coreset": [0.0, 0.01], "num_test_students": 3}
STUDY = Study.model_validate({**TINY_STUDY, "evaluation": {**TINY_STUDY["evaluation"], **TRIED}})
RANKS = RetrievalRanks(np.ones(12, int), np.ones(12, int))
SECONDS = {4: 2.0, 30: 3.0}
"""Of a student, by its number of pairs."""


class Notes(ProgressDisplay):
    """Keeps the notes of each activity."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.notes: dict[str, list[str]] = {}

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        self.notes.setdefault(what, []).append(note)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    found = SimpleNamespace(now=100.0)
    timed = partial(parts_left.StudentsLeft, clock=lambda: found.now)
    monkeypatch.setattr(parts_left, "StudentsLeft", timed)
    return found


@pytest.fixture
def task(tmp_path: Path) -> StudyTask:
    found: StudyTask = load(STUDY, tmp_path / "cache")
    return found


@pytest.fixture
def trained_one_by_one(monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace) -> None:
    """Students are not trained: each takes its time of the clock, and ranks the right answer first."""

    def score(
        study: Study,
        cache: Path,
        jobs: list[StudentSpec],
        split: str,
        show: Callable[[int, int, float], None],
        trained: Callable[[StudentSpec, float | None], None],
    ) -> list[StudentScores]:
        for done, job in enumerate(jobs):
            show(done, len(jobs), done / len(jobs))
            took = SECONDS[len(job.pairs.image_index)]  # type: ignore[union-attr]
            clock.now += took
            trained(job, took)
        show(len(jobs), len(jobs), 1.0)
        return [StudentScores(RANKS, {}) for _ in jobs]

    @contextmanager
    def no_log(*_: object) -> Iterator[Callable[[object], None]]:
        yield lambda _: None

    monkeypatch.setattr("rayvldd.runtime.evaluation.score_in_parallel", score)
    monkeypatch.setattr("rayvldd.runtime.evaluation.choose_in_parallel", lambda *_: [])
    monkeypatch.setattr("rayvldd.runtime.resources.work_at_a_time", lambda _: 1)
    monkeypatch.setattr("rayvldd.library.score_log.score_log", no_log)


@pytest.mark.usefixtures("trained_one_by_one")
def test_the_time_of_all_students_is_left_from_the_first_one_on(task: StudyTask, tmp_path: Path) -> None:
    display, workspace, seeds = Notes(), Workspace(tmp_path), [1, 2, 3]
    left = students_left(STUDY, task, workspace, len(seeds), sets=[4], coresets=[4, 30], full_data=False)
    chosen = choose_coresets(STUDY, task, workspace, ["random"], [4, 30], seeds, display, left)
    jobs = {"a set": [StudentSpec(choose_coreset(task, "random", 4, seed), seed) for seed in seeds]}
    jobs |= {one.name: one.jobs(seeds) for one in chosen}
    score_sets(STUDY, task, workspace, jobs, "val", display, "rayvldd evaluate", left)

    rates, scored = display.notes["learning rates on real pairs"], display.notes["students scored on val"]
    of_rates, of_scores = 4 * 2.0 + 4 * 3.0, 6 * 2.0 + 3 * 3.0
    known = [of_rates - 4 * 2.0 - done * 3.0 + of_scores for done in (1, 2, 3, 4)]
    assert len(rates) == 9 and rates[0] == "" and rates[1] != ""
    assert rates[5:] == [f"about {seconds:.0f} s left" for seconds in known], "both sizes are known"
    assert scored[0] == f"about {of_scores:.0f} s left" and scored[6:] == [f"about {n} s left" for n in (9, 6, 3, 0)]


@pytest.mark.usefixtures("trained_one_by_one")
def test_the_time_is_that_of_the_phase_where_others_follow(task: StudyTask, tmp_path: Path) -> None:
    display, workspace = Notes(), Workspace(tmp_path)
    jobs = {"a set": [StudentSpec(choose_coreset(task, "random", 4, seed), seed) for seed in (1, 2)]}
    for number, words in ((1, " of this phase"), (2, "")):
        display.notes.clear()
        display.begin_phase(number, 2)
        left = students_left(STUDY, task, workspace, 2, sets=[4], full_data=False)
        score_sets(STUDY, task, workspace, jobs, "val", display, "rayvldd evaluate", left)
        assert display.notes["students scored on val"] == ["", f"about 2 s left{words}", f"about 0 s left{words}"]


@pytest.mark.usefixtures("trained_one_by_one")
def test_models_of_all_pairs_count_with_those_of_their_recipes(
    task: StudyTask, tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose(study: Study, cache: Path, fingerprints: object, display: Any, words: Any, trained: Any) -> str:
        display.progress("full-data bound", 0, 2, words(0.0))
        for done in (1, 2):
            clock.now += 30.0
            trained(30.0)
            display.progress("full-data bound", done, 2, words(done / 2))
        return "the choice"

    monkeypatch.setattr("rayvldd.runtime.full_data.choose_recipe", choose)
    display, workspace = Notes(), Workspace(tmp_path)
    left = students_left(STUDY, task, workspace, 3)
    assert choose_recipe_in(STUDY, task, workspace, display, left) == "the choice"
    assert display.notes["full-data bound"] == ["", "about 2 min left", "about 2 min left"]
    assert left.seconds() == 3 * 30.0, "three models by the best recipe"
    left.trained(ALL_PAIRS, None)
    assert left.seconds() == 2 * 30.0
    monkeypatch.setattr("rayvldd.runtime.full_data.has_chosen_recipe", lambda *_: True)
    left = students_left(STUDY, task, workspace, 2)
    left.trained(ALL_PAIRS, 10.0)
    assert left.seconds() == 10.0
