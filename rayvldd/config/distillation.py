"""Settings of distillation that every method shares, and the sections of the methods themselves."""

from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar

from pydantic import ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from rayvldd.config.base import Settings
from rayvldd.config.methods.declaration import MethodDeclaration, MethodSettings
from rayvldd.config.methods.registry import declaration_of, method_names
from rayvldd.config.setting import setting
from rayvldd.errors import did_you_mean

Section = TypeVar("Section", bound=MethodSettings)


class EngineSettings(Settings):
    """How the gradient through the student's steps is computed: memory and speed, not what is computed."""

    graph_budget_gb: float | None = setting(None, ge=0, unit="GB")
    """Memory for the graphs of a student's steps, in GB: as many of the last steps as fit keep theirs (all of them: the
    full unroll), the others are computed again on the way back. 0 keeps none. Default: half of what is free."""
    parameter_checkpoints: Literal["memory", "offload", "recompute"] = "memory"
    """Where the student's parameters after every step wait for the way back. ``memory``: on the device; ``offload``:
    in host memory, on a CPU in a temporary file; ``recompute``: about the square root of their number in memory, the
    others walked again. All three are exact."""
    micro_batch: int | None = setting(None, ge=1, unit="images")
    """Images that go through the image side at a time, so that memory does not grow with the pairs either; exact, for
    about a third more time. Default: all of a step's pairs at once."""
    compile: bool = False
    """Compile the student's step with torch.compile: 10 to 60 seconds once in a process. Wants dropout 0."""
    autocast: bool = False
    """bfloat16 where torch's autocast allows it, on a GPU; the gradient is then off by a few percent."""

    @model_validator(mode="after")
    def _compiled_as_a_whole(self) -> Self:
        if self.compile and self.micro_batch is not None:
            raise ValueError(f"compile: true takes whole steps: leave micro_batch out, got {self.micro_batch}")
        return self


class InitialisationSettings(Settings):
    """What a synthetic set starts from."""

    pairs: Literal["random", "herding", "k_center", "k_means"] = setting("random", source="k_means: MDM")
    """Which real pairs the set starts from; ``k_means``: the pairs nearest the centres of as many clusters (MDM)."""
    images: Literal["real", "noise"] = "real"
    """Where the images start: real training pairs, or standard normal noise."""
    texts: Literal["real", "noise"] = "real"
    """Where the text embeddings start: real training pairs, or noise of the embeddings' own scale."""


