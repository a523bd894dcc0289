"""Settings of meta-model matching: the bilevel objective of dataset distillation, without experts."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from rayvldd.config.methods.declaration import MethodDeclaration, MethodSettings, ValuesOf
from rayvldd.config.methods.inner_loop import InnerLoopSettings, faults_of_inner_loop
from rayvldd.config.setting import setting
from rayvldd.config.settings import LearningRateDecay
from rayvldd.printable import counted

if TYPE_CHECKING:
    from rayvldd.config.study import Study


class MetaModelSettings(InnerLoopSettings):
    """A student of the synthetic set should have a low loss on real pairs.

    The student trains as in evaluation, with momentum, weight decay and the course of the rates.
    """

    method: ClassVar[str] = "meta_model"

    syn_steps: int = setting(40, ge=1, unit="steps")
    """Most student SGD steps on the synthetic set in one outer step."""
    window: int | None = setting(15, ge=1, unit="steps", source="RaT-BPTT, arXiv 2311.07025")
    """Last student steps that the gradient goes through; their number is drawn uniformly from ``window`` to
    ``syn_steps`` in each outer step (RaT-BPTT, arXiv 2311.07025). null: all of ``syn_steps``."""
    lengthen_over: int | None = setting(None, ge=1, unit="steps")
    """Outer steps over which the most student steps rise from ``window`` to ``syn_steps``: long loops may diverge at
    the beginning. Default: ``syn_steps`` from the beginning."""
    starts: Literal["fresh", "experts", "both"] = "fresh"
    """Where students start. ``fresh``: from a new initialisation, and no experts are trained; ``experts``: from a
    snapshot of an expert; ``both``: one of the two, drawn with equal probability."""
    min_start_epoch: int = setting(0, ge=0, unit="epochs")
    """First expert epoch that a student may start at, included."""
    max_start_epoch: int = setting(2, ge=1, unit="epochs")
    """Expert epoch that starts stay below, excluded."""
    real_batch_size: int = setting(512, ge=2, unit="pairs")
    """Real pairs on which the loss of a trained student is measured."""
    real_noise: float = setting(0.0, ge=0, unit="standard deviations")
    """Noise on the image features and caption embeddings of the real pairs, in standard deviations of each feature in
    the batch. Under ``heads_only`` alone, where the real images are a fixed list of features."""
    momentum: float | None = setting(None, ge=0, lt=1)
    """Momentum of the student's SGD. Default: ``evaluation.momentum``."""
    weight_decay: float | None = setting(None, ge=0)
    """Weight decay of the student's SGD. Default: ``evaluation.weight_decay``."""
    learning_rate_decay: LearningRateDecay | None = None
    """Course of the student's step sizes over its steps. Default: ``evaluation.learning_rate_decay``."""
    lr_lr: float = setting(2e-2, gt=0)
    """Rate of the learned student step sizes."""
    step_size_range: float | None = setting(10.0, gt=1, lt=100, unit="times the start")
    """Factor of their start, up and down, within which the learned step sizes are kept; null: they are free."""

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> Self:
        if self.min_start_epoch >= self.max_start_epoch:
            raise ValueError(
                f"min_start_epoch must be below max_start_epoch, got {self.min_start_epoch} and {self.max_start_epoch}"
            )
        if self.window is not None and self.window > self.syn_steps:
            raise ValueError(f"window must be at most syn_steps, got {self.window} and {self.syn_steps}")
        if self.lengthen_over is not None and self.window is None:
            raise ValueError(f"lengthen_over needs a window, where it begins, got {self.lengthen_over} and null")
        return self

    @property
    def steps_back(self) -> int | None:
        """Last student steps that the gradient goes through; None: all."""
        return self.window


def _reached_epochs(values_of: ValuesOf) -> frozenset[int]:
    """Epoch 0, which stored differences begin with, and the epochs at which students can start."""
    return frozenset({0, *range(min(values_of("min_start_epoch")), max(values_of("max_start_epoch")))})


_OF_EVALUATION = ("momentum", "weight_decay", "learning_rate_decay")
"""Settings with which students of evaluation are trained, and by default those of an outer step."""


def _completed(study: "Study") -> MethodSettings:
    """The section with the SGD settings of evaluation, where it states none."""
    settings, evaluation = study.distillation.of(MetaModelSettings), study.evaluation
    missing = (name for name in _OF_EVALUATION if getattr(settings, name) is None)
    return settings.model_copy(update={name: getattr(evaluation, name) for name in missing})


def _faults(study: "Study") -> list[str]:
    settings, faults = study.distillation.of(MetaModelSettings), []
    if settings.starts != "fresh" and settings.max_start_epoch - 1 > study.experts.epochs:
        faults.append(
            f"distillation.meta_model.max_start_epoch {settings.max_start_epoch} lets students start beyond the "
            f"experts' last epoch {study.experts.epochs}: lower it, or raise experts.epochs"
        )
    if settings.real_noise and study.model.protocol != "heads_only":
        faults.append(
            f"distillation.meta_model.real_noise is noise on the features of a frozen encoder, which only protocol "
            f"heads_only has, got {study.model.protocol}: leave real_noise out, or set model.protocol to heads_only"
        )
    return faults + faults_of_inner_loop(study, settings)


def _notes(study: "Study") -> list[str]:
    """Say where students of evaluation train otherwise than those whose whole training is differentiated."""
    settings, evaluation = study.distillation.of(MetaModelSettings), study.evaluation
    pairs = study.distillation.num_pairs
    if settings.window is not None:
        return []
    in_loop, at_a_time = settings.batch_size or pairs, min(evaluation.batch_size, pairs)
    steps = evaluation.student_steps(pairs)
    if (settings.syn_steps, in_loop) == (steps, at_a_time):
        return []
    return [
        f"students of an outer step take {counted(settings.syn_steps, 'step')} on {in_loop} pairs each, those of "
        f"evaluations {counted(steps, 'step')} on {at_a_time}: the learned step sizes may not suit these; "
        f"evaluation.epochs, evaluation.batch_size and distillation.meta_model.syn_steps change this"
    ]


DECLARATION = MethodDeclaration(
    MetaModelSettings,
    "rayvldd.distillation.meta_model:MetaModel",
    reached_epochs=_reached_epochs,
    without_experts={"starts": "fresh"},
    for_probe={"lr_lr": 1e-9, "min_start_epoch": 0, "max_start_epoch": 1},
    decides_divergence=("lr_lr", "syn_steps"),
    completed=_completed,
    faults=_faults,
    notes=_notes,
)
