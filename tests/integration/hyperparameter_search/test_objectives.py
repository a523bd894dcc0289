"""The Pareto front and the choice from it."""

from pathlib import Path
from typing import Any

import pytest
from helpers.searches import evaluated, with_search
from hypothesis import given
from hypothesis import strategies as st

from rayvldd.config.study import Study
from rayvldd.errors import RayvlddError
from rayvldd.hyperparameter_search.objectives import (
    line_of_front,
    nothing_allowed,
    pareto_front,
    ranked,
    row_of_front,
    values_of_trial,
)
from rayvldd.records.trial import Trial
from rayvldd.reports.page import search_drawings

PAIRS = {"distillation.num_pairs": {"type": "int", "low": 2, "high": 40}}
BOTH = ["val_mean_recall", "num_pairs"]


def study_for(tiny_study: Study, **search: Any) -> Study:
    return with_search(tiny_study, **{"space": PAIRS, "objectives": BOTH, "scheduler": "none", **search})


def trial_of(number: int, recall: float, pairs: int, seconds: float = 1.0, state: Any = "finished") -> Trial:
    evaluations = [evaluated(2, recall, seconds_matching=seconds, seconds_evaluating=0.5)]
    point: dict[str, Any] = {"distillation.num_pairs": pairs}
    return Trial(f"trial_{number:03d}", number, 1, point, Path(), state, evaluations=evaluations)


TRIALS = [
    trial_of(0, 20.0, 40),
    trial_of(1, 15.0, 10),
    trial_of(2, 14.0, 12),
    trial_of(3, 15.0, 10),
    trial_of(4, 18.0, 30),
    trial_of(5, 99.0, 2, state="failed"),
    trial_of(6, 2.0, 2),
]


def names(trials: list[Trial]) -> list[int]:
    return [trial.number for trial in trials]


def test_the_front_has_the_trials_that_are_not_dominated(tiny_study: Study) -> None:
    study = study_for(tiny_study)
    assert names(pareto_front(TRIALS, study)) == [0, 4, 1, 6], "2 is beaten by 1, 3 is equal to it, 5 has failed"
    assert names(pareto_front([], study)) == []
    one = study_for(tiny_study, objectives=["val_mean_recall"])
    assert names(pareto_front(TRIALS, one)) == [0]
    assert row_of_front(TRIALS[1], study).model_dump() == {
        "trial_id": "trial_001",
        "config": {"distillation.num_pairs": 10},
        "val_mean_recall": 15.0,
        "num_pairs": 10.0,
    }


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(2, 6), st.integers(0, 4)), min_size=1, max_size=12))
def test_the_front_of_three_objectives_is_its_definition(points: list[tuple[int, int, int]]) -> None:
    from helpers.studies import TINY_STUDY

    study = study_for(Study.model_validate(TINY_STUDY), objectives=[*BOTH, "seconds"])
    trials = [trial_of(i, float(recall), pairs, float(seconds)) for i, (recall, pairs, seconds) in enumerate(points)]
    heights = [(recall, -pairs, -seconds) for recall, pairs, seconds in points]

    def beaten(i: int) -> bool:
        others = [(j, h) for j, h in enumerate(heights) if all(a >= b for a, b in zip(h, heights[i], strict=True))]
        return any(h != heights[i] or j < i for j, h in others if j != i)

    assert sorted(names(pareto_front(trials, study))) == [i for i in range(len(points)) if not beaten(i)]


def test_seconds_are_those_until_the_best_set(tiny_study: Study) -> None:
    study = study_for(tiny_study, objectives=["val_mean_recall", "seconds"])
    trial = trial_of(0, 9.0, 10, seconds=4.0)
    trial.evaluations.append(evaluated(4, 8.0, seconds_matching=50.0))
    assert values_of_trial(trial, study) == {"val_mean_recall": 9.0, "seconds": 4.5}
    assert line_of_front(trial, study) == "trial_000: val_mean_recall 9, seconds 4.5"


def test_the_plot_has_the_front_of_the_study(tiny_study: Study) -> None:
    study = study_for(tiny_study, objectives=["val_mean_recall", "seconds"])
    late, early = trial_of(0, 9.0, 10, seconds=4.0), trial_of(1, 8.0, 10, seconds=5.0)
    late.evaluations.append(evaluated(4, 8.5, seconds_matching=50.0))  # the trial takes longer than the other one
    assert names(pareto_front([late, early], study)) == [0]
    assert [(row[0], row[2], row[-1]) for row in search_drawings.pareto_front([late, early], "trial_000").rows] == [
        ("trial_000", 4.5, "yes"),
        ("trial_001", 5.5, "no"),
    ]


@pytest.mark.parametrize(
    ("choose", "expected"),
    [
        ({}, [0, 4, 1, 6]),
        ({"by": "num_pairs"}, [6, 1, 4, 0]),
        ({"at_most": {"num_pairs": 30}}, [4, 1, 6]),
        ({"by": "num_pairs", "at_least": {"val_mean_recall": 16}}, [4, 0]),
        ({"at_most": {"num_pairs": 9}, "at_least": {"val_mean_recall": 3}}, []),
    ],
)
def test_a_set_is_chosen_from_the_front(choose: dict[str, Any], expected: list[int], tiny_study: Study) -> None:
    study = study_for(tiny_study, choose=choose)
    assert names(ranked(TRIALS, study)) == expected
    error = nothing_allowed(TRIALS, study)
    assert isinstance(error, RayvlddError) and "trial_004: val_mean_recall 18, num_pairs 30" in str(error)
    assert "search.choose" in error.next_command


def test_with_one_objective_all_are_ranked_by_recall(tiny_study: Study) -> None:
    assert names(ranked(TRIALS, study_for(tiny_study, objectives=["val_mean_recall"]))) == [0, 4, 1, 3, 2, 6]
