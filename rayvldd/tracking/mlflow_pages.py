"""Addresses of MLflow's pages, and the command of its server for the embedded database."""

import json
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from rayvldd.config.metrics import BEST_VAL_MEAN_RECALL
from rayvldd.errors import RayvlddError, message_of
from rayvldd.records.json_values import JsonObject, JsonValue, objects_at, text_at
from rayvldd.workspace import database_file

HOST, PORT = "127.0.0.1", 5000
"""Address of the server of ``rayvldd ui``."""

_WORKFLOW = {"workflowType": "machine_learning"}
"""Without it MLflow's menu is that for agents, without models."""
_RECALL = f"metrics.`{BEST_VAL_MEAN_RECALL}`"

_VIEW = "mlflow.sharedViewState."
"""Tag of an experiment with a view of its runs, before the name of the view: here that of the study."""

_NEWEST = f"""
SELECT runs.experiment_id, study.value, view.value IS NOT NULL FROM runs
JOIN tags AS study ON study.run_uuid = runs.run_uuid AND study.key = 'rayvldd.study'
JOIN tags AS kind ON kind.run_uuid = runs.run_uuid AND kind.key = 'rayvldd.kind' AND kind.value = 'study'
LEFT JOIN experiment_tags AS view ON view.experiment_id = runs.experiment_id AND view.key = '{_VIEW}' || study.value
WHERE runs.lifecycle_stage = 'active' AND (? = '' OR study.value = ?)
ORDER BY runs.start_time DESC LIMIT 1
"""


def is_server(uri: str) -> bool:
    """Whether a tracking URI names a server, which has pages of its own."""
    return uri.startswith(("http://", "https://"))


def is_database(uri: str) -> bool:
    """Whether a tracking URI names a database, whose pages a server on this machine shows."""
    return uri.partition("://")[0].partition("+")[0] in ("sqlite", "postgresql", "mysql", "mssql")


def trials_page(uri: str, study: str = "", base: str = f"http://{HOST}:{PORT}") -> str:
    """The address of the trials of a study, the best first; MLflow's own first page shows none of them.

    It is that of the view that :func:`view_of_trials` describes, with columns, if the experiment has it, as since its
    sweep has begun; for a study of an earlier release it is a search without columns.

    Args:
        uri: Server or database of the runs; its user and password are not part of the page's address.
        study: Name of the study; default: the one that was started last.
        base: Address of the server that shows a database.

    Raises:
        RayvlddError: if there is no such study, or the server does not answer.
    """
    database = database_file(uri)
    found = _in_server(uri, study) if database is None else _in_database(uri, study)
    if found is None:
        raise RayvlddError(
            f"{uri} has no {f'study {study!r}' if study else 'study'}",
            next_command="rayvldd sweep quickstart, or the same command with --workspace DIR or "
            "--tracking-uri URI of an earlier sweep",
        )
    experiment, name, has_view = found
    base = _address_of(uri) if is_server(uri) else base
    if has_view:
        return _address_of_view(base, experiment, name)
    query = {"searchFilter": _trials_of(name), "orderByKey": _RECALL, "orderByAsc": "false", **_WORKFLOW}
    return f"{base}/#/experiments/{experiment}/runs?{urlencode(query, quote_via=quote)}"


def view_of_trials(study: str, searched: Sequence[str]) -> tuple[str, str]:
    """The tag of an experiment by which MLflow shows the trials of a study with their recall and settings in columns.

    MLflow reads columns from a view alone; its own button to share a page saves one.

    Args:
        study: Name of the study.
        searched: Keys of the searched settings.

    Returns:
        Name and value of the tag.
    """
    columns = [_RECALL, *(f"params.`{key}`" for key in searched)]
    view: JsonObject = {"searchFilter": _trials_of(study), "orderByKey": _RECALL, "orderByAsc": False}
    return _VIEW + study, json.dumps({**view, "selectedColumns": [*columns]})


def _trials_of(study: str) -> str:
    return f"tags.`rayvldd.study` = '{study}' and tags.`rayvldd.kind` = 'trial'"


