"""``rayvldd sweep --submit``: submission of a sweep as a job of a cluster."""

from pathlib import Path

from pydantic import JsonValue

from rayvldd.cli.cluster_jobs import DASHBOARD, address_words, output_of_job
from rayvldd.cli.invocation import Invocation
from rayvldd.cli.output import Output
from rayvldd.cli.preparation import show_settings, study_of
from rayvldd.config.search_faults import refuse_one_point
from rayvldd.errors import Fault, InputError


class _PlannedJob(Output):
    study: str
    settings: dict[str, JsonValue]
    address: str
    workspace: str
    options: dict[str, str]


def submit_sweep(
    invocation: Invocation, study_file: Path, address: str | None, tracking_uri: str | None, store_uri: str | None
) -> None:
    """Submit the study to a cluster, and print the commands for its job.

    The file is checked here; data, models and folders are on the cluster, and are checked by the job before any work.
    """
    study = study_of(invocation, study_file)
    refuse_one_point(study, str(study_file))
    workspace = invocation.workspace_folder
    faults = _faults_of_paths(workspace, store_uri, address)
    if faults:
        raise InputError(faults, next_command="the same command with --workspace /shared/rayvldd, or where yours is")
    named = {"--tracking-uri": tracking_uri, "--store": store_uri}
    options = {name: value for name, value in named.items() if value}
    dashboard = address or DASHBOARD
    if invocation.dry_run:
        show_settings(invocation, study)
        invocation.say(f"would be submitted to {dashboard}, for {workspace}")
        return invocation.finish(
            _PlannedJob(
                study=study.name,
                settings=study.model_dump(mode="json"),
                address=dashboard,
                workspace=str(workspace),
                options=options,
            )
        )

    from rayvldd.runtime.jobs import ClusterJobs

    job = ClusterJobs(dashboard).submit(study, workspace, options)
    invocation.say(f"job {job.job_id}: {job.state.lower()} at {dashboard}; it continues when this terminal closes")
    words = address_words(dashboard)
    invocation.say_next(
        f"rayvldd logs {job.job_id} --follow{words}",
        f"rayvldd status{words}",
        f"rayvldd stop {job.job_id}{words}",
    )
    invocation.finish(output_of_job(job))


def _faults_of_paths(workspace: Path, store_uri: str | None, address: str | None) -> list[Fault]:
    """Faults of paths and addresses that would be different on the cluster."""
    faults = []
    shared = "an absolute path of a folder that all machines of the cluster see"
    if not workspace.is_absolute():
        faults.append(Fault("--workspace", f"got {str(workspace)!r}, which is another folder on each machine", shared))
    if store_uri and "://" not in store_uri and not Path(store_uri).is_absolute():
        faults.append(Fault("--store", f"got {store_uri!r}", f"{shared}, s3://BUCKET/PREFIX or object-store://NAME"))
    if address and address != "auto" and not address.startswith(("http://", "https://")):
        faults.append(
            Fault("--address", f"got {address!r}, with --submit", "http://HOST:PORT of the dashboard, or auto")
        )
    return faults
