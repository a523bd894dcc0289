"""Put trajectories of the released code into a store, under a recipe that says where they come from."""

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
    """Keep experts that are not in the store yet, and return how many these were.

    Args:
        task: The model that they are parameters of.
        recipe: What the user declares to have made them; ``experts.imported`` is among it.
        experts: In the order of their numbers.
        epochs: The epochs to keep.
        store: Where they are put.
        on_expert: Told (experts done, experts in all).

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
                next_command="the same command once that one is done: what is there is kept",
            )
        with lease:
            trajectory = expert.trajectory(sorted(epochs))
            store.save(recipe, index, MadeExpert(trajectory, [], *layouts, origin=expert.origin))
        kept += 1
    return kept
