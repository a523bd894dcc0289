"""The tracker that a URI names: the embedded MLflow of the workspace, another server or database, or plain files."""

from rayvldd.tracking.protocol import Tracker
from rayvldd.workspace import Workspace

TRACKING_URI = "MLFLOW_TRACKING_URI"
"""The variable that names a server or database for every command, or is ``none``."""


def open_tracker(uri: str | None, study_name: str, workspace: Workspace, *, origin: str | None = None) -> Tracker:
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
