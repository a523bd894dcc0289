"""Small experts for tests of stores."""

from typing import Any

import torch

from rayvldd.experts.recipe import ExpertRecipe
from rayvldd.experts.store.expert_store import MadeExpert
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.parameters import ParameterLayout, Parameters

SETTINGS: dict[str, Any] = {"version": 1, "model": {"protocol": "heads_only"}, "seed": 7, "options": (1, 2)}


RECIPE = ExpertRecipe(SETTINGS)


OTHER = ExpertRecipe({**SETTINGS, "seed": 8})


DELTAS = ExpertRecipe({**SETTINGS, "experts": {"storage": "float16_deltas"}})


METRICS = [{"epoch": 1.0, "train_loss": 2.5, "val_mean_recall": 10.0, "seconds": 0.25}] * 2


LAYOUTS = ParameterLayout(("weight", "bias"), ((2, 2), (1,))), ParameterLayout(("weight",), ((3,),))


def expert(seed: int = 0, size: int = 5, epochs: tuple[int, ...] = (0, 1, 2)) -> MadeExpert:
    """An expert whose parameters change slightly per epoch; all experts have the same initial image parameters."""
    generator = torch.Generator().manual_seed(seed)
    image, text = torch.randn(size, generator=torch.Generator().manual_seed(99)), torch.randn(3, generator=generator)
    snapshots = {0: Parameters(image, text)}
    for epoch in range(1, 3):
        image, text = (side + 0.01 * torch.randn(len(side), generator=generator) for side in snapshots[epoch - 1])
        snapshots[epoch] = Parameters(image, text)
    return MadeExpert(Trajectory({epoch: snapshots[epoch] for epoch in epochs}), METRICS, *LAYOUTS)


def assert_same(left: Trajectory, right: Trajectory, tolerance: float = 0.0) -> None:
    assert left.epochs == right.epochs
    for epoch in left.epochs:
        for side in ("image", "text"):
            ours, theirs = getattr(left[epoch], side), getattr(right[epoch], side)
            torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
