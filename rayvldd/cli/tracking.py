"""The option that names the tracker of a command."""

import click

from rayvldd.tracking.opening import TRACKING_URI

tracking_option = click.option(
    "--tracking-uri",
    envvar=TRACKING_URI,
    show_envvar=True,
    metavar="URI",
    help="MLflow server or database to log to, or `none`. Default: mlflow.db in the workspace.",
)
