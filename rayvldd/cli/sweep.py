"""``rayvldd sweep``: a whole search, from experts to a tested set."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rayvldd.cli.invocation import EXIT_UNSENT, Invocation, RunCommand
from rayvldd.cli.made_set import say_made_set, say_ways_on, say_without_gain
from rayvldd.cli.preparation import (
    check_study,
    loaded_study,
    show_settings,
    store_option,
    study_argument,
    writable_records,
    writable_store,
)
from rayvldd.cli.tracking import tracking_option
from rayvldd.errors import ConfigError, Fault
from rayvldd.printable import without_passwords
from rayvldd.tracking.opening import OPENING, WITHOUT_SERVER, open_tracker
from rayvldd.workspace import database_file

if TYPE_CHECKING:
    from rayvldd.config.study import Study
    from rayvldd.hyperparameter_search.finished import SweepResult
    from rayvldd.hyperparameter_search.study_store import StudyStore
    from rayvldd.records.study_outcome import StudyOutcome
    from rayvldd.records.study_plan import Plan
    from rayvldd.workspace import Workspace

_HOSTED = ("databricks", "databricks-uc", "uc")
"""Addresses of MLflow without ``://`` that are no folders."""


@click.command(
    "sweep",
    cls=RunCommand,
    short_help="Search the settings of a study for the best set.",
    kept="experts and trials that were finished, and every other trial up to its last evaluation",
    examples=[
        "rayvldd sweep search_spaces/quickstart.yaml",
        "rayvldd sweep search_spaces/quickstart.yaml --set name=longer --set search.num_trials=24 --json",
        "rayvldd sweep search_spaces/quickstart.yaml --reopen --set search.num_trials=24",
        "rayvldd sweep search_spaces/quickstart.yaml --set name=again --learn-from quickstart",
        "rayvldd sweep search_spaces/quickstart.yaml --store s3://bucket/experts --study-store s3://bucket/studies",
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
@click.option("--submit", "submits", is_flag=True, help="Submit it to the cluster as a job, which needs no terminal.")
@click.option(
    "--study-store",
    "study_store_uri",
    envvar="RAYVLDD_STUDY_STORE",
    show_envvar=True,
    metavar="URI",
    help="Also store the study in a folder or s3://BUCKET/PREFIX, from which the same command resumes on any machine.",
)
@click.option(
    "--reopen",
    "reopens",
    is_flag=True,
    help="Continue a finished study that has more trials or time than before. Its result is kept; the new choice is a "
    "further test evaluation, and counted.",
)
@click.option(
    "--learn-from",
    "--warm-start",
    "learn_from",
    metavar="STUDY",
    help="Earlier studies that the search learns from: a study, its folder, an MLflow experiment or study, `workspace` "
    "or `none`. Default: the studies of the workspace.",
)
@click.pass_obj
def command(
    invocation: Invocation,
    study_file: Path,
    tracking_uri: str | None,
    store_uri: str | None,
    address: str | None,
    submits: bool,
    study_store_uri: str | None,
    reopens: bool,
    learn_from: str | None,
) -> None:
    """Search the settings of STUDY and return the best distilled set.

    Trains missing experts, runs trials in parallel, stops poor ones early, distils the best points again with new
    seeds, chooses one on validation, and evaluates it once on test, with random pairs and the full data for comparison.
    Earlier studies of the workspace suggest points, as far as their results agree with those of this one.
    An interrupted study is resumed; for a finished one the result is shown again.
    """
    if submits:
        from rayvldd.cli.submission import submit_sweep

        if study_store_uri or learn_from or reopens:
            others = "--study-store, --learn-from or --reopen"
            fault = Fault("--submit", f"given together with {others}", "these with --address")
            raise ConfigError([fault], next_command="the same command on a node, with --address auto for --submit")
        return submit_sweep(invocation, study_file, address, tracking_uri, store_uri)
    study, workspace = loaded_study(invocation, study_file, searches=True)
    study_store = _study_store(study_store_uri, study.name, workspace)
    if not invocation.dry_run and (found := _finished(invocation, study, workspace, study_store, reopens)):
        _refuse_wrong_options(invocation, study, workspace, store_uri, learn_from, tracking_uri)
        _say_finished(invocation, study, workspace, reopens)
        return _show_result(invocation, study, found, tracking_uri, workspace)
    check_study(invocation, study, study_file, distils=True, on_this_machine=address is None)

    with invocation.waiting("loading Optuna"):
        from rayvldd.hyperparameter_search.plan import plan
        from rayvldd.library.searching import earlier_studies

        store = writable_store(store_uri, workspace)
        earlier = earlier_studies(learn_from, study, workspace, tracking_uri)
    if invocation.dry_run:
        return _show_plan(invocation, study, plan(study, workspace, store, reopens=reopens, learn_from=earlier))

    with invocation.waiting("loading Ray"):
        from rayvldd.hyperparameter_search.sweep import sweep
        from rayvldd.reports.illustrator import Pictures

    with invocation.display() as display:
        with display.during(OPENING):
            origin = study_store.uri if study_store else None
            tracker = open_tracker(tracking_uri, study.name, workspace, origin=origin)
        result = sweep(
            study,
            workspace,
            store,
            tracker,
            command=invocation.line,
            address=address,
            display=display,
            illustrator=Pictures(),
            learn_from=earlier,
            study_store=study_store,
            reopens=reopens,
        )
    _show_result(invocation, study, result, tracking_uri, workspace)
    if result.missing:
        place = result.outcome.tracking_uri
        first = f"{len(result.missing)} records are missing in {place}, the first: {result.missing[0]}"
        invocation.say_error(f"{first}\nNext: the same command, once that is corrected; it sends them again")
        raise SystemExit(EXIT_UNSENT)


def _show_plan(invocation: Invocation, study: "Study", planned: "Plan") -> None:
    """Print the settings and what a sweep would do."""
    from rayvldd.hyperparameter_search.plan import describe_plan

    show_settings(invocation, study)
    invocation.say(describe_plan(planned))
    invocation.finish(planned)


def _finished(
    invocation: Invocation, study: "Study", workspace: "Workspace", study_store: "StudyStore | None", reopens: bool
) -> "SweepResult | None":
    """The result of the study if there is nothing to do, without the imports and checks of a search."""
    from rayvldd.hyperparameter_search.finished import finished_result
    from rayvldd.hyperparameter_search.study_folder import StudyFolder

    with invocation.display() as display:
        folder = StudyFolder(workspace.study(study.name))
        return finished_result(study, folder, display, study_store=study_store, reopens=reopens)


def _refuse_wrong_options(
    invocation: Invocation,
    study: "Study",
    workspace: "Workspace",
    store_uri: str | None,
    learn_from: str | None,
    tracking_uri: str | None,
) -> None:
    """Check the options that a finished study has no use for, as before a search.

    Servers and buckets are not asked: they may have gone since, and the result is on this machine.

    Raises:
        RayvlddError: if an address is none or its folder cannot be used, or there is no such earlier study.
    """
    if store_uri is not None:
        from rayvldd.experts.store.addresses import expert_storage
        from rayvldd.storage.folder import FolderStorage

        if isinstance(expert_storage(store_uri, workspace), FolderStorage):
            writable_records(store_uri, workspace)
    if learn_from is not None:
        from rayvldd.library.searching import earlier_studies

        earlier = earlier_studies(learn_from, study, workspace, tracking_uri)
        if database_file(tracking_uri or workspace.tracking_uri) is not None:
            with invocation.waiting("reading earlier studies"):
                _ = earlier.trials
    if tracking_uri is not None:
        _refuse_wrong_tracker(invocation, tracking_uri)


def _refuse_wrong_tracker(invocation: Invocation, uri: str) -> None:
    """Ask a tracker for its experiment if it is no server, database or folder of MLflow, but possibly of a plug-in.

    Raises:
        RayvlddError: if MLflow cannot use the address, in the words of a sweep.
    """
    from rayvldd.tracking.mlflow_pages import is_database, is_server

    is_folder = ("://" not in uri and uri not in _HOSTED) or uri.startswith("file://")
    if not (uri in WITHOUT_SERVER or is_folder or is_server(uri) or is_database(uri)):
        with invocation.waiting(OPENING):
            from rayvldd.tracking.mlflow_server import try_tracker

            try_tracker(uri)


def _say_finished(invocation: Invocation, study: "Study", workspace: "Workspace", reopens: bool) -> None:
    """Say where the result of a finished study is from."""
    from rayvldd.hyperparameter_search.finished import line_of_finished
    from rayvldd.hyperparameter_search.study_folder import StudyFolder

    with invocation.display() as display:
        display.line(line_of_finished(study, StudyFolder(workspace.study(study.name)), reopens))


def _show_result(
    invocation: Invocation, study: "Study", result: "SweepResult", given_uri: str | None, workspace: "Workspace"
) -> None:
    """Print the tables, the lines and the object of a finished study."""
    _show_tables(invocation, study, result)
    invocation.say(f"look closer    {_how_to_look(invocation, result.outcome, given_uri, workspace)}")
    invocation.finish(result.outcome)


def _show_tables(invocation: Invocation, study: "Study", result: "SweepResult") -> None:
    from rayvldd.reports.diagnostics import words_of_diagnostics
    from rayvldd.reports.differences import sentence_of_difference
    from rayvldd.reports.gain import words_without_gain
    from rayvldd.reports.tables import (
        finalists_table,
        front_table,
        importance_line,
        result_table,
        trials_table,
        trust_of,
    )

    outcome = result.outcome
    invocation.show(trials_table(result.trials, outcome.best.trial_id, for_terminal=True))
    if front := front_table(outcome, study.search.choose):
        invocation.show(front)
    if outcome.finalists:
        invocation.show(finalists_table(outcome))
    invocation.show(result_table(outcome))
    invocation.say(f"answer         {trust_of(outcome)}")
    if outcome.test.over_random:
        pairs = f"{outcome.num_pairs} distilled pairs", f"{outcome.num_pairs} random pairs"
        invocation.say(f"in short       {sentence_of_difference(*pairs, outcome.test.over_random, 'test')}")
    if outcome.test.full_data_recipe:
        invocation.say(f"full data      {outcome.test.full_data_recipe.words}")
    if outcome.test.random_rate:
        invocation.say(f"random pairs   learning rate {outcome.test.random_rate.words}, chosen on validation")
    if warning := words_without_gain(outcome.best.outer_step, outcome.num_pairs, outcome.rates_to_try):
        say_without_gain(invocation, warning, outcome.rates_to_try)
    if diagnostics := words_of_diagnostics(outcome.best.diagnostics):
        invocation.say(f"the set        {diagnostics}")
    if importance := importance_line(outcome.importance):
        invocation.say(f"importance     {importance} of the variance of validation recall")
    if among_good := importance_line(outcome.importance_among_good):
        invocation.say(f"among good     {among_good} of what makes a trial one of the best")
    if outcome.learned_from:
        from rayvldd.hyperparameter_search.lines import line_of_learned

        invocation.say(f"earlier        {line_of_learned(outcome.learned_from, 'learned from')}")
    place = Path(outcome.distilled_set)
    say_made_set(invocation, place)
    say_ways_on(invocation, place, outcome.study, outcome.study)
    invocation.say(f"seconds        {', '.join(f'{name} {value:.0f}' for name, value in outcome.seconds.items())}")


def _study_store(uri: str | None, study_name: str, workspace: "Workspace") -> "StudyStore | None":
    """The persistent storage of the study, if there is one.

    Raises:
        InputError: if the address is invalid.
    """
    if uri is None:
        return None
    from rayvldd.hyperparameter_search.study_folder import StudyFolder
    from rayvldd.hyperparameter_search.study_store import StudyStore
    from rayvldd.storage.addresses import open_storage
    from rayvldd.storage.storage import ChecksWriting

    storage = open_storage(uri, workspace, "--study-store")
    if isinstance(storage, ChecksWriting):
        storage.check_writable()
    return StudyStore(storage, StudyFolder(workspace.study(study_name)))


def _is_gone(uri: str) -> bool:
    """Whether an address is that of a database file that does not exist."""
    file = database_file(uri)
    return file is not None and not file.is_file()


def _how_to_look(invocation: Invocation, outcome: "StudyOutcome", given_uri: str | None, workspace: "Workspace") -> str:
    """The command and the page that show the trials in MLflow; for other trackers their location.

    Args:
        invocation: Its workspace is named by the command.
        outcome: The result, with the address of its records, but without a password.
        given_uri: The address of this call's tracker, which may have one.
        workspace: Its database needs no address.
    """
    from rayvldd.errors import RayvlddError
    from rayvldd.tracking.mlflow_pages import is_database, is_server, trials_page

    uri = outcome.tracking_uri
    if given_uri and without_passwords(given_uri) == uri:
        uri = given_uri
    if _is_gone(uri) and not _is_gone(workspace.tracking_uri):
        uri = workspace.tracking_uri  # the workspace was moved with its database
    if not is_database(uri) and not is_server(uri):
        return uri
    try:
        page = trials_page(uri, outcome.study)  # as `rayvldd ui` opens it
    except RayvlddError:  # a server that is away, or a database that was removed
        return uri
    if is_server(uri):
        return page
    words = ["rayvldd", "ui", outcome.study, *([] if uri == workspace.tracking_uri else ["--tracking-uri", uri])]
    return f"{invocation.in_this_workspace(shlex.join(words))}, which opens {page}"
