"""Logging of one distillation, or of the training of experts, to the tracker."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rayvldd.config.setting import selected
from rayvldd.tracking.ending import reporting_failure
from rayvldd.tracking.opening import OPENING, open_tracker
from rayvldd.tracking.protocol import kind_of

if TYPE_CHECKING:
    from rayvldd.config.study import Study
    from rayvldd.console import ProgressDisplay
    from rayvldd.tracking.protocol import Tracker
    from rayvldd.workspace import Workspace

MetricsOfSet = Mapping[int, Sequence[Mapping[str, float]]]
"""Expert -> its metrics by epoch."""


@contextmanager
def run_log(
    study: "Study", workspace: "Workspace", command: str, tracking_uri: str | None, display: "ProgressDisplay"
) -> Iterator["Tracker"]:
    """Open the record of a command that is no search; its caller ends it, unless the command fails.

    Args:
        study: The study, at one point for a distillation.
        workspace: The workspace, with the embedded MLflow.
        command: The user's command line, whose verb is the kind of the record.
        tracking_uri: As for :func:`open_tracker`.
        display: Shows that the tracker is opened, which takes seconds.

    Raises:
        RayvlddError: if the tracker cannot be used; nothing else has been started by then.
    """
    with display.during(OPENING):
        tracker = open_tracker(tracking_uri, study.name, workspace, run=f"{kind_of(command)}_{key_of(study)}")
        tracker.start_study(study, command)
    with reporting_failure(tracker):
        yield tracker


def key_of(study: "Study") -> str:
    """Hash of the settings of a study at its point, which names the record of a command on it."""
    from rayvldd.data.array_cache import fingerprint

    return fingerprint(selected(study, lambda info: info.in_point))


def log_experts(tracker: "Tracker", sets: Sequence[MetricsOfSet]) -> None:
    """Log the metrics of all experts of some sets by epoch, under ``expert_000/``; of several sets below ``set_0/``."""
    for number, experts in enumerate(sets):
        prefix = f"set_{number}/" if len(sets) > 1 else ""
        for index, by_epoch in experts.items():
            for epoch, metrics in enumerate(by_epoch, start=1):
                named = {f"{prefix}expert_{index:03d}/{name}": value for name, value in metrics.items()}
                tracker.log_metrics(None, named, epoch)
