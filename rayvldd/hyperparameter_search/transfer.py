"""Warm start: trials of earlier studies at points of the present space, for the sampler of a new study.

A recall is comparable only if it was measured with the same data and encoders, by content, and with the same settings,
except those that are searched and those that do not change the recall. Other trials are rejected with a reason.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

from pydantic import JsonValue, ValidationError

from rayvldd.config.domains import Domain, SettingValue
from rayvldd.config.metrics import BEST_VAL_MEAN_RECALL, SECONDS, VAL_MEAN_RECALL
from rayvldd.config.setting import flat_settings
from rayvldd.config.space import Space
from rayvldd.config.study import Study, about, sections_where, set_dotted
from rayvldd.errors import ConfigError, Fault, without_next_command
from rayvldd.hyperparameter_search.optuna_trials import typed_point
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.records.form import Record
from rayvldd.records.trial import Ended, Evaluation, Trial
from rayvldd.tracking.protocol import EarlierTrial

_SECTIONS = sections_where(lambda info: info.in_point)
"""Sections of the settings of a point."""


@dataclass(frozen=True)
class WarmStart:
    """Source of trials of earlier studies."""

    name: str
    """The experiment or study."""
    fetch: Callable[[], Sequence[EarlierTrial]]
    """Reads its trials; called once, when the study begins."""


class EarlierTrials(Record):
    """The earlier trials of a study with a warm start, ``earlier_trials.json``."""

    version: ClassVar[int] = 1
    title: ClassVar[str] = "the earlier trials of a study"
    remedy: ClassVar[str] = "move {file} away and repeat the command: with --warm-start the trials are read again"

    name: str
    """The experiment or study."""
    trials: list[EarlierTrial]


def keep_earlier_trials(study: Study, folder: StudyFolder, warm_start: WarmStart | None) -> None:
    """Save the earlier trials in the study's folder, so that a resumed study uses the same ones without a server.

    Raises:
        ConfigError: if the study began with other trials, or there are none with that name.
        RayvlddError: if the server does not answer.
    """
    if warm_start is None:
        return
    if folder.earlier_trials.is_file():
        before = EarlierTrials.read(folder.earlier_trials).name
        if before != warm_start.name:
            fault = Fault("--warm-start", f"got {warm_start.name!r}; the study began with {before!r}", before)
            raise ConfigError([fault], next_command=f"the same command with --warm-start {before}")
        return
    own = f"{study.name}/"
    trials = [trial for trial in warm_start.fetch() if not trial.name.startswith(own)]
    EarlierTrials(name=warm_start.name, trials=trials).write(folder.earlier_trials)


def known_points(
    study: Study, folder: StudyFolder, fingerprints: Callable[[Mapping[str, SettingValue]], Mapping[str, str]]
) -> tuple[list[Trial], dict[str, str]]:
    """The earlier trials that the study can use, and those that it cannot.

    Args:
        study: The present study.
        folder: Folder with the trials that :func:`keep_earlier_trials` saved.
        fingerprints: Returns the fingerprints of data and encoders at a point of the space.

    Returns:
        Trials at points of the present space, with their best recall; and the reason for each rejected trial, by name.
    """
    if not folder.earlier_trials.is_file():
        return [], {}
    found, left_out = [], {}
    for trial in EarlierTrials.read(folder.earlier_trials).trials:
        reason, point = _fit(trial, study, fingerprints)
        if reason:
            left_out[trial.name] = reason
            continue
        recall, state = trial.best_val_mean_recall, cast(Ended, trial.state)
        found.append(Trial(trial.name, -1, 0, point, Path(), state, "", [] if recall is None else [_only(recall)]))
    return found, left_out


def lines_of(name: str, found: Sequence[Trial], left_out: Mapping[str, str]) -> list[str]:
    """Lines for the terminal about a warm start: number of trials, and each rejected trial with its reason."""
    head = f"warm start from {name}: {len(found)} trials inside the space, {len(left_out)} left out"
    return [head, *(f"  {trial}: {reason}" for trial, reason in left_out.items())]


def _only(recall: float) -> Evaluation:
    return Evaluation(0, {VAL_MEAN_RECALL: recall, BEST_VAL_MEAN_RECALL: recall})


def _fit(
    trial: EarlierTrial, study: Study, fingerprints: Callable[[Mapping[str, SettingValue]], Mapping[str, str]]
) -> tuple[str, dict[str, SettingValue]]:
    """Reason why a trial cannot be used, or an empty reason and its point in the study's space."""
    if trial.state not in ("finished", "stopped", "failed"):
        return f"has not ended ({trial.state})", {}
    if SECONDS.name in study.search.objectives:
        return "its seconds, an objective here, are those of another run", {}
    if trial.state != "failed" and trial.best_val_mean_recall is None:
        return "has no recall on validation", {}
    try:
        then = flat_settings(_study_of(trial, study.name).model_dump(mode="json", include=set(_SECTIONS)))
    except (ValidationError, TypeError) as error:
        return f"its settings do not fit this release: {_first_line(error)}", {}
    point, outside = _point_in(then, study.space)
    if outside:
        return outside, {}
    now = flat_settings(study.at(point).model_dump(mode="json", include=set(_SECTIONS)))
    others = [key for key in sorted(then.keys() | now.keys()) if then.get(key) != now.get(key) and _matters(key)]
    if others:
        return ", ".join(f"{key} was {then.get(key)!r}, is {now.get(key)!r}" for key in others), {}
    present = fingerprints(point)
    unequal = [name.replace("_", " ") for name, value in present.items() if trial.fingerprints.get(name) != value]
    return (f"another {' and '.join(unequal)} (by fingerprint)" if unequal else ""), point


def _point_in(values: Mapping[str, JsonValue], space: Space) -> tuple[dict[str, SettingValue], str]:
    """The point with these settings in the space; or a message about settings outside of it."""
    outside = []

    def value_at(key: str, domain: Domain) -> SettingValue:
        value = cast(SettingValue, values.get(key))
        if value not in domain:
            outside.append(f"{key}={value!r} is outside {domain}")
        return value

    point = space.point(value_at)
    return ({}, ", ".join(outside)) if outside else (typed_point(point, space.domains), "")


def _matters(key: str) -> bool:
    """Whether recalls are comparable only if this setting is equal; settings ``by_content`` have fingerprints."""
    info = about(key)
    return info is None or (info.changes_recall and not info.by_content)


def _study_of(trial: EarlierTrial, name: str) -> Study:
    """The study with a trial's parameters, and present defaults for missing ones."""
    values: dict[str, JsonValue] = {"name": name}
    for key, text in trial.settings.items():
        if key.startswith(tuple(f"{section}." for section in _SECTIONS)):
            set_dotted(values, key, _value_of(text))
    return Study.model_validate(values)


def _value_of(text: str) -> JsonValue:
    """The value of a parameter: JSON, or a plain text."""
    try:
        value: JsonValue = json.loads(text)
        return value
    except (ValueError, RecursionError):
        return text


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return without_next_command(error)
