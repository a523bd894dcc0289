"""Settings of expert-fit (MDM, arXiv 2605.23482)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from rayvldd.config.methods.declaration import MethodDeclaration, MethodSettings, ValuesOf, faults_of_engine
from rayvldd.config.setting import setting

if TYPE_CHECKING:
    from rayvldd.config.study import Study


class ExpertFitSettings(MethodSettings):
    """Fit the synthetic pairs to trained experts: low contrastive loss, and the distribution of the real pairs.

    The loss of MDM. The teacher of each outer step is an expert snapshot, or merged from two.
    """

    method: ClassVar[str] = "expert_fit"

    min_epoch: int = setting(1, ge=0, unit="epochs", source="MDM: 1")
    """First expert epoch of teachers, inclusive; epoch 0 is an untrained head."""
    max_epoch: int = setting(6, ge=1, unit="epochs")
    """Last expert epoch of teachers, inclusive."""
    teacher: Literal["snapshot", "merged"] = setting("snapshot", source="MDM: merged")
    """Teacher of an outer step. ``snapshot``: one snapshot of one expert; ``merged``: snapshots of two experts are
    merged, which needs ``experts.shared_start``."""
    merge_scale: float = setting(0.5, gt=0, source="MDM: 0.5", only_where=("distillation.expert_fit.teacher", "merged"))
    """Factor on the change of a merged teacher from the common start."""
    real_batch_size: int = setting(256, ge=4, unit="pairs", source="MDM: 256")
    """Real pairs in an outer step."""
    batch_size: int | None = setting(64, ge=4, unit="pairs", source="MDM: 64")
    """Synthetic pairs in an outer step, at most the size of the set; null: all pairs."""
    bandwidth: float = setting(0.5, gt=0, unit="radians", source="MDM: 0.5")
    """Bandwidth of the geodesic kernel."""
    weight_joint: float = setting(0.8, ge=0, source="MDM: 0.8")
    """Weight of the discrepancy of normalised sums of image and text embeddings."""
    weight_gap: float = setting(0.8, ge=0, source="MDM: 0.8")
    """Weight of the discrepancy of normalised differences of image and text embeddings."""
    max_gradient_norm: float = setting(1.0, gt=0, source="MDM: 1, of both modalities together")
    """Maximum norm of the gradient of each modality."""


def _reached_epochs(values_of: ValuesOf) -> frozenset[int]:
    """Epoch 0, the base of stored differences, and all epochs of teachers."""
    return frozenset({0, *range(min(values_of("min_epoch")), max(values_of("max_epoch")) + 1)})


def _faults(study: "Study") -> list[str]:
    settings, faults = study.distillation.of(ExpertFitSettings), []
    if settings.min_epoch > settings.max_epoch:
        faults.append(
            f"distillation.expert_fit.min_epoch must be at most max_epoch, got {settings.min_epoch} and "
            f"{settings.max_epoch}"
        )
    if settings.max_epoch > study.experts.epochs:
        faults.append(
            f"distillation.expert_fit.max_epoch {settings.max_epoch} is beyond the experts' last epoch "
            f"{study.experts.epochs}: lower it, or raise experts.epochs"
        )
    if settings.teacher == "merged" and (study.experts.num_experts < 2 or study.experts.imported):
        faults.append(
            f"distillation.expert_fit.teacher merged takes two of the experts that this package trains, got "
            f"experts.num_experts {study.experts.num_experts}, experts.imported {study.experts.imported}: use snapshot"
        )
    elif settings.teacher == "merged" and not study.experts.shared_start:
        faults.append(
            "distillation.expert_fit.teacher merged needs experts with one start, got experts.shared_start false: set "
            "it to true, or use snapshot"
        )
    if study.experts.keep_epochs == "ends":
        faults.append(
            "experts.keep_epochs ends stores what distillation.trajectory_matching.shortcut_to reads alone, got "
            "distillation.method expert_fit: use keep_epochs reached"
        )
    if study.distillation.similarity != "identity":
        faults.append(
            f"distillation.method expert_fit learns no similarity, got distillation.similarity "
            f"{study.distillation.similarity}: use identity"
        )
    return [*faults, *faults_of_engine(study)]


DECLARATION = MethodDeclaration(
    ExpertFitSettings,
    "rayvldd.distillation.expert_fit:ExpertFit",
    reached_epochs=_reached_epochs,
    for_probe={"min_epoch": 1, "max_epoch": 1},
    faults=_faults,
)
