"""Settings of methods that unroll student SGD on the synthetic set."""

from typing import TYPE_CHECKING, Literal

from rayvldd.config.methods.declaration import MethodSettings
from rayvldd.config.setting import setting

if TYPE_CHECKING:
    from rayvldd.config.study import Study


class InnerLoopSettings(MethodSettings):
    """The student steps in an outer step, and the gradient through them."""

    syn_steps: int = setting(8, ge=1, unit="steps", source="Wu et al.: 8")
    """Student SGD steps on the synthetic set in one outer step; Wu et al. use 8."""
    batch_size: int | None = setting(None, ge=2, unit="pairs", source="LoRS: 20 to 40")
    """Synthetic pairs in one student step; default: all pairs."""
    batches: Literal["permuted", "drawn"] = setting("permuted", source="permuted: Wu et al., LoRS")
    """``permuted``: every pair is used once before a pair is used again (Wu et al., LoRS); ``drawn``: each step samples
    its pairs independently."""
    blending: float | None = setting(None, gt=0, source="RepBlend, arXiv 2505.14705: 1")
    """Blend each pair's representations with those of another pair, with a weight from Beta(blending, blending);
    RepBlend (arXiv 2505.14705) uses 1. Only under ``heads_only``. Default: off."""
    lr_lr: float = setting(1e-2, gt=0, source="Wu et al.: 1e-2")
    """Learning rate of the learned student step sizes; Wu et al. use 1e-2."""
    step_size_range: float | None = setting(None, gt=1, lt=100, unit="times the start")
    """Factor of their start, up and down, within which the learned step sizes are kept. Default: they are free, and a
    run in which one changes by a factor of 100 counts as diverged."""

    @property
    def steps_back(self) -> int | None:
        """Last student steps that the gradient goes through; None: all."""
        return None

    @property
    def through_parameters(self) -> bool:
        """Whether a step's gradient is differentiated by the student's parameters too."""
        return True


def faults_of_inner_loop(study: "Study", settings: InnerLoopSettings) -> list[str]:
    """Contradictions between the inner loop and other settings of a study at one point, each a sentence."""
    section, common, faults = f"distillation.{settings.method}", study.distillation, []
    if settings.batch_size is not None and settings.batch_size > common.num_pairs:
        faults.append(
            f"{section}.batch_size must be at most distillation.num_pairs, got "
            f"{settings.batch_size} and {common.num_pairs}"
        )
    if settings.blending is not None and study.model.protocol != "heads_only":
        faults.append(
            f"{section}.blending mixes the inputs of the projection heads and needs protocol "
            f"heads_only, under which only these are trained, got {study.model.protocol}: leave blending out, or set "
            f"model.protocol to heads_only"
        )
    if common.engine.compile and study.model.dropout:
        faults.append(
            f"distillation.engine.compile needs model.dropout 0, got {study.model.dropout}: compiled code draws other "
            f"masks in the reverse sweep than in the forward pass"
        )
    return faults