class DistillationSettings(Settings):
    """How the synthetic set is made: what every method shares, and one section for each method in use.

    The section of a method has the method's name, e.g. ``trajectory_matching``; :meth:`of` returns it. LoRS is
    ``student_loss: weighted_bce`` with ``similarity: low_rank``; RepBlend is that with
    ``trajectory_matching.blending: 1`` under the protocol ``heads_only``.
    """

    model_config = ConfigDict(extra="allow")

    method: str = "trajectory_matching"
    """How the set is moved: the name of a registered method, whose own settings are in the section of that name."""
    num_pairs: int = setting(100, ge=2, unit="pairs")
    """Pairs that the synthetic set may cost: where a similarity is learned as well, it has as many pairs fewer as its
    numbers would fill (LoRS, section 4.2)."""
    initialisation: InitialisationSettings = InitialisationSettings()
    """What the set starts from."""
    student_loss: Literal["info_nce", "extended_info_nce", "weighted_bce"] = setting(
        "info_nce", source="info_nce: Wu et al.; the others: LoRS"
    )
    """What students minimise on the synthetic pairs; the last two are LoRS's, for a learned similarity."""
    similarity: Literal["identity", "full", "low_rank"] = setting(
        "identity", source="identity: Wu et al.; the others: LoRS"
    )
    """How much image i and text j belong together: only where i = j, or learned (LoRS, arXiv 2406.03793)."""
    sim_rank: int = setting(10, ge=1, source="LoRS: 5 to 40")
    """Rank of the learned part under ``low_rank``; LoRS uses 5 to 40."""
    sim_alpha: float = setting(3.0, gt=0, source="LoRS: 0.01 to 3")
    """Scale of the learned low-rank part before division by the rank; LoRS uses 0.01 to 3."""
    lr_sim: float = setting(10.0, gt=0, source="LoRS: 5 to 500")
    """Outer rate of the learned similarity; LoRS uses 5 to 500."""
    augmentation: tuple[Literal["color", "crop", "cutout", "flip", "scale", "rotate"], ...] = setting(
        (), source="DSA, arXiv 2102.08259"
    )
    """Differentiable augmentations of the synthetic images (DSA, arXiv 2102.08259), one of them drawn in each step."""
    outer_optimiser: Literal["sgd", "normalised_sgd", "adam"] = "sgd"
    """``sgd``: with momentum, as published; ``normalised_sgd``: each modality's gradient scaled to a root mean square
    of 1e-3 first; ``adam``: with a thousandth of the rates, so that one range of rates serves all three."""
    lr_image: float = setting(1000.0, gt=0, source="Wu et al.: 1000; LoRS: 100 to 5000")
    """Outer rate of the pixels, in the encoder's normalised scale; Wu et al. use 1000, LoRS 100 to 5000."""
    lr_text: float = setting(1000.0, gt=0, source="Wu et al.: 1000; LoRS: 100 to 5000")
    """Outer rate of the text embeddings; Wu et al. use 1000."""
    lr_student_image: float = setting(0.1, gt=0, source="Wu et al.: 0.1")
    """Image step size of students; where a method learns step sizes, their start. Wu et al. use 0.1."""
    lr_student_text: float = setting(0.1, gt=0, source="Wu et al.: 0.1")
    """Text step size of students; where a method learns step sizes, their start. Wu et al. use 0.1."""
    momentum: float = setting(0.5, ge=0, lt=1)
    """Momentum of the outer optimiser, for pixels, embeddings and step sizes alike."""
    ema_decay: float = setting(0.0, ge=0, lt=1, source="PTM-ST: 0.99")
    """Decay of the moving average of the set over outer steps, which is then what is evaluated and kept; PTM-ST uses
    0.99. 0 keeps the set itself."""
    max_rollbacks: int = setting(3, ge=0, unit="times")
    """Times a run that has left its range goes back to its last good state, with all rates halved, before it fails."""
    max_drift: float = setting(10.0, gt=1, unit="times the start")
    """Root mean square of the images or embeddings, relative to their start, from which a run counts as diverged."""
    outer_steps: int = setting(500, ge=1, unit="steps", in_state=False)
    """Steps of the outer loop."""
    evaluate_every: int = setting(50, ge=1, unit="steps", source="Wu et al.: 50")
    """Outer steps between evaluations on validation; Wu et al. use 50."""
    engine: EngineSettings = setting(EngineSettings(), changes_recall=False, in_state=False)
    """Memory and speed of the gradient."""

    @classmethod
    def further_sections(cls) -> dict[str, type[Settings]]:
        """The section of every method."""
        return {name: declaration_of(name).settings for name in method_names()}

    @model_validator(mode="before")
    @classmethod
    def _with_sections(cls, values: Any) -> Any:
        """Validate the sections of methods, and add the one of the method in use where it is left out."""
        if not isinstance(values, Mapping):
            return values
        values, faults = dict(values), list[InitErrorDetails]()
        method = values.get("method", cls.model_fields["method"].default)
        if method in method_names():
            values.setdefault(method, {})
        for key in [key for key in values if key not in cls.model_fields]:
            if key not in method_names():
                faults.append({"type": "extra_forbidden", "loc": (str(key),), "input": values[key]})
                continue
            try:
                values[key] = declaration_of(key).settings.model_validate(values[key])
            except ValidationError as error:
                faults += _below(key, error)
        if faults:
            raise ValidationError.from_exception_data("distillation", [*faults, *_faults_of_fields(cls, values)])
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.method not in method_names():
            raise ValueError(
                f"method: unknown {self.method!r}{did_you_mean(self.method, method_names())}; allowed: "
                f"{', '.join(method_names())}"
            )
        if self.similarity != "identity" and self.student_loss == "info_nce":
            raise ValueError(
                f"similarity {self.similarity!r} needs a student_loss that reads it: extended_info_nce or weighted_bce"
            )
        return self

    @property
    def declaration(self) -> MethodDeclaration:
        """The declaration of the method in use."""
        return declaration_of(self.method)

    def of(self, kind: type[Section]) -> Section:
        """The section of a method, by its class; with its defaults where the study does not have it."""
        known = (self.__pydantic_extra__ or {}).get(kind.method)
        return known if isinstance(known, kind) else kind()

    def section(self, method: str | None = None) -> MethodSettings:
        """The section of a method by name; default: of the method in use."""
        return self.of(declaration_of(method or self.method).settings)


def _below(key: str, error: ValidationError) -> list[InitErrorDetails]:
    """The errors of a section, located below its key."""
    return [
        {"type": e["type"], "loc": (key, *e["loc"]), "input": e["input"], "ctx": e.get("ctx", {})}
        for e in error.errors(include_url=False)
    ]


def _faults_of_fields(cls: type[DistillationSettings], values: Mapping[str, Any]) -> list[InitErrorDetails]:
    """The errors of the shared settings, so that all faults of the section are found at once."""
    try:
        cls.model_validate({key: value for key, value in values.items() if key in cls.model_fields})
    except ValidationError as error:
        return _below_nothing(error)
    return []


def _below_nothing(error: ValidationError) -> list[InitErrorDetails]:
    return [{**fault, "loc": fault["loc"][1:]} for fault in _below("", error)]
