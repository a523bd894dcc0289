"""Earlier studies of a search: the file that keeps them, and which of their trials are observations or sources.

A recall is comparable only if it was measured with the same data and encoders, by content, and with the same settings,
except those that are searched and those that do not change the recall. Such trials are observations for the sampler;
others are rejected with a reason. The order of the points of a study says something about other studies, too: every
study with enough trials in or near the present space is a source
(:mod:`rayvldd.hyperparameter_search.learned_sources`), whatever its data, pairs and encoders.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, cast

from pydantic import Field, JsonValue, ValidationError

from rayvldd.config.domains import Domain, SettingValue
from rayvldd.config.metrics import BEST_VAL_MEAN_RECALL, SECONDS, VAL_MEAN_RECALL
from rayvldd.config.setting import flat_settings
from rayvldd.config.space import Space
from rayvldd.config.study import Study, about, sections_where, set_dotted
from rayvldd.errors import ConfigError, Fault, without_next_command
from rayvldd.hyperparameter_search.descriptors import Descriptors
from rayvldd.hyperparameter_search.learned_sources import LearnedSources, Result
from rayvldd.hyperparameter_search.optuna_trials import typed_point
from rayvldd.hyperparameter_search.source_model import Outcome, Source, point_by_name
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.records.form import Record
from rayvldd.records.study_outcome import LearnedStudy
from rayvldd.records.trial import Ended, Evaluation, Trial
from rayvldd.storage.json_files import json_value
from rayvldd.tracking.protocol import EarlierTrial

_SECTIONS = sections_where(lambda info: info.in_point)
"""Sections of the settings of a point."""
WORKSPACE, NOTHING = "workspace", "none"
"""Values of ``--learn-from`` that are not the name of a study: all studies of the workspace, and no study."""


@dataclass(frozen=True)
class EarlierStudies:
    """Source of trials of earlier studies."""

    name: str
    """The experiment or study, :data:`WORKSPACE` or :data:`NOTHING`."""
    fetch: Callable[[], Sequence[EarlierTrial]]
    """Reads its trials."""
    is_default: bool = False
    """Whether the user named nothing: a study that began without earlier studies then goes on without."""

    @cached_property
    def trials(self) -> Sequence[EarlierTrial]:
        """The trials, read once."""
        return self.fetch()


class EarlierTrials(Record):
    """The earlier trials of a study, ``earlier_trials.json``."""

    version: ClassVar[int] = 1
    title: ClassVar[str] = "the earlier trials of a study"
    remedy: ClassVar[str] = "move {file} away and repeat the command: with --learn-from the trials are read again"

    name: str
    """The experiment or study, or ``workspace`` or ``none``."""
    trials: list[EarlierTrial]
    """With the settings that are not those of :attr:`shared`."""
    shared: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Settings that all trials of a study have in common, by its name."""
    learns: bool = False
    """Whether the trials are sources, too; false in files of releases that had observations only."""

    @classmethod
    def of(cls, name: str, trials: Sequence[EarlierTrial]) -> "EarlierTrials":
        """The record of trials, each with all its settings."""
        by_study = _by_study(trials)
        shared = {
            study: dict(set.intersection(*(set(one.settings.items()) for one in known)))
            for study, known in by_study.items()
        }
        own = [
            replace(one, settings={key: text for key, text in one.settings.items() if key not in shared[one.study]})
            for one in trials
        ]
        shared = {study: dict(sorted(settings.items())) for study, settings in shared.items()}
        return cls(name=name, trials=own, shared=shared, learns=True)

    def whole(self) -> list[EarlierTrial]:
        """The trials with all their settings."""
        return [replace(one, settings={**self.shared.get(one.study, {}), **one.settings}) for one in self.trials]

    def sources(self, study: Study) -> list[Source]:
        """The studies as sources of another study; none if that has an objective besides recall."""
        if not self.learns or study.search.objectives != (VAL_MEAN_RECALL,):
            return []
        own = Descriptors.of_study(study)
        return [_source(name, trials, study.space, own) for name, trials in _by_study(self.whole()).items()]


def keep_earlier_trials(study: Study, folder: StudyFolder, earlier: EarlierStudies | None) -> None:
    """Save the earlier trials in the study's folder, so that a resumed study uses the same ones without a server.

    Raises:
        ConfigError: if the study began with other trials, or there are none with that name.
        RayvlddError: if the server does not answer.
    """
    if earlier is None:
        return
    if folder.earlier_trials.is_file():
        before = EarlierTrials.read(folder.earlier_trials).name
        if before != earlier.name and not earlier.is_default:
            fault = Fault("--learn-from", f"got {earlier.name!r}; the study began with {before!r}", before)
            raise ConfigError([fault], next_command=f"the same command with --learn-from {before}")
        return
    if earlier.is_default and folder.ledger().trials:
        return  # it began without, maybe in an earlier release
    found = _fetched(study, earlier)
    if found.trials or not earlier.is_default:
        found.write(folder.earlier_trials)


