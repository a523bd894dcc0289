"""Metrics, parameters and tags of MLflow's runs, from the values of a study."""

import getpass
import json
import re
import time
from collections.abc import Mapping

from mlflow.entities import Metric

from rayvldd.config.domains import SettingValue
from rayvldd.config.metrics import MEAN_RECALL
from rayvldd.config.study import Study, sections_where
from rayvldd.records.json_values import JsonValue
from rayvldd.tracking.code_version import code_version
from rayvldd.tracking.protocol import Scores

MAX_PARAM = 500
"""Maximum length of a parameter's value, in characters, on servers of older versions."""
MAX_TAG = 5000
_SEARCHED, SCORED = sections_where(lambda info: info.searchable), ("data", "model", "evaluation")
"""Sections of a study that are the parameters of a trial, and of an evaluation."""
_DETAIL = re.compile(
    r"(val|test)_.*_r(5|10)|matching_loss_.*|drift|rollbacks|.*seconds(?!_total).*|.*_of_all_sets|student_.*"
)
"""Metrics in a separate section of MLflow's pages, so that the main section has only those used for comparison."""
_FIRST = "compare/"
"""Section of the pages with a copy of each mean recall, so that they come first: MLflow sorts sections by name, with no
regard to capital letters, and puts its main section, of names without a slash, behind all of them."""


def entries(metrics: Mapping[str, float], step: int) -> list[Metric]:
    """The metrics of a step, under their names in MLflow."""
    now = int(time.time() * 1000)
    details = {key for key in metrics if _DETAIL.fullmatch(key)}
    recalls = [key for key in metrics if key.endswith(MEAN_RECALL.name) and key not in details]
    named = {key: metrics[key] for key in recalls}  # first: MLflow's compare view opens with the first metric of a run
    named |= {f"{_FIRST}{key}": metrics[key] for key in recalls}
    named |= {f"details/{key}" if key in details else key: value for key, value in metrics.items()}
    return [Metric(name, float(value), now, step) for name, value in named.items()]


def entries_of_scores(scores: Scores) -> list[Metric]:
    """The mean of every recall under its name, and each student's mean recall under ``student_…``."""
    count = len(scores.students)
    prefix = f"{scores.split}_"
    means = {f"{prefix}{key}": sum(row[key] for row in scores.students) / count for key in scores.students[0]}
    found = entries({**means, **scores.figures}, count)
    for number, row in enumerate(scores.students, start=1):
        found += entries({f"student_{prefix}{MEAN_RECALL.name}": row[MEAN_RECALL.name]}, number)
    return found


def params(study: Study, sections: tuple[str, ...] | None = None) -> dict[str, str]:
    """The settings of a study, or of some of its sections, by dotted key."""
    values = study.model_dump(mode="json")
    chosen = {key: value for key, value in values.items() if sections is None or key in sections}
    return {key: value[:MAX_PARAM] for key, value in _flat(chosen).items()}


def params_of_trial(study: Study, point: Mapping[str, SettingValue]) -> dict[str, str]:
    """The searched settings of a trial, and those that its point brings with it; the others are the study's."""
    of_study = params(study)
    at_point = params(study.at(point), _SEARCHED)
    return {key: value for key, value in at_point.items() if key in point or of_study.get(key) != value}


def _flat(values: Mapping[str, JsonValue], prefix: str = "") -> dict[str, str]:
    """Dotted key -> text for every setting with a value; a searched domain is one value."""
    flat = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and not prefix.startswith("search.space."):
            flat.update(_flat(value, f"{name}."))
        elif value is not None:
            flat[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def common_tags(study: Study) -> dict[str, str]:
    """Tags of every run: protocol, code and user."""
    tags = {"rayvldd.protocol": study.model.protocol, **code_version()}
    tags |= {"mlflow.source.name": "rayvldd", "mlflow.source.type": "LOCAL"}
    try:
        return tags | {"mlflow.user": getpass.getuser()}
    except (OSError, KeyError):  # a container with a user without a name
        return tags
