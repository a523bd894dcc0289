"""Blend the representations of each synthetic pair with those of another one before the projection heads.

    h_i <- share * h_i + (1 - share) * h_partner(i),        share ~ Beta(concentration, concentration)

Source: RepBlend, arXiv 2505.14705, with its released ``distill_repblend.py``: in every student step one share and one
partner permutation for the whole mini-batch and for both modalities, so that pairs stay pairs; on what the frozen
image encoder makes of the images and on the caption embeddings; the similarity stays that of the unblended pairs.
Ours is the same. Deviation: the draws come from the step's own seed, not from a global stream.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rayvldd.models.copies import to_device


@dataclass(frozen=True)
class Blend:
    """Partner of each row of a batch, and the weight of the row itself."""

    partner: Int[Tensor, " pair"]
    """A permutation of the batch's rows; some may be their own partners."""
    share: float
    """Weight of the row itself, from 0 to 1."""


def draw_blend(seed: int, pairs: int, concentration: float) -> Blend:
    """Sample the partners and the weight of blending for a batch.

    Args:
        seed: Seed of the samples.
        pairs: Number of pairs in the batch.
        concentration: Parameter of Beta(concentration, concentration), from which the weight is sampled; 1: uniform.
    """
    generator = np.random.default_rng(seed)
    share = float(generator.beta(concentration, concentration))
    return Blend(torch.from_numpy(generator.permutation(pairs)), share)


def blend(rows: Float[Tensor, "pair ..."], drawn: Blend) -> Float[Tensor, "pair ..."]:
    """Blend each row of one modality with its partner's; call it with the same ``drawn`` for the other modality."""
    return drawn.share * rows + (1 - drawn.share) * rows[to_device(drawn.partner, rows.device)]
