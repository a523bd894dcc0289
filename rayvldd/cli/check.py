"""``rayvldd check``: all checks that are possible before any work."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
from pydantic import JsonValue, SerializeAsAny

from rayvldd.cli import completion
from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.preparation import (
    ModelsTry,
    check_study_once,
    loaded_study,
    show_settings,
    store_option,
    writable_records,
)
from rayvldd.records.form import Values
from rayvldd.records.json_values import JsonObject
from rayvldd.records.study_plan import Cost, Plan

if TYPE_CHECKING:
    from rayvldd.clusters.checking import ClusterReport
    from rayvldd.config.study import Study
    from rayvldd.workspace import Workspace


class _CheckedStudy(Plan):
    cluster: SerializeAsAny[Values] | None = None
    """The description of the cluster file."""
    cost: Cost | None = None
    ray_job: dict[str, JsonValue] | None = None
    """The manifest for ``kubectl create -f -``."""
    models_tried: str | None = None
    """Date of the earlier test of the models that was not repeated; null if they were tested now."""


@click.command(
    "check",
    cls=RunCommand,
    short_help="Check a study, its data and models, and print the plan.",
    examples=[
        "rayvldd check search_spaces/quickstart.yaml",
        "rayvldd check search_spaces/quickstart.yaml --set distillation.num_pairs=100 --json",
        "rayvldd check search_spaces/quickstart.yaml --probe",
        "rayvldd check search_spaces/quickstart.yaml --deep",
        "rayvldd check --cluster clusters/aws_gpu.yaml",
        "rayvldd check --cluster clusters/slurm.sbatch",
        "rayvldd check search_spaces/quickstart.yaml --cluster clusters/kuberay.yaml --json",
    ],
)
@click.argument(
    "study_file",
    metavar="[STUDY]",
    required=False,
    type=click.Path(path_type=Path),
    shell_complete=completion.study_files,
)
@click.option(
    "--cluster",
    "cluster_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Check a cluster file: against Ray's schema, for open ports and access rules, and estimate its cost.",
)
@click.option(
    "--probe",
    "with_probe",
    is_flag=True,
    help="Time an expert epoch, an outer step and a student, and estimate the time of a sweep. Fills the cache.",
)
@click.option(
    "--deep",
    "decodes",
    is_flag=True,
    help="Also decode every image, to list damaged ones. Fills the cache.",
)
@store_option
@click.pass_context
def command(
    context: click.Context,
    study_file: Path | None,
    cluster_file: Path | None,
    with_probe: bool,
    decodes: bool,
    store_uri: str | None,
) -> None:
    """Check STUDY, its data, its models and the workspace, and print what a sweep would do; or check a cluster file.

    Without `--probe` or `--deep` nothing is cached, and no cloud service is contacted; `--dry-run` only adds the
    settings that differ from their defaults. The plan has the points that earlier studies of the workspace suggest. All
    faults are reported at once, with file, key, value and allowed values. Encoders are tested on the shortest and
    longest caption, and with one step of the study's method on blank images. The workspace has a note of each test that
    passed, which is not repeated until settings, captions, files of encoders or installed versions change.

    With a file of Kubernetes manifests and a STUDY, `--json` contains a RayJob for `kubectl create -f -`.
    """
    invocation: Invocation = context.obj
    if study_file is None and cluster_file is None:
        raise click.UsageError("Nothing to check: give a STUDY, or --cluster FILE, or both.", context)
    if with_probe and study_file is None:
        raise click.UsageError("--probe times the work of a study: give a STUDY as well.", context)
    if decodes and study_file is None:
        raise click.UsageError("--deep decodes the images of a study: give a STUDY as well.", context)
    report = _checked_cluster(invocation, cluster_file) if cluster_file else None
    if study_file is None:
        assert report is not None
        invocation.say("No faults.")
        invocation.say_next(report.next_command)
        invocation.finish(report.described())
        return
    study, workspace = loaded_study(invocation, study_file)
    tried, checked = _checked_plan(
        invocation,
        study,
        study_file,
        workspace,
        store_uri,
        on_this_machine=cluster_file is None,
        tries_again=with_probe,
    )
    if decodes and not invocation.dry_run:
        _decode(invocation, study, Path(checked.storage.cache))
    if report:
        checked = checked.model_copy(update={"cluster": report.described(), "ray_job": _ray_job(report, study)})
    if with_probe and not invocation.dry_run:
        checked = checked.model_copy(update={"cost": _probed(invocation, study, checked)})
    command = "distill" if study.space.has_one_point else "sweep"
    if not invocation.dry_run:
        tried.note(workspace)
    following = report.next_command if report else _next_command(command, invocation, study_file, store_uri)
    invocation.say("No faults.")
    invocation.say_next(following)
    invocation.finish(checked)


def _ray_job(report: "ClusterReport", study: "Study") -> JsonObject | None:
    if report.file.kind != "kubernetes":
        return None
    from rayvldd.clusters.ray_job import render_ray_job

    return render_ray_job(report.file, study)


def _next_command(command: str, invocation: Invocation, study_file: Path, store_uri: str | None) -> str:
    """The command that runs the checked study, with the options of the check."""
    words = ["rayvldd", command, str(study_file)]
    words += [word for override in invocation.overrides for word in ("--set", override)]
    return invocation.in_this_workspace(shlex.join([*words, *(["--store", store_uri] if store_uri else [])]))


def _checked_plan(
    invocation: Invocation,
    study: "Study",
    study_file: Path,
    workspace: "Workspace",
    store_uri: str | None,
    *,
    on_this_machine: bool,
    tries_again: bool,
) -> tuple[ModelsTry, _CheckedStudy]:
    """Check a study, and print its plan."""
    tried = check_study_once(
        invocation, study, study_file, workspace, on_this_machine=on_this_machine, again=tries_again
    )

    from rayvldd.hyperparameter_search.plan import describe_plan, plan
    from rayvldd.library.searching import earlier_studies

    learn_from = None if study.space.has_one_point else earlier_studies(None, study, workspace)
    planned = plan(study, workspace, writable_records(store_uri, workspace), learn_from=learn_from)
    if invocation.dry_run:
        show_settings(invocation, study)
    invocation.say(describe_plan(planned))
    if on_this_machine:
        from rayvldd.runtime.machine import describe_machine

        invocation.say(f"  machine: {describe_machine(study.resources, study.search.max_concurrent)}")
    if tried.before:
        invocation.say(f"  models:  tried before ({tried.before}); --probe tries again")
    return tried, _CheckedStudy(**dict(planned), models_tried=tried.before)


def _decode(invocation: Invocation, study: "Study", cache: Path) -> None:
    """Decode all images of all points; decoded images are cached, so that no command decodes them again.

    Raises:
        DataError: listing every image that cannot be decoded and is not left out.
    """
    from rayvldd.data.dataset import load_dataset
    from rayvldd.data.left_out import left_out_so_far, lines_of_left_out
    from rayvldd.data.prepared_arrays import open_cache

    with invocation.display() as display:
        for data in {point.data.model_dump_json(): point.data for point in study.expert_points()}.values():
            load_dataset(data, open_cache(cache), display.progress)
        display.done()
    for line in lines_of_left_out(left_out_so_far(study.data, cache)):
        invocation.say(f"  data:    {line}")


def _probed(invocation: Invocation, study: "Study", planned: Plan) -> Cost:
    from rayvldd.hyperparameter_search.cost import describe_cost, estimate, probe

    with invocation.display() as display:
        probed = probe(study, Path(planned.storage.cache), display.progress)
    cost = estimate(study, planned, probed)
    invocation.say(describe_cost(cost))
    return cost


def _checked_cluster(invocation: Invocation, file: Path) -> "ClusterReport":
    from rayvldd.clusters.checking import check_cluster
    from rayvldd.clusters.description import describe_cost
    from rayvldd.reports.cluster_tables import node_table

    report = check_cluster(file)
    invocation.say(f"{file}: {report.provider}")
    if report.groups:
        invocation.show(node_table(report.groups))
    versions = report.versions
    invocation.say(f"versions  Ray {versions.ray}, Python {versions.python_minor}, rayvldd {versions.rayvldd}")
    for line in describe_cost(report):
        invocation.say(f"cost      {line}")
    for edit in report.unedited:
        invocation.say(f"to edit   line {edit.line}: {edit.placeholder} in {edit.text}")
    return report
