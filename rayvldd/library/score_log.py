"""Logging of the scores of sets to the tracker, one run for each set."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from rayvldd.config.domains import SettingValue
from rayvldd.tracking.opening import TRACKING_URI, open_tracker

if TYPE_CHECKING:
    from rayvldd.config.study import Study
    from rayvldd.evaluation.recall import RetrievalMetrics
    from rayvldd.models.retrieval_task import RetrievalTask
    from rayvldd.runtime.evaluation import StudentSpec
    from rayvldd.workspace import Workspace


@contextmanager
def score_log(
    study: "Study",
    task: "RetrievalTask",
    workspace: "Workspace",
    split: str,
    sets: Mapping[str, Sequence["StudentSpec"]],
    command: str,
) -> Iterator[Callable[[Mapping[str, Sequence["RetrievalMetrics"]]], None]]:
    """Open a log for the scores of sets of pairs, with one run for each set.

    The tracker is opened before the work, so that an unusable tracker is reported first.

    Yields:
        A function that logs the recalls of each student, by the name of the set.

    Raises:
        RayvlddError: if the tracker cannot be used.
    """
    from rayvldd.tracking.machine_use import MachineEnergy
    from rayvldd.tracking.protocol import Origins, Scores

    tracker = open_tracker(os.environ.get(TRACKING_URI), study.name, workspace)
    started = time.monotonic()

    def log(scores: Mapping[str, Sequence["RetrievalMetrics"]]) -> None:
        used = {"seconds": time.monotonic() - started, **energy.metrics()}
        for name, found in scores.items():
            kind, num_pairs = _kind_and_pairs(sets[name], task)
            entry = Scores(
                kind=kind,
                name=name,
                study=study,
                command=command,
                split=split,
                students=tuple(score.as_dict() for score in found),
                settings={
                    "trained_on": name,
                    "num_pairs": num_pairs,
                    "num_students": len(found),
                    **_training_of(sets[name]),
                },
                origins=Origins(task.fingerprints),
                figures={f"{figure}_of_all_sets": value for figure, value in used.items()},
            )
            tracker.log_scores(entry)

    with MachineEnergy().reading() as energy:
        yield log


def _training_of(jobs: Sequence["StudentSpec"]) -> dict[str, SettingValue]:
    """The recipe of models of all pairs, or the learning rate on real pairs; empty for synthetic pairs."""
    from rayvldd.records.full_data import FullDataChoice

    trained_on = jobs[0].pairs
    if not isinstance(trained_on, FullDataChoice):
        return {} if jobs[0].lr is None else {"learning_rate": jobs[0].lr}
    values: dict[str, SettingValue] = trained_on.best.recipe.model_dump(mode="json")
    return {f"recipe.{name}": value for name, value in values.items()}


def _kind_and_pairs(
    jobs: Sequence["StudentSpec"], task: "RetrievalTask"
) -> tuple[Literal["coreset", "evaluation", "full_data"], int]:
    from rayvldd.coresets.selection import Coreset
    from rayvldd.records.full_data import FullDataChoice

    trained_on = jobs[0].pairs
    if isinstance(trained_on, FullDataChoice):
        return "full_data", task.train.num_images
    if isinstance(trained_on, Coreset):
        return "coreset", len(trained_on.image_index)
    return "evaluation", trained_on.num_pairs
