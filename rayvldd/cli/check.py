"""``rayvldd check``: everything that can be told before any work."""

from pathlib import Path

import click

from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.preparation import checked_study, show_settings, store_option, study_argument


@click.command(
    "check",
    cls=RunCommand,
    examples=[
        "rayvldd check search_spaces/quickstart.yaml",
        "rayvldd check search_spaces/quickstart.yaml --set distillation.num_pairs=100 --json",
    ],
)
@study_argument
@store_option
@click.pass_obj
def command(invocation: Invocation, study_file: Path, store_uri: str | None) -> None:
    """Check STUDY, its data, its models and the workspace, and print what a sweep would do.

    Nothing is trained and nothing is cached; `--dry-run` only adds the resolved settings. All faults are told at
    once, each with file, key, value and what is allowed.
    """
    study, workspace = checked_study(invocation, study_file)

    from rayvldd.search.plan import describe_plan, plan
    from rayvldd.stores.addresses import open_store

    planned = plan(study, workspace, open_store(store_uri, workspace))
    if invocation.dry_run:
        show_settings(invocation, study)
    invocation.say(describe_plan(planned))
    invocation.say(f"No faults. Next: rayvldd sweep {study_file}")
    invocation.finish(planned)
