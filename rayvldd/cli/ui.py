"""``rayvldd ui``: MLflow's pages, opened on the trials of a study."""

import os
import shlex
import socket
import subprocess
import webbrowser
from contextlib import suppress

import click

from rayvldd.cli import completion
from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.output import Output
from rayvldd.cli.tracking import tracking_option
from rayvldd.errors import RayvlddError
from rayvldd.tracking.opening import WITHOUT_SERVER


class _Page(Output):
    page: str


_WSGI_WARNING = "ignore:starlette.middleware.wsgi is deprecated"
"""Filter of a warning that a user can do nothing about: MLflow's ``server/fastapi_app.py`` imports two helpers of that
module beside its own middleware (3.17 does)."""


@click.command(
    "ui",
    cls=RunCommand,
    short_help="Show the trials of a study in MLflow.",
    takes_settings=False,
    examples=["rayvldd ui", "rayvldd ui quickstart", "rayvldd ui quickstart --port 5001 --no-browser"],
)
@click.argument("study_name", metavar="[STUDY_NAME]", default="", shell_complete=completion.study_names)
@tracking_option
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port of the server.")
@click.option("--browser/--no-browser", default=True, help="Open the page in a browser.  [default: open it]")
@click.pass_obj
def command(invocation: Invocation, study_name: str, tracking_uri: str | None, port: int, browser: bool) -> None:
    """Show the trials of a study in MLflow, the best first; default: the study that was started last.

    For a database, as the embedded one of the workspace, a server is started on this machine; Ctrl-C ends it. If
    `--tracking-uri` names a server, its page is opened.
    """
    from rayvldd.tracking.abandoned_runs import end_abandoned_runs
    from rayvldd.tracking.mlflow_pages import (
        HOST,
        is_database,
        is_server,
        page_with_columns,
        server_command,
        trials_page,
    )
    from rayvldd.tracking.moved_database import follow_move
    from rayvldd.workspace import Workspace

    workspace = Workspace(invocation.workspace_folder)
    uri = tracking_uri or workspace.tracking_uri
    if uri in WITHOUT_SERVER:
        raise RayvlddError(
            f"the tracker is {uri}, so MLflow has no runs",
            next_command="rayvldd compare, or rayvldd ui --tracker mlflow",
        )
    if not is_server(uri) and not is_database(uri):
        raise RayvlddError(
            f"tracking URI {uri}: is no server and no database; allowed: http://HOST:PORT, sqlite:///FILE",
            next_command="rayvldd ui with another --tracking-uri, or without one for the workspace",
        )
    if is_server(uri):
        invocation.say_progress(f"asking {uri} for the trials")
    page = trials_page(uri, study_name, f"http://{HOST}:{port}")
    if invocation.dry_run or is_server(uri):
        if browser and not invocation.dry_run:
            webbrowser.open(page)
        invocation.say(page)
        return invocation.finish(_Page(page=page))
    _refuse_used(HOST, port, _again(study_name, tracking_uri, port + 1))
    invocation.say_progress(f"starting MLflow for {uri} at {HOST}:{port}; the page follows when it answers")
    follow_move(uri)
    end_abandoned_runs(workspace, uri)
    with subprocess.Popen(server_command(uri, port), env=_environment()) as server:
        try:
            if _answers(HOST, port, server):
                page = page_with_columns(page)
                invocation.say(f"{page}\nCtrl-C ends the server.")
                if browser:
                    webbrowser.open(page)
                server.wait()
        finally:
            server.terminate()
    if server.returncode:
        raise RayvlddError(
            f"MLflow's server ended with code {server.returncode}, for the reason above",
            next_command=_again(study_name, tracking_uri, port + 1),
        )
    invocation.finish(_Page(page=page))


def _environment() -> dict[str, str]:
    """The environment of the server."""
    warnings = [os.environ.get("PYTHONWARNINGS", ""), _WSGI_WARNING]
    return {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # MLflow's own job queue, of seven processes, is not used
        "PYTHONWARNINGS": ",".join(filter(None, warnings)),
    }


def _again(study_name: str, tracking_uri: str | None, port: int) -> str:
    """The same command with another port."""
    words = ["rayvldd", "ui", *([study_name] if study_name else []), "--port", str(port)]
    return shlex.join([*words, *(["--tracking-uri", tracking_uri] if tracking_uri else [])])


def _refuse_used(host: str, port: int, next_command: str) -> None:
    """Raise if something listens on a port.

    Raises:
        RayvlddError: with the command for another port.
    """
    with socket.socket() as probe:
        if probe.connect_ex((host, port)) == 0:
            raise RayvlddError(f"port {port} is in use", next_command=next_command)


def _answers(host: str, port: int, server: "subprocess.Popen[bytes]") -> bool:
    """Wait until the server answers or has ended; return whether it answers."""
    while server.poll() is None:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((host, port)) == 0:
                return True
        with suppress(subprocess.TimeoutExpired):
            server.wait(0.2)
    return False
