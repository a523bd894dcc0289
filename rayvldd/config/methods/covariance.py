"""Settings of cross-covariance matching (after CovMatch, arXiv 2510.18583) and of its ridge variant."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import field_validator

from rayvldd.config.methods.declaration import MethodDeclaration, MethodSettings, faults_of_engine
from rayvldd.config.setting import setting
from rayvldd.config.settings import ImageEncoderSettings

if TYPE_CHECKING:
    from rayvldd.config.study import Study


class CovarianceSettings(MethodSettings):
    """Linear heads trained on the synthetic pairs, in closed form, should be those of the real pairs.

    No experts and no inner loop: the training of a linear head is solved.
    """

    method: ClassVar[str] = "covariance"

    variant: Literal["plain", "whitened", "ridge"] = setting("ridge", source="plain: CovMatch")
    """``plain``: the cross-covariance of images and texts is matched, which is the optimum of a linearised contrastive
    loss; ``whitened``: the same between the inverse covariances of both sides, the optimum of linear regression;
    ``ridge``: heads are fitted to the synthetic pairs by ridge regression, and their contrastive loss on a batch of
    real pairs is minimised."""
    rho: float = setting(1.0, gt=0, source="CovMatch: 2 for 100 pairs, 1 for more")
    """Factor on the matrix of the real pairs under ``plain`` and ``whitened``."""
    weight_mean: float = setting(0.1, ge=0, source="CovMatch: 0.1, 0.5 for 500 pairs")
    """Weight of the squared distance between the mean features of synthetic and real pairs, of each side."""
    regularisation: float = setting(3.0, gt=0)
    """Added to the diagonal of each inverted matrix under ``whitened`` and ``ridge``, as a multiple of the mean
    eigenvalue that this matrix has on real pairs."""
    real_batch_size: int = setting(1024, ge=4, unit="pairs")
    """Real pairs of an outer step under ``ridge``; the other variants use all real pairs in every step."""
    real_noise: float = setting(0.0, ge=0, unit="standard deviations")
    """Standard deviation of normal noise on the real features under ``ridge``, as a multiple of that of each side's
    features: it keeps the set from fitting the training pairs alone."""
    temperature: float = setting(0.07, gt=0)
    """Temperature of the contrastive loss under ``ridge``."""
    image_encoders: tuple[ImageEncoderSettings, ...] = ()
    """Frozen image encoders whose losses are averaged, each with the keys of ``model.image_encoder``: a set that fits
    several serves further ones better. ``model.image_encoder``, which students and evaluations have, takes part only if
    it is in the list. Default: it alone."""

    @field_validator("image_encoders")
    @classmethod
    def _different(cls, encoders: tuple[ImageEncoderSettings, ...]) -> tuple[ImageEncoderSettings, ...]:
        for index, encoder in enumerate(encoders):
            if encoder in encoders[:index]:
                raise ValueError(f"{encoder.name} is in the list twice; allowed: different encoders")
        return encoders

    @property
    def further_image_encoders(self) -> Mapping[str, ImageEncoderSettings]:
        """The listed encoders by key."""
        return {f"image_encoders.{index}": encoder for index, encoder in enumerate(self.image_encoders)}


def _faults(study: "Study") -> list[str]:
    settings, common, faults = study.distillation.of(CovarianceSettings), study.distillation, []
    if study.model.protocol != "heads_only":
        faults.append(
            f"distillation.method covariance solves the training of heads on features that no student changes, which "
            f"protocol heads_only alone has, got {study.model.protocol}: set model.protocol to heads_only, or use "
            f"distillation.method trajectory_matching"
        )
    if common.similarity != "identity":
        faults.append(
            f"distillation.method covariance learns no similarity, got distillation.similarity {common.similarity}: "
            f"use identity"
        )
    if settings.real_noise and settings.variant != "ridge":
        faults.append(
            f"distillation.covariance.real_noise has no effect under variant {settings.variant}, which uses constant "
            f"moments of the real features, got {settings.real_noise:g}: use 0, or variant ridge"
        )
    return [*faults, *faults_of_engine(study)]


DECLARATION = MethodDeclaration(
    CovarianceSettings,
    "rayvldd.distillation.covariance:Covariance",
    faults=_faults,
)
