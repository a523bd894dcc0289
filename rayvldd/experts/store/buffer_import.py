"""Import trajectories of the released code into a store, under a recipe that records their origin."""

from collections.abc import Callable, Collection, Sequence

from rayvldd.errors import StoreError
from rayvldd.experts.recipe import ExpertRecipe
from rayvldd.experts.released_buffers import ReleasedExpert
from rayvldd.experts.store.expert_store import ExpertStore, MadeExpert
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.storage.lease import LeaseHolder


def import_experts(
    task: RetrievalTask,
    recipe: ExpertRecipe,
    experts: Sequence[ReleasedExpert],
    epochs: Collection[int],
    store: ExpertStore,
    on_expert: Callable[[int, int], None] | None = None,
) -> int:
    """Store the experts that the store does not have yet, and return their number.

    Args:
        task: Task with the model of the experts.
        recipe: Recipe that the user declares for them, including ``experts.imported``.
        experts: The experts in the order of their numbers.
        epochs: Epochs to store.
        store: Destination.
        on_expert: Called with (experts done, experts in total).

    Raises:
        StoreError: when the store cannot be written, or another command is importing the same.
    """
    lease_holder, kept = LeaseHolder(), 0
    layouts = task.model.image_layout, task.model.text_layout
    for index, expert in enumerate(experts):
        if on_expert:
            on_expert(index, len(experts))
        if index in store.finished(recipe, epochs):
            continue
        lease = store.acquire(recipe, index, lease_holder)
        if lease is None:
            raise StoreError(
                f"{store.uri}: expert {index} of {recipe.key} is being imported by another command",
                next_command="the same command once that one is done: existing experts are kept",
            )
        with lease:
            trajectory = expert.trajectory(sorted(epochs))
            store.save(recipe, index, MadeExpert(trajectory, [], *layouts, origin=expert.origin))
        kept += 1
    return kept
