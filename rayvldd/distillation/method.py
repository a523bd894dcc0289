"""What a distillation method is: a way to compute a gradient for a synthetic set.

Everything else of a distillation is in :mod:`rayvldd.distillation.loop` and the same for every method: initialisation,
similarity, outer optimiser, moving average, roll-back, checkpoints, evaluation and the choice of the best set.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from rayvldd.config.distillation import DistillationSettings
from rayvldd.distillation.synthetic_set import SyntheticSet, Tensors
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.retrieval_task import RetrievalTask


class MethodStep(NamedTuple):
    """What a method computed in one outer step; all of it on the device, without a graph."""

    loss: Float[Tensor, ""]
    """What is minimised."""
    gradients: Tensors
    """Of the loss, by name of the synthetic set's values and step sizes; values without one stay."""
    log: Tensors
    """Scalars to report, the loss first."""


@runtime_checkable  # so that signatures that name it can be checked while testing
class DistillationMethod(Protocol):
    """A method of one run. Its constructor has the parameters of :func:`build_method`, without the name.

    A method draws from the given generator alone, so that a run repeats with its seed.
    """

    lr_step_sizes: float | None
    """Rate of the learned step sizes; None where the method gives no gradient for them."""

    def gradient(self, synthetic_set: SyntheticSet, outer_step: int, generator: np.random.Generator) -> MethodStep:
        """The loss of the set as it is now, and its gradient.

        Args:
            synthetic_set: Not changed.
            outer_step: Outer steps taken so far.
            generator: The run's random stream; its state is part of checkpoints.
        """
        ...

    def state_dict(self) -> Tensors:
        """The tensors that decide further steps beside the set and the stream; names without a dot; often none."""
        ...

    def load_state_dict(self, state: Tensors) -> None:
        """Continue from what :meth:`state_dict` returned."""
        ...


def build_method(
    task: RetrievalTask, settings: DistillationSettings, experts: Sequence[Trajectory]
) -> DistillationMethod:
    """The method that the settings name.

    Args:
        task: Model and data.
        settings: With the section of the method.
        experts: The trajectories that the method's declaration requires; none where it requires none.
    """
    module, _, name = settings.declaration.implementation.partition(":")
    method: DistillationMethod = getattr(import_module(module), name)(task, settings, experts)
    return method
