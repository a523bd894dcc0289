"""Scores of sets and coresets: one version key, and what is refused."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from rayvldd.errors import ConfigError
from rayvldd.records.set_scores import (
    CoresetScores,
    EvaluatedBound,
    EvaluatedSet,
    SetInOrder,
    SetScores,
    keep_scores,
    kept_scores,
    read_scores,
)


@pytest.fixture
def values() -> dict[str, Any]:
    row = {"num_pairs": 12, "num_students": 3, "mean": {"mean_recall": 9.0}, "interval": {"mean_recall": [8.0, 10.0]}}
    return {"format": 1, "study": "weak", "split": "test", "coresets": [{**row, "method": "herding"}]}


def test_scores_are_kept_with_their_format_and_read_again(tmp_path: Path, values: dict[str, Any]) -> None:
    scores = CoresetScores.model_validate(values, strict=False)
    written = json.loads(keep_scores(scores, tmp_path).read_text(encoding="utf-8"))
    assert written["format"] == 1 and "version" not in written
    assert kept_scores(tmp_path) == ([scores], [], [])


def evaluation(lr_image: float = 0.1, recall: float = 1.0, place: str = "a", base: str = "0") -> SetScores:
    row = {"measured_on": ("here",), "trained_with": "convnet_d3", "base": base, "image_encoder": "convnet_d3"}
    scored: dict[str, Any] = {"fingerprints": {}, "num_students": 1, "mean": {"mean_recall": recall}, "interval": {}}
    about = {"distilled_set": place, "num_pairs": 3, "made_with": "convnet_d3"}
    one = EvaluatedSet.model_validate({**row, **scored, **about, "lr_student_image": lr_image, "lr_student_text": 0.1})
    return SetScores(command="rayvldd evaluate", split="test", sets=[one], coresets=[], full_data=[])


def test_evaluations_with_other_rates_are_kept_beside_each_other(tmp_path: Path) -> None:
    files = [keep_scores(evaluation(rate, recall), tmp_path) for rate, recall in ((0.1, 1.0), (0.2, 2.0), (0.1, 3.0))]
    assert files[0] == files[2] != files[1]
    assert {one.sets[0].mean["mean_recall"] for one in kept_scores(tmp_path)[1]} == {2.0, 3.0}


def test_scores_with_other_settings_are_kept_beside_each_other_with_the_latest_last(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    for kind in (
        {base: evaluation(base=base) for base in "abc"},
        {base: CoresetScores.model_validate({**values, "base": base}, strict=False) for base in "abc"},
    ):
        files = {base: keep_scores(found, tmp_path) for base, found in kind.items()}
        for time, base in enumerate("bca"):
            os.utime(files[base], (time, time))
    coresets, evaluations, _ = kept_scores(tmp_path)
    assert [found.base for found in coresets] == [found.sets[0].base for found in evaluations] == ["b", "c", "a"]


def test_scores_name_the_sets_of_a_workspace_where_they_are_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sets in a workspace that was moved or copied, in whatever way the user gave them; others stay as they are."""
    first = tmp_path / "first"
    names = ("one", "two")
    for name in names:
        (first / "studies" / name / "best").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    one, two = str(first / "studies" / "one" / "best"), "first/studies/two/best"
    scores = evaluation(place=f"{one}, then {two}")
    in_order = [
        SetInOrder(distilled_set=place, num_pairs=1, lr_student_image=0.1, lr_student_text=0.1) for place in (one, two)
    ]
    (row,) = scores.sets
    bound = {**row.model_dump(), "sets": [f"{one}, then {two}"]}
    both = scores.model_copy(
        update={
            "sets": [row.model_copy(update={"in_order": in_order})],
            "full_data": [EvaluatedBound.model_validate(bound)],
        }
    )
    elsewhere = evaluation(place="/elsewhere/set"), evaluation(place="models:/one@best")
    for found in (both, *elsewhere):
        keep_scores(found, first / "scores")
    shutil.copytree(first, tmp_path / "copy")

    def places(workspace: Path) -> set[str]:
        _, found, unread = kept_scores(workspace / "scores")
        assert not unread
        return {place for one in found for row in one.sets for place in (row.distilled_set, *row.set_sizes)}

    others = {"/elsewhere/set", "models:/one@best"}
    assert places(first) == {one, two, f"{one}, then {two}"} | others
    there = [str(tmp_path / "copy" / "studies" / name / "best") for name in names]
    assert places(tmp_path / "copy") == {*there, ", then ".join(there)} | others
    (copied,) = [found for found in kept_scores(tmp_path / "copy" / "scores")[1] if found.full_data]
    assert copied.full_data[0].sets == [", then ".join(there)]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert str(first / two.removeprefix("first/")) in places(first), "also from another folder"
    shutil.rmtree(tmp_path / "copy" / "studies")
    assert {one, two} <= places(tmp_path / "copy"), "a set that is not there has the location that the user gave"


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (2, "has format 2, of another release; allowed: format 1"),
        ("1", "has format '1', of another release; allowed: format 1"),
        (None, "it names no version of its format"),
    ],
)
def test_scores_of_another_release_are_refused(
    tmp_path: Path, values: dict[str, Any], found: object, problem: str
) -> None:
    file = tmp_path / "scores.json"
    del values["format"]
    values |= {} if found is None else {"format": found, "coresets": "of a form that this release does not know"}
    file.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_scores([file])
    assert f"{file}: {problem}" in str(caught.value)
    assert "Next: rayvldd coreset STUDY --split test --json > FILE" in str(caught.value)
