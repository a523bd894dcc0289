"""Further evaluations: recall on other data, faults before any work, and the table of their scores."""

from pathlib import Path

import pytest
from helpers.studies import TINY_STUDY
from helpers.tasks import load

from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.data.array_cache import ArrayCache
from rayvldd.evaluation.scoring import ranks, score
from rayvldd.library.further import AS_IS, FurtherEvaluations, errors_of_further
from rayvldd.records.set_scores import ALL_PAIRS, Conditions, FurtherScores, ProbeScore
from rayvldd.reports.table import Estimate
from rayvldd.reports.tables import further_table
from rayvldd.runtime.evaluation import StudentScores

CONDITIONS = Conditions(measured_on=("here",), trained_with="convnet_d3", base="0")


def test_recall_on_other_data_is_that_of_their_split(tiny_study: Study, tiny_cache: Path) -> None:
    other = tiny_study.at({"data.seed": 5, "data.num_val": 9})
    task, expected = load(tiny_study, tiny_cache), load(other, tiny_cache)
    with ProgressDisplay() as display:
        (found,) = FurtherEvaluations(on=other).prepared(task, "val", ArrayCache(tiny_cache), display)
    student = task.model.initial_parameters(2)
    (probe,) = found.probes
    assert probe(task, student) == pytest.approx(score(expected, student, expected.val).as_dict())
    assert "9 val images of tiny" in found.title
    probed = {probe.name: dict.fromkeys(probe(task, student), 10.0)}
    scores = found.scores(CONDITIONS, {"a set": [StudentScores(ranks(task, student, task.val), probed)] * 3})
    assert {(row.metric, row.mean, row.num_students) for row in scores.scores} >= {("mean_recall", 10.0, 3)}


def test_robustness_is_a_table_of_mean_recalls(tiny_study: Study, tiny_cache: Path) -> None:
    task = load(tiny_study, tiny_cache)
    with ProgressDisplay() as display:
        (found,) = FurtherEvaluations(robustness=True).prepared(task, "val", ArrayCache(tiny_cache), display)
    student = task.model.initial_parameters(2)
    probed = {probe.name: probe(task, student) for probe in found.probes}
    scores = found.scores(CONDITIONS, {"a set": [StudentScores(ranks(task, student, task.val), probed)]})
    assert further_table(scores).headings == ("trained on", AS_IS, "JPEG 75", "4 bits", "noise 0.01")
    assert scores.scores[0].mean == pytest.approx(score(task, student, task.val).mean_recall)


def test_a_study_of_another_size_and_a_template_without_class_are_refused() -> None:
    study = Study.model_validate(TINY_STUDY)
    further = FurtherEvaluations(on=study.at({"data.image_size": 32}), template="A photo")
    (error,) = errors_of_further(further, {"my_set": study})
    faults = list(map(str, error.faults))
    assert "on tiny: data.image_size: its images have 32 px, those of my_set have 16 px" in faults[0]
    assert "template: got 'A photo'; allowed: a sentence with {class}" in faults[1]
    assert errors_of_further(FurtherEvaluations(on=study), {"my_set": study}) == []


def test_other_data_without_annotations_are_refused(tmp_path: Path) -> None:
    study = Study.model_validate(TINY_STUDY)
    values = {**TINY_STUDY, "data": {"source": "folder", "root": str(tmp_path / "none"), "image_size": 16}}
    (error,) = errors_of_further(FurtherEvaluations(on=Study.model_validate(values)), {"my_set": study})
    (fault,) = error.faults
    assert fault.where.startswith("on ") and "none" in str(fault)


def score_of(row: str, probe: str, mean: float, students: int = 3, metric: str = "mean_recall") -> ProbeScore:
    return ProbeScore(trained_on=row, probe=probe, metric=metric, num_students=students, mean=mean)


def test_the_table_has_a_column_for_each_probe_and_the_fraction_of_the_bound() -> None:
    rows = [score_of("a/best", AS_IS, 20.0), score_of("a/best", "noise", 10.0)]
    rows += [score_of(ALL_PAIRS, AS_IS, 40.0), score_of(ALL_PAIRS, "noise", 40.0), score_of("chance", "noise", 1.0, 0)]
    found = FurtherScores(**dict(CONDITIONS), evaluation="robustness", title="Recall", scores=rows)
    table = further_table(found, names={"a/best": "mine"}, full_data=ALL_PAIRS)
    assert table.headings == ("trained on", AS_IS, "noise")
    assert [row[0] for row in table.rows] == ["mine (3)", "all pairs (3)", "chance"]
    assert table.rows[0][1:] == [Estimate(20.0, share=0.5), Estimate(10.0, share=0.25)]
    assert table.rows[1][2] == Estimate(40.0) and table.rows[2][1:] == [None, Estimate(1.0)]


def test_a_table_of_one_probe_names_its_metrics() -> None:
    rows = [score_of("a", "zero-shot", 20.0, metric=metric) for metric in ("zero_shot_top1", "text_to_image_r5")]
    found = FurtherScores(**dict(CONDITIONS), evaluation="zero_shot", title="Accuracy", scores=rows)
    assert further_table(found).headings == ("trained on", "top-1", "IR R@5")
