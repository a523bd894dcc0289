"""Nearest captions compared with a plain loop; pictures of the right size; numbers in tables."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.searches import evaluated
from PIL import Image
from rich.console import Console

from rayvldd.data.dataset import Split
from rayvldd.distillation.distilled_set import NEAREST, DistilledSet
from rayvldd.evaluation.recall import RetrievalMetrics
from rayvldd.models.retrieval_task import SplitInputs
from rayvldd.records.study_outcome import StudyOutcome
from rayvldd.records.trial import Prediction, Trial
from rayvldd.reports import nearest as nearest_module
from rayvldd.reports.illustrator import BEFORE_AFTER, CURVES, Pictures
from rayvldd.reports.nearest import SimilarCaption, nearest_captions
from rayvldd.reports.page.search_drawings import calibration, convergence, recall_curve
from rayvldd.reports.pictures import draw_before_after
from rayvldd.reports.published import published_rows, published_table
from rayvldd.reports.renderers import as_terminal
from rayvldd.reports.table import Column, Table
from rayvldd.reports.tables import (
    comparison_table,
    estimate,
    recalls_table,
    result_table,
    trials_table,
)


def train_of(embeddings: np.ndarray, size: int = 16) -> SplitInputs:
    """Training pairs with one caption an image and the given embeddings."""
    number = len(embeddings)
    pixels = np.zeros((number, 3, size, size), dtype=np.uint8)
    names, captions = [f"image {n}" for n in range(number)], [f"caption {n}" for n in range(number)]
    return SplitInputs(Split("train", names, pixels, captions, np.arange(number)), pixels, embeddings)


def set_of(number: int, size: int = 16, *, noise_start: bool = False) -> DistilledSet:
    """A set of noisy pairs whose embeddings are the first rows of ``embeddings_of``."""
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(number, 3, size, size, generator=generator)
    images = start + 0.2 * torch.randn(start.shape, generator=generator)
    texts = torch.from_numpy(embeddings_of(number))
    captions = [""] * number if noise_start else [f"caption {n}" for n in range(number)]
    return DistilledSet(images, texts, start, texts.clone(), captions, 0.1, 0.1)


def embeddings_of(number: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(number, 8)).astype(np.float32)


def trial_of(number: int, recalls: list[float], state: str = "finished", folder: Path = Path()) -> Trial:
    found = [evaluated(10 * n, recall) for n, recall in enumerate(recalls)]
    point = {"distillation.lr_image": 12.3456, "model.lora.rank": 4}
    return Trial(f"trial_{number:03d}", number, 1, point, folder, state, "", found)  # type: ignore[arg-type]


@pytest.fixture
def trials() -> list[Trial]:
    return [
        trial_of(0, [1.0, 5.0, 9.0]),
        trial_of(1, [1.0, 7.0, 12.5, 11.0]),
        trial_of(2, [1.0, 2.0], "stopped"),
        trial_of(3, [1.0, 20.0], "failed"),
        trial_of(4, [], "failed"),
    ]


# --- nearest captions ---------------------------------------------------------------------------------------------


def test_nearest_captions_equal_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_module, "_CHUNK", 7)  # the real captions fill several chunks, the last one partly
    embeddings, asked = embeddings_of(40), np.random.default_rng(1).normal(size=(9, 8)).astype(np.float32)
    found = nearest_captions(asked, train_of(embeddings))
    for row, nearest in zip(asked, found, strict=True):
        cosines = [float(row @ e / np.linalg.norm(row) / np.linalg.norm(e)) for e in embeddings]
        assert nearest.caption == f"caption {int(np.argmax(cosines))}"
        assert nearest.similarity == pytest.approx(max(cosines), abs=1e-6)


def test_an_embedding_of_zeros_has_a_nearest_caption_too() -> None:
    (nearest,) = nearest_captions(np.zeros((1, 8), dtype=np.float32), train_of(embeddings_of(3)))
    assert nearest == SimilarCaption("caption 0", 0.0)


# --- pictures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 4, 7])
def test_the_picture_has_a_cell_for_every_pair(number: int, tmp_path: Path) -> None:
    path = tmp_path / "pairs.png"
    draw_before_after(set_of(number), [SimilarCaption("a long caption " * 20, 0.5)] * number, path)
    with Image.open(path) as picture:
        assert picture.width == min(number, 5) * 248 + 20
        assert picture.height == 64 + -(-number // 5) * 194


def test_a_hundred_noisy_pairs_fit_the_size(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jpg"
    draw_before_after(set_of(100, 96), [SimilarCaption("two dogs in the snow", 0.5)] * 100, path)
    assert path.stat().st_size < 1_500_000


def test_only_the_first_pairs_of_a_large_set_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "pairs.png"
    draw_before_after(set_of(12), [SimilarCaption("x", 0.5)] * 12, path, max_pairs=5)
    with Image.open(path) as picture:
        assert picture.height == 64 + 194


def test_images_are_drawn_as_they_are(tmp_path: Path) -> None:
    distilled, path = set_of(1, 112), tmp_path / "pairs.png"
    distilled.images[0] = torch.tensor([2.0, 0.5, -1.0]).view(3, 1, 1)  # clamped for the screen
    draw_before_after(distilled, [SimilarCaption("x", 0.5)], path)
    with Image.open(path) as picture:
        assert picture.getpixel((20 + 112 + 4 + 56, 64 + 56)) == (255, 128, 0)


def test_curves_can_be_drawn_of_any_trials(trials: list[Trial], tmp_path: Path) -> None:
    for name, drawn in (("curves", trials), ("empty", [])):
        (tmp_path / name).mkdir()
        Pictures().draw_study(tmp_path / name, drawn)
        with Image.open(tmp_path / name / CURVES) as picture:
            assert picture.size == (1560, 1020)


@pytest.mark.parametrize("noise_start", [False, True])
def test_the_files_beside_a_set(noise_start: bool, trials: list[Trial], tmp_path: Path) -> None:
    set_of(4, noise_start=noise_start).save(tmp_path)
    pictures = Pictures()
    assert not pictures.has_drawn_set(tmp_path)
    pictures.draw_set(tmp_path, train_of(embeddings_of(30)))
    assert pictures.has_drawn_set(tmp_path)
    pictures.draw_study(tmp_path, trials)
    rows = [json.loads(line) for line in (tmp_path / NEAREST).read_text(encoding="utf-8").splitlines()]
    assert [row["nearest"] for row in rows] == [f"caption {n}" for n in range(4)]
    assert [row["start"] for row in rows] == [f"caption {n}" for n in range(4)]
    for name in (BEFORE_AFTER, CURVES):
        with Image.open(tmp_path / name) as picture:
            picture.verify()


# --- tables -------------------------------------------------------------------------------------------------------


def text_of(table: Table, width: int = 80) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(as_terminal(table))
    return captured.get()


def test_trials_stand_by_recall_with_the_best_marked(trials: list[Trial]) -> None:
    lines = text_of(trials_table(trials, "trial_001")).splitlines()
    assert [line.split()[0] for line in lines[2:]] == [f"trial_00{n}" for n in (3, 1, 0, 2, 4)]
    assert lines[3].split()[1:] == ["*", "finished", "12.50", "20", "12.3", "4"]
    assert "–" in lines[-1]


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("halved at step 40: 12.00 is below 14.00", "halved"),
        ("below the median at step 40: 12.00 is below 14.00", "median"),
        ("no gain over its initial set until step 40", "no gain"),
        ("the search's time was used up", "time"),
        ("stopped by rayvldd stop", "rayvldd stop"),
        ("a rule of another package said so", "its rule"),
    ],
)
def test_a_stopped_trial_says_by_what_in_the_width_of_its_state(reason: str, words: str, trials: list[Trial]) -> None:
    for trial in trials[2:4]:
        trial.reason = reason
    table = trials_table(trials, "trial_001", for_terminal=True)
    states = {str(row[0]): row[1] for row in table.rows}
    assert (states["trial_002"], states["trial_003"]) == (f"stopped: {words}", "failed")
    assert "stopped" in trials_table(trials).column("state"), "programs read the state alone"
    narrow, before = text_of(table, 50).splitlines(), text_of(trials_table(trials, "trial_001"), 50).splitlines()
    assert max(map(len, narrow)) <= 50 and sum("trial" in line for line in narrow) == sum(
        "trial" in line for line in before
    ), "no further block of columns"
    assert " ".join(words.split()) in " ".join(text_of(table, 120).split())


def test_predictions_stand_beside_what_came_out(trials: list[Trial]) -> None:
    for trial in trials[1:]:
        trial.prediction = Prediction(recall=10.0 + trial.number, sd=1.5)
    table = trials_table(trials, "trial_001")
    names = [column.title for column in table.columns]
    assert names[2:5] == ["val mean recall", "predicted", "sd"]
    cells = {row[0]: row[2:5] for row in table.rows}
    assert cells["trial_001"] == [12.5, 11.0, 1.5] and cells["trial_000"] == [9.0, None, None]


def test_the_calibration_counts_finished_trials_only(trials: list[Trial]) -> None:
    predictions = {0: (8.0, 2.0), 1: (16.0, 3.0), 2: (15.0, 1.0), 3: (20.0, 1.0), 4: (9.0, 1.0)}
    for trial in trials:
        recall, sd = predictions[trial.number]
        trial.prediction = Prediction(recall=recall, sd=sd)
    drawing = calibration(trials, "trial_001")
    assert "Of 2 finished trials 1 are within one standard deviation and 2 within two" in drawing.words
    assert [row[:2] for row in drawing.rows] == [
        ("trial_000", "finished"),
        ("trial_001", "finished"),
        ("trial_002", "stopped"),
    ]
    assert drawing.rows[1][2:] == (16.0, 3.0, 30, 11.0), "its last recall, which is not its best"
    assert [mark.trial_id for mark in drawing.marks] == ["trial_000", "trial_001", "trial_002"]


def test_the_highest_marker_is_below_the_top_of_the_axes() -> None:
    """Of a curve of close values too, whose top matplotlib sets by their range."""
    trial = trial_of(0, [33.1, 33.4, 33.8])
    for drawing in (recall_curve(trial), convergence([trial], trial.trial_id)):
        (axes,) = drawing.figure.axes
        bottom, top = axes.get_ylim()
        assert bottom == 0 and 33.8 * 1.03 < top < 33.8 * 1.1


def test_recalls_show_mean_and_interval_within_a_terminal() -> None:
    students = [
        RetrievalMetrics(10.0, 20.0, 30.0, 8.0, 18.0, 28.0),
        RetrievalMetrics(11.0, 21.0, 31.0, 9.0, 19.0, 29.0),
        RetrievalMetrics(12.0, 22.0, 32.0, 10.0, 20.0, 30.0),
    ]
    full = [RetrievalMetrics(20.0, 40.0, 60.0, 20.0, 40.0, 60.0)]
    text = text_of(recalls_table({"set": students, "full": full}, full_data="full"))
    assert "set (3)" in text and "11.0±2.5" in text and "20.0±2.5" in text  # 4.303 x 1 / sqrt(3)
    assert text.splitlines()[-1].split()[-3:] == ["40.0", "100", "%"] and "50 %" in text
    assert "share" not in text_of(recalls_table({"set": students}))
    assert "…" not in text


def test_fewer_than_three_values_have_no_interval() -> None:
    column = Column("mean", number="{:.1f}")
    assert column.text(estimate([3.14])) == "3.1"
    assert column.text(estimate([49.0, 51.0])) == "50.0"
    assert column.text(estimate([49.0, 50.0, 51.0])) == "50.0 ± 2.5"  # 4.303 x 1 / sqrt(3)


def test_a_result_of_two_sets_is_too_few_to_say() -> None:
    result = result_of("one", 18.0)
    two = result.model_copy(update={"test": result.test.model_copy(update={"interval": None})})
    assert "too few to say" in text_of(result_table(two)) and "too few to say" in text_of(comparison_table([two]), 120)


def result_of(name: str, recall: float) -> StudyOutcome:
    values = {
        "study": name,
        "protocol": "heads_only",
        "num_pairs": 100,
        "trials": {"finished": 3, "stopped": 4, "failed": 1},
        "best": {"trial_id": "trial_001", "config": {}, "outer_step": 10, "val_mean_recall": 20.0},
        "test": {
            "mean_recall": recall,
            "interval": [recall - 0.5, recall + 0.5],
            "random_mean_recall": 5.0,
            "full_data_mean_recall": 24.0,
            "share_of_full_data": recall / 24,
            "num_sets": 3,
            "num_students": 5,
        },
    }
    return StudyOutcome.model_validate(values, strict=False)


def test_the_result_has_the_fraction_of_the_full_data() -> None:
    text = text_of(result_table(result_of("one", 18.0)))
    assert "18.00" in text and "17.50 to 18.50" in text and "75 %" in text and "100 %" in text
    assert "(3 sets × 5" in text


def test_studies_are_compared_best_first() -> None:
    lines = text_of(comparison_table([result_of("weak", 10.0), result_of("strong", 18.0)]), 120).splitlines()
    assert lines[2].startswith("strong *") and lines[3].startswith("weak")
    assert lines[2].split()[3:5] == ["100", "8"]


def test_published_rows_agree_with_the_means_in_print() -> None:
    """The means of the six that later papers print for Wu et al., of which the file holds the six."""
    rows = published_rows()
    of_wu = [row for row in rows if (row.source, row.trained_on) == ("Wu et al.", "distilled")]
    means = {row.pairs: row.mean_recall for row in of_wu if row.dataset == "flickr30k"}
    assert {pairs: means[pairs] for pairs in (100, 200, 500)} == pytest.approx(
        {100: 20.4, 200: 21.2, 500: 25.0}, abs=0.06
    )
    assert all(row.chosen_on == "test" for row in rows if row.trained_on == "distilled")
    known = {"full_image_encoder", "heads_only", "both encoders trained", "not given here"}
    assert {row.protocol for row in rows} == known
    of = {(row.source, row.dataset, row.pairs): row.mean_recall for row in rows if row.pairs}
    later = {("LoRS", "flickr30k", 100): 27.4, ("LoRS", "flickr30k", 500): 31.6, ("LoRS", "coco", 200): 11.4}
    later |= {("RepBlend", "flickr30k", 199): 36.6, ("RepBlend", "coco", 499): 19.8, ("MDM", "flickr30k", 100): 26.4}
    later |= {("MDM", "coco", 500): 15.3, ("PTM-ST", "flickr30k", 499): 40.6}
    assert {key: of[key] for key in later} == pytest.approx(later, abs=0.06)
    assert of["AMD", "flickr30k", 200] is None, "one way alone has no mean of six"
    for row in rows:
        for values, deviations in (
            (row.image_to_text, row.image_to_text_std),
            (row.text_to_image, row.text_to_image_std),
        ):
            assert values == sorted(values) and len(deviations) in (0, len(values))
    assert len(rows) == len({(row.dataset, row.source, row.trained_on, row.pairs) for row in rows}) == 71


def test_the_published_table_states_that_it_was_not_measured_here() -> None:
    text = text_of(published_table(published_rows()), 120)
    assert "Published, not measured here" in text and "flickr30k: 1,000 test images" in text
    assert "9.9±0.3/28.3±0.5/39.1±0.7" in text
