"""Differences of mean recall in words, in a table and on the page."""

from typing import Any

import pytest

from rayvldd.records.difference import Difference
from rayvldd.records.set_scores import SetDifference, SetScores
from rayvldd.reports.differences import differences_table, sentence_of_difference
from rayvldd.reports.page.baselines import comparable_sets, verdict_over_sizes, verdicts
from rayvldd.reports.renderers import as_csv

KNOWN = {"distilled_set": "one", "coreset": "20 pairs, random", "trained_with": "tiny"}


@pytest.mark.parametrize(
    ("mean", "interval", "expected"),
    [
        (6.1, (0.5, 11.7), "a are better than b: +6.1 points (95 % interval 0.5 to 11.7) of mean recall"),
        (2.3, (-0.034, 4.7), "a are not shown to be better or worse than b: +2.3 points (95 % interval -0.03 to 4.7)"),
        (0.0, (0.0, 0.0), "a are not shown to be better or worse than b: +0.0 points (95 % interval 0.0 to 0.0)"),
        (6.1, (-0.5, 12.7), "a are not shown to be better or worse than b: +6.1 points"),
        (-6.1, (-9.0, -3.2), "a are worse than b: -6.1 points (95 % interval -9.0 to -3.2)"),
        (6.1, None, "a and b: +6.1 points of mean recall on the same test images; fewer than three sets or students"),
    ],
)
def test_a_sentence_says_whether_a_set_is_better(
    mean: float, interval: tuple[float, float] | None, expected: str
) -> None:
    assert sentence_of_difference("a", "b", Difference(mean=mean, interval=interval), "test").startswith(expected)


def test_the_table_has_a_row_for_every_pair_and_marks_the_better_ones() -> None:
    rows = [
        SetDifference(**KNOWN, mean=6.1, interval=(0.5, 11.7)),
        SetDifference(**KNOWN, mean=6.1, interval=(-0.5, 12.7)),
        SetDifference(**KNOWN, mean=-6.1, interval=None),
    ]
    table = differences_table(rows, "Differences")
    assert table.column("it is") == ["better", "not shown", "not shown"]
    assert table.column("95 % interval") == ["0.5 to 11.7", "-0.5 to 12.7", "too few to say"]
    assert table.best == {0} and "one" in as_csv(table)


def evaluation(*differences: SetDifference, num_pairs: int = 20, r1_of_coreset: float = 12.0) -> SetScores:
    measured: dict[str, Any] = {"measured_on": ["own"], "trained_with": "tiny", "base": "b", "image_encoder": "tiny"}
    measured |= {"fingerprints": {"data": "f"}, "num_students": 5, "num_pairs": num_pairs}
    recalls: list[dict[str, Any]] = [
        {"mean": {"mean_recall": mean}, "interval": {"mean_recall": [mean - 3, mean + 3]}} for mean in (20, 16)
    ]
    recalls[1]["mean"]["image_to_text_r1"] = r1_of_coreset
    values = {
        "command": "rayvldd evaluate one",
        "split": "test",
        "sets": [{**measured, **recalls[0], "distilled_set": "one", "made_with": "tiny"}],
        "coresets": [{**measured, **recalls[1], "coreset": "20 pairs, random", "method": "random"}],
        "full_data": [],
        "differences": list(differences),
    }
    return SetScores.model_validate(values, strict=False)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((0.5, 7.5), "is better: +4.0 points (95 % interval 0.5 to 7.5) on the same images."),
        ((-0.5, 8.5), "is ahead, but not shown to be better: +4.0 points (95 % interval -0.5 to 8.5)"),
    ],
)
def test_the_page_uses_the_difference_on_the_same_images(interval: tuple[float, float], expected: str) -> None:
    (group,) = comparable_sets([], evaluations=[evaluation(SetDifference(**KNOWN, mean=4.0, interval=interval))])
    (sentence,) = verdicts(group.points)
    assert expected in sentence
    (without,) = comparable_sets([], evaluations=[evaluation()])
    assert "is ahead, but the intervals overlap" in verdicts(without.points)[0]


def test_the_difference_of_another_encoder_is_not_used() -> None:
    other = SetDifference(**KNOWN | {"trained_with": "other"}, mean=4.0, interval=(0.5, 7.5))
    (group,) = comparable_sets([], evaluations=[evaluation(other)])
    assert "the intervals overlap" in verdicts(group.points)[0]


def test_over_several_numbers_of_pairs_the_basis_is_named() -> None:
    known = SetDifference(**KNOWN, mean=4.0, interval=(0.5, 7.5))
    (group,) = comparable_sets([], evaluations=[evaluation(known), evaluation(known, num_pairs=40)])
    assert verdict_over_sizes(group.points) == (
        "At every number of pairs (20 and 40) the distilled set is better than the best real pairs: the interval of "
        "the difference on the same images is above 0."
    )


def test_other_real_pairs_with_the_same_mean_recall_have_no_difference() -> None:
    known = SetDifference(**KNOWN, mean=4.0, interval=(0.5, 7.5))
    others = evaluation(r1_of_coreset=11.0)
    (group,) = comparable_sets([], evaluations=[others, evaluation(known)])
    assert [point.recall for point in group.points if point.kind == "random"] == ["16.0 (13.0 to 19.0)"] * 2
    sentences = verdicts(group.points)
    assert not any("on the same images" in sentence for sentence in sentences), sentences
    (group,) = comparable_sets([], evaluations=[evaluation(known), others])
    assert "is better: +4.0 points" in verdicts(group.points)[0]


def test_evaluations_with_other_settings_have_names_of_their_own() -> None:
    """A set that was evaluated twice is told apart by the settings that its card has otherwise."""
    plain, changed = evaluation(), evaluation()
    row = changed.sets[0].model_copy(update={"changed": {"evaluation.epochs": 50}, "mean": {"mean_recall": 21.0}})
    longer = changed.model_copy(update={"sets": [row]})
    (group,) = comparable_sets([], evaluations=[plain, longer])
    assert [point.name for point in group.points if point.kind == "distilled"] == ["one, evaluation.epochs=50", "one"]
