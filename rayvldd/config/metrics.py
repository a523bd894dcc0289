"""Declarations of the reported metrics: name, unit, direction and label.

Objectives, tables, plots, MLflow and records use the names declared here. ``rayvldd.evaluation`` computes the metrics.
"""

from dataclasses import dataclass
from typing import Literal

Direction = Literal["max", "min"]


@dataclass(frozen=True)
class MetricInfo:
    """One reported number."""

    name: str
    """Name without the split, e.g. ``mean_recall``."""
    label: str
    """Displayed name, e.g. ``mean recall``."""
    unit: str
    """``%``, ``s`` or ``pairs``."""
    direction: Direction
    """``max`` if larger values are better, else ``min``."""

    def on(self, split: str) -> str:
        """The name with the split, e.g. ``val_mean_recall``."""
        return f"{split}_{self.name}"

    def best_on(self, split: str) -> str:
        """The name of the best value so far, e.g. ``best_val_mean_recall``."""
        return f"best_{split}_{self.name}"

    @property
    def rises(self) -> bool:
        """Whether larger values are better."""
        return self.direction == "max"


IMAGE_TO_TEXT, TEXT_TO_IMAGE = "image_to_text", "text_to_image"
RANKS = (1, 5, 10)
"""The k of recall at k."""


def recall_at(direction: str, k: int) -> MetricInfo:
    """Recall at k in one retrieval direction: the share of queries with a correct answer among the first k results."""
    return MetricInfo(f"{direction}_r{k}", f"{direction.replace('_', ' ')} R@{k}", "%", "max")


RECALLS = tuple(recall_at(direction, k) for direction in (IMAGE_TO_TEXT, TEXT_TO_IMAGE) for k in RANKS)
"""The six recalls, image to text first."""

MEAN_RECALL = MetricInfo("mean_recall", "mean recall", "%", "max")
"""Mean of the six recalls; the default objective of a search."""

NUM_PAIRS = MetricInfo("num_pairs", "pairs", "pairs", "min")
"""Number of pairs of a set."""

SECONDS = MetricInfo("seconds", "seconds", "s", "min")
"""Seconds of distillation and evaluation until the best set was found."""

VAL_MEAN_RECALL = MEAN_RECALL.on("val")
"""The metric by which trials are compared."""
BEST_VAL_MEAN_RECALL = MEAN_RECALL.best_on("val")
"""Highest value so far, reported to Ray Tune and MLflow."""

OBJECTIVES = {VAL_MEAN_RECALL: MEAN_RECALL, NUM_PAIRS.name: NUM_PAIRS, SECONDS.name: SECONDS}
"""Possible objectives of a search, by their names in studies."""

SEARCH_VAL_MEAN_RECALL = f"search_{VAL_MEAN_RECALL}"
"""Mean recall that a finalist's trial reached in the search."""
RANDOM_MEAN_RECALL, FULL_DATA_MEAN_RECALL = f"random_{MEAN_RECALL.name}", f"full_data_{MEAN_RECALL.name}"
"""Test results of students of random pairs, and of models trained on all pairs."""

ZERO_SHOT_TOP1 = MetricInfo("zero_shot_top1", "top-1", "%", "max")
"""Share of images whose class has the most similar prompt."""
ZERO_SHOT_TOP5 = MetricInfo("zero_shot_top5", "top-5", "%", "max")
"""Share of images whose class is among the five with the most similar prompts."""

CONCENTRATION_IMAGE, CONCENTRATION_TEXT = "concentration_image", "concentration_text"
"""Mean cosine between different items of a synthetic set, after the frozen part of the model."""
NEAREST_IMAGE = "nearest_image_cosine"
"""Mean over the synthetic images of the cosine to the nearest real training image: of features of a frozen encoder, or
of thumbnails where the encoder is trained."""
DIAGNOSTICS = (CONCENTRATION_IMAGE, CONCENTRATION_TEXT, NEAREST_IMAGE)
"""Names of all diagnostics of a synthetic set, from :mod:`rayvldd.evaluation.diagnostics`."""

NEAREST_START = MetricInfo("nearest_start_cosine", "start images, nearest real image", "", "min")
"""Mean cosine of the start images of a set to the nearest real training image."""
NEAREST_DISTILLED = MetricInfo("nearest_distilled_cosine", "distilled images, nearest real image", "", "min")
"""Mean cosine of the distilled images to the nearest real training image."""
START_RECOVERED = MetricInfo("start_recovered", "start image recovered", "%", "min")
"""Share of distilled images whose nearest real image is that of their start image."""
MEMBERSHIP_TRAIN = MetricInfo("membership_auc_train", "AUC against other training pairs", "", "min")
"""Area under the ROC curve of membership inference, start pairs against other training pairs."""
MEMBERSHIP_HELD_OUT = MetricInfo("membership_auc_held_out", "AUC against held-out pairs", "", "min")
"""Area under the ROC curve of membership inference, start pairs against validation pairs."""

PRIVACY = (NEAREST_START, NEAREST_DISTILLED, START_RECOVERED, MEMBERSHIP_TRAIN, MEMBERSHIP_HELD_OUT)
"""Information of a set about its start pairs."""

RANK_CORRELATION = MetricInfo("rank_correlation", "rank correlation", "", "max")
"""Spearman's correlation of the recalls of several encoders on a set with those on all pairs."""

METRICS = {
    info.name: info for info in (*RECALLS, MEAN_RECALL, ZERO_SHOT_TOP1, ZERO_SHOT_TOP5, *PRIVACY, RANK_CORRELATION)
}
"""Metrics of students on any inputs, by name."""
