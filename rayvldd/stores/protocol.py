"""What every store of trajectories can do."""

from typing import Protocol

from rayvldd.experts.recipe import ExpertRecipe
from rayvldd.experts.trajectory import Trajectory


class TrajectoryStore(Protocol):
    """Keeps the trajectories of expert sets, each set under the recipe that made it.

    A store travels to actors and trials by pickle, so it holds addresses and no open files. Many processes may
    use one place at the same time; an expert is there whole or not at all.
    """

    def finished(self, recipe: ExpertRecipe) -> list[int]:
        """Return the indexes of the complete experts of a set, sorted.

        Raises:
            StoreError: when what is stored under this recipe was made for another one or cannot be read.
        """
        ...

    def save(self, recipe: ExpertRecipe, index: int, trajectory: Trajectory, metrics: list[dict[str, float]]) -> None:
        """Keep one expert with its metrics by epoch; one that is complete already stays as it is.

        Raises:
            StoreError: when it cannot be written, or the place holds experts of another recipe.
        """
        ...

    def load(self, recipe: ExpertRecipe, index: int) -> Trajectory:
        """Open one expert, memory-mapped.

        Raises:
            StoreError: when it is not complete, damaged, or belongs to another recipe.
        """
        ...
