"""Opening a tracker by URI or name: the embedded MLflow of the workspace, another server, or plain files."""

from pathlib import Path

from rayvldd.errors import RayvlddError
from rayvldd.tracking.protocol import Tracker
from rayvldd.workspace import Workspace

TRACKING_URI = "MLFLOW_TRACKING_URI"
"""Environment variable with the server or database for every command, or one of :data:`WITHOUT_SERVER`."""

OPENING = "opening the tracker"
"""What a display says while a tracker is opened, which takes seconds."""

WITHOUT_SERVER = ("none", "tensorboard", "wandb")
"""Names in place of a URI, for trackers that write to the study's folder: plain files, or another tool beside them."""


def open_tracker(
    uri: str | None, study_name: str, workspace: Workspace, *, origin: str | None = None, run: str = ""
) -> Tracker:
    """Open the tracker with a URI; without one, the workspace's embedded MLflow.

    ``origin`` distinguishes studies with the same name and settings on a shared server; default: the folder, of which
    the embedded database takes the place in the workspace, as both may be moved. ``run`` is the folder of plain files
    of a command that is no search.

    Raises:
        RayvlddError: if the URI cannot be used or does not answer.
    """
    folder = workspace.study(study_name)
    if uri in WITHOUT_SERVER:
        return _tracker_in(folder / "tracking" / run, str(uri))

    from rayvldd.tracking.mlflow_tracker import MlflowTracker
    from rayvldd.tracking.moved_database import follow_move

    uri = workspace.tracking_uri if uri is None else uri
    follow_move(uri)
    if workspace.is_own_database(uri):
        place = folder.relative_to(workspace.root).as_posix()
        return MlflowTracker(uri, workspace.artifacts, origin=origin or place, workspace=workspace)
    return MlflowTracker(uri, origin=origin or str(folder), workspace=workspace)


def _tracker_in(folder: Path, name: str) -> Tracker:
    """The tracker with a name of :data:`WITHOUT_SERVER`.

    Raises:
        RayvlddError: if its library is not installed.
    """
    if name == "tensorboard":
        from rayvldd.tracking.tensorboard_tracker import TensorboardTracker

        return TensorboardTracker(folder)
    if name == "wandb":
        try:
            from rayvldd.tracking.wandb_tracker import WandbTracker
        except ImportError as error:
            raise RayvlddError(
                f"the tracker wandb needs its library, which cannot be imported ({error})",
                next_command="pip install -c constraints.txt '.[wandb]' in the clone, or: pip install wandb",
            ) from error
        return WandbTracker(folder)
    from rayvldd.tracking.folder_tracker import FolderTracker

    return FolderTracker(folder)
