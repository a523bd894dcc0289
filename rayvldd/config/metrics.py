"""The numbers that a study reports: name, unit, direction and label of each, declared once.

Objectives, tables, plots, MLflow and records take their names from here. The metrics themselves are computed in
``rayvldd.evaluation``.
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
    """What people read, e.g. ``mean recall``."""
    unit: str
    """``%``, ``s`` or ``pairs``."""
    direction: Direction
    """Which way is better."""

    def on(self, split: str) -> str:
        """The name with the split, e.g. ``val_mean_recall``."""
        return f"{split}_{self.name}"

    def best_on(self, split: str) -> str:
        """The name of the best value so far, e.g. ``best_val_mean_recall``."""
        return f"best_{split}_{self.name}"

    @property
    def rises(self) -> bool:
        """Whether more is better."""
        return self.direction == "max"


IMAGE_TO_TEXT, TEXT_TO_IMAGE = "image_to_text", "text_to_image"
RANKS = (1, 5, 10)
"""The k of recall at k."""


def recall_at(direction: str, k: int) -> MetricInfo:
    """Recall at k in one direction of retrieval: the share of queries whose right answer is among the first k."""
    return MetricInfo(f"{direction}_r{k}", f"{direction.replace('_', ' ')} R@{k}", "%", "max")


RECALLS = tuple(recall_at(direction, k) for direction in (IMAGE_TO_TEXT, TEXT_TO_IMAGE) for k in RANKS)
"""The six recalls, image to text first."""

MEAN_RECALL = MetricInfo("mean_recall", "mean recall", "%", "max")
"""The mean of the six recalls: what a search maximises."""

NUM_PAIRS = MetricInfo("num_pairs", "pairs", "pairs", "min")
"""Pairs of a set."""

SECONDS = MetricInfo("seconds", "seconds", "s", "min")
"""Seconds of matching and evaluating until the best set was there."""

VAL_MEAN_RECALL = MEAN_RECALL.on("val")
"""What a trial is compared by."""
BEST_VAL_MEAN_RECALL = MEAN_RECALL.best_on("val")
"""The highest so far, which Ray Tune and MLflow are given."""

OBJECTIVES = {VAL_MEAN_RECALL: MEAN_RECALL, NUM_PAIRS.name: NUM_PAIRS, SECONDS.name: SECONDS}
"""What a search can optimise, by the name that studies use."""

SEARCH_VAL_MEAN_RECALL = f"search_{VAL_MEAN_RECALL}"
"""Of a finalist: what its trial had reached in the search."""
RANDOM_MEAN_RECALL, FULL_DATA_MEAN_RECALL = f"random_{MEAN_RECALL.name}", f"full_data_{MEAN_RECALL.name}"
"""Of a test: students of random pairs, and models trained on all pairs."""
