"""The page that compares studies: its inputs, plots and texts, and the page itself in headless Chromium."""

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import screenshots
import torch
from axe_playwright_python.sync_playwright import Axe
from helpers import searches
from helpers.cli import last_object, run
from helpers.sets import card_with
from helpers.studies import TINY_STUDY
from PIL import Image, ImageDraw

from rayvldd.config.domains import ChoiceDomain, DrawnDomain, FloatDomain, IntDomain, SettingValue
from rayvldd.config.study import Study
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.distillation.similarity import SimilarityParameters
from rayvldd.errors import ConfigError
from rayvldd.hyperparameter_search.ledger import Ledger, read_trials
from rayvldd.hyperparameter_search.optuna_trials import importance_among_good, importance_of_settings
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.records.set_scores import SetScores, read_scores, short_names
from rayvldd.records.trial import Trial
from rayvldd.reports.page.baselines import SizePoint, verdict_over_sizes, verdicts
from rayvldd.reports.page.evaluated_sets import evaluated_sets
from rayvldd.reports.page.marginals import expected_recalls, height_in
from rayvldd.reports.page.search_drawings import (
    convergence,
    front_of,
    history,
    marginals,
    parallel_coordinates,
)
from rayvldd.reports.page.sections import Comparison, compare
from rayvldd.reports.page.set_drawings import recall_by_group
from rayvldd.reports.page.study_report import read_study
from rayvldd.reports.page.svg import to_svg
from rayvldd.reports.page.writing import render_page, write_comparison
from rayvldd.reports.published import published_rows
from rayvldd.reports.table import Estimate, short
from rayvldd.storage.json_files import write_json_whole

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

LR, STEPS = "distillation.lr_image", "distillation.trajectory_matching.syn_steps"
SPACE: dict[str, DrawnDomain] = {
    LR: FloatDomain(type="float", low=1, high=100, log=True),
    STEPS: IntDomain(type="int", low=2, high=8, step=2),
}
EVIL = "<script>document.title = 'broken'</script> a \"dog\" & $x^2$"
"""A caption that would run, if it were not text."""

# --- studies on disk ----------------------------------------------------------------------------------------------


def write_study(root: Path, name: str, *, recall: float = 20.0, num_trials: int = 9, pairs: int = 6) -> StudyFolder:
    """A finished study of trials whose recall grows with the rate; one of several failed, one was stopped."""
    folder = StudyFolder(root / name)
    search = {"space": {key: domain.model_dump() for key, domain in SPACE.items()}, "num_trials": num_trials}
    study = Study.model_validate({**TINY_STUDY, "name": name, "search": search})
    folder.save_settings(study)
    folder.add_command(f"rayvldd sweep {name}.yaml")
    ledger = folder.ledger()
    for number in range(num_trials):
        lr = float(np.geomspace(1, 100, num_trials)[number])
        trial = ledger.start(number, 1, {LR: lr, STEPS: 2 + 2 * (number % 4)})
        for evaluation in range(2 if number == 1 else 4):
            value = 5.0 + 0.1 * number * evaluation + evaluation
            seconds = {"seconds_matching": number + evaluation, "seconds_evaluating": 1}
            ledger.add_evaluation(
                trial.trial_id, searches.evaluated(10 * evaluation, value, 1.0 * evaluation, **seconds)
            )
        state = {0: "failed", 1: "stopped"}.get(number, "finished") if num_trials > 1 else "finished"
        ledger.end(trial.trial_id, state)  # type: ignore[arg-type]
    best = ledger.best_trial()
    assert best is not None and best.best is not None
    write_set(folder.best, study, pairs)
    chosen = {"config": best.point, "trial_id": best.trial_id, "val_mean_recall": best.best.recall}
    write_json_whole(
        folder.result_file,
        {
            "format": 1,
            "study": name,
            "protocol": "heads_only",
            "num_pairs": pairs,
            "trials": ledger.states(),
            "best": chosen | {"outer_step": 30},
            "test": scores_on_test(recall),
            "seconds": {"total": 12.0},
        },
    )
    return folder


def scores_on_test(recall: float) -> dict[str, Any]:
    recalls = {f"{way}_r{k}": recall for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)}
    students = {"distilled": [recall, recall + 1], "random": [4.0, 6.0], "full_data": [30.0, 32.0]}
    return {
        **recalls,
        "mean_recall": recall,
        "interval": [recall - 1, recall + 1],
        "num_students": 2,
        "random_mean_recall": 5.0,
        "full_data_mean_recall": 31.0,
        "share_of_full_data": recall / 31,
        "students": students,
        "recalls": {"random": recalls, "full_data": recalls},
    }


