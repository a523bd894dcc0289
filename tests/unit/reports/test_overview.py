"""The top of the page, what differs between studies, and the table of a Pareto front."""

from pathlib import Path
from typing import Any

import pytest

from rayvldd.config.study import ChooseSettings
from rayvldd.records.difference import Difference
from rayvldd.records.set_scores import CoresetScores
from rayvldd.records.study_outcome import ChosenTrial, FinalistOutcome, FrontRow, Made, ScoresOnTest, StudyOutcome
from rayvldd.reports.page.baselines import comparable_sets
from rayvldd.reports.page.data_tables import front_of, studies_table
from rayvldd.reports.page.overview import overview_of, settings_that_differ
from rayvldd.reports.page.study_report import StudyReport
from rayvldd.reports.table import Estimate
from rayvldd.reports.tables import front_table, trust_of

LR = "distillation.lr_image"


def report(name: str = "one", settings: Any = None, **changes: Any) -> StudyReport:
    """A finished study; ``changes`` are of its outcome."""
    tested = ScoresOnTest(
        mean_recall=57.1,
        interval=changes.pop("interval", (56.3, 58.0)),
        num_students=5,
        random_mean_recall=14.8,
        over_random=Difference(mean=42.3, interval=(41.0, 43.6)),
        full_data_mean_recall=73.4,
        share_of_full_data=0.778,
    )
    best = ChosenTrial(trial_id="trial_001", config={LR: 3.0}, outer_step=4, val_mean_recall=50.0)
    values: dict[str, Any] = {"trials": {"finished": 6, "failed": 2}, "seconds": {"total": 195.0}} | changes
    outcome = StudyOutcome(**{"study": name, "num_pairs": 100, "best": best, "test": tested, **values})
    return StudyReport(name, Path(name), outcome, settings or {"data": {"num_train": 1600}})


def test_the_overview_has_the_result_and_where_it_comes_from() -> None:
    made = Made(machine="2 CPUs", date="2026-01-31", code="rayvldd 0.2.0, commit 0123456")
    overview = overview_of([StudyReport("running", Path()), report(made=made)])
    assert overview is not None
    assert (overview.headline, overview.interval) == ("57.1 %", "95 % interval 56.3 to 58.0")
    assert dict(overview.facts) == {
        "share of the full data": "78 % of 73.4",
        "as many random pairs": "14.8 %",
        "over random pairs": "+42.3 points (95 % interval 41.0 to 43.6)",
        "pairs": "100 of 1,600",
        "trials": "8 (2 failed)",
        "time": "3 min",
        "machine": "2 CPUs",
        "date": "2026-01-31",
        "code": "rayvldd 0.2.0, commit 0123456",
    }
    assert overview_of([StudyReport("running", Path())]) is None


def test_pairs_stand_beside_the_number_of_training_images() -> None:
    photos = {"data": {"source": "folder", "root": "/photos"}}

    def pairs(**changes: Any) -> str:
        overview = overview_of([report(**changes)])
        assert overview is not None
        return dict(overview.facts)["pairs"]

    assert pairs(settings=photos, num_train_images=4000) == "100 of 4,000"
    assert pairs(settings=photos) == "100", "not recorded by an earlier release"
    assert pairs(num_train_images=1200) == "100 of 1,200", "without the images that were left out"


def test_too_few_values_have_no_interval() -> None:
    overview = overview_of([report(interval=None)])
    assert overview is not None and overview.interval == "95 % interval: too few to say"
    table = studies_table([report(interval=None)])
    assert table.column("test") == [Estimate(57.1, None)]
    assert table.column("sets × students") == ["1 × 5, interval: too few to say"]


def test_failed_sets_of_finalists_are_counted_apart() -> None:
    sets = [
        {"name": "a", "seed": 1, "state": "failed", "reason": "diverged"},
        {"name": "b", "seed": 2, "state": "finished", "val_mean_recall": 50.0},
    ]
    finalist = FinalistOutcome.model_validate(
        {
            "trial_id": "trial_001",
            "config": {},
            "search_val_mean_recall": 50.0,
            "val_mean_recall": 50.0,
            "val_interval": None,
            "sets": sets,
        }
    )
    assert studies_table([report(finalists=[finalist])]).column("sets × students") == ["1 × 5, 1 of 2 failed"]
    overview = overview_of([report(finalists=[finalist])])
    assert overview is not None and dict(overview.facts)["distillations with new seeds"] == "1 of 2 failed"
    assert "5 students, 1 of 2 failed, protocol" in trust_of(outcome_with(finalist))
    other = finalist.model_copy(update={"trial_id": "trial_009"})
    assert studies_table([report(finalists=[other])]).column("sets × students") == ["1 × 5"], "of another point"


def outcome_with(finalist: FinalistOutcome) -> StudyOutcome:
    found = report(finalists=[finalist]).result
    assert found is not None
    return found


