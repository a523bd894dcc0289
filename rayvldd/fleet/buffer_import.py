"""Put trajectories of the released code into a store, under a recipe that says where they come from."""

from collections.abc import Callable, Collection, Sequence

from rayvldd.errors import StoreError
from rayvldd.experts.recipe import ExpertRecipe
from rayvldd.experts.released_buffers import ReleasedExpert
from rayvldd.models.problem import Problem
from rayvldd.stores.claims import Claimant
from rayvldd.stores.expert_store import ExpertStore, MadeExpert


def import_experts(
    problem: Problem,
    recipe: ExpertRecipe,
    experts: Sequence[ReleasedExpert],
    epochs: Collection[int],
    store: ExpertStore,
    on_expert: Callable[[int, int], None] | None = None,
) -> int:
    """Keep experts that are not in the store yet, and return how many these were.

    Args:
        problem: The model that they are parameters of.
        recipe: What the user declares to have made them; ``experts.imported`` is among it.
        experts: In the order of their numbers.
        epochs: The epochs to keep.
        store: Where they are put.
        on_expert: Told (experts done, experts in all).

    Raises:
        StoreError: when the store cannot be written, or another command is importing the same.
    """
    claimant, kept = Claimant(), 0
    layouts = problem.model.image_layout, problem.model.text_layout
    for index, expert in enumerate(experts):
        if on_expert:
            on_expert(index, len(experts))
        if index in store.finished(recipe, epochs):
            continue
        claim = store.claim(recipe, index, claimant)
        if claim is None:
            raise StoreError(
                f"{store.uri}: expert {index} of {recipe.key} is being imported by another command",
                next_command="the same command once that one is done: what is there is kept",
            )
        with claim:
            trajectory = expert.trajectory(sorted(epochs))
            store.save(recipe, index, MadeExpert(trajectory, [], *layouts, origin=expert.origin))
        kept += 1
    return kept
