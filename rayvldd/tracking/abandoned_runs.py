"""Runs of MLflow whose process was killed: the next command that opens the tracker ends them.

MLflow shows a run as RUNNING until it is closed, which a process without its last words never does. The runs are those
with the token of a dead process (see :mod:`rayvldd.tracking.sessions`), so that runs of others are never ended.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from rayvldd.errors import message_of
from rayvldd.printable import without_passwords
from rayvldd.tracking.sessions import DeadSession, Session, dead_sessions, forget
from rayvldd.workspace import Workspace, database_file, database_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

SESSION = "rayvldd.session"
"""Tag of a run with the token of the process that logs to it."""
INTERRUPTION = "rayvldd.interruption"
"""Tag of a run that was ended by another process than its own."""
WITHOUT_A_WORD = "its process ended without a word"
STATE, PARENT = "rayvldd.state", "mlflow.parentRunId"
_PAGE = 1000
"""Runs per request to MLflow."""


def session_in(workspace: Workspace | None, uri: str) -> Session:
    """A session of this process at a tracker; without a workspace, one that others do not find."""
    return Session(workspace.open_runs, _name_of(workspace, uri)) if workspace else Session(None, "")


def end_abandoned_runs(workspace: Workspace, uri: str, client: "Callable[[], MlflowClient] | None" = None) -> None:
    """End the runs that killed processes left at a tracker, as KILLED and with a tag that says so.

    Nothing is opened where there are none, or where the database was removed. A tracker that does not answer is asked
    again by the next command.

    Args:
        workspace: The workspace of the processes.
        uri: Tracking URI.
        client: Returns a client of the tracker; default: a new one.
    """
    with dead_sessions(workspace.open_runs, _name_of(workspace, uri)) as found:
        file = database_file(uri)
        if not found or (file is not None and not file.is_file()):
            return
        try:
            opened = client() if client else _opened(uri)
            for session in found:
                _end_runs_of(session, opened)
                forget(workspace.open_runs, session)
        except Exception as error:  # SQL drivers, HTTP clients and MLflow have different base classes
            logger.debug("%s: runs of killed processes stay open: %s", without_passwords(uri), message_of(error))


def _name_of(workspace: Workspace, uri: str) -> str:
    """The tracker in notes of sessions, whichever folder a command is started in; empty for the embedded one."""
    if workspace.is_own_database(uri):
        return ""
    file = database_file(uri)
    return database_uri(file.resolve()) if file else without_passwords(uri)


def _opened(uri: str) -> "MlflowClient":
    from rayvldd.tracking.sqlite_file import ready_sqlite

    if file := database_file(uri):
        ready_sqlite(file)  # MLflow would try for two minutes to open a file that cannot be written

    from mlflow import MlflowClient  # seconds that only a killed process makes necessary

    from rayvldd.tracking.mlflow_server import quiet

    with quiet():
        return MlflowClient(tracking_uri=uri)


def _end_runs_of(session: DeadSession, client: "MlflowClient") -> None:
    """End the runs of a process: those of trials first, so that a study without open runs has no open trial."""
    experiments = [known.experiment_id for known in client.search_experiments()]
    query = f"tags.`{SESSION}` = '{session.token}' and attributes.status = 'RUNNING'"
    runs = list(client.search_runs(experiments, query, max_results=_PAGE)) if experiments else []
    for run in sorted(runs, key=lambda one: PARENT not in one.data.tags):
        _end(run, session, client)
    if len(runs) == _PAGE:
        _end_runs_of(session, client)


def _end(run: "Run", session: DeadSession, client: "MlflowClient") -> None:
    from mlflow.entities import RunTag

    from rayvldd.tracking.mlflow_runs import STATUS

    by_state = {str(state): status for state, status in STATUS.items() if state != "interrupted"}
    status = by_state.get(run.data.tags.get(STATE, ""))
    if status is None or PARENT not in run.data.tags:  # a trial with its state has everything else, too
        status = STATUS["interrupted"]
        client.log_batch(run.info.run_id, tags=[RunTag(STATE, "interrupted"), RunTag(INTERRUPTION, WITHOUT_A_WORD)])
    client.set_terminated(run.info.run_id, status, max(round(session.last_seen_s * 1000), run.info.start_time))
