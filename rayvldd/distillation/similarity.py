"""Similarity of synthetic image i and synthetic text j: the identity, or learned with the pairs.

Source: LoRS, arXiv 2406.03793: S = diag(a) + (alpha / rank) L R', whose size grows linearly with the number of pairs.
Initially R is zero, L is standard normal and a is one, as in its released code, so that S is exactly the identity.
Deviation: the released commands reduce the number of pairs by one in every setting; here the learned numbers are
counted.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from rayvldd.config.distillation import DistillationSettings
from rayvldd.errors import ConfigError, Fault


@dataclass(frozen=True)
class SimilarityParameters:
    """Learned parameters of a similarity matrix."""

    values: dict[str, Float[Tensor, "..."]]
    """By name: none for the identity, ``matrix`` for a full one, ``diagonal``, ``left`` and ``right`` for low rank."""
    scale: float = 1.0
    """Factor of L R': alpha / rank."""

    def matrix(self) -> Float[Tensor, "pair pair"] | None:
        """Return the similarity of image i and text j, differentiable by ``values``; None means the identity."""
        if not self.values:
            return None
        if "matrix" in self.values:
            return self.values["matrix"]
        return self.values["diagonal"].diag() + self.scale * (self.values["left"] @ self.values["right"].T)

    def with_values(self, values: dict[str, Float[Tensor, "..."]]) -> "SimilarityParameters":
        """Return the same form with other values."""
        return replace(self, values=values)


def build_similarity(
    settings: DistillationSettings, num_pairs: int, generator: torch.Generator
) -> SimilarityParameters:
    """Initialise the similarity of ``num_pairs`` pairs to the identity, on the CPU.

    Args:
        settings: Form, rank and alpha.
        num_pairs: Number of synthetic pairs, after deducting the cost of the similarity.
        generator: Draws L; not used for the other forms.
    """
    if settings.similarity == "identity":
        return SimilarityParameters({})
    if settings.similarity == "full":
        return SimilarityParameters({"matrix": torch.eye(num_pairs)})
    values = {
        "diagonal": torch.ones(num_pairs),
        "left": torch.randn(num_pairs, settings.sim_rank, generator=generator),
        "right": torch.zeros(num_pairs, settings.sim_rank),
    }
    return SimilarityParameters(values, settings.sim_alpha / settings.sim_rank)


def pairs_within_budget(settings: DistillationSettings, numbers_per_pair: int) -> int:
    """Return the most pairs that, with their similarity, need no more numbers than ``settings.num_pairs`` pairs alone.

    Args:
        settings: Form of the similarity, and the budget in pairs.
        numbers_per_pair: Pixels of one image times 3, plus the width of its text embedding.

    Raises:
        ConfigError: when fewer than 2 pairs are left.
    """
    budget = settings.num_pairs * numbers_per_pair
    fitting = settings.num_pairs
    while fitting * numbers_per_pair + _numbers(settings, fitting) > budget:
        fitting -= 1
    if fitting < 2:
        problem = (
            f"{settings.similarity!r} with sim_rank {settings.sim_rank} leaves {fitting} of {settings.num_pairs} pairs"
        )
        allowed = "at least 2 pairs beside it: more num_pairs, a smaller sim_rank, or identity"
        raise ConfigError(
            [Fault("distillation.similarity", problem, allowed)],
            next_command="rayvldd check STUDY.yaml after mending distillation.similarity",
        )
    return fitting


def _numbers(settings: DistillationSettings, num_pairs: int) -> int:
    """Return the number of learned values in the similarity of ``num_pairs`` pairs."""
    if settings.similarity == "identity":
        return 0
    return num_pairs * (num_pairs if settings.similarity == "full" else 1 + 2 * settings.sim_rank)
