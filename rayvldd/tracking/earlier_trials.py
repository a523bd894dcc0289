"""Trials of earlier studies in MLflow, from which a search learns."""

from collections.abc import Iterator
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from rayvldd.config.metrics import BEST_VAL_MEAN_RECALL, VAL_MEAN_RECALL
from rayvldd.config.study import sections_where
from rayvldd.errors import ConfigError, Fault, RayvlddError, did_you_mean, message_of
from rayvldd.tracking.protocol import EarlierTrial
from rayvldd.workspace import database_file

_PAGE = 1000
"""Runs per request to MLflow."""
_OF_ALL_TRIALS = tuple(f"{name}." for name in ("data", "evaluation", *sections_where(lambda info: info.searchable)))
"""Prefixes of the parameters of a study that are settings of its trials; a trial's run has those that differ."""


def earlier_trials(uri: str, name: str) -> list[EarlierTrial]:
    """Read the trials of an experiment, or of a study in any experiment, oldest first.

    Args:
        uri: Tracking URI of the server or database.
        name: Name of an MLflow experiment or of a study.

    Raises:
        ConfigError: if there is neither, with the most similar name.
        RayvlddError: if the server does not answer.
    """
    database = database_file(uri)
    if database is not None and not database.is_file():  # a query would create an empty one
        raise _nothing_of(name, uri, set())
    try:
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(name)
        everywhere = [known.experiment_id for known in client.search_experiments()]
        chosen = [experiment.experiment_id] if experiment else everywhere
        runs = [run for run in _runs(client, chosen, "trial") if experiment or _study_of(run) == name]
        if not runs:
            raise _nothing_of(name, uri, {_study_of(run) for run in _runs(client, everywhere, "study")})
        parents = {run.info.run_id: run for run in _runs(client, everywhere, "study")}
        return [_trial(client, run, parents.get(run.data.tags.get("mlflow.parentRunId", ""))) for run in runs]
    except (MlflowException, OSError) as error:  # requests' errors are OSErrors
        raise RayvlddError(
            f"--learn-from {name}: {uri} cannot be read: {message_of(error)}",
            next_command="start the server or repair --tracking-uri; or the same command with --learn-from none",
        ) from error


def _runs(client: MlflowClient, experiments: list[str], kind: str) -> Iterator[Run]:
    """All runs of a kind, oldest first; the sets of finalists are not trials of the search."""
    token: str | None = None
    while True:
        query = f"tags.`rayvldd.kind` = '{kind}'"
        page: Any = client.search_runs(
            experiments, query, max_results=_PAGE, order_by=["start_time ASC"], page_token=token
        )
        yield from (run for run in page if "finalist" not in run.data.tags)
        token = page.token
        if not token:
            return


def _study_of(run: Run) -> str:
    return str(run.data.tags.get("rayvldd.study", ""))


def _trial(client: MlflowClient, run: Run, parent: Run | None) -> EarlierTrial:
    tags, params = run.data.tags, parent.data.params if parent else {}
    of_study = {key: value for key, value in params.items() if key.startswith(_OF_ALL_TRIALS)}
    prefix = "rayvldd."
    names = ("data", "image_encoder", "text_encoder")
    return EarlierTrial(
        name=f"{_study_of(run)}/{tags.get(f'{prefix}trial_id', run.info.run_id)}",
        settings={**of_study, **run.data.params},
        fingerprints={name: tags[prefix + name] for name in names if prefix + name in tags},
        state=tags.get(f"{prefix}state", "running"),
        best_val_mean_recall=run.data.metrics.get(BEST_VAL_MEAN_RECALL),
        evaluations=_evaluations(client, run),
    )


def _evaluations(client: MlflowClient, run: Run) -> list[tuple[int, float]]:
    """Outer step and recall of each evaluation; a step that was sent twice counts once."""
    if VAL_MEAN_RECALL not in run.data.metrics:
        return []
    history: Any = client.get_metric_history(run.info.run_id, VAL_MEAN_RECALL)
    return sorted({int(metric.step): float(metric.value) for metric in history}.items())


def _nothing_of(name: str, uri: str, studies: set[str]) -> ConfigError:
    known = ", ".join(sorted(studies)) or "no study yet"
    fault = Fault(
        "--learn-from",
        f"{uri} has no trials of an experiment or study {name!r}{did_you_mean(name, studies)}",
        f"an MLflow experiment, or one of its studies: {known}",
    )
    return ConfigError([fault], next_command="the same command with one of these, or with --learn-from none")
