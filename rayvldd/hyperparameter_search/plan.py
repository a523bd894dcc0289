"""Plan of a study for ``--dry-run``, ``check`` and the first lines of a sweep."""

from pydantic import JsonValue

from rayvldd.config.domains import point_as_text
from rayvldd.config.study import Study
from rayvldd.console import time_as_text
from rayvldd.data.left_out import left_out_so_far, lines_of_left_out
from rayvldd.experts.recipe import expert_settings
from rayvldd.experts.store.addresses import lives_in_ray
from rayvldd.experts.store.expert_records import ExpertRecords
from rayvldd.hyperparameter_search.expert_points import expert_points
from rayvldd.hyperparameter_search.learned_sources import LearnedSources
from rayvldd.hyperparameter_search.lines import line_of_learned
from rayvldd.hyperparameter_search.source_model import FEWEST_TRIALS
from rayvldd.hyperparameter_search.strategy import first_points_of
from rayvldd.hyperparameter_search.study_folder import StudyFolder
from rayvldd.hyperparameter_search.transfer import (
    NOTHING,
    EarlierStudies,
    earlier_trials_of,
    learned_studies,
)
from rayvldd.printable import counted
from rayvldd.records.study_plan import (
    Plan,
    PlannedExperts,
    PlannedFinalists,
    PlannedLearning,
    PlannedSearch,
    PlannedStorage,
    PlannedTrials,
)
from rayvldd.workspace import Workspace


def plan(
    study: Study,
    workspace: Workspace,
    store: ExpertRecords,
    *,
    reopens: bool = False,
    learn_from: EarlierStudies | None = None,
) -> Plan:
    """List what a sweep of the study would create, reuse and write; reads only small files.

    Expert sets are identified by their settings. Whether they also match the data and the weights is determined when
    these are read, so ``existing`` is an upper bound.

    Args:
        study: The study.
        workspace: Folder of studies and caches.
        store: Store of experts.
        reopens: Whether a finished study of this name may continue with other limits.
        learn_from: Earlier studies, if the plan is to name them and the points that they suggest.

    Raises:
        ConfigError: if the workspace has a study of this name with other settings.
    """
    folder = StudyFolder(workspace.study(study.name))
    folder.check_same(study, reopens=reopens)
    recipes = _recipes(store)
    return Plan(
        study=study.name,
        settings=study.model_dump(mode="json"),
        expert_sets=[
            PlannedExperts(
                point=point,
                experts=at_point.experts.num_experts,
                existing=min(_existing(at_point, recipes), at_point.experts.num_experts),
                epochs=at_point.experts.epochs,
            )
            for point, at_point in (expert_points(study) if study.requires_experts else [])
        ],
        methods=[method.name for method in study.methods()],
        trials=_planned_trials(study, folder),
        search=PlannedSearch(
            sampler=study.search.sampler,
            scheduler=study.search.scheduler,
            objectives=list(study.search.objectives),
            searched=list(study.space.domains),
            not_searched_here=[key for key in study.search.space if key not in study.space.domains],
        ),
        finalists=PlannedFinalists(trials=study.search.num_finalists, sets_of_each=study.search.finalist_seeds),
        resources=study.resources.model_dump(mode="json"),
        storage=PlannedStorage(
            cache=str(workspace.cache),
            experts=store.uri,
            study=str(folder.root),
            best=str(folder.best),
            tracking_uri=workspace.tracking_uri,
        ),
        images_left_out=left_out_so_far(study.data, workspace.cache),
        is_finished=folder.result_file.is_file(),
        reopens=reopens and folder.has_more(study),
        learning=_planned_learning(study, folder, learn_from) if learn_from else None,
        notes=study.at(study.first_point()).notes(),
    )


def _planned_learning(study: Study, folder: StudyFolder, learn_from: EarlierStudies) -> PlannedLearning | None:
    """What earlier studies suggest; None if there are none, unless a user has named them."""
    earlier = earlier_trials_of(study, folder, learn_from)
    if earlier is None:
        return None
    learned = LearnedSources(study.space, earlier.sources(study), study.seed)
    if not learned.sources and (learn_from.is_default or earlier.name == NOTHING):
        return None
    return PlannedLearning(
        learn_from=earlier.name, studies=learned_studies(learned, []), first_points=first_points_of(study, learned)
    )


