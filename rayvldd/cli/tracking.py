"""Where commands log to: the embedded MLflow of the workspace, another server or database, or plain files."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from rayvldd.config.study import Study
    from rayvldd.evaluation.recall import RetrievalMetrics
    from rayvldd.models.retrieval_task import RetrievalTask
    from rayvldd.runtime.evaluation import EvaluationJob
    from rayvldd.tracking.protocol import Tracker
    from rayvldd.workspace import Workspace

TRACKING_URI = "MLFLOW_TRACKING_URI"
"""The variable that names a server or database for every command, or is ``none``."""

tracking_option = click.option(
    "--tracking-uri",
    envvar=TRACKING_URI,
    show_envvar=True,
    metavar="URI",
    help="MLflow server or database to log to, or `none`. Default: mlflow.db in the workspace.",
)


def open_tracker(uri: str | None, study_name: str, workspace: "Workspace", *, origin: str | None = None) -> "Tracker":
    """Open the tracker that a URI names; without one, the workspace's own.

    ``origin`` tells the study from others of its name and settings on a shared server, where it is not known by its
    folder.

    Raises:
        RayvlddError: when the URI cannot be used or does not answer.
    """
    folder = workspace.study(study_name)
    if uri == "none":
        from rayvldd.tracking.folder_tracker import FolderTracker

        return FolderTracker(folder / "tracking")

    from rayvldd.tracking.mlflow_tracker import MlflowTracker

    if uri is None:
        return MlflowTracker(workspace.tracking_uri, workspace.artifacts, origin=origin or str(folder))
    return MlflowTracker(uri, origin=origin or str(folder))


@contextmanager
def score_log(
    study: "Study",
    task: "RetrievalTask",
    workspace: "Workspace",
    split: str,
    sets: Mapping[str, Sequence["EvaluationJob"]],
) -> Iterator[Callable[[Mapping[str, Sequence["RetrievalMetrics"]]], None]]:
    """Make ready to log what the running command finds out about sets of pairs: one run a set.

    The tracker is opened before the work, so that one that cannot be used is told before it.

    Yields:
        What takes the recalls of each student by the name of the set.

    Raises:
        RayvlddError: when the tracker cannot be used.
    """
    from rayvldd.tracking.machine_use import MachineEnergy
    from rayvldd.tracking.protocol import Origins, Scores

    context = click.get_current_context(silent=True)
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
                command=context.obj.line if context else "",
                split=split,
                students=tuple(score.as_dict() for score in found),
                settings={"trained_on": name, "num_pairs": num_pairs, "num_students": len(found)},
                origins=Origins(task.fingerprints),
                figures={f"{figure}_of_all_sets": value for figure, value in used.items()},
            )
            tracker.log_scores(entry)

    with MachineEnergy().reading() as energy:
        yield log


def _kind_and_pairs(
    jobs: Sequence["EvaluationJob"], task: "RetrievalTask"
) -> tuple[Literal["coreset", "evaluation", "full_data"], int]:
    from rayvldd.coresets.selection import Coreset

    trained_on = jobs[0].pairs
    if trained_on is None:
        return "full_data", task.train.num_images
    if isinstance(trained_on, Coreset):
        return "coreset", len(trained_on.image_index)
    return "evaluation", len(trained_on.images)
