"""Trials of earlier studies from their folders: of the workspace, or of one study."""

import json
from collections.abc import Iterator
from pathlib import Path

from rayvldd.config.metrics import BEST_VAL_MEAN_RECALL
from rayvldd.config.setting import flat_settings
from rayvldd.config.study import Study, sections_where
from rayvldd.errors import RayvlddError
from rayvldd.hyperparameter_search.descriptors import Descriptors
from rayvldd.hyperparameter_search.learned_sources import MOST_SOURCES
from rayvldd.hyperparameter_search.ledger import read_trials
from rayvldd.hyperparameter_search.source_model import FEWEST_TRIALS
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.records.set_card import card_in
from rayvldd.records.trial import RECORD, Trial
from rayvldd.tracking.protocol import EarlierTrial
from rayvldd.workspace import Workspace

_OF_POINTS = sections_where(lambda info: info.in_point)


def trials_of_workspace(workspace: Workspace, study: Study) -> list[EarlierTrial]:
    """The trials of the studies of a workspace that are nearest to a study, without its own.

    Studies that this release cannot read are left out.
    """
    near = list[tuple[float, str, StudyFolder]]()
    own = Descriptors.of_study(study)
    for folder in _studies(workspace):
        if folder.root.name != study.name and len(list(folder.trials.glob(f"*/{RECORD}"))) >= FEWEST_TRIALS:
            try:
                distance = own.distance(Descriptors.of_study(folder.saved_study()))
            except (RayvlddError, ValueError):  # of another release
                continue
            near.append((distance, folder.root.name, folder))
    chosen = sorted(near, key=lambda one: one[:2])[:MOST_SOURCES]
    return [trial for _, _, folder in chosen for trial in trials_of_study(folder)]


def trials_of_study(folder: StudyFolder) -> list[EarlierTrial]:
    """The trials of a study with all their evaluations, by number, without those whose process died.

    Raises:
        StoreError: if its settings cannot be read.
    """
    study = folder.saved_study()
    trials = [trial for trial in read_trials(folder.trials)[0] if not trial.process_died]
    shared = _shared_fingerprints(trials)
    return [_earlier(study, trial, shared) for trial in trials]


def _studies(workspace: Workspace) -> Iterator[StudyFolder]:
    for file in sorted(workspace.studies.glob("*/study.json")):
        yield StudyFolder(file.parent)


def _earlier(study: Study, trial: Trial, fingerprints: dict[str, str]) -> EarlierTrial:
    settings = flat_settings(study.at(trial.point).model_dump(mode="json", include=set(_OF_POINTS)))
    return EarlierTrial(
        name=f"{study.name}/{trial.trial_id}",
        settings={key: json.dumps(value) for key, value in settings.items() if value is not None},
        fingerprints=_fingerprints(trial.distilled_set) or fingerprints,
        state=trial.state,
        best_val_mean_recall=trial.value(BEST_VAL_MEAN_RECALL) or (trial.best.recall if trial.best else None),
        evaluations=[(evaluation.outer_step, evaluation.recall) for evaluation in trial.evaluations],
    )


def _fingerprints(folder: Path) -> dict[str, str]:
    """Fingerprints of data and encoders in the card of a set; empty if there is none."""
    try:
        card = card_in(folder)
    except RayvlddError:
        return {}
    return dict(card.fingerprints) if card else {}


def _shared_fingerprints(trials: list[Trial]) -> dict[str, str]:
    """Those that all sets of a study share, for trials without a set."""
    found = [one for one in (_fingerprints(trial.distilled_set) for trial in trials) if one]
    first = found[0] if found else {}
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in found)}
