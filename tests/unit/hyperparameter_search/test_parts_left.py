"""The time that is left of a distillation, of the parts of a test and of students, at a clock that the tests move."""

from itertools import cycle, pairwise

import pytest
from helpers.studies import TINY_STUDY

from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.parts_left import (
    DistillationLeft,
    PartsLeft,
    StudentsLeft,
    words_of_time_left,
    work_of_training,
)
from rayvldd.runtime.evaluation import StudentSpec, share_of_work


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def study_of(outer_steps: int, evaluate_every: int, **evaluation: object) -> Study:
    distillation = {**TINY_STUDY["distillation"], "outer_steps": outer_steps, "evaluate_every": evaluate_every}
    return Study.model_validate(
        {**TINY_STUDY, "distillation": distillation, "evaluation": {**TINY_STUDY["evaluation"], **evaluation}}
    )


@pytest.mark.parametrize("evaluation_s", [0.1, 40.0])
def test_a_distillation_is_known_within_a_factor_of_two_from_its_second_step_on(evaluation_s: float) -> None:
    clock, steps, every = Clock(), 90, 20
    left, known, evaluating = DistillationLeft(study_of(steps, every), clock), list[tuple[float, float]](), 0.0
    for step in range(steps + 1):
        if step:
            clock.now += 30.0 if step == 1 else 2.0  # the first one compiles
            left.stepped()
            if (seconds := left.seconds(step)) is not None:
                known.append((clock.now, seconds))
        else:
            assert left.seconds(0) is None
        if step % every == 0 or step == steps:
            clock.now += evaluation_s
            evaluating += evaluation_s
            left.evaluated(step, evaluating)
    assert len(known) == steps - 1, "all but the first step"
    for now, seconds in known:
        assert seconds == pytest.approx(clock.now - now, rel=0.05, abs=1.5)
    assert all(after < before for (_, before), (_, after) in pairwise(known)), "it never counts up"


def test_a_distillation_that_goes_on_is_timed_from_this_process_on() -> None:
    clock = Clock()
    left = DistillationLeft(study_of(40, 20), clock)
    for _ in range(3):
        clock.now += 3.0
        left.stepped()
    assert left.seconds(23) == pytest.approx(17 * 3.0), "no evaluation was timed so far"


@pytest.mark.parametrize("total_s", [90.0 + 5.0, 5.0], ids=["goes_on", "began_again"])
def test_evaluations_of_an_earlier_process_do_not_count_as_one_of_this_process(total_s: float) -> None:
    clock = Clock()
    left = DistillationLeft(study_of(60, 20), clock, evaluated_s=90.0)
    for _ in range(20):
        clock.now += 3.0
        left.stepped()
    clock.now += 5.0
    left.evaluated(40, total_s)
    clock.now += 3.0
    left.stepped()
    assert left.seconds(41) == pytest.approx(19 * 3.0 + 5.0), "one evaluation of 5 s follows"


@pytest.mark.parametrize("slower", [0.5, 1.0, 1.9])
def test_parts_are_known_within_a_factor_of_two_from_the_search_on(slower: float) -> None:
    works = {"recipes": 30.0, "rates": 8.0, "students": 40.0}
    clock = Clock()
    left, end = PartsLeft(works, 2.0 * sum(works.values()), clock), clock.now + 2.0 * slower * sum(works.values())
    last = float("inf")
    for part, work in works.items():
        for tenth in range(10):
            seconds = left.seconds(part, tenth / 10)
            assert seconds is not None and (end - clock.now) / 2 <= seconds <= (end - clock.now) * 2.001
            if slower == 1.0:
                assert seconds <= last
                last = seconds
            clock.now += 2.0 * slower * work / 10
    assert left.seconds("students", 1.0) == 0.0


def test_without_an_expectation_the_first_progress_is_the_first_estimate() -> None:
    clock = Clock()
    left = PartsLeft({"one": 0.0, "two": 10.0}, 0.0, clock)
    assert left.words("one", 0.0) == left.words("two", 0.0) == words_of_time_left(None) == ""
    clock.now += 30.0
    assert left.seconds("two", 0.25) == pytest.approx(90.0)
    assert left.words("two", 0.25) == "about 2 min left"


def test_what_takes_longer_than_expected_is_not_said_to_be_done() -> None:
    clock = Clock()
    left = PartsLeft({"one": 10.0}, 20.0, clock)
    clock.now += 40.0
    assert left.seconds("one", 0.0) == 20.0


