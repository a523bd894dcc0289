"""Settings of bi-trajectory matching (Wu et al., arXiv 2308.07545) and of its published extensions."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from rayvldd.config.methods.declaration import MethodDeclaration, ValuesOf
from rayvldd.config.methods.inner_loop import InnerLoopSettings, faults_of_inner_loop
from rayvldd.config.setting import setting

if TYPE_CHECKING:
    from rayvldd.config.study import Study


class TrajectoryMatchingSettings(InnerLoopSettings):
    """Match the end of a student, unrolled from an expert snapshot, to a later snapshot of the expert.

    The defaults are the bi-trajectory matching of Wu et al.
    """

    method: ClassVar[str] = "trajectory_matching"

    gradient: Literal["exact", "truncated", "tesla"] = setting(
        "exact", source="exact: Wu et al.; tesla: TESLA, arXiv 2211.10586"
    )
    """``exact``: of the matching loss; ``truncated``: only through the last ``truncated_steps``; ``tesla``: the
    released two-pass form of TESLA (arXiv 2211.10586), which is not the gradient of the loss."""
    truncated_steps: int = setting(4, ge=1, unit="steps")
    """Number of last steps that the truncated gradient includes."""
    expert_epochs: int = setting(1, ge=1, unit="epochs", source="Wu et al.: 1")
    """Expert epochs from a segment's start to its target; Wu et al. use 1."""
    min_start_epoch: int = setting(0, ge=0, unit="epochs")
    """First start epoch of segments, inclusive."""
    max_start_epoch: int = setting(2, ge=1, unit="epochs", source="Wu et al.: 2")
    """Upper bound of start epochs, exclusive as in MTT; Wu et al. use 2."""
    separate_start_epochs: bool = setting(False, source="AMD")
    """Sample the start epochs of the image and text side independently. AMD has a range for each side, see
    ``max_start_epoch_image`` and ``start_ranges``."""
    max_start_epoch_image: int = setting(0, ge=0, unit="epochs", source="AMD")
    """Upper bound of the image side's start epochs in place of ``max_start_epoch``; 0: the same bound."""
    max_start_epoch_text: int = setting(0, ge=0, unit="epochs", source="AMD")
    """Upper bound of the text side's start epochs in place of ``max_start_epoch``; 0: the same bound."""
    start_ranges: Literal["fixed", "drift"] = setting("fixed", source="drift: AMD, ICLR 2026")
    """``fixed``: the bounds above; ``drift``: a range from epoch 0 for each side, derived from how far the experts move
    in every epoch (AMD)."""
    shortcut_to: int = setting(0, ge=0, unit="epochs", source="PTM-ST, arXiv 2603.25388: 5")
    """Match the shortcut trajectory from epoch 0 to this epoch, which needs these two snapshots alone; PTM-ST uses 5.
    0: the expert's own snapshots."""
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
        for name in ("max_start_epoch_image", "max_start_epoch_text"):
            bound = getattr(self, name)
            if bound and not self.separate_start_epochs:
                raise ValueError(f"{name} needs separate_start_epochs: true, got {bound} with false")
            if bound and bound <= self.min_start_epoch:
                raise ValueError(f"{name} must be above min_start_epoch, got {bound} and {self.min_start_epoch}")
        if self.start_ranges == "drift" and (not self.separate_start_epochs or self.min_start_epoch):
            raise ValueError(
                f"start_ranges drift has a range from epoch 0 for each side: it needs separate_start_epochs: true and "
                f"min_start_epoch: 0, got {str(self.separate_start_epochs).lower()} and {self.min_start_epoch}"
            )
        return self

    @property
    def steps_back(self) -> int | None:
        """Last student steps that the gradient goes through; None: all."""
        return self.truncated_steps if self.gradient == "truncated" else None

    @property
    def through_parameters(self) -> bool:
        """Whether a step's gradient is differentiated by the student's parameters too."""
        return self.gradient != "tesla"

    @property
    def last_epoch_read(self) -> int:
        """The last expert epoch that a segment can reach."""
        if self.start_ranges == "drift":
            return self.expert_epochs  # ranges are limited to the experts' epochs when they are derived
        bounds = [self.max_start_epoch_image or self.max_start_epoch, self.max_start_epoch_text or self.max_start_epoch]
        return max(bounds) - 1 + self.expert_epochs