def _address_of_view(base: str, experiment: str, name: str) -> str:
    kept = {**_WORKFLOW, "viewStateShareKey": name}
    return f"{base}/#/experiments/{experiment}/runs?{urlencode(kept, quote_via=quote)}"


def page_with_columns(page: str) -> str:
    """The address of the same trials as a view, which is saved if the experiment does not have it.

    Args:
        page: An address from ``trials_page``; its server runs on this machine.

    Returns:
        The address of the view; ``page`` itself if the server does not keep views.
    """
    base, _, rest = page.partition("/#/experiments/")
    experiment, _, words = rest.partition("/runs?")
    query = dict(parse_qsl(words))
    if "searchFilter" not in query:
        return page
    of_study = query["searchFilter"].replace("= 'trial'", "= 'study'")
    name = of_study.split("'")[1]
    try:
        asked: JsonObject = {"experiment_ids": [experiment], "filter": of_study, "max_results": 1}
        (study,) = objects_at(_posted(f"{base}/api/2.0/mlflow/runs/search", asked), "runs")
        tags = {text_at(tag, "key"): text_at(tag, "value") for tag in objects_at(study, "data", "tags")}
        key, value = view_of_trials(name, list(filter(None, tags.get("rayvldd.searched", "").split(", "))))
        tag: JsonObject = {"experiment_id": experiment, "key": key, "value": value}
        _posted(f"{base}/api/2.0/mlflow/experiments/set-experiment-tag", tag)
    except (OSError, ValueError):
        return page
    return _address_of_view(base, experiment, name)


def _posted(url: str, values: JsonObject) -> JsonValue:
    """The answer of MLflow on this machine, without a proxy, as JSON."""
    request = Request(url, json.dumps(values).encode(), {"Content-Type": "application/json"})
    with build_opener(ProxyHandler({})).open(request, timeout=10) as answer:
        found: JsonValue = json.load(answer)
    return found


def _address_of(server: str) -> str:
    """The address of a server without user and password, which a browser requests."""
    parts = urlsplit(server)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")


def server_command(uri: str, port: int = PORT) -> list[str]:
    """The command of a server for a database, with one process."""
    options = ["--host", HOST, "--port", str(port), "--workers", "1", "--backend-store-uri", uri]
    return [sys.executable, "-m", "mlflow", "server", *options]


def _in_database(uri: str, study: str) -> tuple[str, str, bool] | None:
    """Experiment and name of the newest study, and whether there is a view of it, read without MLflow's slow import."""
    file = database_file(uri)
    if file is None or not file.is_file():
        return None
    try:
        with closing(sqlite3.connect(file.as_uri() + "?mode=ro", uri=True, timeout=10)) as connection:
            row = connection.execute(_NEWEST, (study, study)).fetchone()
    except sqlite3.Error as error:
        raise RayvlddError(
            f"{file}: cannot be read as a database of MLflow: {error}",
            next_command="the same command with --workspace DIR of another sweep",
        ) from error
    return (str(row[0]), str(row[1]), bool(row[2])) if row else None


def _in_server(uri: str, study: str) -> tuple[str, str, bool] | None:
    from mlflow import MlflowClient

    query = "tags.`rayvldd.kind` = 'study'" + (f" and tags.`rayvldd.study` = '{study}'" if study else "")
    try:
        client = MlflowClient(tracking_uri=uri)
        experiments = {known.experiment_id: known for known in client.search_experiments()}
        runs = client.search_runs([*experiments], query, max_results=1, order_by=["start_time DESC"])
    except Exception as error:  # MLflow's and requests'
        raise RayvlddError(
            f"tracking URI {uri}: {message_of(error)}", next_command="start the server, or repair --tracking-uri"
        ) from error
    if not runs:
        return None
    experiment, name = str(runs[0].info.experiment_id), str(runs[0].data.tags["rayvldd.study"])
    return experiment, name, _VIEW + name in experiments[experiment].tags
