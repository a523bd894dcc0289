"""Settings of bi-trajectory matching (Wu et al., arXiv 2308.07545) and of its published extensions."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from rayvldd.config.methods.declaration import MethodDeclaration, ValuesOf
from rayvldd.config.methods.inner_loop import InnerLoopSettings
from rayvldd.config.setting import setting

if TYPE_CHECKING:
    from rayvldd.config.study import Study


class TrajectoryMatchingSettings(InnerLoopSettings):
    """Match the end of a student, unrolled from an expert snapshot, to a later snapshot of the expert.

    The defaults are the bi-trajectory matching of Wu et al.
    """

    method: ClassVar[str] = "trajectory_matching"

    expert_epochs: int = setting(1, ge=1, unit="epochs", source="Wu et al.: 1")
    """Expert epochs from a segment's start to its target; Wu et al. use 1."""
    min_start_epoch: int = setting(0, ge=0, unit="epochs")
    """First start epoch of segments, inclusive."""
    max_start_epoch: int = setting(2, ge=1, unit="epochs", source="Wu et al.: 2")
    """Upper bound of start epochs, exclusive as in MTT; Wu et al. use 2."""
    separate_start_epochs: bool = setting(False, source="AMD")
    """Sample the start epochs of the image and text side independently, from the same range; AMD has one range for
    each side."""
    widen_over: int | None = setting(None, ge=1, unit="steps", source="DATM, arXiv 2310.05773")
    """Outer steps over which the range of start epochs grows from the first epoch to the whole range, as in DATM (arXiv
    2310.05773); default: the whole range from the beginning."""
    matched: Literal["both", "image", "text"] = setting("both", source="both: Wu et al.")
    """Side whose trajectory is matched and whose half of the pairs is updated: both, or one (ablation of Wu et al.)."""

    @model_validator(mode="after")
    def _starts_are_a_range(self) -> Self:
        if self.min_start_epoch >= self.max_start_epoch:
            raise ValueError(
                f"min_start_epoch must be below max_start_epoch, got {self.min_start_epoch} and {self.max_start_epoch}"
            )
        return self

    @property
    def last_epoch_read(self) -> int:
        """The last expert epoch that a segment can reach."""
        return self.max_start_epoch - 1 + self.expert_epochs


def _reached_epochs(values_of: ValuesOf) -> frozenset[int]:
    """Epoch 0 and the epochs at which segments can begin or end."""
    starts = range(min(values_of("min_start_epoch")), max(values_of("max_start_epoch")))
    targets = (start + ahead for start in starts for ahead in values_of("expert_epochs"))
    return frozenset({0, *starts, *targets})


def _faults(study: "Study") -> list[str]:
    settings, common = study.distillation.of(TrajectoryMatchingSettings), study.distillation
    faults = []
    if settings.last_epoch_read > study.experts.epochs:
        faults.append(
            f"a segment reaches epoch {settings.last_epoch_read} (max_start_epoch - 1 + expert_epochs), beyond the "
            f"experts' last epoch {study.experts.epochs}: lower distillation.trajectory_matching.max_start_epoch or "
            f"distillation.trajectory_matching.expert_epochs, or raise experts.epochs"
        )
    if settings.batch_size is not None and settings.batch_size > common.num_pairs:
        faults.append(
            f"distillation.trajectory_matching.batch_size must be at most distillation.num_pairs, got "
            f"{settings.batch_size} and {common.num_pairs}"
        )
    if settings.blending is not None and study.model.protocol != "heads_only":
        faults.append(
            f"distillation.trajectory_matching.blending mixes the inputs of the projection heads and needs protocol "
            f"heads_only, under which only these are trained, got {study.model.protocol}: leave blending out, or set "
            f"model.protocol to heads_only"
        )
    if common.engine.compile and study.model.dropout:
        faults.append(
            f"distillation.engine.compile needs model.dropout 0, got {study.model.dropout}: compiled code draws other "
            f"masks in the reverse sweep than in the forward pass"
        )
    return faults


DECLARATION = MethodDeclaration(
    TrajectoryMatchingSettings,
    "rayvldd.distillation.trajectory_matching:TrajectoryMatching",
    reached_epochs=_reached_epochs,
    for_probe={"lr_lr": 1e-9, "min_start_epoch": 0, "max_start_epoch": 1, "expert_epochs": 1},
    decides_divergence=("lr_lr", "syn_steps"),
    faults=_faults,
)