def _reached_epochs(values_of: ValuesOf) -> frozenset[int]:
    """Epoch 0 and the epochs at which segments can begin or end."""
    shortcuts = set(values_of("shortcut_to"))
    if 0 not in shortcuts:
        return frozenset({0, *shortcuts})
    bounds = [bound for name in _BOUNDS for bound in values_of(name)]
    starts = range(min(values_of("min_start_epoch")), max(bounds))
    targets = (start + ahead for start in starts for ahead in values_of("expert_epochs"))
    return frozenset({0, *shortcuts, *starts, *targets})


_BOUNDS = ("max_start_epoch", "max_start_epoch_image", "max_start_epoch_text")


def _faults(study: "Study") -> list[str]:
    settings, faults = study.distillation.of(TrajectoryMatchingSettings), _faults_of_kept_epochs(study)
    if settings.last_epoch_read > (settings.shortcut_to or study.experts.epochs) and settings.shortcut_to:
        faults.append(
            f"a segment reaches epoch {settings.last_epoch_read} (the last start + expert_epochs), beyond the end "
            f"{settings.shortcut_to} of the shortcut: lower distillation.trajectory_matching.max_start_epoch or "
            f"distillation.trajectory_matching.expert_epochs, or raise distillation.trajectory_matching.shortcut_to"
        )
    elif settings.last_epoch_read > study.experts.epochs:
        faults.append(
            f"a segment reaches epoch {settings.last_epoch_read} (max_start_epoch - 1 + expert_epochs), beyond the "
            f"experts' last epoch {study.experts.epochs}: lower distillation.trajectory_matching.max_start_epoch or "
            f"distillation.trajectory_matching.expert_epochs, or raise experts.epochs"
        )
    return faults + faults_of_inner_loop(study, settings)


def _faults_of_kept_epochs(study: "Study") -> list[str]:
    """Return contradictions between the epochs that are read of experts and those that are stored."""
    settings, experts = study.distillation.of(TrajectoryMatchingSettings), study.experts
    if settings.shortcut_to > experts.epochs:
        return [
            f"distillation.trajectory_matching.shortcut_to {settings.shortcut_to} is beyond the experts' last epoch "
            f"{experts.epochs}: lower it, or raise experts.epochs"
        ]
    if experts.keep_epochs == "ends" and not settings.shortcut_to:
        return [
            "experts.keep_epochs ends stores the two epochs that distillation.trajectory_matching.shortcut_to reads, "
            "got shortcut_to 0: set it to an epoch, or use keep_epochs reached"
        ]
    if experts.keep_epochs == "reached" and settings.start_ranges == "drift" and not settings.shortcut_to:
        return [
            "experts.keep_epochs reached cannot foresee the epochs of distillation.trajectory_matching.start_ranges "
            "drift, which the experts themselves decide: use keep_epochs all, or set shortcut_to"
        ]
    return []


DECLARATION = MethodDeclaration(
    TrajectoryMatchingSettings,
    "rayvldd.distillation.trajectory_matching:TrajectoryMatching",
    reached_epochs=_reached_epochs,
    for_probe={
        "lr_lr": 1e-9,
        "min_start_epoch": 0,
        "max_start_epoch": 1,
        "expert_epochs": 1,
        "max_start_epoch_image": 0,
        "max_start_epoch_text": 0,
        "start_ranges": "fixed",
        "shortcut_to": 0,
    },
    decides_divergence=("lr_lr", "syn_steps"),
    faults=_faults,
)
