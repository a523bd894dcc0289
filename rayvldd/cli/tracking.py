"""The options that choose the tracker of a command."""

import click
from click.core import ParameterSource

from rayvldd.cli.invocation import F
from rayvldd.tracking.opening import TRACKING_URI, WITHOUT_SERVER

_TRACKER = "rayvldd.tracker"
_NAMES = {"mlflow": "", "files": "none", **{name: name for name in WITHOUT_SERVER if name != "none"}}
"""Names of ``--tracker``, each with the value that replaces a URI."""


def tracking_option(command: F) -> F:
    """Add ``--tracking-uri`` and ``--tracker``, of which the command gets the parameter ``tracking_uri``."""
    uri = click.option(
        "--tracking-uri",
        envvar=TRACKING_URI,
        show_envvar=True,
        metavar="URI",
        callback=_uri_or_tracker,
        help="MLflow server or database to log to, or `none`. Default: mlflow.db in the workspace.",
    )
    tracker = click.option(
        "--tracker",
        type=click.Choice(list(_NAMES)),
        is_eager=True,
        expose_value=False,
        callback=_keep_tracker,
        help="Log to plain files, to event files of TensorBoard or to Weights & Biases. Default: MLflow.",
    )
    return uri(tracker(command))


def _keep_tracker(context: click.Context, _: click.Parameter, name: str | None) -> None:
    context.meta[_TRACKER] = name


def _uri_or_tracker(context: click.Context, option: click.Parameter, uri: str | None) -> str | None:
    """The URI, or the name of another tracker in its place; ``--tracker`` takes precedence over the environment."""
    name = context.meta.get(_TRACKER)
    is_given = context.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE
    if name is None or (name == "mlflow" and uri not in WITHOUT_SERVER):
        return uri
    if name == "mlflow" and is_given:
        raise click.UsageError(
            f"--tracking-uri {uri} is no MLflow, got --tracker mlflow as well: leave one out", context
        )
    if name == "mlflow":
        return None
    if is_given:
        raise click.UsageError(f"--tracking-uri is for MLflow, got --tracker {name} as well: leave one out", context)
    return _NAMES[str(name)]
