"""Sets that students are trained on in order: the faults of those that cannot be, names, rates and pages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.sets import card_with

from rayvldd.config.domains import SettingValue
from rayvldd.config.study import Study
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.distillation.similarity import SimilarityParameters
from rayvldd.errors import InputError
from rayvldd.library.evaluating import evaluate
from rayvldd.library.set_groups import group_sets
from rayvldd.library.sets_in_order import InOrder, read_order
from rayvldd.records.set_scores import EvaluatedSet, SetScores
from rayvldd.reports.page.baselines import names_of_sets
from rayvldd.reports.page.evaluated_sets import evaluated_sets

ALONE = {"privacy": False, "breakdown": False}


def made(
    study: Study,
    changes: Mapping[str, SettingValue] | None = None,
    pairs: int = 3,
    similarity: SimilarityParameters | None = None,
) -> DistilledSet:
    """A set with settings of its card changed."""
    values = study.at(changes or {}).model_dump(mode="json")
    return DistilledSet(
        images=torch.rand(pairs, 3, 16, 16),
        texts=torch.rand(pairs, 8),
        start_images=torch.rand(pairs, 3, 16, 16),
        start_texts=torch.rand(pairs, 8),
        start_captions=[""] * pairs,
        lr_student_image=0.5,
        lr_student_text=0.25,
        card=card_with(study=values),
        similarity=similarity or SimilarityParameters({}),
    )


def faults_of(sets: dict[str, DistilledSet], later_rate: float = 1.0) -> list[str]:
    """The faults of sets in order, as a user reads them."""
    with pytest.raises(InputError) as caught:
        group_sets(sets, {}, order=InOrder(later_rate))
    return [str(fault) for fault in caught.value.faults]


def test_sets_in_order_are_one_row_with_the_sum_of_pairs(tiny_study: Study) -> None:
    sets = {"a": made(tiny_study), "b": made(tiny_study, {"seed": 7, "experts.num_experts": 3}, pairs=4)}
    assert len(group_sets(sets, {})) == 2, "one by one, another seed is another group"
    (group,) = group_sets(sets, {}, order=InOrder(0.5))
    (row,) = group.rows
    assert row == "a, then b (later rates times 0.5)" and group.rows[row] == ["a", "b"] and group.num_pairs(row) == 7
    assert group.study == tiny_study, "the first set decides seed and experts"
    assert group.rates("a") == (0.5, 0.25) and group.rates("b") == (0.25, 0.125)
    assert group.rates("b", (1.0, 2.0)) == (0.5, 1.0)
    assert group.made_with == {row: "convnet_d3"}
    assert group.words_of_rates() == "a (3 pairs, rates 0.5 and 0.25), then b (4 pairs, rates 0.25 and 0.125)"


def test_sets_of_other_data_models_and_evaluations_are_refused(tiny_study: Study) -> None:
    others: dict[str, SettingValue] = {"evaluation.epochs": 77, "model.width": 24, "data.num_val": 9}
    found = faults_of({"a": made(tiny_study), "b": made(tiny_study, others)})
    assert len(found) == 3
    assert "b/card.json: data.num_val: is 9, but " in found[0] and " in a; allowed: the data, model, eval" in found[0]
    assert found[1].startswith("b/card.json: model.width: is 24, but ")
    assert found[2].endswith("or --set evaluation.epochs=VALUE")
    many = {"evaluation.momentum": 0.5, "evaluation.weight_decay": 0.0, "model.temperature": 1.0}
    found = faults_of({"a": made(tiny_study), "b": made(tiny_study, {**others, **many})})
    assert len(found) == 6 and "1 more settings differ from those of a" in found[-1]


def test_sets_of_another_loss_or_form_of_similarity_are_refused(tiny_study: Study) -> None:
    full, other = (SimilarityParameters({"matrix": scale * torch.eye(3)}) for scale in (1, 2))
    lors: dict[str, SettingValue] = {"distillation.student_loss": "weighted_bce"}
    (fault,) = faults_of({"a": made(tiny_study), "b": made(tiny_study, similarity=full)})
    assert fault.startswith(
        "b: students train with info_nce and a full similarity, those on a with info_nce and the id"
    )
    assert "one loss and one form of similarity; each set keeps its own values" in fault
    (fault,) = faults_of({"a": made(tiny_study), "b": made(tiny_study, lors)})
    assert "b: students train with weighted_bce and the identity" in fault
    same = {"a": made(tiny_study, similarity=full), "b": made(tiny_study, similarity=other)}
    assert len(group_sets(same, {}, order=InOrder())) == 1


@pytest.mark.parametrize(
    ("places", "in_order", "later_rate", "expected"),
    [
        (["a"], True, 1.0, "--in-order: one set; allowed: two or more sets, in the order of training"),
        (["a", "b", "./a"], True, 1.0, "--in-order: a and ./a given more than once; allowed: each set once"),
        (["a", "b"], False, 0.1, "--later-rate: given without --in-order; allowed: both together"),
        (["a", "b"], True, 0.0, "--later-rate: got 0; allowed: a number above 0, such as 0.1"),
        (["a", "b"], True, float("nan"), "--later-rate: got nan; allowed: a number above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    places: list[str], in_order: bool, later_rate: float, expected: str
) -> None:
    _, (fault,) = read_order(places, in_order, later_rate, ALONE)
    assert expected in str(fault)


def test_measures_of_the_pairs_of_one_set_are_refused() -> None:
    order, faults = read_order(["a", "b"], True, 0.1, {"breakdown": True, "privacy": True})
    assert order == InOrder(0.1)
    assert [fault.where for fault in faults] == ["--breakdown", "--privacy"]
    assert faults[0].allowed == "sets one by one, without --in-order"
    assert read_order(["a"], False, 1.0, {"breakdown": True, "privacy": True}) == (None, [])


def test_python_names_its_own_arguments(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"later_rate: given without in_order; allowed: both together"):
        evaluate("a", "b", workspace=tmp_path / "workspace", later_rate=0.1)
    with pytest.raises(InputError, match=r"privacy: given together with in_order"):
        evaluate("a", "b", workspace=tmp_path / "workspace", in_order=True, privacy=True)
    assert not (tmp_path / "workspace").exists()


def scores_in_order(places: list[str], later_rate: float) -> SetScores:
    """The scores of sets in order on test."""
    row: dict[str, Any] = {
        "measured_on": ("here",),
        "trained_with": "convnet_d3",
        "base": "0",
        "image_encoder": "convnet_d3",
    }
    row |= {"fingerprints": {"data": "1"}, "num_students": 1, "mean": {"mean_recall": 20.0}, "interval": {}}
    parts = [{"distilled_set": place, "num_pairs": 3, "lr_student_image": 1, "lr_student_text": 1} for place in places]
    about = {"distilled_set": InOrder(later_rate).name(places), "num_pairs": 6, "made_with": "convnet_d3"}
    one = EvaluatedSet.model_validate({**row, **about, "in_order": parts, "later_rate": later_rate})
    return SetScores(command="rayvldd evaluate", split="test", sets=[one], coresets=[], full_data=[])


def test_the_page_has_short_names_and_shows_each_set(tiny_study: Study, tmp_path: Path) -> None:
    places = [str(tmp_path / name) for name in ("phase_1", "phase_2")]
    made(tiny_study).save(places[0])
    found = [scores_in_order(places, 1.0), scores_in_order(places, 0.1)]
    assert list(names_of_sets(found).values()) == [
        "phase_1",
        "phase_2",
        "phase_1, then phase_2",
        "phase_1, then phase_2 (later rates times 0.1)",
    ]
    assert found[0].identity != found[1].identity
    one, gone = evaluated_sets(found, [], tmp_path)
    assert (one.name, one.place, one.num_pairs) == ("phase_1", places[0], 3) and one.distilled is not None
    assert gone.name == "phase_2" and "is not a distilled set" in gone.fault