def write_set(folder: Path, study: Study, pairs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(pairs, 3, 16, 16, generator=generator)
    texts = torch.randn(pairs, 8, generator=generator)
    similarity = SimilarityParameters(
        {"matrix": torch.eye(pairs) + 0.1 * torch.randn(pairs, pairs, generator=generator)}
    )
    metrics = {"concentration_image": 0.4, "concentration_text": 0.3, "nearest_image_cosine": 0.917}
    fingerprints = {"data": "abc", "image_encoder": "1", "text_encoder": "2"}
    card = card_with(study=study.model_dump(mode="json"), fingerprints=fingerprints, metrics=metrics)
    captions = [f"caption {n}" for n in range(pairs)]
    DistilledSet(images + 0.1, texts + 0.1, images, texts, captions, 0.1, 0.1, card, similarity).save(folder)
    nearest = [EVIL if n == 0 else f"{'a red boat' if n % 2 else 'a green tree'} {n}" for n in range(pairs)]
    rows = [{"pair": n, "start": captions[n], "nearest": text, "similarity": 0.5} for n, text in enumerate(nearest)]
    (folder / "nearest_captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished studies, one that is half done, and one whose files are rubbish."""
    root = tmp_path_factory.mktemp("studies")
    write_study(root, "strong", recall=25.0, pairs=30)
    write_study(root, "weak", recall=5.5)
    half = write_study(root, "half_done", num_trials=3)
    half.result_file.unlink()
    shutil.rmtree(half.best)
    rubbish = write_study(root, "rubbish", num_trials=3)
    rubbish.result_file.write_text('{"format": 1, "study": "rubbish", "test": {"mean_recall": "high"}}')
    rubbish.settings.write_text("{")
    (rubbish.best / "card.json").write_text("[]")
    (rubbish.trials / "trial_001" / "trial.json").write_text("{}")
    (rubbish.trials / "trial_002" / "evaluations.jsonl").write_text('{"outer_step": 0}\n')
    return root


RECALLS = [f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
OTHER_ENCODER = "test_byobnet"


def evaluated(mean: float, encoder: str = "convnet_d3", **own: Any) -> dict[str, Any]:
    """A row of what ``rayvldd evaluate --json`` ends with, measured as the studies above."""
    return {
        "num_students": 3,
        "mean": {**dict.fromkeys(RECALLS, mean), "mean_recall": mean},
        "interval": {"mean_recall": [mean - 1, mean + 1]},
        "share_of_full_data": mean / 40,
        "image_encoder": encoder,
        "trained_with": encoder,
        "measured_on": ["40 drawn scenes", "16 px", encoder, "hashed_ngrams", "heads_only"],
        "base": "0123456789abcdef",
        "fingerprints": {"data": "abc"},
        **own,
    }


def evaluation(sets: Path) -> dict[str, Any]:
    """Two sets, of which one was deleted, coresets, another encoder, and a breakdown by captions."""
    one, gone = str(sets / "one"), str(sets / "gone")
    about = {key: value for key, value in evaluated(0.0).items() if key in ("measured_on", "trained_with", "base")}
    shares = {"data": 0.5, "start": None, "kept": 0.2, "interval": [0.1, 0.4], "differs": True}
    groups = [("length", "1 to 5 words"), ("length", "6 words"), ("gender", "neither"), ("noun", "dog")]
    recall = {one: 20.0, gone: 15.5, "all pairs": 30.0}
    return {
        "format": 1,
        "command": "rayvldd evaluate one gone --json",
        "split": "test",
        "sets": [
            evaluated(28.0, distilled_set=one, num_pairs=100, made_with="convnet_d3"),
            evaluated(30.0, distilled_set=gone, num_pairs=200, made_with="convnet_d3"),
            evaluated(12.0, OTHER_ENCODER, distilled_set=one, num_pairs=100, made_with="convnet_d3"),
        ],
        "coresets": [
            evaluated(20.0, method="herding", num_pairs=100),
            evaluated(29.5, method="herding", num_pairs=200),
            evaluated(19.0, method="k_means", num_pairs=100),
        ],
        "full_data": [evaluated(40.0, sets=[one, gone])],
        "breakdown": [
            {
                **about,
                "recalls": [{"by": by, "group": group, "num_captions": 30, "recall": recall} for by, group in groups],
                "subjects": {one: [{"name": "dog", **shares}]},
            }
        ],
    }


def write_evaluation(file: Path, values: dict[str, Any]) -> Path:
    file.write_text("what stood before\n" + json.dumps(values) + "\n", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> list[SetScores]:
    folder = tmp_path_factory.mktemp("sets")
    write_set(folder / "one", Study.model_validate(TINY_STUDY), 6)
    return read_scores([], [write_evaluation(folder / "evaluated.json", evaluation(folder))])[1]


@pytest.fixture(scope="module")
def comparison(studies: Path, evaluations: list[SetScores]) -> Comparison:
    reports = [read_study(path) for path in sorted(studies.iterdir())]
    sets = evaluated_sets(evaluations, reports, studies)
    return compare(reports, [], evaluations, sets, published_rows())


@pytest.fixture(scope="module")
def written(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with page, plots and tables."""
    folder = tmp_path_factory.mktemp("comparison")
    write_comparison(comparison, folder, "rayvldd compare")
    return folder


# --- reading ------------------------------------------------------------------------------------------------------


def test_a_finished_study_is_read_whole(studies: Path) -> None:
    report = read_study(studies / "strong")
    assert (report.state, report.faults) == ("finished", [])
    assert report.commands == ["rayvldd sweep strong.yaml"]
    assert len(report.trials) == 9 and report.best_trial is report.trials[8]
    assert report.distilled is not None and len(report.captions) == len(report.distilled) == 30
    assert report.measured_on == ("40 drawn scenes", "16 px", "convnet_d3", "hashed_ngrams", "heads_only")


def test_unfinished_or_damaged_studies_are_marked(studies: Path) -> None:
    half, rubbish = read_study(studies / "half_done"), read_study(studies / "rubbish")
    assert (half.state, half.faults) == ("unfinished", [])
    assert half.best_trial is not None and half.best_trial.trial_id == "trial_002"
    assert rubbish.state == "damaged"
    assert [trial.trial_id for trial in rubbish.trials] == ["trial_000"]
    told = " | ".join(rubbish.faults)
    for word in ("study.json", "result.json", "trial_001", "trial_002", "best"):
        assert word in told


def test_an_empty_folder_is_a_damaged_study(tmp_path: Path) -> None:
    report = read_study(tmp_path)
    assert report.state == "damaged" and report.faults
    table = compare([report]).studies
    assert table is not None and table.rows[0][1] == "damaged"


def test_values_of_the_wrong_kind_break_nothing(tmp_path: Path) -> None:
    folder = write_study(tmp_path, "odd", num_trials=5)
    changes: list[dict[str, Any]] = [
        {"number": "one"},
        {"state": "lost"},
        {"point": {LR: "fast", STEPS: 2}},
        {"point": [1]},
    ]
    for number, change in enumerate(changes):
        file = folder.trials / f"trial_00{number}" / "trial.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    card = folder.best / "card.json"
    sound = json.loads(card.read_text())
    card.write_text(json.dumps(sound | {"fingerprints": []}))
    report = read_study(folder.root)
    assert [trial.trial_id for trial in report.trials] == ["trial_002", "trial_004"]
    assert len(report.faults) == 4 and "fingerprints: Input should be an object" in report.faults[-1]
    card.write_text(json.dumps(sound | {"study": {"data": "here"}}))
    report = read_study(folder.root)
    assert len(report.faults) == 3
    (section,) = compare([report]).sections
    assert "parallel_coordinates" in [drawing.name for drawing in section.drawings]


def test_choices_are_drawn_in_their_order(tmp_path: Path) -> None:
    space: dict[str, DrawnDomain] = {"a.words": ChoiceDomain(type="choice", values=("$x", "y_1", True))}
    trials = trials_of(lambda lr, steps: lr, 6)
    values: tuple[SettingValue, ...] = ("$x", "y_1", True) * 2
    for trial, value in zip(trials, values, strict=True):
        trial.point = {"a.words": value}
    for drawing in (parallel_coordinates(trials, space, ""), marginals(trials, space, "", {})):
        svg = to_svg(drawing, "x")
        assert svg.index(">$x<") > 0 and "mathdefault" not in svg
    positions = [svg.index(f">{value}</text>") for value in ("$x", "y_1", "True")]
    assert positions == sorted(positions)


def test_reading_leaves_a_running_study_as_it_is(tmp_path: Path) -> None:
    folder = write_study(tmp_path, "running", num_trials=2)
    file = folder.trials / "trial_001" / "evaluations.jsonl"
    with file.open("a", encoding="utf-8") as lines:
        lines.write('{"outer_step": 40, "val_')  # the driver is in the middle of a line
    before = file.read_bytes()
    trials, faults = read_trials(folder.trials)
    assert (len(trials), faults) == (2, [])
    assert len(trials[1].evaluations) == 2
    assert file.read_bytes() == before
    assert len(Ledger(folder.trials).trials) == 2
    assert file.read_bytes() != before  # the sweep itself repairs it


def test_the_commands_of_a_study_are_kept_in_order(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    assert folder.commands() == []
    for command in ("rayvldd sweep a.yaml", "rayvldd sweep a.yaml", "rayvldd sweep a.yaml --set x=1"):
        folder.add_command(command)
    assert folder.commands() == ["rayvldd sweep a.yaml", "rayvldd sweep a.yaml --set x=1"]


# --- texts about the search ---------------------------------------------------------------------------------------


def trials_of(recall: Any, number: int = 24) -> list[Trial]:
    """Finished trials at random points, with the recall that ``recall`` gives for rate and steps."""
    generator = np.random.default_rng(0)
    trials = []
    for index in range(number):
        point: dict[str, SettingValue] = {
            LR: float(10 ** generator.uniform(0, 2)),
            STEPS: int(generator.choice([2, 4, 6, 8])),
        }
        found = [searches.evaluated(10, float(recall(point[LR], point[STEPS])))]
        trials.append(Trial(f"trial_{index:03d}", index, 1, point, Path(), "finished", "", found))
    return trials


def test_importance_and_marginals_find_the_setting_that_matters() -> None:
    trials = trials_of(lambda lr, steps: 10 * np.log10(lr) + 0.01 * steps)
    shares = importance_of_settings(trials, SPACE)
    assert max(importance_among_good(trials, SPACE).items(), key=lambda entry: entry[1])[0] == next(iter(shares))
    assert next(iter(shares)) == LR and shares[LR] > 0.9
    curves = expected_recalls(trials, SPACE)
    values, recalls = curves[LR]
    assert values[0] == pytest.approx(1) and values[-1] == pytest.approx(100)
    assert recalls[-1] - recalls[0] > 12  # the truth: 20, which a forest flattens at both ends
    assert curves[STEPS][0] == [2, 4, 6, 8]
    assert np.ptp(curves[STEPS][1]) < 3


def test_nothing_is_read_out_of_too_few_or_equal_trials() -> None:
    trials = trials_of(lambda lr, steps: lr)
    assert importance_of_settings(trials[:19], SPACE) == {} and expected_recalls(trials[:7], SPACE) == {}
    assert importance_of_settings(trials_of(lambda lr, steps: 3.0), SPACE) == {}


def test_heights_lie_between_the_ends_of_a_domain() -> None:
    choice = ChoiceDomain(type="choice", values=("a", "b", "c"))
    assert [height_in(choice, value) for value in "abc"] == [0, 0.5, 1]
    assert height_in(SPACE[LR], 10.0) == pytest.approx(0.5)
    assert height_in(SPACE[STEPS], 8) == 1
    assert height_in(FloatDomain(type="float", low=3, high=3), 3.0) == 0.5


def test_the_front_equals_a_plain_comparison_of_all_pairs() -> None:
    generator = np.random.default_rng(0)
    points = [(float(cost), float(value)) for cost, value in generator.integers(0, 12, (40, 2))]
    points = list(dict.fromkeys(points))
    dominated = {
        i
        for i, (cost, value) in enumerate(points)
        if any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points)
    }
    assert front_of(points) == set(range(len(points))) - dominated


def test_numbers_are_short() -> None:
    assert [short(value) for value in (None, 4, 0.123456, 2332.5, 1e-5, "k_means", True)] == [
        "–",
        "4",
        "0.123",
        "2332",
        "1e-05",
        "k_means",
        "True",
    ]


@pytest.mark.parametrize(
    ("rival", "verdict"),
    [
        ((5.0, (4.0, 6.0)), "is better: the intervals do not overlap"),
        ((19.0, (17.0, 21.0)), "is ahead, but the intervals overlap"),
        ((21.0, (20.0, 22.0)), "is not better"),
        ((5.0, None), "fewer than three sets or students are too few to say"),
    ],
)
def test_verdicts_say_plainly_whether_a_set_is_better(rival: tuple[float, Any], verdict: str) -> None:
    points = [
        SizePoint("distilled", 100, "one", 20.0, (18.5, 21.5)),
        SizePoint("random", 100, "one", 3.0, (2.0, 4.0)),
        SizePoint("herding", 100, "one", *rival),
        SizePoint("herding", 500, "one", 90.0, None),  # another number of pairs is no rival
    ]
    (sentence,) = verdicts(points)
    assert verdict in sentence and "herding pairs, the best of 2 coresets" in sentence


def coreset_file(path: Path, split: str = "test", study: str = "weak") -> Path:
    row = {"num_pairs": 12, "num_students": 3, "mean": {"mean_recall": 9.0}, "interval": {"mean_recall": [8.0, 10.0]}}
    values = {"format": 1, "study": study, "split": split, "coresets": [row | {"method": "herding"}]}
    path.write_text(json.dumps(values))
    return path


def test_coresets_join_the_sets_of_their_study(studies: Path, tmp_path: Path) -> None:
    scores, _ = read_scores([coreset_file(tmp_path / "coresets.json")])
    (group,) = compare([read_study(studies / "weak")], scores).groups
    rows = {(row[1], row[0]): row[3:] for row in group.drawing.rows}
    assert rows.keys() == {("distilled", 6), ("random", 6), ("herding", 12)}
    assert rows["herding", 12] == (9.0, 8.0, 10.0)


def test_evaluated_sets_stand_beside_the_studies_of_the_same_data(comparison: Comparison) -> None:
    (group,) = comparison.groups
    columns = group.sets.headings
    rows = {(row[0], row[2]): dict(zip(columns, row, strict=True)) for row in group.sets.rows}
    assert rows.keys() == {
        ("6 distilled pairs", "weak"),
        ("6 random pairs", "weak"),
        ("30 distilled pairs", "strong"),
        ("30 random pairs", "strong"),
        ("100 distilled pairs", "one"),
        ("100 herding pairs", ""),
        ("100 k_means pairs", ""),
        ("200 distilled pairs", "gone"),
        ("200 herding pairs", ""),
        ("full data", ""),
    }
    one = rows["100 distilled pairs", "one"]
    assert (one["mean"], one["95 % low"], one["TR R@5"], one["students"]) == (28.0, 27.0, 28.0, 3)
    assert one["share of full data (%)"] == pytest.approx(100 * 28 / 31)  # of the studies' own models
    assert {group.sets.rows[place][0] for place in group.sets.best} == {
        "6 distilled pairs",
        "30 distilled pairs",
        "100 distilled pairs",
        "200 distilled pairs",
    }
    assert "one, 100 distilled pairs: 28.0 (27.0 to 29.0); herding pairs, the best of 2 coresets: 20.0" in "".join(
        group.verdicts
    )
    assert group.verdict == (
        "The distilled set does not beat real pairs at every number of pairs: at 6 and 30 pairs it is ahead of the "
        "best of them, without intervals to compare; at 100 pairs it is better than the best of them, and the "
        "intervals do not overlap; at 200 pairs it is ahead of the best of them, but the intervals overlap."
    )


def test_a_set_that_is_better_at_every_size_is_reported() -> None:
    points = [SizePoint("distilled", size, "one", 20.0, (18.5, 21.5)) for size in (100, 200, 500)]
    points += [SizePoint("random", size, "", 10.0, (9.0, 11.0)) for size in (100, 200, 500)]
    assert verdict_over_sizes(points[:1] + points[3:]) == ""  # one number needs no summary
    assert verdict_over_sizes(points) == (
        "At every number of pairs (100, 200 and 500) the distilled set is better than the best real pairs: "
        "the intervals do not overlap."
    )
    worse = SizePoint("distilled", 200, "other", 5.0, (4.0, 6.0))
    assert verdict_over_sizes([*points, worse]) == verdict_over_sizes(points), "the best set of a number counts"
    lost = verdict_over_sizes([*points, SizePoint("herding", 500, "", 20.0, None)])
    assert "at 100 and 200 pairs it is better" in lost and "at 500 pairs it is not better" in lost


def test_sets_on_other_encoders_are_a_matrix(comparison: Comparison) -> None:
    (transfer,) = comparison.transfers
    assert transfer.measured_on == "40 drawn scenes, 16 px, hashed_ngrams, heads_only"
    assert transfer.table.headings == ("trained on", "made with", "convnet_d3", OTHER_ENCODER)
    rows = {row[0]: row[1:] for row in transfer.table.rows}
    assert list(rows) == ["one", "all pairs"], "what met one encoder alone stands elsewhere"
    made_with, own, other = rows["one"]
    assert made_with == "convnet_d3" and own == Estimate(28.0, (27.0, 29.0), 0.7, is_own=True)
    assert other == Estimate(12.0, (11.0, 13.0), 0.3)
    assert ("one", "convnet_d3", OTHER_ENCODER, 12.0, 11.0, 13.0, 30.0) in transfer.drawing.rows


def test_losses_are_drawn(comparison: Comparison) -> None:
    (loss,) = comparison.losses
    names = [drawing.name for drawing in loss.drawings]
    assert names == ["recall_by_length_1", "recall_by_gender_1", "recall_by_noun_1", "subjects_1_1"]
    assert loss.drawings[0].columns == ("group", "captions", "one", "gone", "all pairs")
    assert loss.drawings[0].rows[0] == ("1 to 5 words", 30, 20.0, 15.5, 30.0)
    assert loss.drawings[3].rows == [("dog", 50.0, None, 20.0, 10.0, 40.0, "yes")]


def test_more_series_than_eyes_can_hold_apart_stand_in_the_numbers(evaluations: list[SetScores]) -> None:
    (row, *_) = evaluations[0].breakdown[0].recalls
    many = row.model_copy(update={"recall": {**row.recall, **{f"9 pairs, {n}": float(n) for n in range(5)}}})
    place = next(iter(row.recall))
    drawing = recall_by_group([many], "length", {place: "one"}, "x")
    assert [mark.words.split(": ")[0] for mark in drawing.marks] == ["1 to 5 words, one", "1 to 5 words, all pairs"]
    assert "Real pairs are only in the table of numbers" in drawing.words and len(drawing.rows[0]) == 2 + 8


def test_evaluated_sets_are_shown_once_and_missing_ones_are_reported(
    studies: Path, evaluations: list[SetScores], tmp_path: Path
) -> None:
    reports = [read_study(studies / "weak")]
    one, gone = evaluated_sets(evaluations, reports, tmp_path)
    assert one.distilled is not None and len(one.captions) == 6 and one.commands == [evaluations[0].command]
    assert gone.distilled is None and "gone is not a distilled set" in gone.fault
    best = str(studies / "weak" / "best")
    again = {**evaluation(tmp_path), "sets": [evaluated(5.5, distilled_set=best, num_pairs=6, made_with="convnet_d3")]}
    files = [write_evaluation(tmp_path / "again.json", again)]
    assert evaluated_sets(read_scores([], files)[1], reports, tmp_path) == [], "the study shows it"


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["/a/one", "/a/two"], ["one", "two"]),
        (["/a/quickstart/best"], ["quickstart/best"]),
        (["/a/x/one", "/b/x/one"], ["a/x/one", "b/x/one"]),
        (["models:/quickstart@best"], ["quickstart@best"]),
    ],
)
def test_sets_are_called_by_the_end_of_their_places(places: list[str], names: list[str]) -> None:
    assert list(short_names(places).values()) == names


def test_wrong_evaluations_are_reported_together_with_wrong_coresets(tmp_path: Path) -> None:
    values = evaluation(tmp_path)
    del values["sets"][1]["made_with"]
    wrong = write_evaluation(tmp_path / "wrong.json", values)
    val = write_evaluation(tmp_path / "val.json", {**evaluation(tmp_path), "split": "val"})
    empty = tmp_path / "empty.json"
    empty.touch()
    with pytest.raises(ConfigError) as told:
        read_scores([empty], [wrong, val])
    for word in ("3 faults", "empty.json: not readable: it is empty", "sets.1.made_with: Field required", "on val"):
        assert word in str(told.value)


def test_published_rows_are_separate_and_name_the_split_of_their_choice(comparison: Comparison) -> None:
    table = comparison.published
    assert table is not None and len(table.rows) == len(published_rows())
    rows = [dict(zip(table.headings, row, strict=True)) for row in table.rows]
    (wu,) = [
        r
        for r in rows
        if (r["source"], r["dataset"], r["trained on"]) == ("Wu et al.", "flickr30k", "100 distilled pairs")
    ]
    assert (wu["TR R@1"], wu["IR R@10"], wu["chosen on"]) == (9.9, 24.6, "test")
    assert table.best == frozenset() and table.columns[4].text(wu["TR R@1"]) == "9.9"
    assert not {row["source"] for row in rows} & {row[2] for row in comparison.groups[0].sets.rows}


def test_compare_needs_no_study_where_sets_were_evaluated(tmp_path: Path) -> None:
    write_set(tmp_path / "one", Study.model_validate(TINY_STUDY), 3)
    file = write_evaluation(tmp_path / "evaluated.json", evaluation(tmp_path))
    (tmp_path / "workspace" / "studies" / "tiny" / "distill").mkdir(parents=True)  # one distillation is no study
    asked: list[str | Path] = ["compare", "--workspace", tmp_path / "workspace", "--evaluations", file, "--reference"]
    result = run(*asked, "--json")
    assert result.exit_code == 0, result.output
    assert "does not beat real pairs" in last_object(result)["verdicts"][-1]
    assert "Published, not measured here" in result.stderr and "gone is not a distilled set" in result.stderr
    page = Path(last_object(result)["page"])
    assert {path.name for path in (page.parent / "tables").glob("*.tex")} == {
        "published.tex",
        "sets_1.tex",
        "transfer_1.tex",
    }
    with (page.parent / "tables" / "transfer_1.csv").open(encoding="utf-8") as table:
        assert float(next(csv.DictReader(table))[OTHER_ENCODER]) == 12.0


def test_all_wrong_coreset_files_are_reported_at_once(tmp_path: Path) -> None:
    wrong = tmp_path / "text.json"
    wrong.write_text("no object")
    with pytest.raises(ConfigError, match=r"(?s)2 faults.*text.json: not readable.*scored on val"):
        read_scores([wrong, coreset_file(tmp_path / "val.json", "val")])


# --- assembly -----------------------------------------------------------------------------------------------------


def test_studies_stand_by_recall_with_the_best_of_those_that_compare_marked(comparison: Comparison) -> None:
    table = comparison.studies
    assert table is not None
    assert [row[0] for row in table.rows] == ["strong", "weak", "half_done", "rubbish"]
    assert [row[1] for row in table.rows] == ["finished", "finished", "unfinished", "damaged"]
    assert table.best == {0}
    assert table.column("test")[2] is None


def test_studies_of_other_data_are_ranked_apart(tmp_path: Path) -> None:
    for name, recall in (("one", 20.0), ("other", 10.0)):
        write_study(tmp_path, name, recall=recall, num_trials=2)
    card = tmp_path / "other" / "best" / "card.json"
    card.write_text(card.read_text().replace('"abc"', '"xyz"'))
    together = compare([read_study(tmp_path / "one"), read_study(tmp_path / "other")])
    assert together.studies is not None and together.studies.best == {0, 1}
    assert len(together.groups) == 2


def test_every_study_gets_the_drawings_that_it_can_have(comparison: Comparison) -> None:
    drawn = {section.report.name: [drawing.name for drawing in section.drawings] for section in comparison.sections}
    most = ["convergence", "history", "pareto", "parallel_coordinates", "marginals"]
    assert drawn["strong"] == [*most, "similarity"]
    assert drawn["half_done"] == most
    assert drawn["rubbish"] == ["convergence", "history", "pareto"]
    assert all(drawing.words for section in comparison.sections for drawing in section.drawings)


def test_importances_are_drawn_from_enough_trials(comparison: Comparison, tmp_path: Path) -> None:
    assert "Importances need 20 trials with different recalls; this study has 9." in comparison.sections[0].left_out
    write_study(tmp_path, "long", num_trials=24)
    (section,) = compare([read_study(tmp_path / "long")]).sections
    assert "importance" in [drawing.name for drawing in section.drawings] and not section.left_out


def test_a_set_that_is_its_starting_pairs_has_a_warning(tmp_path: Path) -> None:
    file = write_study(tmp_path, "flat").result_file
    assert not compare([read_study(tmp_path / "flat")]).sections[0].warning
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "best": {**values["best"], "outer_step": 0}}))
    comparison = compare([read_study(tmp_path / "flat")])
    assert "the set is its 6 starting pairs. The usual cause" in comparison.sections[0].warning
    page = write_comparison(comparison, tmp_path / "page", "rayvldd compare").read_text(encoding="utf-8")
    assert "<strong>Warning:</strong> no evaluation on validation was above" in page


def test_the_first_look_at_a_set_that_is_its_starting_pairs_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The overview, the card, the table of studies and the terminal do not show its recall as that of distillation."""
    write_study(tmp_path / "studies", "better", num_trials=2)
    file = write_study(tmp_path / "studies", "flat", recall=25.0, num_trials=2).result_file
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "best": {**values["best"], "outer_step": 0}}))
    drawn = list[str]()
    draw_text = ImageDraw.ImageDraw.text

    def recorded(self: ImageDraw.ImageDraw, place: Any, text: str, *others: Any, **more: Any) -> None:
        drawn.append(text)
        draw_text(self, place, text, *others, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", recorded)
    result = run("compare", "--workspace", tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("  WARNING: no evaluation on validation was above") == 1
    assert "Warning: the set is its starting pairs" in drawn
    warnings = last_object(run("compare", "--workspace", tmp_path, "--json"))["warnings"]
    assert list(warnings) == ["flat"] and f"  WARNING: {warnings['flat']}.\n" in result.stdout
    page = (tmp_path / "comparison" / "compare.html").read_text(encoding="utf-8")
    first, rest = page[page.index('<section class="overview"') :].split('id="studies-heading"')
    assert "<strong>Warning:</strong> the set is its starting pairs." in first
    assert rest.count(">the set is its starting pairs</td>") == 1
    with (tmp_path / "comparison" / "tables" / "studies.csv").open(encoding="utf-8") as table:
        notes = {row["study"]: row["note"] for row in csv.DictReader(table)}
    assert notes == {"flat": "the set is its starting pairs", "better": ""}


def test_a_drawing_in_the_page_has_its_words_and_takes_the_colours_of_the_page(comparison: Comparison) -> None:
    trials = comparison.sections[0].report.trials
    svg = to_svg(convergence(trials, "trial_008"), "x", "strong")
    assert svg.startswith('<svg role="img" tabindex="0" aria-label="Convergence of the trials. ')
    assert set(re.findall(r'\bid="([^"]+)"', svg)) and all(
        i.startswith("x-") for i in re.findall(r'\bid="([^"]+)"', svg)
    )
    assert svg.count('data-trial="strong/') == len(trials)
    assert "var(--best)" in svg and "#0072b2" not in svg
    referred = set(re.findall(r'(?:url\(#|xlink:href="#)([^)"]+)', svg))
    assert referred <= set(re.findall(r'\bid="([^"]+)"', svg))


def test_the_files_beside_the_page(written: Path) -> None:
    plots = sorted(path.relative_to(written).as_posix() for path in written.rglob("*.png"))
    assert "plots/recall_by_pairs_1.png" in plots and "plots/strong/similarity.png" in plots
    for path in filter(lambda path: path != "card.png", plots):
        with Image.open(written / path) as picture:
            assert picture.width == 1560  # 5.2 inches at 300 dpi
    with (written / "tables" / "studies.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["study"] for row in rows] == ["strong", "weak", "half_done", "rubbish"]
    assert (float(rows[0]["test"]), rows[2]["test"]) == (25.0, "")
    latex = (written / "tables" / "studies.tex").read_text(encoding="utf-8")
    assert r"half\_done" in latex and r"25.00 $\pm$ 1.00" in latex and r"\toprule" in latex
    assert (float(rows[0]["test 95 % low"]), rows[2]["test 95 % low"]) == (24.0, "")
    assert (written / "tables" / "strong" / "trials.tex").is_file()
    assert (written / "tables" / "differences.csv").is_file()
    with Image.open(written / "card.png") as card:
        assert card.size == (1200, 630) and len(card.convert("L").getcolors() or []) > 50


def test_the_page_asks_nothing_of_the_net_and_holds_captions_as_text(written: Path) -> None:
    page = (written / "compare.html").read_text(encoding="utf-8")
    assert "cosine 0.92 to the nearest real image" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page.replace('xlink:href="data:', 'xlink:href="data:'))
    assert EVIL not in page and "&lt;script&gt;" in page
    assert page.count("<script") == 1
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


# --- in a browser -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])  # root has no sandbox
        yield browser
        browser.close()


@contextmanager
def opened(browser: "Browser", file: Path) -> Iterator["Page"]:
    """A page without network; messages on the console make the test fail."""
    page = browser.new_context(offline=True, viewport={"width": 1400, "height": 900}).new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    page.goto(file.as_uri())
    yield page
    page.context.close()
    assert said == []


@pytest.fixture(scope="module")
def browser_page(browser: "Browser", written: Path) -> Iterator["Page"]:
    with opened(browser, written / "compare.html") as page:
        assert page.locator("details.fold[open]").count() == 0, "six sections are closed at first"
        page.get_by_role("button", name="Open all sections").click()
        yield page


def first_cells(table: "Locator") -> list[str]:
    return [text.replace("★", "").replace("(best)", "").strip() for text in table.locator("tbody th").all_inner_texts()]


def test_the_page_renders(browser_page: "Page") -> None:
    assert browser_page.title() == "Distilled sets compared"
    assert browser_page.locator("section.study").count() == 4 + 2
    boxes = [svg.bounding_box() for svg in browser_page.locator(".plot svg").all()]
    # progress of the studies, pairs, transfer, loss, the studies, an evaluated set
    assert len(boxes) == 1 + 1 + 1 + 4 + 2 * 6 + 5 + 3 + 1
    assert all(box and box["width"] > 300 and box["height"] > 80 for box in boxes)


def test_pictures_for_the_guides_are_taken(browser: "Browser", tmp_path: Path) -> None:
    workspace = tmp_path / "rayvldd_workspace"
    write_study(workspace / "studies", "quickstart")
    screenshots.take_comparison(browser, workspace, tmp_path)
    for name, width in (("page", 1280), ("compare", 1120)):
        with Image.open(tmp_path / f"{name}.webp") as picture:
            assert picture.width == width and 900 < picture.height < 2000
            assert len(picture.convert("L").getcolors() or []) > 50


def test_every_picture_is_shown(browser_page: "Page") -> None:
    browser_page.evaluate("Promise.all([...document.images].map((image) => image.decode()))")
    sizes = browser_page.evaluate("[...document.images].map((image) => [image.naturalWidth, image.naturalHeight])")
    assert len(sizes) == 2 * (30 + 6 + 6 + 6) and all(size == [16, 16] for size in sizes)


def test_tables_sort_both_ways_with_missing_values_last(browser_page: "Page") -> None:
    table = browser_page.locator("#studies")
    header = table.locator("thead th", has_text=re.compile("^test(?!s)"))
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert first_cells(table)[:2] == ["strong", "weak"]
    header.locator("button").press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    assert first_cells(table)[:2] == ["weak", "strong"]
    table.locator("thead th", has_text="study").locator("button").click()
    assert first_cells(table) == ["half_done", "rubbish", "strong", "weak"]


def test_a_transfer_matrix_sorts_by_its_numbers_and_marks_the_encoder_of_the_set(browser_page: "Page") -> None:
    table = browser_page.locator("#transfer-1")
    header = table.locator("thead th", has_text="convnet_d3").locator("button")
    header.click()
    assert first_cells(table) == ["all pairs", "one"]
    header.click()
    assert first_cells(table) == ["one", "all pairs"]
    own = table.locator("td.own")
    assert own.count() == 1
    assert "28.0 ± 1.0 (70 %)" in own.first.inner_text() and "its own encoder" in own.first.inner_text()
    assert own.first.evaluate("cell => getComputedStyle(cell).fontWeight") == "700"


def test_evaluated_sets_filter_and_the_keyboard_reaches_every_part(browser_page: "Page") -> None:
    browser_page.locator('input[data-filters="sets-1"]').fill("100 herding")
    assert browser_page.locator("#sets-1 tbody tr:visible").count() == 1
    browser_page.locator('input[data-filters="sets-1"]').fill("")
    browser_page.locator('input[data-filters="published"]').fill("wu distilled flickr30k")
    assert browser_page.locator("#published tbody tr:visible").count() == 4
    browser_page.locator('input[data-filters="published"]').fill("")
    for link in browser_page.locator("nav a").all():
        link.focus()
        browser_page.keyboard.press("Enter")
        target = browser_page.locator(str(link.get_attribute("href")))
        assert target.count() == 1 and target.is_visible()
    assert "does not beat real pairs" in browser_page.locator("p.verdict").inner_text()
    assert "is not a distilled set" in browser_page.locator("#set-2 .faults").inner_text()


def test_tables_filter_by_words(browser_page: "Page") -> None:
    table, box = browser_page.locator("#studies"), browser_page.get_by_label("Filter").first
    box.fill("heads_only FINISHED weak")
    assert table.locator("tbody tr:visible").count() == 1
    assert browser_page.locator('[data-count="studies"]').inner_text() == "1 of 4"
    box.fill("")
    assert table.locator("tbody tr:visible").count() == 4


def test_the_gallery_is_searched_and_opens_in_full(browser_page: "Page") -> None:
    pairs = browser_page.locator("#study-1-gallery li:visible")
    assert pairs.count() == 24
    box = browser_page.get_by_label("Search captions").first
    box.fill("boat")
    assert pairs.count() == 15
    box.fill("")
    browser_page.get_by_role("button", name="Show all 30 pairs").click()
    assert pairs.count() == 30
    assert EVIL in pairs.first.inner_text()


def test_a_trial_lights_up_in_all_plots_from_the_keyboard(browser_page: "Page") -> None:
    row = browser_page.locator('tr[data-trial="strong/trial_008"]')
    row.focus()
    assert browser_page.locator('.mark.lit[data-trial="strong/trial_008"]').count() == 6  # two panels of marginals
    assert browser_page.locator(".mark.lit").count() == 6
    assert "trial_008, finished" in browser_page.locator("#study-1 .has-readout .readout").first.inner_text()
    browser_page.keyboard.press("Escape")
    assert browser_page.locator(".mark.lit").count() == 0


def test_pointing_at_a_marker_shows_its_tooltip(browser_page: "Page") -> None:
    mark = browser_page.locator("#study-1 .mark[data-trial='strong/trial_001'] path").last
    mark.dispatch_event("pointerenter")
    mark.locator("..").dispatch_event("pointerenter")
    assert "trial_001, stopped" in browser_page.locator("#study-1 .has-readout .readout").first.inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_in_light_and_dark(browser_page: "Page", scheme: Any) -> None:
    browser_page.emulate_media(color_scheme=scheme)
    browser_page.set_viewport_size({"width": 390, "height": 844})
    assert browser_page.evaluate("document.documentElement.scrollWidth") <= 390
    paper, ink = browser_page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    brightness = {name: sum(map(int, re.findall(r"\d+", colour)[:3])) for name, colour in (("p", paper), ("i", ink))}
    assert (brightness["p"] > brightness["i"]) == (scheme == "light")


def test_the_result_is_on_the_first_screen(browser_page: "Page") -> None:
    browser_page.set_viewport_size({"width": 1280, "height": 900})
    overview = browser_page.locator(".overview")
    box = overview.bounding_box()
    assert box is not None and box["y"] + box["height"] <= 900
    text = overview.inner_text()
    numbers = ("25.0 %", "95 % interval 24.0 to 26.0", "81 % of 31.0", "5.0 %", "30 of 40", "1 stopped, 1 failed")
    assert all(words in text for words in ("strong", *numbers)), text
    assert overview.locator("img").count() == 12 and overview.locator("svg").count() == 1


@pytest.mark.parametrize("width", [1280, 768])
def test_the_table_of_studies_needs_no_sideways_scrolling(browser_page: "Page", width: int) -> None:
    browser_page.set_viewport_size({"width": width, "height": 900})
    assert browser_page.evaluate("document.documentElement.scrollWidth") <= width
    scrolled = "(table) => [table.parentElement.scrollWidth, table.parentElement.clientWidth]"
    inside, outside = browser_page.locator("#studies").evaluate(scrolled)
    assert inside <= outside


@pytest.mark.parametrize("width", [1280, 768])
def test_long_names_of_encoders_need_no_sideways_scrolling(browser_page: "Page", width: int) -> None:
    browser_page.set_viewport_size({"width": width, "height": 900})
    cell = browser_page.locator("#studies tbody tr").first.locator("td").last
    before = cell.inner_html()
    cell.evaluate("(cell, words) => { cell.textContent = words }", f"own, 96 px, {'encoder_' * 6}, a/{'encoder_' * 6}")
    scrolled = "(table) => [table.parentElement.scrollWidth, table.parentElement.clientWidth]"
    inside, outside = browser_page.locator("#studies").evaluate(scrolled)
    cell.evaluate("(cell, html) => { cell.innerHTML = html }", before)
    assert inside <= outside


def test_tables_of_sets_and_of_other_data_need_no_sideways_scrolling(browser: "Browser", tmp_path: Path) -> None:
    """Seven recalls, each with its interval and its fraction of the bound."""
    write_set(tmp_path / "a_set_with_a_long_name_500", Study.model_validate(TINY_STUDY), 6)
    named = str(tmp_path / "a_set_with_a_long_name_500")
    rows = {named: 17.5, "500 pairs, forgetting": 15.5, "500 pairs, random": 11.5, "all pairs": 33.5}
    scores = [
        {"trained_on": row, "probe": "other", "metric": metric, "num_students": 5, "mean": mean, "interval": ends}
        for row, mean in rows.items()
        for metric in (*RECALLS, "mean_recall")
        for ends in [[mean - 2.3, mean + 2.3]]
    ]
    about = {key: value for key, value in evaluated(0.0).items() if key in ("measured_on", "trained_with", "base")}
    values = evaluation(tmp_path) | {"breakdown": [], "coresets": [], "full_data": []}
    values["sets"] = [evaluated(28.0, distilled_set=named, num_pairs=500, made_with="convnet_d3")]
    values["further"] = [
        {**about, "evaluation": "on", "title": "Recall on the test images of other (%)", "scores": scores}
    ]
    found = read_scores([], [write_evaluation(tmp_path / "evaluated.json", values)])[1]
    sets = evaluated_sets(found, [], tmp_path)
    write_comparison(compare([], [], found, sets, []), tmp_path / "page", "rayvldd compare")
    with opened(browser, tmp_path / "page" / "compare.html") as page:
        page.set_viewport_size({"width": 1280, "height": 900})
        table = page.locator(".beyond > .scroll > table")
        assert table.locator("tbody tr").count() == 4 and "23 %" not in table.locator("thead").inner_text()
        assert re.fullmatch(r"17\.5 ± 2\.3\s+\(52 %\)", table.locator("tbody td").first.inner_text())
        scrolled = "(table) => [table.parentElement.scrollWidth, table.parentElement.clientWidth]"
        for shown in (table, page.locator("#sets-1")):
            inside, outside = shown.evaluate(scrolled)
            assert inside <= outside


def test_studies_are_cards_on_a_phone(browser_page: "Page") -> None:
    browser_page.set_viewport_size({"width": 390, "height": 844})
    scrolled = "(table) => [table.parentElement.scrollWidth, table.parentElement.clientWidth]"
    inside, outside = browser_page.locator("#studies").evaluate(scrolled)
    assert inside <= outside
    cell = browser_page.locator('#studies tr:has-text("strong") td[data-label="test"]')
    assert cell.inner_text() == "25.00 ± 1.00"
    assert cell.evaluate("cell => getComputedStyle(cell, '::before').content") == '"test: "'
    browser_page.set_viewport_size({"width": 1280, "height": 900})


def test_a_link_opens_its_section_and_paper_has_all(browser_page: "Page") -> None:
    browser_page.evaluate("for (const fold of document.querySelectorAll('.fold')) fold.open = false")
    browser_page.locator('nav a[href="#study-2"]').click()
    assert browser_page.locator("details.fold[open]").count() == 1
    assert browser_page.locator("#study-2 .plots").first.is_visible()
    nav = browser_page.locator("nav").bounding_box()
    assert nav is not None and nav["y"] == 0, "the navigation stays at the top"
    browser_page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert browser_page.locator("details.fold:not([open])").count() == 0


def test_a_plot_is_one_tab_stop_and_arrow_keys_reach_its_marks(browser_page: "Page") -> None:
    plot = browser_page.locator("#study-1 .plot.history")
    assert plot.locator("[tabindex='0']:not(.scroll)").count() == 1
    plot.locator("svg").focus()
    browser_page.keyboard.press("ArrowRight")
    assert "trial_000, failed" in plot.locator(".readout").inner_text()
    browser_page.keyboard.press("ArrowRight")
    assert "trial_001, stopped" in plot.locator(".readout").inner_text()
    browser_page.keyboard.press("ArrowLeft")
    browser_page.keyboard.press("ArrowLeft")
    assert "trial_008, finished" in plot.locator(".readout").inner_text(), "from the first to the last"
    rows = browser_page.locator("#study-1-trials tbody tr")
    assert browser_page.locator("#study-1-trials tbody tr[tabindex='0']").count() == 1
    rows.first.focus()
    browser_page.keyboard.press("ArrowDown")
    assert rows.nth(1).evaluate("row => row === document.activeElement && row.tabIndex === 0")
    browser_page.keyboard.press("Escape")


def test_dragging_along_an_axis_keeps_the_trials_in_that_range(browser_page: "Page") -> None:
    browser_page.set_viewport_size({"width": 1280, "height": 900})
    plot = browser_page.locator("#study-1 .plot.parallel_coordinates")
    plot.evaluate("(plot) => plot.scrollIntoView({ block: 'center' })")
    ends = """(plot) => {
        const svg = plot.querySelector('svg'), matrix = svg.getScreenCTM();
        const paths = [...svg.querySelectorAll('.mark path')];
        const lines = paths.map((path) => path.getAttribute('d').match(/-?[\\d.]+/g).map(Number));
        const last = lines.map((numbers) => numbers.slice(-2));
        const top = Math.min(...last.map(([, y]) => y));
        const point = new DOMPoint(last[0][0], top).matrixTransform(matrix);
        return [point.x, point.y];
    }"""
    x, y = plot.evaluate(ends)
    browser_page.mouse.move(x, y - 8)
    browser_page.mouse.down()
    browser_page.mouse.move(x, y + 6, steps=4)
    browser_page.mouse.up()
    assert plot.locator(".brush").count() == 1
    assert plot.locator(".readout").inner_text() in ("1 of 9 trials", "2 of 9 trials")
    kept = plot.locator(".mark:not(.out)")
    assert "trial_008" in [str(kept.nth(n).get_attribute("data-trial")).split("/")[1] for n in range(kept.count())]
    assert browser_page.locator("#study-1-trials tr.out").count() >= 7
    browser_page.keyboard.press("Escape")
    assert plot.locator(".mark.out").count() == 0 and plot.locator(".brush").count() == 0


def test_what_differs_is_listed(comparison: Comparison) -> None:
    assert comparison.differences is not None and comparison.progress is not None
    rows = {str(row[0]): row[1:] for row in comparison.differences.rows}
    assert comparison.differences.headings[0] == "setting" and "strong" in comparison.differences.headings
    assert "search.num_trials" in rows and "name" not in rows
    assert {row[0] for row in comparison.progress.rows} == {"strong", "weak", "half_done"}


def test_a_failed_trial_does_not_flatten_the_axes(tmp_path: Path) -> None:
    trials = trials_of(lambda lr, steps: 50 + lr / 100, 12)
    failed = Trial("trial_012", 12, 1, dict(trials[0].point), Path(), "failed", "", [searches.evaluated(10, 0.1)])
    for drawing in (
        history([*trials, failed], "trial_003"),
        marginals([*trials, failed], SPACE, "trial_003", {}),
    ):
        low, _ = drawing.figure.axes[0].get_ylim()
        assert low > 49, drawing.name


# --- accessibility, paper, and studies of other sizes --------------------------------------------------------------

OF_THE_SAME_STYLE = "tbody tr:nth-child(n+4), .gallery li:nth-child(n+4), .mark ~ .mark, [id*=tick] ~ [id*=tick]"
"""Rows, pairs, marks and ticks with the elements and classes of those before them; axe looks at each for long."""


def axe_faults(page: "Page", left_out: str = OF_THE_SAME_STYLE) -> list[str]:
    """What axe finds at three widths, in light and dark, with everything opened; no rule is left out."""
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
    page.evaluate("(same) => { for (const one of document.querySelectorAll(same)) one.remove(); }", left_out)
    found = []
    for width in (1280, 768, 390):
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            only = {} if scheme == "light" else {"runOnly": ["color-contrast"]}  # dark has other colours, and no more
            options = {"resultTypes": ["violations"], **only}
            response = Axe().run(page, options=options).response
            found += [
                f"{width} {scheme}: {fault['id']}, {node['target']}"
                for kind in ("violations", "incomplete")
                for fault in response[kind]
                for node in fault["nodes"]
                if not (kind == "incomplete" and fault["id"] == "color-contrast")  # text of SVG over lines
            ]
    page.reload()
    return found


@pytest.fixture(scope="module")
def page_of_trials(browser: "Browser", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], "Page"]]:
    """The page of one study with so many trials; each is made once."""
    pages: dict[int, Page] = {}
    with ExitStack() as stack:

        def page_of(num_trials: int) -> "Page":
            if num_trials not in pages:
                root = tmp_path_factory.mktemp("trials")
                study = write_study(root, "study", num_trials=num_trials, pairs=30)
                file = root / "compare.html"
                file.write_text(render_page(compare([read_study(study.root)]), "rayvldd compare"), encoding="utf-8")
                pages[num_trials] = stack.enter_context(opened(browser, file))
            return pages[num_trials]

        yield page_of


@pytest.mark.parametrize("num_trials", [1, 8, 60])
def test_axe_finds_nothing_on_the_page_of_a_study(page_of_trials: Callable[[int], "Page"], num_trials: int) -> None:
    assert axe_faults(page_of_trials(num_trials)) == []


NAMES = ("coco", "flickr8k", "lora_of_rank_16", "quickstart", "a_study_with_a_name_of_many_words_and_a_seed")
"""Names of studies; further ones are numbered."""


@pytest.fixture(scope="module")
def page_of_eight(browser: "Browser", tmp_path_factory: pytest.TempPathFactory) -> Iterator["Page"]:
    """The page of eight studies, as it opens."""
    root = tmp_path_factory.mktemp("eight")
    names = [*NAMES, *(f"study_{number}" for number in range(8 - len(NAMES)))]
    for number, name in enumerate(names):
        write_study(root, name, recall=10.0 + number, num_trials=8, pairs=24 if number % 2 else 30)
    reports = [read_study(root / name) for name in names]
    file = root / "compare.html"
    file.write_text(render_page(compare(reports), "rayvldd compare"), encoding="utf-8")
    with opened(browser, file) as page:
        yield page


@pytest.mark.parametrize("width", [1280, 768, 390])
def test_a_page_of_eight_studies_is_folded_and_fits_its_window(page_of_eight: "Page", width: int) -> None:
    page = page_of_eight
    page.set_viewport_size({"width": width, "height": 900})
    assert page.locator("details.fold").count() == 8 and page.locator("details.fold[open]").count() == 0
    folded = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    assert folded[0] <= width and folded[1] < 30_000 / 2
    sideways = "(width) => [...document.querySelectorAll('main *')].filter((one) => !one.closest('.scroll, svg, pre')\
        && one.getBoundingClientRect().right > width + 1).map((one) => one.outerHTML.slice(0, 200))"
    assert page.evaluate(sideways, width) == [], "nothing outside of its own scrolled box is cut off"
    lines = """(table) => [...table.querySelectorAll('tbody td, tbody th')].filter((cell) => {
        const range = document.createRange();
        range.selectNodeContents(cell);
        const text = cell.textContent.replace(/[^a-z0-9_]/g, '');
        return text === 'quickstart' && new Set([...range.getClientRects()].map((box) => box.top)).size > 1;
    }).length"""
    for table in ("#studies", "#sets-1"):
        assert page.locator(f"{table} tbody").inner_text().count("quickstart") > 0
        assert page.locator(table).evaluate(lines) == 0, "a name is not divided within a word"


@pytest.mark.parametrize("width", [1280, 768, 390])
def test_the_navigation_of_eight_studies_stays_and_opens_each(page_of_eight: "Page", width: int) -> None:
    page = page_of_eight
    page.evaluate("for (const fold of document.querySelectorAll('.fold')) fold.open = false")
    page.set_viewport_size({"width": width, "height": 900})
    links = page.locator('nav a[href^="#study-"]')
    assert links.count() == 8
    for number in range(8):
        links.nth(number).focus()  # which scrolls to it, in a window that is too narrow for all
        page.keyboard.press("Enter")
        name = links.nth(number).inner_text()
        heading = page.locator(str(links.nth(number).get_attribute("href"))).locator("h2")
        assert heading.inner_text().startswith(name) and page.locator("details.fold[open]").count() == number + 1
        nav, box = page.locator("nav").bounding_box(), heading.bounding_box()
        assert nav is not None and box is not None
        assert nav["y"] == 0 and nav["height"] < 900 / 8, "it stays at the top, and leaves the window to the page"
        assert nav["height"] <= box["y"] < 900, "the heading is below it"


def test_axe_finds_nothing_on_a_page_of_eight_studies(page_of_eight: "Page") -> None:
    sections_after_the_first = ".study ~ .study .fold > :not(summary)"
    assert axe_faults(page_of_eight, f"{OF_THE_SAME_STYLE}, {sections_after_the_first}") == []


def test_axe_finds_nothing_on_a_page_of_several_studies_and_sets(browser_page: "Page") -> None:
    assert axe_faults(browser_page) == []


def test_axe_would_find_a_fault(page_of_trials: Callable[[int], "Page"]) -> None:
    page = page_of_trials(1)
    page.evaluate("document.querySelector('.first-pairs img').removeAttribute('alt')")
    page.evaluate("document.querySelector('.hint').style.color = '#999'")
    found = axe_faults(page)
    assert sum("image-alt" in fault for fault in found) == 3
    assert sum("color-contrast" in fault for fault in found) >= 3


def test_a_single_trial_has_whole_numbers_on_its_axes(page_of_trials: Callable[[int], "Page"]) -> None:
    page = page_of_trials(1)
    page.set_viewport_size({"width": 1280, "height": 900})
    ticks = "(plot) => [...plot.querySelectorAll('[id*=xtick] text')].map((text) => text.textContent)"
    assert page.locator(".plot.history").evaluate(ticks) == ["0"]
    assert "1 trial." in page.locator(".study").inner_text()
    assert page.locator(".plot.marginals details").count() == 0, "a table without rows is left out"


def test_the_page_has_few_tab_stops(page_of_trials: Callable[[int], "Page"]) -> None:
    page = page_of_trials(60)
    page.set_viewport_size({"width": 1280, "height": 900})
    for table in page.locator("table.sortable").all():
        assert table.locator("thead button:not([tabindex='-1'])").count() == 1
    first, second = (page.locator("#study-1-trials thead button").nth(n) for n in (0, 1))
    first.focus()
    page.keyboard.press("ArrowRight")
    assert second.evaluate("(button) => button === document.activeElement && button.tabIndex === 0")
    stops = page.locator(".scroll:visible, pre:visible")
    page.wait_for_function(
        "[...document.querySelectorAll('.scroll, pre')].filter((box) => box.checkVisibility()).every((box) =>"
        " (box.tabIndex === 0) === (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight))"
    )
    assert stops.count() > page.locator(".scroll[tabindex]:visible, pre[tabindex]:visible").count() > 0


def test_paper_is_white_and_nothing_on_it_is_cut(page_of_trials: Callable[[int], "Page"]) -> None:
    page = page_of_trials(60)
    page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = false")
    page.set_viewport_size({"width": 718, "height": 1046})  # A4 with the margins of Chromium, at 96 dpi
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    try:
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("document.documentElement.scrollWidth") <= 718
        cut = "[...document.querySelectorAll('.scroll')].filter((box) => box.scrollHeight > box.clientHeight).length"
        assert page.evaluate(cut) == 0
        assert "95 % interval" in page.locator(".overview").inner_text()
        assert page.locator("summary:visible").count() == 1, "closed tables leave no heading behind"
        assert page.locator("#study-1-trials tr:visible").count() == 61
        heights = "(row) => row.getBoundingClientRect().height / parseFloat(getComputedStyle(row).lineHeight)"
        assert page.locator("#study-1-trials tbody tr").first.evaluate(heights) < 2, "no number is divided"
    finally:
        page.emulate_media(media="screen")
