"""The pictures that a search saves with each set."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rayvldd.distillation.distilled_set import NEAREST, DistilledSet
from rayvldd.models.retrieval_task import SplitInputs
from rayvldd.records.trial import Trial, best_of
from rayvldd.reports.nearest import nearest_captions
from rayvldd.reports.page.search_drawings import convergence, recall_curve
from rayvldd.reports.pictures import draw_before_after
from rayvldd.storage.atomic import write_text_whole

BEFORE_AFTER = "before_after.jpg"
CURVES = "recall_by_outer_step.png"


class Pictures:
    """Draws sets and searches into their folders."""

    def draw_set(self, folder: Path, train: SplitInputs) -> None:
        """Write the images before and after distillation, and the nearest captions, to the set's ``folder``."""
        distilled = DistilledSet.load(folder)
        # Both need a pass over the real captions, which takes most of the time; it is done once.
        found = nearest_captions(np.concatenate([distilled.start_texts.numpy(), distilled.texts.numpy()]), train)
        before, after = found[: len(distilled)], found[len(distilled) :]
        starts = [start or was.caption for start, was in zip(distilled.start_captions, before, strict=True)]
        rows = [
            {"pair": pair, "start": start, "nearest": now.caption, "similarity": round(now.similarity, 4)}
            for pair, (start, now) in enumerate(zip(starts, after, strict=True))
        ]
        write_text_whole(folder / NEAREST, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        draw_before_after(distilled, after, folder / BEFORE_AFTER)

    def has_drawn_set(self, folder: Path) -> bool:
        """Whether all files of :meth:`draw_set` exist; the images are written last."""
        return (folder / BEFORE_AFTER).is_file()

    def draw_study(self, folder: Path, trials: list[Trial]) -> None:
        """Write the curves of all trials to ``folder``."""
        best = best_of(trials)
        convergence(trials, best.trial_id if best else "").save(folder / CURVES)

    def draw_recall(self, folder: Path, distillation: Trial) -> None:
        """Write the curve of one distillation, which has an evaluation, to ``folder``."""
        recall_curve(distillation).save(folder / CURVES)


if TYPE_CHECKING:
    from rayvldd.hyperparameter_search.recorder import Illustrator

    _illustrator: Illustrator = Pictures()
