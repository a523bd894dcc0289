"""A whole study: its stages (see hyperparameter_search/stages.py), then the assembly of its result.

Every stage resumes its earlier work.

The order of writes limits the effect of a crash. A trial's evaluation is in the ledger before it is displayed; the
choice of the best trial is on disk before the test evaluation, and the test result before it is printed. A study is
therefore tested once, even if a process dies in between.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from datetime import date

from rayvldd.config.metrics import DIAGNOSTICS
from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay, shown
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.hyperparameter_search.finished import SweepResult, line_of_finished
from rayvldd.hyperparameter_search.optuna_trials import importance_among_good, importance_of_settings
from rayvldd.hyperparameter_search.plan import describe_plan, plan
from rayvldd.hyperparameter_search.recorder import Illustrator
from rayvldd.hyperparameter_search.sending import numbers_of, send_again, send_trials
from rayvldd.hyperparameter_search.stages import StudySession, run_stages
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.hyperparameter_search.study_store import StudyStore
from rayvldd.hyperparameter_search.transfer import EarlierStudies, keep_earlier_trials, learned_studies
from rayvldd.randomness import sampler_seed
from rayvldd.records.gain import rates_to_try
from rayvldd.records.study_choice import StudyChoice, StudyTest
from rayvldd.records.study_outcome import ChosenTrial, Made, Seeds, StudyOutcome
from rayvldd.runtime.cluster import describe_cluster, start_ray
from rayvldd.runtime.nodes import refuse_unfit_nodes
from rayvldd.tracking.code_version import code_version
from rayvldd.tracking.ending import reporting_failure
from rayvldd.tracking.machine_use import MachineEnergy
from rayvldd.tracking.opening import OPENING
from rayvldd.tracking.protocol import Tracker
from rayvldd.workspace import Workspace


def sweep(
    study: Study,
    workspace: Workspace,
    store: ExpertStore,
    tracker: Tracker,
    *,
    command: str = "rayvldd sweep",
    address: str | None = None,
    display: ProgressDisplay | None = None,
    illustrator: Illustrator | None = None,
    learn_from: EarlierStudies | None = None,
    study_store: StudyStore | None = None,
    reopens: bool = False,
) -> SweepResult:
    """Run or resume a study to its end, or return the result of a finished one.

    Args:
        study: The study.
        workspace: Folder of studies, caches and experts.
        store: Store of experts.
        tracker: Receives the study and its trials.
        command: The user's command line, for the study's folder and the tracker.
        address: The Ray cluster to run on; this machine must be one of its nodes, and all nodes must see the workspace
            and the store. Default: this machine only.
        display: Shows progress; default: standard error.
        illustrator: Draws the pictures that are saved with each set.
        learn_from: Earlier studies that the search learns from; default: none.
        study_store: Persistent storage from which other machines can resume the study, in addition to the workspace.
        reopens: Whether a finished study continues if it has more trials or time than before. Its result is kept, and
            a set is chosen and tested again, which counts as a further test evaluation.

    Raises:
        ConfigError: if a study of this name has other settings, or there are no such earlier trials.
        RayvlddError: if every trial failed, another process or machine runs the study, or the cluster is unsuitable.
        StoreError: if the study's store cannot be used, or contains another study than the workspace.
    """
    folder = StudyFolder(workspace.study(study.name))
    if learn_from is not None and not folder.root.exists():
        _ = learn_from.trials  # a source that cannot be read must leave no study behind
    with (
        shown(display) as used,
        study_store.held(used) if study_store else nullcontext(),
        folder.opened(study, reopens=reopens),
    ):
        result = folder.result()
        if result is not None:
            used.line(line_of_finished(study, folder, reopens))
            missing = send_again(study, folder, tracker, result, command, used)
            return SweepResult(result, folder.ledger().by_number(), is_new=False, missing=missing)
        # First of all: a pause that is requested from here on is one of this session.
        ledger = folder.ledger()
        folder.requests.begin(ledger.trials, {trial.trial_id for trial in ledger.ended})
        if folder.earlier_results.is_dir():
            used.line(f"study {study.name} was reopened; its earlier results are in {folder.earlier_results}")
        used.line(describe_plan(plan(study, workspace, store)))
        keep_earlier_trials(study, folder, learn_from)
        folder.add_command(command)
        place = tracker.uri  # before the tracker connects, after which it may have another one
        with used.during(OPENING):
            tracker.start_study(study, command, was_ending=folder.was_ending)
        session = StudySession(study, workspace, store, folder, tracker, used, illustrator, command)
        energy, is_first_session = MachineEnergy(), not folder.seconds()
        with reporting_failure(tracker), start_ray(address, None, used), energy.reading():
            if address is not None:
                refuse_unfit_nodes(workspace.root)
            if session.is_chosen:  # the stages that send them are done, and the session may have been killed before
                send_trials(study, folder, tracker, StudyChoice.read(folder.choice).finalists, used)
            with tracker.sampling_machine():
                run_stages(session)
            # Of a later session the energy would be a part.
            result = _finish(session, energy.metrics() if is_first_session else {}, place)
            return SweepResult(result, session.ledger.by_number(), is_new=True, missing=folder.unsent(place))


def _finish(session: StudySession, energy: Mapping[str, float], place: str) -> StudyOutcome:
    """Assemble the result, save it and send it to the tracker.

    Args:
        session: A study with all stages done.
        energy: Energy that the machine used, as far as it was measured.
        place: Address of the tracker.
    """
    result = _assembled(session)
    _draw(session)
    result.write(session.folder.result_of_best)
    session.tracker.end_study("finished", {**numbers_of(result), **energy}, session.folder.best)
    session.folder.note_unsent(place, session.tracker.missing)
    result.write(session.folder.result_file)  # last: with it the study is finished
    return result


def _assembled(session: StudySession) -> StudyOutcome:
    """The result of a study with all stages done, from the files of its folder."""
    folder, study, best = session.folder, session.study, session.best
    tested, choice = StudyTest.read(folder.test), StudyChoice.read(folder.choice)
    card = DistilledSet.load(folder.best).origin
    result = StudyOutcome(
        study=study.name,
        protocol=study.at(best.point).model.protocol,
        num_pairs=tested.num_pairs,
        num_train_images=tested.num_train_images,
        trials=session.ledger.states(),
        best=ChosenTrial(
            trial_id=best.trial_id,
            config=best.point,
            outer_step=card.outer_step,
            val_mean_recall=choice.val_mean_recall,
            search_val_mean_recall=choice.search_val_mean_recall,
            diagnostics={name: card.metrics[name] for name in DIAGNOSTICS if name in card.metrics},
        ),
        finalists=choice.finalists,
        test=tested.scores,
        test_evaluations=folder.test_evaluations(),
        importance=importance_of_settings(session.ledger.ended, study.space.domains),
        importance_among_good=importance_among_good(session.ledger.ended, study.space.domains),
        distilled_set=str(folder.best),
        tracking_uri=session.tracker.uri,
        seconds=_with_total(folder.seconds()),
        seeds=Seeds(
            study=study.seed,
            sampler=sampler_seed(study.seed, 0),
            best_trial=best.seed,
            finalists={one.name: one.seed for row in choice.finalists for one in row.sets},
            test_students=tested.seeds,
        ),
        made=_made(),
    )
    if session.learned is not None:
        learned = learned_studies(session.learned, session.ledger.by_number())
        result = result.model_copy(update={"learned_from": learned})
    if not card.outer_step and (rates := rates_to_try(study, session.ledger.by_number())):
        result = result.model_copy(update={"rates_to_try": rates})
    return result.model_copy(update={"front": choice.front}) if choice.front else result


def _made() -> Made:
    version = code_version()
    commit = version.get("mlflow.source.git.commit", "")[:7]
    changed = " (changed)" if version.get("rayvldd.changed_since_commit") == "true" else ""
    code = f"rayvldd {version['rayvldd.version']}" + (f", commit {commit}{changed}" if commit else "")
    return Made(machine=describe_cluster(), date=date.today().isoformat(), code=code)


def _draw(session: StudySession) -> None:
    """Draw the pictures of the whole study. A result without them is a result, and is kept."""
    if session.illustrator:
        with session.display.drawing(f"study {session.study.name}"):
            session.illustrator.draw_study(session.folder.best, session.ledger.by_number())


def _with_total(seconds: Mapping[str, float]) -> dict[str, float]:
    return {**seconds, "total": round(sum(seconds.values()), 1)}