def test_the_share_of_work_counts_long_jobs_as_what_they_are() -> None:
    from rayvldd.evaluation.full_data import recipes_of
    from rayvldd.records.full_data import FullDataChoice, TriedRecipe

    recipe = recipes_of(Study.model_validate(TINY_STUDY).evaluation)[0].model_copy(update={"epochs": 4})
    choice = FullDataChoice(key="key", tried=(TriedRecipe(recipe=recipe, val_mean_recall=1.0),))
    short = StudentSpec(choice, 0, work=1.0)
    jobs = [StudentSpec(choice, 0, work=16.0), short, short, short, short]
    assert share_of_work(jobs, 0, {}) == 0.0
    assert share_of_work(jobs, 1, {0: 2, 2: 0}) == pytest.approx((8 + 1) / 20), "the second job ended first"
    assert share_of_work(jobs, 5, {}) == 1.0


def trained_in_order(
    counts: dict[str, int], seconds: dict[str, list[float]], workers: int, *, start_s: float, first_s: float
) -> list[tuple[float, str, float]]:
    """Time, kind and seconds of each student that ends, if processes take a while to start, and then at their first."""
    drawn = {kind: cycle(seconds[kind]) for kind in counts}
    free_at, ends = [start_s] * workers, list[tuple[float, str, float]]()
    for place, kind in enumerate(kind for kind, count in counts.items() for _ in range(count)):
        took = next(drawn[kind]) + (first_s if place < workers else 0.0)
        free_at.sort()
        free_at[0] += took
        ends.append((free_at[0], kind, took))
    return sorted(ends)


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("first_s", [0.0, 60.0])
@pytest.mark.parametrize("counts", [{"100 pairs": 40}, {"all pairs": 3, "100 pairs": 40, "20 pairs": 40}], ids=str)
def test_students_are_known_within_a_factor_of_two_from_the_first_of_each_kind_on(
    workers: int, first_s: float, counts: dict[str, int]
) -> None:
    seconds = {"all pairs": [90.0, 110.0], "100 pairs": [5.0, 7.0, 6.0], "20 pairs": [2.0, 3.0]}
    clock = Clock()
    left = StudentsLeft({"all pairs": 400.0, "100 pairs": 160.0, "20 pairs": 80.0}, workers, clock)
    for kind, count in counts.items():
        left.expect(kind, count)
    ends = trained_in_order(counts, seconds, workers, start_s=50.0, first_s=first_s)
    began, last = clock.now, ends[-1][0]
    left.begin()
    clock.now = began + 40.0
    assert left.seconds() is None and left.words() == "", "processes start"
    known = set[str]()
    for place, (end, kind, took) in enumerate(ends):
        clock.now = began + end
        left.trained(kind, took)
        known.add(kind)
        if known == set(counts) and (first_s == 0 or place >= 2 * workers):
            estimate, longest = left.seconds(), max(took for _, _, took in ends[place:])
            assert estimate is not None and (last - end) / 2 - longest <= estimate <= 2 * (last - end) + longest
    assert left.seconds() == 0.0


def test_a_student_of_a_new_kind_takes_as_long_as_its_work_lets_expect() -> None:
    clock = Clock()
    left = StudentsLeft({"all pairs": 1000.0, "100 pairs": 160.0, "20 pairs": 80.0}, 1, clock)
    left.expect("all pairs", 1)
    left.expect("100 pairs", 3)
    left.expect("20 pairs", 2)
    left.trained("100 pairs", 4.0)
    assert left.seconds() == pytest.approx(25.0 + 2 * 4.0 + 2 * 2.0)
    assert left.words() == "about 37 s left"
    left.trained("all pairs", None)
    assert left.seconds() == pytest.approx(2 * 4.0 + 2 * 2.0), "its scores were cached"
    clock.now += 5.0
    assert left.seconds() == pytest.approx(7.0)
    clock.now += 10.0
    assert left.seconds() == pytest.approx(1.5), "slower than expected"
    left.begin()
    assert left.seconds() == pytest.approx(12.0), "none was trained in the meantime"


def test_the_load_of_the_machine_counts_as_it_is_lately() -> None:
    clock = Clock()
    left = StudentsLeft({"100 pairs": 160.0}, 2, clock)
    left.expect("100 pairs", 40)
    for seconds in [2.0] * 20 + [5.0] * 4:
        left.trained("100 pairs", seconds)
    assert left.seconds() == pytest.approx(16 / 2 * 5.0), "four of the seven latest"


def test_a_step_on_few_pairs_is_nearly_as_much_work_as_one_on_many() -> None:
    assert work_of_training(100, 100, 2) == 2 * (100 + 60)
    assert work_of_training(10, 100, 2) == 2 * (10 + 60)
    assert work_of_training(250, 100, 1) == 250 + 3 * 60