def earlier_trials_of(study: Study, folder: StudyFolder, earlier: EarlierStudies | None) -> EarlierTrials | None:
    """The earlier trials that :func:`keep_earlier_trials` has saved or would save; None if there are none."""
    if folder.earlier_trials.is_file():
        return EarlierTrials.read(folder.earlier_trials)
    if earlier is None or (earlier.is_default and folder.ledger().trials):
        return None
    return _fetched(study, earlier)


def _fetched(study: Study, earlier: EarlierStudies) -> EarlierTrials:
    return EarlierTrials.of(earlier.name, [trial for trial in earlier.trials if trial.study != study.name])


def _by_study(trials: Sequence[EarlierTrial]) -> dict[str, list[EarlierTrial]]:
    found = dict[str, list[EarlierTrial]]()
    for trial in trials:
        found.setdefault(trial.study, []).append(trial)
    return found


def _source(name: str, trials: Sequence[EarlierTrial], space: Space, own: Descriptors) -> Source:
    """A study with the trials that are of use for a space: evaluated or failed, and in or near it."""
    settings = [{key: _value_of(text) for key, text in trial.settings.items()} for trial in trials]
    usable = [
        (point, outcome)
        for trial, values in zip(trials, settings, strict=True)
        if (outcome := _outcome(trial)).is_known and (point := point_by_name(values, space)) is not None
    ]
    searched = {key for point, _ in usable for key in point}
    missing = sum(key not in searched for key in space.drawn) / max(len(space.drawn), 1)
    distance = own.distance(Descriptors.of(settings[len(settings) // 2])) + missing
    content = json.dumps([[trial.name, trial.settings, trial.state, trial.evaluations] for trial in trials])
    return Source(
        name,
        [point for point, _ in usable],
        [outcome for _, outcome in usable],
        distance,
        hashlib.sha256(content.encode()).hexdigest()[:12],
    )


def _outcome(trial: EarlierTrial) -> Outcome:
    recalls = {step: recall for step, recall in trial.evaluations if step > 0}
    if not trial.evaluations and trial.best_val_mean_recall is not None:
        recalls = {1: trial.best_val_mean_recall}  # the best of a run, whose steps are not known
    return Outcome(recalls, failed=trial.state == "failed")


def learned_studies(learned: LearnedSources, trials: Sequence[Trial]) -> list[LearnedStudy]:
    """The sources with the weights that they have after the trials of a study."""
    units, active = learned.coordinates.units_of([trial.point for trial in trials])
    outcomes = [
        Outcome(
            {one.outer_step: one.recall for one in trial.evaluations if one.outer_step > 0}, trial.state == "failed"
        )
        for trial in trials
    ]
    results = [
        Result(units[row], active[row], outcome)
        for row, (trial, outcome) in enumerate(zip(trials, outcomes, strict=True))
        if not trial.process_died
    ]
    weights = learned.weights(results).tolist()
    return [
        LearnedStudy(study=source.name, trials=len(source.points), weight=round(weight, 3), content=source.content)
        for source, weight in zip(learned.sources, weights, strict=True)
    ]


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
    for trial in EarlierTrials.read(folder.earlier_trials).whole():
        reason, point = _fit(trial, study, fingerprints)
        if reason:
            left_out[trial.name] = reason
            continue
        found.append(Trial(trial.name, -1, 0, point, Path(), cast(Ended, trial.state), "", _evaluations(trial)))
    return found, left_out


def lines_of(name: str, found: Sequence[Trial], left_out: Mapping[str, str]) -> list[str]:
    """Lines for the terminal about comparable trials: their number, and each other trial with its reason."""
    head = f"earlier trials of {name}: {len(found)} comparable by recall, {len(left_out)} not"
    if name in (WORKSPACE, NOTHING):
        return [head] if found else []
    return [head, *(f"  {trial}: {reason}" for trial, reason in left_out.items())]


def _evaluations(trial: EarlierTrial) -> list[Evaluation]:
    """The evaluations of a trial; one at outer step 0 if only its best recall is known."""
    best = trial.best_val_mean_recall
    curve = trial.evaluations or ([] if best is None else [(0, best)])
    highest = itertools.accumulate((recall for _, recall in curve), max)
    return [
        Evaluation(step, {VAL_MEAN_RECALL: recall, BEST_VAL_MEAN_RECALL: so_far})
        for (step, recall), so_far in zip(curve, highest, strict=True)
    ]


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
        return json_value(text)
    except ValueError:
        return text


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return without_next_command(error)
