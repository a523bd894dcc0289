"""Points that a user proposes while a study exists: their checks."""

from collections.abc import Sequence

from rayvldd.config.domains import SettingValue, point_as_text
from rayvldd.config.loading import faults_of_point, parsed_assignments
from rayvldd.config.study import Study
from rayvldd.errors import ConfigError, Fault
from rayvldd.hyperparameter_search.ledger import read_trials
from rayvldd.hyperparameter_search.optuna_trials import typed_point
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.records.trial import Trial


def propose(
    folder: StudyFolder, settings: Sequence[str], *, dry_run: bool = False
) -> tuple[dict[str, SettingValue], str]:
    """Request a trial of a study at a point.

    Args:
        folder: The study, running or stopped.
        settings: ``KEY=VALUE`` texts with YAML values; the sampler chooses the settings that are missing.
        dry_run: Whether to check only.

    Returns:
        The point, and a sentence about when it runs.

    Raises:
        ConfigError: if the point is not in the space of the study, or the trials that share its seed have run it.
    """
    study, (trials, _) = folder.saved_study(), read_trials(folder.trials)
    point = _point_of(settings, study)
    _check_new(study, point, trials, folder.requests.waiting_points())
    when = _when(folder, study, len(trials))
    if not dry_run:
        folder.requests.add_point(point)
    would = "would be" if dry_run else "is"
    return point, f"study {folder.root.name}: {point_as_text(point)} {would} the point of {when}"


def _point_of(settings: Sequence[str], study: Study) -> dict[str, SettingValue]:
    parsed, faults = parsed_assignments(settings)
    given = dict[str, SettingValue]()
    for where, key, value in parsed:
        if isinstance(value, dict):
            faults.append(Fault(where, f"is {value!r}", "a number, a text, true, false, null, or a list of these"))
        else:
            given[key] = tuple(value) if isinstance(value, list) else value  # type: ignore[arg-type]
    faults += faults_of_point(study, f"study {study.name}", given)
    if faults:
        raise ConfigError(faults, next_command="the same command with a point of the study's space")
    return typed_point(study.space.completed(given), study.space.domains)


def _when(folder: StudyFolder, study: Study, num_started: int) -> str:
    """When a point runs that is proposed now."""
    waiting = len(folder.requests.waiting_points())
    needed = f"--set search.num_trials={max(num_started + waiting, study.search.num_trials) + 1}"
    if folder.result_file.is_file() or folder.choice.is_file():
        return f"the next trial, once its sweep command is repeated with --reopen {needed}"
    if num_started + waiting >= study.max_trials:
        return f"a further trial: all {study.max_trials} are taken; its sweep command with {needed} runs it"
    return "the next trial" if folder.is_running() else "the next trial, once its sweep command is repeated"


def _check_new(
    study: Study, point: dict[str, SettingValue], trials: Sequence[Trial], waiting: Sequence[dict[str, SettingValue]]
) -> None:
    space = study.space
    if not study.trials_share_seed or not space.is_complete(point):
        return
    known = [(trial.trial_id, trial.point) for trial in trials]
    known += [("an earlier proposal that waits", one) for one in waiting if space.is_complete(one)]
    same = [name for name, one in known if space.key_of(one) == space.key_of(point)]
    if same:
        fault = Fault(
            point_as_text(point), f"is the point of {same[0]}, which would not differ: trials share a seed", "a new one"
        )
        raise ConfigError([fault], next_command="the same command with another value")