def test_a_set_that_is_its_starting_pairs_is_named_at_first_look() -> None:
    start = ChosenTrial(trial_id="trial_001", config={LR: 3.0}, outer_step=0, val_mean_recall=50.0)
    improved = start.model_copy(update={"outer_step": 1})
    for best, warning in ((improved, ""), (start, "the set is its starting pairs")):
        overview = overview_of([report(best=best)])
        assert overview is not None and overview.warning == warning
    table = studies_table([report("flat", best=start), report("better"), StudyReport("running", Path())])
    assert table.column("note") == ["the set is its starting pairs", "", ""]
    assert table.column("pairs") == [100, 100, None]
    assert "note" not in studies_table([report("better")]).headings


def test_only_settings_that_differ_are_listed() -> None:
    def settings(rate: Any, pairs: int, **more: Any) -> dict[str, Any]:
        space = {LR: rate, "model.kind": {"type": "choice", "values": ["a", "b"]}}
        return {
            "name": f"of {pairs}",
            "seed": 0,
            "distillation": {"num_pairs": pairs, **more},
            "search": {"space": space},
        }

    log = {"type": "float", "low": 1, "high": 100, "log": True}
    table = settings_that_differ(
        [report("one", settings(log, 100)), report("two", settings({**log, "log": False}, 200, ema=0.9))]
    )
    assert table is not None and table.headings == ("setting", "one", "two")
    assert {row[0]: tuple(row[1:]) for row in table.rows} == {
        "distillation.num_pairs": ("100", "200"),
        "distillation.ema": (None, "0.9"),
        f"search.space.{LR}": ("1 to 100, log", "1 to 100"),
    }
    assert settings_that_differ([report()]) is None
    same = settings_that_differ([report("one"), report("two")])
    assert same is not None and same.rows == []


def test_the_front_lists_its_members_and_marks_the_chosen_one() -> None:
    rows = [
        {"trial_id": f"trial_00{n}", "config": {LR: 1.0 + n}, "val_mean_recall": 40.0 + n, "num_pairs": 10.0 * n}
        for n in (0, 1)
    ]
    table = front_of(report(front=[FrontRow.model_validate(row) for row in rows]))
    assert table is not None
    assert table.headings == ("trial", "val_mean_recall", "num_pairs", "lr_image")
    assert table.rows == [["trial_000", 40.0, 0.0, 1.0], ["trial_001", 41.0, 10.0, 2.0]]
    assert table.best == {1}
    assert front_of(report()) is None


@pytest.mark.parametrize(
    ("choose", "words"),
    [
        ({}, "highest val_mean_recall"),
        ({"at_most": {"num_pairs": 200, "seconds": 60.5}}, "num_pairs at most 200 and seconds at most 60.5"),
        (
            {"by": "num_pairs", "at_least": {"val_mean_recall": 20}},
            "lowest num_pairs among those with val_mean_recall at least 20",
        ),
    ],
)
def test_the_front_says_by_what_rule_one_was_chosen(choose: dict[str, Any], words: str) -> None:
    row = {"trial_id": "trial_000", "config": {LR: 1.0}, "val_mean_recall": 40.0, "num_pairs": 10.0}
    result = report(front=[FrontRow.model_validate(row)]).result
    assert result is not None
    table = front_table(result, ChooseSettings.model_validate(choose))
    assert table is not None and table.caption.startswith("Pareto front") and words in table.caption


@pytest.mark.parametrize("trials", [{"finished": 3}, {"finished": 2, "stopped": 1}])
def test_trials_that_ended_early_are_named(trials: dict[str, int]) -> None:
    overview = overview_of([report(trials=trials)])
    assert overview is not None
    assert dict(overview.facts)["trials"] == ("3" if len(trials) == 1 else "3 (1 stopped)")


def test_real_pairs_that_were_scored_with_other_settings_name_them() -> None:
    """As of `rayvldd coreset STUDY --set evaluation.epochs=200`: they stand beside the study, but not as its own."""
    study = report("one", settings={"data": {"num_train": 1600}, "evaluation": {"epochs": 100}})
    row = {"method": "herding", "num_pairs": 100, "num_students": 3, "mean": {"mean_recall": 9.0}, "interval": {}}

    def names(**settings: Any) -> set[str]:
        values = {"study": "one", "split": "test", "settings": settings, "coresets": [row]}
        (group,) = comparable_sets([study], [CoresetScores.model_validate(values, strict=False)])
        return {point.name for point in group.points if point.kind == "herding"}

    own = {"data.num_train": 1600, "evaluation.epochs": 100, "evaluation.new": 1}
    assert names(**own) == names() == {"one"}
    assert names(**own | {"evaluation.epochs": 200}) == {"one, evaluation.epochs=200"}
