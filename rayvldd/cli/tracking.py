"""Where commands log to: the embedded MLflow of the workspace, another server or database, or plain files."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rayvldd.evaluation.recall import RetrievalMetrics
    from rayvldd.models.problem import Problem
    from rayvldd.stores.workspace import Workspace
    from rayvldd.tracking.protocol import Tracker

TRACKING_URI = "MLFLOW_TRACKING_URI"
"""The variable that names a server or database for every command, or is ``none``."""

tracking_option = click.option(
    "--tracking-uri",
    envvar=TRACKING_URI,
    show_envvar=True,
    metavar="URI",
    help="MLflow server or database to log to, or `none`. Default: mlflow.db in the workspace.",
)


def open_tracker(uri: str | None, study_name: str, workspace: "Workspace") -> "Tracker":
    """Open the tracker that a URI names; without one, the workspace's own.

    Raises:
        RayvlddError: when the URI cannot be used or does not answer.
    """
    folder = workspace.study(study_name)
    if uri == "none":
        from rayvldd.tracking.folder_tracker import FolderTracker

        return FolderTracker(folder / "tracking")

    from rayvldd.tracking.mlflow_tracker import MlflowTracker

    if uri is None:
        return MlflowTracker(workspace.tracking_uri, workspace.artifacts, origin=str(folder))
    return MlflowTracker(uri, origin=str(folder))


def score_log(
    problem: "Problem", workspace: "Workspace", split: str
) -> Callable[[Mapping[str, Sequence["RetrievalMetrics"]]], None]:
    """Make ready to log what the running command finds out about sets of pairs: one run a set.

    The tracker is opened before the work, so that one that cannot be used is told before it.

    Returns:
        What takes the recalls of each student by the name of the set.

    Raises:
        RayvlddError: when the tracker cannot be used.
    """
    from rayvldd.tracking.protocol import Origins, Scores

    context = click.get_current_context()
    tracker = open_tracker(os.environ.get(TRACKING_URI), problem.study.name, workspace)
    started = time.monotonic()

    def log(scores: Mapping[str, Sequence[RetrievalMetrics]]) -> None:
        seconds = time.monotonic() - started
        for name, found in scores.items():
            tracker.log_scores(
                Scores(
                    kind="coreset" if context.info_name == "coreset" else "evaluation",
                    name=name,
                    study=problem.study,
                    command=context.obj.line,
                    split=split,
                    students=tuple(score.as_dict() for score in found),
                    settings={"trained_on": name, "num_students": len(found), "num_sets_of_command": len(scores)},
                    origins=Origins(problem.fingerprints),
                    figures={"seconds_of_all_sets": seconds},
                )
            )

    return log
