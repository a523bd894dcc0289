"""Recall against the number of pairs: points that are valid for each number, and rows in their order."""

from typing import Any

import pytest

from rayvldd.config.setting import setting_at
from rayvldd.config.study import Study
from rayvldd.errors import ConfigError
from rayvldd.library.scaling import at_pairs, by_pairs
from rayvldd.records.set_scores import EvaluatedBound, EvaluatedCoreset, EvaluatedSet
from rayvldd.reports.table import Estimate
from rayvldd.reports.tables import scaling_table

ROW: dict[str, Any] = {
    "num_students": 3,
    "interval": {"mean_recall": None},
    "measured_on": ("data",),
    "trained_with": "convnet_d3",
    "base": "b",
    "image_encoder": "convnet_d3",
    "fingerprints": {},
}


def values(recall: float) -> dict[str, Any]:
    return {**ROW, "mean": {"mean_recall": recall}, "share_of_full_data": recall / 50}


def test_points_are_in_order_and_a_batch_is_no_larger_than_the_set(tiny_study: Study) -> None:
    point = tiny_study.at({"distillation.num_pairs": 6, "distillation.trajectory_matching.batch_size": 5})
    points = at_pairs(point, [12, 4, 12])
    assert list(points) == [4, 12]
    assert [one.distillation.num_pairs for one in points.values()] == [4, 12]
    key = "distillation.trajectory_matching.batch_size"
    batches = [setting_at(one.model_dump(mode="json"), key) for one in points.values()]
    assert batches == [None, 5]
    with pytest.raises(ConfigError, match=r"--pairs 1: .*num_pairs"):
        at_pairs(point, [1])


def test_a_table_has_a_row_for_each_number_and_marks_the_best() -> None:
    sets = [
        EvaluatedSet(distilled_set=f"set {number}", num_pairs=number, made_with="convnet_d3", **values(recall))
        for number, recall in ((20, 30.0), (10, 20.0))
    ]
    coresets = [
        EvaluatedCoreset(coreset=f"{number} pairs, {method}", method=method, num_pairs=number, **values(recall))
        for method, number, recall in (("random", 10, 15.0), ("random", 20, 32.0), ("k_means", 20, 31.0))
    ]
    rows = by_pairs(sets, coresets)
    assert {number: list(by_name) for number, by_name in rows.items()} == {
        10: ["distilled", "random"],
        20: ["distilled", "random", "k_means"],
    }
    table = scaling_table(rows, [EvaluatedBound(**values(50.0))], "Recall")
    assert [column.title for column in table.columns] == ["pairs", "distilled", "random", "k_means"]
    first, second, bound = table.rows
    assert first == ["10", Estimate(20.0, None, 0.4, True), Estimate(15.0, None, 0.3, False), None]
    assert second[2] == Estimate(32.0, None, 0.64, True) and second[1] == Estimate(30.0, None, 0.6, False)
    assert bound[:2] == ["all pairs", Estimate(50.0, None)]
