"""Scores on further inputs on the page: one table and one picture for all sets."""

from rayvldd.records.set_scores import ALL_PAIRS, Conditions, FurtherScores, ProbeScore
from rayvldd.reports.page.further_scores import joined
from rayvldd.reports.page.set_drawings import further_inputs, likeness
from rayvldd.reports.tables import further_table

CONDITIONS = Conditions(measured_on=("here",), trained_with="convnet_d3", base="0")


def score_of(row: str, probe: str, mean: float, metric: str = "mean_recall", students: int = 3) -> ProbeScore:
    return ProbeScore(trained_on=row, probe=probe, metric=metric, num_students=students, mean=mean)


def robustness_of(name: str, recall: float, base: str = "0") -> FurtherScores:
    rows = [
        score_of(row, probe, mean + shift)
        for row, mean in ((name, recall), (f"{name}, stored as 8-bit PNG", recall - 1), (ALL_PAIRS, 60.0))
        for probe, shift in (("as it is", 0.0), ("JPEG 75", -2.0))
    ]
    conditions = {**dict(CONDITIONS), "base": base}
    return FurtherScores(**conditions, evaluation="robustness", title="Recall", scores=rows, notes=[f"note of {name}"])


def test_scores_of_several_evaluations_make_one_table_and_shared_rows_are_taken_once() -> None:
    (found,) = joined([robustness_of("a", 40.0), robustness_of("b", 50.0)])
    names = [str(row[0]) for row in further_table(found, full_data=ALL_PAIRS).rows]
    png = "stored as 8-bit PNG (3)"
    assert names == ["a (3)", f"a, {png}", "b (3)", f"b, {png}", f"{ALL_PAIRS} (3)"]
    assert found.notes == ["note of a", "note of b"]
    assert len(joined([robustness_of("a", 40.0), robustness_of("b", 50.0, base="1")])) == 2, "another model"


def test_the_picture_has_a_row_for_each_input_and_a_mark_for_each_set() -> None:
    zero_shot = FurtherScores(
        **dict(CONDITIONS),
        evaluation="zero_shot",
        title="Accuracy",
        about={"folder": "pictures"},
        scores=[
            score_of("a", "zero-shot", 70.0, "zero_shot_top1"),
            score_of("a", "zero-shot", 90.0, "zero_shot_top5"),
            score_of("chance", "zero-shot", 25.0, "zero_shot_top1", students=0),
        ],
    )
    drawing = further_inputs([robustness_of("a", 40.0), zero_shot], {"a": "my set"}, "further")
    assert drawing is not None
    assert [mark.words for mark in drawing.marks] == [
        "as it is, my set: 40.0",
        "JPEG 75, my set: 38.0",
        "zero-shot (pictures), my set: 70.0",
        f"as it is, {ALL_PAIRS}: 60.0",
        f"JPEG 75, {ALL_PAIRS}: 58.0",
    ]
    assert len(drawing.rows) == 7, "all numbers are in the table, also those that are not drawn"


def test_privacy_has_a_picture_of_its_own() -> None:
    rows = [
        score_of("a", "privacy", 0.74, "membership_auc_train"),
        score_of("9 pairs, random", "privacy", 1.0, "membership_auc_train"),
        score_of("a", "privacy", 0.8, "nearest_distilled_cosine", students=0),
        score_of("a", "privacy", 89.0, "start_recovered", students=0),
    ]
    privacy = FurtherScores(**dict(CONDITIONS), evaluation="privacy", title="Likeness", scores=rows)
    assert further_inputs([privacy], {"a": "a"}, "further") is None
    drawing = likeness([robustness_of("a", 40.0), privacy], {"a": "my set"}, "likeness")
    assert drawing is not None
    assert [mark.words for mark in drawing.marks] == [
        "AUC against other training pairs, my set: 0.74",
        "distilled images, nearest real image, my set: 0.80",
        "AUC against other training pairs, 9 pairs, random: 1.00",
    ]
    assert likeness([robustness_of("a", 40.0)], {"a": "my set"}, "likeness") is None
