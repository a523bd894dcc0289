"""Opening a tracker by URI: the embedded MLflow of the workspace, another server or database, or plain files."""

from rayvldd.tracking.protocol import Tracker
from rayvldd.workspace import Workspace

TRACKING_URI = "MLFLOW_TRACKING_URI"
"""Environment variable with the server or database for every command, or ``none``."""


def open_tracker(
    uri: str | None, study_name: str, workspace: Workspace, *, origin: str | None = None, run: str = ""
) -> Tracker:
    """Open the tracker with a URI; without one, the workspace's embedded MLflow.

    ``origin`` distinguishes studies with the same name and settings on a shared server; default: the folder. ``run``
    is the folder of plain files of a command that is no search.

    Raises:
        RayvlddError: if the URI cannot be used or does not answer.
    """
    folder = workspace.study(study_name)
    if uri == "none":
        from rayvldd.tracking.folder_tracker import FolderTracker

        return FolderTracker(folder / "tracking" / run)

    from rayvldd.tracking.mlflow_tracker import MlflowTracker

    if uri is None:
        return MlflowTracker(workspace.tracking_uri, workspace.artifacts, origin=origin or str(folder))
    return MlflowTracker(uri, origin=origin or str(folder))
