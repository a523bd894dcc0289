"""Settings of methods that unroll student SGD on the synthetic set."""

from typing import Literal

from rayvldd.config.methods.declaration import MethodSettings
from rayvldd.config.setting import setting


class InnerLoopSettings(MethodSettings):
    """The student steps in an outer step, and the gradient through them."""

    syn_steps: int = setting(8, ge=1, unit="steps", source="Wu et al.: 8")
    """Student SGD steps on the synthetic set in one outer step; Wu et al. use 8."""
    batch_size: int | None = setting(None, ge=2, unit="pairs", source="LoRS: 20 to 40")
    """Synthetic pairs in one student step; default: all pairs."""
    batches: Literal["permuted", "drawn"] = setting("permuted", source="permuted: Wu et al., LoRS")
    """``permuted``: every pair is used once before a pair is used again (Wu et al., LoRS); ``drawn``: each step samples
    its pairs independently."""
    gradient: Literal["exact", "truncated", "tesla"] = setting(
        "exact", source="exact: Wu et al.; tesla: TESLA, arXiv 2211.10586"
    )
    """``exact``: of the matching loss; ``truncated``: only through the last ``truncated_steps``; ``tesla``: the
    released two-pass form of TESLA (arXiv 2211.10586), which is not the gradient of the loss."""
    truncated_steps: int = setting(4, ge=1, unit="steps")
    """Number of last steps that the truncated gradient includes."""
    blending: float | None = setting(None, gt=0, source="RepBlend, arXiv 2505.14705: 1")
    """Blend each pair's representations with those of another pair, with a weight from Beta(blending, blending);
    RepBlend (arXiv 2505.14705) uses 1. Only under ``heads_only``. Default: off."""
    lr_lr: float = setting(1e-2, gt=0, source="Wu et al.: 1e-2")
    """Learning rate of the learned student step sizes; Wu et al. use 1e-2."""
