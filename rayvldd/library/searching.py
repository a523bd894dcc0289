"""Search the settings of a study."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rayvldd.config.metrics import VAL_MEAN_RECALL
from rayvldd.config.search_faults import refuse_one_point
from rayvldd.config.study import Study
from rayvldd.errors import ConfigError, Fault
from rayvldd.tracking.opening import WITHOUT_SERVER
from rayvldd.user_paths import user_path
from rayvldd.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from rayvldd.config.domains import SettingValue
    from rayvldd.distillation.distilled_set import DistilledSet
    from rayvldd.hyperparameter_search.transfer import EarlierStudies
    from rayvldd.records.study_outcome import StudyOutcome
    from rayvldd.records.trial import Trial


@dataclass(frozen=True)
class StudyResult:
    """The result of a study."""

    outcome: "StudyOutcome"
    """The record of the study, the object of ``rayvldd sweep --json``."""
    records: "list[Trial]"
    """All trials, by number."""

    @property
    def trials(self) -> "pd.DataFrame":
        """One row for each trial: its name, state, best validation recall in percent, and searched settings."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "trial": trial.trial_id,
                    "state": trial.state,
                    VAL_MEAN_RECALL: trial.value(),
                    "outer_step": trial.best.outer_step if trial.best else None,
                    **trial.point,
                }
                for trial in self.records
            ]
        )

    @property
    def best(self) -> "dict[str, SettingValue]":
        """The searched settings of the chosen trial."""
        return dict(self.outcome.best.config)

    @property
    def val_mean_recall(self) -> float:
        """Mean recall of the chosen point on validation, in percent."""
        return self.outcome.best.val_mean_recall

    @property
    def test_mean_recall(self) -> float:
        """Mean recall of the chosen sets on test, in percent."""
        return self.outcome.test.mean_recall

    def distilled_set(self) -> "DistilledSet":
        """The chosen set."""
        from rayvldd.distillation.distilled_set import DistilledSet

        return DistilledSet.load(self.outcome.distilled_set)

    def __repr__(self) -> str:
        return (
            f"StudyResult({self.outcome.study!r}, {len(self.records)} trials, "
            f"val {self.val_mean_recall:.2f}, test {self.test_mean_recall:.2f})"
        )

    def _repr_html_(self) -> str:
        """The tables of the result and of the trials, for notebooks."""
        from html import escape

        from rayvldd.reports.renderers import as_html
        from rayvldd.reports.tables import result_table, trials_table

        tables = result_table(self.outcome), trials_table(self.records, self.outcome.best.trial_id)
        return f"<p>{escape(repr(self))}</p>{''.join(map(as_html, tables))}"


def search(
    study: Study,
    *,
    workspace: str | Path = "rayvldd_workspace",
    store: str | None = None,
    tracking_uri: str | None = None,
    address: str | None = None,
    reopen: bool = False,
    learn_from: str | None = None,
) -> StudyResult:
    """Run or resume a study to its end, or return the result of a finished one.

    Args:
        study: The study, with a search space.
        workspace: Folder of caches, experts, studies and MLflow's database.
        store: Store of experts; default: in the workspace.
        tracking_uri: MLflow server or database, or ``none``; default: ``mlflow.db`` in the workspace.
        address: The Ray cluster to run on; default: this machine.
        reopen: Whether a finished study continues if it has more trials or time than before; its result is kept, and
            the new choice is a further test evaluation.
        learn_from: Earlier studies that the search learns from: the name of a study or MLflow experiment, the folder of
            a study, or ``none``; default: those of the workspace.

    Raises:
        ConfigError: if the search space is empty, or there is no earlier study of this name.
        RayvlddError: if data, models or settings are not compatible, or every trial failed.
    """
    refuse_one_point(study, study.name)

    from rayvldd.console import ProgressDisplay
    from rayvldd.hyperparameter_search.finished import finished_result, line_of_finished
    from rayvldd.hyperparameter_search.study_folder import StudyFolder

    place = Workspace(workspace)
    place.check_writable()
    with ProgressDisplay() as display:
        folder = StudyFolder(place.study(study.name))
        found = finished_result(study, folder, display, reopens=reopen)
        if found:
            display.line(line_of_finished(study, folder, reopen))
    if found:
        return StudyResult(found.outcome, found.trials)

    from rayvldd.experts.store.expert_store import open_store
    from rayvldd.hyperparameter_search.sweep import sweep
    from rayvldd.reports.illustrator import Pictures
    from rayvldd.tracking.opening import OPENING, open_tracker

    with ProgressDisplay() as display:
        with display.during(OPENING):
            tracker = open_tracker(tracking_uri, study.name, place)
        result = sweep(
            study,
            place,
            open_store(store, place),
            tracker,
            command="rv.search",
            address=address,
            display=display,
            illustrator=Pictures(),
            reopens=reopen,
            learn_from=earlier_studies(learn_from, study, place, tracking_uri),
        )
    return StudyResult(result.outcome, result.trials)


def earlier_studies(
    name: str | None, study: Study, workspace: Workspace, tracking_uri: str | None = None
) -> "EarlierStudies":
    """The earlier studies that a search learns from.

    Args:
        name: A study of the workspace, the folder of a study, an MLflow experiment or study, ``workspace`` or ``none``;
            None: ``workspace``.
        study: The study that learns.
        workspace: Folder of studies.
        tracking_uri: MLflow server or database; default: that of the workspace.

    Raises:
        ConfigError: if the study itself is named, or another one that is not in the workspace while the tracker is not
            MLflow.
    """
    from rayvldd.hyperparameter_search.earlier_studies import trials_of_study, trials_of_workspace
    from rayvldd.hyperparameter_search.study_folder import StudyFolder
    from rayvldd.hyperparameter_search.transfer import NOTHING, WORKSPACE, EarlierStudies

    if name is None or name == WORKSPACE:
        return EarlierStudies(WORKSPACE, lambda: trials_of_workspace(workspace, study), is_default=name is None)
    if name == NOTHING:
        return EarlierStudies(NOTHING, list)
    if name == study.name:
        fault = Fault("--learn-from", f"got {name!r}, which is this study: its trials are known", "another study")
        raise ConfigError([fault], next_command="the same command without --learn-from, which continues the study")
    places = (StudyFolder(root) for root in (workspace.study(name), user_path(name)))
    folder = next((place for place in places if place.settings.is_file()), None)
    if folder is not None:
        return EarlierStudies(name, partial(trials_of_study, folder))
    if tracking_uri in WITHOUT_SERVER:
        known = ", ".join(sorted(file.parent.name for file in workspace.studies.glob("*/study.json"))) or "none so far"
        fault = Fault(
            "--learn-from",
            f"got {name!r}, no study of {workspace.studies}; others need MLflow, and the tracker is {tracking_uri}",
            f"one of its studies ({known}), workspace or none",
        )
        raise ConfigError([fault], next_command="the same command with one of these, or with --tracking-uri URI")

    from rayvldd.tracking.earlier_trials import earlier_trials

    uri = tracking_uri or workspace.tracking_uri
    return EarlierStudies(name, lambda: earlier_trials(uri, name))
