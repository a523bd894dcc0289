"""Preparation of a study before its first trial: data and features in the cache, and the experts of every point."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayvldd.config.domains import SettingValue, point_as_text
from rayvldd.config.study import Study, changes_experts
from rayvldd.console import ProgressDisplay, time_as_text
from rayvldd.data.left_out import left_out_so_far, lines_of_left_out
from rayvldd.data.prepared_arrays import open_cache
from rayvldd.errors import ConfigError, Fault
from rayvldd.experts.get_or_make import ExpertRequest
from rayvldd.experts.recipe import ExpertRecipe, expert_recipe, expert_training
from rayvldd.experts.store.expert_store import ExpertStore
from rayvldd.hyperparameter_search.expert_points import expert_points
from rayvldd.models.pair_filter import line_of_left_out
from rayvldd.models.retrieval_task import SplitInputs, load_task
from rayvldd.records.json_values import object_at
from rayvldd.runtime.expert_training import ExpertProgress, make_experts
from rayvldd.tracking.protocol import Origins


@dataclass(frozen=True)
class ExpertSet:
    """Data and model of all points with the same expert settings, and the experts if a method requires them."""

    point: dict[str, SettingValue]
    """The searched settings that distinguish this set from the others of the study; empty if there is only one."""
    study: Study
    """The study at such a point."""
    recipe: ExpertRecipe
    epochs: frozenset[int]
    """The epochs that are used at some point of the study."""
    train: SplitInputs
    """The real training pairs as inputs of the model at such a point."""

    @property
    def request(self) -> ExpertRequest:
        """Request for all experts that trials at such a point can use."""
        indexes = tuple(range(self.study.experts.num_experts))
        return ExpertRequest(self.recipe, expert_training(self.study), indexes, self.epochs)


class ExpertSets:
    """The expert sets of a study, found by point."""

    def __init__(self, sets: list[ExpertSet]) -> None:
        self.sets = sets

    def at(self, point: Mapping[str, SettingValue]) -> ExpertSet:
        """The set that trials at this point use."""
        return next(known for known in self.sets if known.point == _expert_part(point))

    def __iter__(self) -> Iterator[ExpertSet]:
        return iter(self.sets)


def load_expert_sets(study: Study, cache: Path, display: ProgressDisplay) -> ExpertSets:
    """Fill the cache for every point, and determine the experts that each point needs.

    Raises:
        ConfigError: if a trial would need more pairs than there are training images.
    """
    sets, lists, arrays = [], dict[str, None](), open_cache(cache)
    for point, at_point in expert_points(study):
        task = load_task(at_point.data, at_point.model, arrays, on_progress=display.progress)
        if task.model.encoder_is_frozen:
            for encoder in study.further_image_encoders().values():
                task.encoded_by(encoder, display.progress)
        if line := line_of_left_out(arrays.shared_folder, task.fingerprints["data"]):
            lists[line] = None  # once, where several points have the same encoders
        recipe = expert_recipe(at_point, task.fingerprints)
        sets.append(ExpertSet(point, at_point, recipe, epochs_of(study, at_point), task.train))
    display.done()
    for line in [*lines_of_left_out(left_out_so_far(study.data, cache)), *lists]:
        display.warn(line)
    _check_pairs(study, sets[0].train.num_images)
    return ExpertSets(sets)


def origins_of(sets: Sequence[ExpertSet]) -> Origins:
    """Origins of trials that use one of these sets: the entries that all sets share."""
    first, *others = (object_at(known.recipe.settings, "fingerprints") for known in sets)
    shared = {name: str(value) for name, value in first.items() if all(other[name] == value for other in others)}
    uses_experts = len(sets) == 1 and sets[0].study.requires_experts
    return Origins(shared, sets[0].recipe.key if uses_experts else "")


def epochs_of(study: Study, at_point: Study) -> frozenset[int]:
    """The epochs of experts at a point that must be stored for all trials of the study.

    Epoch 0 is always included, because later epochs can be stored as differences from it.
    """
    trained = frozenset(range(at_point.experts.epochs + 1))
    return trained if study.experts.keep_epochs == "all" else trained & study.reached_epochs()


def make_missing_experts(sets: Iterable[ExpertSet], store: ExpertStore, cache: Path, display: ProgressDisplay) -> int:
    """Train the experts that are not in the store; return their number."""
    made, chosen = 0, list(sets)
    for number, known in enumerate(chosen, start=1):
        which = f"experts {number}/{len(chosen)}" + (f" ({point_as_text(known.point)})" if known.point else "")
        made_here = make_experts(known.study, known.request, store, cache, _shown_as(which, display), display)
        reused = known.study.experts.num_experts - made_here
        display.done()
        display.line(f"{which}: {made_here} made, {reused} reused  {known.recipe.key}")
        made += made_here
    return made


def certain_sets(study: Study, sets: ExpertSets) -> list[ExpertSet]:
    """The sets that are certain to be used; they are trained before the search, on all CPUs.

    The other sets are trained by the first trial that needs them, because the sampler may never propose such a point.
    """
    if not study.requires_experts:
        return []
    if len(sets.sets) == 1:
        return sets.sets
    keys = set(sets.sets[0].point)
    distinguishing = [point for point in study.search.initial_points if keys <= set(point)]
    first = [sets.at(point).point for point in distinguishing]
    return [known for known in sets if known.point in first]


def experts_in_training(sets: ExpertSets, store: ExpertStore) -> list[str]:
    """Short descriptions of the experts of a study that are being trained at the moment."""
    lines = []
    for known in sets:
        for index in store.leased(known.recipe):
            holder = store.holder(known.recipe, index)
            if holder:
                where = f" of {point_as_text(known.point)}" if known.point else ""
                lines.append(f"expert {index}{where} at epoch {holder.done} of {known.study.experts.epochs}")
    return lines


def _shown_as(which: str, display: ProgressDisplay) -> Callable[[ExpertProgress], None]:
    def show(progress: ExpertProgress) -> None:
        epochs = ", ".join(f"#{index} epoch {epoch}" for index, epoch in sorted(progress.running.items()))
        if progress.elsewhere:
            others = ", ".join(f"#{index} epoch {epoch}" for index, epoch in sorted(progress.elsewhere.items()))
            epochs += f"another command makes {others}"
        # What follows is not timed before the experts exist.
        left = "" if progress.seconds_left is None else f"{time_as_text(progress.seconds_left)} left of this phase"
        display.progress(which, progress.finished, progress.total, "  ".join(part for part in (left, epochs) if part))

    return show


def _expert_part(point: Mapping[str, SettingValue]) -> dict[str, SettingValue]:
    return {key: value for key, value in point.items() if changes_experts(key)}


def _check_pairs(study: Study, num_images: int) -> None:
    most = study.largest("distillation.num_pairs")
    if most > num_images:
        fault = Fault("distillation.num_pairs", f"requests {most} pairs", f"2 to {num_images}, the training images")
        raise ConfigError([fault], next_command=f"the same command with --set distillation.num_pairs={num_images}")