def _planned_trials(study: Study, folder: StudyFolder) -> PlannedTrials:
    ledger = folder.ledger()
    return PlannedTrials(
        total=study.max_trials,
        points=study.space.num_points,
        allowed=study.search.num_trials,
        ended=len(ledger.ended),
        cut_off=len(ledger.running),
        at_a_time=study.search.max_concurrent,
        time_budget_s=study.search.time_budget_s,
    )


def describe_plan(planned: Plan) -> str:
    """Format the plan in a few lines."""
    sets, trials = planned.expert_sets, planned.trials
    total, existing = sum(known.experts for known in sets), sum(known.existing for known in sets)
    each = "; ".join(point_as_text(known.point) for known in sets if known.point)
    earlier = f", {trials.ended} of them ended and {trials.cut_off} cut off earlier" if trials.ended else ""
    budget, search = trials.time_budget_s, planned.search
    ending = f"{_again(planned.finalists)}the best on validation is tested once"
    if len(search.objectives) > 1:
        front = f"the Pareto front of {', '.join(search.objectives)}"
        again = f"distilled again, {planned.finalists.sets_of_each} sets with new seeds, and "
        again = again if planned.finalists.trials else ""
        ending = f"the set that search.choose takes from {front} is {again}tested once"
    dropped = planned.images_left_out
    dormant = ", ".join(search.not_searched_here)
    return "\n".join(
        [
            f"study {planned.study} in {planned.storage.study}",
            f"  method:  {', '.join(planned.methods)}",
            f"  experts: {counted(len(sets), 'set')}{f' ({each})' if each else ''}, "
            f"{total} in all, {total - existing} to make"
            if sets
            else f"  experts: none, {' and '.join(planned.methods)} needs none",
            f"  trials:  {_number_of(trials)}, {trials.at_a_time} at a time{earlier}"
            + (f", at most {time_as_text(budget)}" if budget else "")
            + f"; sampler {search.sampler}, scheduler {search.scheduler}",
            *(_lines_of_learning(planned.learning) if planned.learning else ()),
            *(f"  data:    {line}" for line in lines_of_left_out(dropped)),
            *(f"  note:    {note}" for note in planned.notes),
            *([f"  left out: {dormant}: their conditions never hold here"] if dormant else []),
            f"  then:    {ending}, beside random pairs and the full data",
        ]
    )


def _lines_of_learning(learning: PlannedLearning) -> list[str]:
    """The earlier studies, and the points that the study begins with."""
    if not learning.studies:
        needed = f"that takes {FEWEST_TRIALS} trials in or near the space, and one objective"
        known = "comparable trials are known to the sampler"
        return [f"  earlier: nothing is learned from {learning.learn_from}: {needed}; {known}"]
    points = [point_as_text(point) for point in learning.first_points]
    first, *others = points or ["the sampler's"]
    return [
        f"  earlier: {line_of_learned(learning.studies, 'learns from')}",
        f"  first:   {first}",
        *(f"           {other}" for other in others),
    ]


def _number_of(trials: PlannedTrials) -> str:
    """Number of trials, and of points in a finite space."""
    total, points, allowed = trials.total, trials.points, trials.allowed
    if points is None:
        return str(total)
    once = f" and none runs twice, of {allowed} trials allowed" if total < allowed else ""
    return f"{total}, where the space has {points} points{once}"


def _again(finalists: PlannedFinalists) -> str:
    trials, sets = finalists.trials, finalists.sets_of_each
    which = "the best trial is" if trials == 1 else f"the best {trials} trials are"
    return f"{which} distilled again, {sets} sets with new seeds each; " if trials else ""


def _recipes(store: ExpertRecords) -> list[tuple[dict[str, JsonValue], int]]:
    """The recipe of every expert set in the store, and its number of experts."""
    if lives_in_ray(store):
        return []  # accessible only from inside the cluster
    return [(manifest["recipe"], len(store.indexes(key))) for key, manifest in store.sets()]


def _existing(at_point: Study, recipes: list[tuple[dict[str, JsonValue], int]]) -> int:
    """Number of experts in the largest set with the settings of the point."""
    required = expert_settings(at_point).items()
    fitting = [number for recipe, number in recipes if all(recipe.get(name) == value for name, value in required)]
    return max(fitting, default=0)
