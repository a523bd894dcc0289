"""Interface of a distillation method, which computes the gradient for a synthetic set.

All other parts are shared by all methods and in :mod:`rayvldd.distillation.loop`: initialisation, similarity, outer
optimiser, moving average, roll-back, checkpoints, evaluation and selection of the best set.
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
    """Result of a method in one outer step, on the device and without a graph."""

    loss: Float[Tensor, ""]
    """Loss of the method."""
    gradients: Tensors
    """Gradients of the loss by name of the set's values and step sizes; values without a gradient do not change."""
    log: Tensors
    """Scalars to log, the loss first."""


@runtime_checkable  # for runtime type checks of signatures in tests
class DistillationMethod(Protocol):
    """Distillation method of one run. Its constructor has the parameters of :func:`build_method`, without the name.

    A method must use no randomness except the given generator, so that a run is reproducible from its seed.
    """

    lr_step_sizes: float | None
    """Learning rate of the step sizes; None if the method computes no gradient for them."""

    def gradient(self, synthetic_set: SyntheticSet, outer_step: int, generator: np.random.Generator) -> MethodStep:
        """Return the loss of the current set and its gradient.

        Args:
            synthetic_set: The set, which must not be modified.
            outer_step: Number of outer steps taken so far.
            generator: Random stream of the run; its state is part of checkpoints.
        """
        ...

    def state_dict(self) -> Tensors:
        """Return tensors that determine further steps, besides set and stream; names have no dot; often empty."""
        ...

    def load_state_dict(self, state: Tensors) -> None:
        """Restore a state from :meth:`state_dict`."""
        ...


def build_method(
    task: RetrievalTask, settings: DistillationSettings, experts: Sequence[Trajectory]
) -> DistillationMethod:
    """Create the method that the settings name.

    Args:
        task: Model and data.
        settings: Distillation settings with the section of the method.
        experts: Trajectories required by the method's declaration; empty if it requires none.
    """
    module, _, name = settings.declaration.implementation.partition(":")
    method: DistillationMethod = getattr(import_module(module), name)(task, settings, experts)
    return method


def fingerprints_of(task: RetrievalTask, settings: DistillationSettings) -> dict[str, str]:
    """Return the fingerprints of data and encoders, with those of further image encoders that the method reads.

    Args:
        task: Model and data.
        settings: Distillation settings with the section of the method.
    """
    further = settings.section().further_image_encoders
    found = {f"{settings.method}.{key}": task.encoded_by(encoder).model.fingerprint for key, encoder in further.items()}
    return {**task.fingerprints, **found}
