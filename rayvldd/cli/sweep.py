"""``rayvldd sweep``: the whole search, from experts to a tested set."""

import shlex
import shutil
import sys
from pathlib import Path

import click

from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.preparation import checked_study, show_settings, store_option, study_argument
from rayvldd.cli.tracking import open_tracker, tracking_option


@click.command(
    "sweep",
    cls=RunCommand,
    kept="experts and trials that were finished, and every other trial up to its last evaluation",
    examples=[
        "rayvldd sweep search_spaces/quickstart.yaml",
        "rayvldd sweep search_spaces/quickstart.yaml --set name=longer --set search.num_trials=24 --json",
        "rayvldd sweep search_spaces/quickstart.yaml --tracking-uri http://127.0.0.1:5000",
        "rayvldd sweep search_spaces/quickstart.yaml --submit --workspace /shared/rayvldd",
        "rayvldd sweep search_spaces/quickstart.yaml --address auto --workspace /shared/rayvldd",
        "rayvldd sweep search_spaces/quickstart.yaml --dry-run",
    ],
)
@study_argument
@tracking_option
@store_option
@click.option(
    "--address",
    metavar="ADDRESS",
    help="Run on a Ray cluster: `auto` or HOST:PORT on one of its nodes; with --submit, http://HOST:PORT of its "
    "dashboard. Default: this machine; with --submit, http://127.0.0.1:8265.",
)
@click.option("--submit", "submits", is_flag=True, help="Send it to the cluster as a job, which needs no terminal.")
@click.pass_obj
def command(
    invocation: Invocation,
    study_file: Path,
    tracking_uri: str | None,
    store_uri: str | None,
    address: str | None,
    submits: bool,
) -> None:
    """Search the settings of STUDY and hand back the best distilled set.

    Trains the experts that are missing, runs the trials side by side, stops poor ones early, chooses the best set on
    validation, and tests it once, beside random pairs and the full data. A study that was interrupted continues; one
    that is finished shows its result again.
    """
    if submits:
        from rayvldd.cli.submission import submit_sweep

        return submit_sweep(invocation, study_file, address, tracking_uri, store_uri)
    study, workspace = checked_study(invocation, study_file)

    from rayvldd.search.plan import describe_plan, plan
    from rayvldd.stores.addresses import open_store

    store = open_store(store_uri, workspace)
    if invocation.dry_run:
        planned = plan(study, workspace, store)
        show_settings(invocation, study)
        invocation.say(describe_plan(planned))
        return invocation.finish(planned)

    from rayvldd.reports.illustrator import Pictures
    from rayvldd.reports.tables import result_table, trials_table
    from rayvldd.search.display import StudyDisplay
    from rayvldd.search.sweep import sweep

    tracker = open_tracker(tracking_uri, study.name, workspace)
    with StudyDisplay() as display:
        result = sweep(
            study,
            workspace,
            store,
            tracker,
            command=invocation.line,
            address=address,
            display=display,
            illustrator=Pictures(),
        )
    values = result.values
    invocation.show(trials_table(result.trials, values["best"]["trial_id"]))
    invocation.show(result_table(values))
    invocation.say(f"distilled set  {values['distilled_set']}")
    invocation.say(f"seconds        {', '.join(f'{name} {value:.0f}' for name, value in values['seconds'].items())}")
    invocation.say(f"look closer    {_how_to_look(values['tracking_uri'])}")
    invocation.finish(values)


def _how_to_look(tracking_uri: str) -> str:
    """The command that shows the runs of an embedded database, or where a server has them."""
    if tracking_uri.startswith("sqlite:"):
        mlflow = "mlflow" if shutil.which("mlflow") else str(Path(sys.executable).with_name("mlflow"))
        return shlex.join([mlflow, "ui", "--backend-store-uri", tracking_uri])
    return tracking_uri
