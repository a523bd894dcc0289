"""Settings of distillation: those that all methods share, and one section for each method."""

import json
from collections.abc import Mapping
from typing import Literal, Self, TypeVar

from pydantic import ConfigDict, JsonValue, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from rayvldd.config.base import Settings
from rayvldd.config.methods.declaration import MethodDeclaration, MethodSettings
from rayvldd.config.methods.registry import declaration_of, method_names
from rayvldd.config.setting import setting
from rayvldd.errors import did_you_mean

Section = TypeVar("Section", bound=MethodSettings)


class EngineSettings(Settings):
    """Memory and speed of the gradient through the student's steps; the result is the same."""

    graph_budget_gb: float | None = setting(None, ge=0, unit="GB")
    """Memory for the autograd graphs of student steps, in GB. As many of the last steps as fit keep their graphs (if
    all fit: the full unroll); the others are recomputed in the reverse sweep. 0 keeps none. Default: half of the free
    memory."""
    parameter_checkpoints: Literal["memory", "offload", "recompute"] = "memory"
    """Storage of the student's parameters after each step until the reverse sweep. ``memory``: on the device;
    ``offload``: in host memory, or on a CPU in a temporary file; ``recompute``: about the square root of the number of
    steps in memory, the others recomputed. All three are exact."""
    micro_batch: int | None = setting(None, ge=1, unit="images")
    """Images per pass through the image side, which bounds memory independently of the number of pairs; exact, takes
    about a third more time. Default: all pairs of a step at once."""
    compile: Literal[False, True, "cuda_graphs"] = False
    """Compile the student's step with torch.compile: takes 10 to 60 seconds once per process. Requires dropout 0.
    ``cuda_graphs``: also replay the compiled step as a CUDA graph, on a GPU; not tested on one."""
    autocast: bool = False
    """Use bfloat16 where torch's autocast allows it, on a GPU; the gradient then has errors of several
    percent."""
    tf32: bool = False
    """Compute products and convolutions of an outer step in TF32, on a GPU from Ampere on: faster than float32, with 10
    bits of mantissa in place of 23. Experts and evaluations always use float32."""

    @model_validator(mode="after")
    def _compiled_as_a_whole(self) -> Self:
        if self.compile and self.micro_batch is not None:
            stated = json.dumps(self.compile).strip('"')
            raise ValueError(f"compile: {stated} requires whole steps: leave micro_batch out, got {self.micro_batch}")
        return self


class InitialisationSettings(Settings):
    """Initialisation of a synthetic set."""

    pairs: Literal["random", "herding", "k_center", "k_means", "prototypes"] = setting(
        "random", source="k_means: MDM; prototypes: PDS, arXiv 2602.19756"
    )
    """Selection of the real pairs that initialise the set; ``k_means``: the pairs nearest to the cluster centres, with
    one cluster per pair (MDM); ``prototypes``: an image and the mean text of matched clusters (PDS)."""
    images: Literal["real", "noise"] = "real"
    """Initial images: real training images, or standard normal noise."""
    texts: Literal["real", "noise"] = "real"
    """Initial text embeddings: those of real captions, or noise with the scale of the embeddings."""


class DistillationSettings(Settings):
    """Settings of the distillation: those shared by all methods, and one section for each method in use.

    The section of a method has the method's name, e.g. ``trajectory_matching``; :meth:`of` returns it. LoRS is
    ``student_loss: weighted_bce`` with ``similarity: low_rank``; RepBlend is that with
    ``trajectory_matching.blending: 1`` under the protocol ``heads_only``.
    """

    model_config = ConfigDict(extra="allow")

    method: str = "trajectory_matching"
    """Name of a registered distillation method; its own settings are in the section of that name."""
    num_pairs: int = setting(100, ge=2, unit="pairs")
    """Storage budget of the synthetic set, in pairs. A learned similarity counts: the set then has fewer pairs, by the
    number of pairs that the similarity's values would fill (LoRS, section 4.2)."""
    initialisation: InitialisationSettings = InitialisationSettings()
    """Initialisation of the set."""
    initialise_from: str | None = None
    """A distilled set whose pairs and step sizes initialise the set: a folder, or a URI such as
    ``models:/STUDY@best``. Of a larger set the first pairs are used; a smaller one is completed with pairs of
    ``initialisation``. Its similarity is not used. Default: pairs of ``initialisation`` alone."""
    fixed_pairs: int = setting(0, ge=0, unit="pairs")
    """First pairs of ``initialise_from`` whose images and texts do not change: a set grows by new pairs while those
    that users have stay as they are. Learned step sizes and similarity are those of all pairs."""
    image_parametrisation: Literal["pixels", "pyramid"] = setting("pixels", source="pyramid: arXiv 2511.16674")
    """What the outer optimiser moves of the images. ``pixels``: the pixels; ``pyramid``: levels of doubling resolution,
    whose interpolated sum is the image (linear gradient matching, arXiv 2511.16674). The set is pixels either way. At
    the same ``lr_image`` a step of a pyramid is at most as long as one of pixels, so it may have a higher one."""
    student_loss: Literal["info_nce", "extended_info_nce", "weighted_bce"] = setting(
        "info_nce", source="info_nce: Wu et al.; the others: LoRS"
    )
    """Loss of students on the synthetic pairs; the last two are from LoRS, for a learned similarity."""
    similarity: Literal["identity", "full", "low_rank"] = setting(
        "identity", source="identity: Wu et al.; the others: LoRS"
    )
    """Target similarity of image i and text j: the identity matrix, or learned (LoRS, arXiv 2406.03793)."""
    sim_rank: int = setting(10, ge=1, source="LoRS: 5 to 40")
    """Rank of the learned part under ``low_rank``; LoRS uses 5 to 40."""
    sim_alpha: float = setting(3.0, gt=0, source="LoRS: 0.01 to 3")
    """Scale of the learned low-rank part before division by the rank; LoRS uses 0.01 to 3."""
    lr_sim: float = setting(10.0, gt=0, source="LoRS: 5 to 500")
    """Outer learning rate of the learned similarity; LoRS uses 5 to 500."""
    augmentation: tuple[Literal["color", "crop", "cutout", "flip", "scale", "rotate"], ...] = setting(
        (), source="DSA, arXiv 2102.08259"
    )
    """Differentiable augmentations of the synthetic images (DSA, arXiv 2102.08259); each step draws one of them."""
    outer_optimiser: Literal["sgd", "scaled_sgd", "normalised_sgd", "adam"] = "sgd"
    """``sgd``: with momentum, as published; ``scaled_sgd``: the same with rates multiplied by factors that are measured
    before the first step, so that rates carry over between numbers of pairs and models: in the first update of the
    default ones images move by 0.2 and texts by 0.5 of their root mean square, and learned step sizes by a fifth;
    ``normalised_sgd``: each modality's gradient is scaled to a root mean square of 1e-3 in every step; ``adam``:
    learning rates are divided by 1000, so that one range of rates fits all of them."""
    lr_image: float = setting(1000.0, gt=0, source="Wu et al.: 1000; LoRS: 100 to 5000")
    """Outer learning rate of the pixels, in the encoder's normalised scale; Wu et al. use 1000, LoRS 100 to 5000."""
    lr_text: float = setting(1000.0, gt=0, source="Wu et al.: 1000; LoRS: 100 to 5000")
    """Outer learning rate of the text embeddings; Wu et al. use 1000."""
    lr_student_image: float = setting(0.1, gt=0, source="Wu et al.: 0.1")
    """Image step size of students; the initial value if the method learns step sizes. Wu et al. use 0.1."""
    lr_student_text: float = setting(0.1, gt=0, source="Wu et al.: 0.1")
    """Text step size of students; the initial value if the method learns step sizes. Wu et al. use 0.1."""
    momentum: float = setting(0.5, ge=0, lt=1)
    """Momentum of the outer optimiser, for pixels, embeddings and step sizes."""
    decay_over: int | None = setting(None, ge=1, unit="steps")
    """Outer steps over which all outer learning rates fall to a twentieth, by half a cosine; they then stay there.
    Default: they are constant."""
    ema_decay: float = setting(0.0, ge=0, lt=1, source="PTM-ST: 0.99")
    """Decay of the exponential moving average of the set over outer steps; the average is then evaluated and saved
    instead of the set. PTM-ST uses 0.99. 0: no average."""
    max_rollbacks: int = setting(3, ge=0, unit="times")
    """Number of times that a diverged run returns to its last good state, with halved learning rates, before it
    fails."""
    max_drift: float = setting(10.0, gt=1, unit="times the start")
    """A run counts as diverged if the root mean square of its images or embeddings exceeds this multiple of the initial
    value."""
    outer_steps: int = setting(500, ge=1, unit="steps", in_state=False)
    """Steps of the outer loop."""
    evaluate_every: int = setting(50, ge=1, unit="steps", source="Wu et al.: 50")
    """Outer steps between evaluations on validation; Wu et al. use 50."""
    engine: EngineSettings = setting(EngineSettings(), changes_recall=False, in_state=False)
    """Memory and speed of the gradient."""

    @classmethod
    def further_sections(cls) -> dict[str, type[Settings]]:
        """The sections of all methods."""
        return {name: declaration_of(name).settings for name in method_names()}

    @model_validator(mode="before")
    @classmethod
    def _with_sections(cls, given: object) -> object:
        """Validate the sections of methods, and add the section of the method in use if it is missing."""
        if not isinstance(given, Mapping):
            return given
        values, faults = dict(given), list[InitErrorDetails]()
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
        noise = [side for side in ("images", "texts") if getattr(self.initialisation, side) == "noise"]
        if self.initialise_from is not None and noise:
            raise ValueError(
                f"initialise_from starts from the pairs of a set, got initialisation.{noise[0]}: noise; leave one of "
                f"the two out"
            )
        if self.fixed_pairs and self.initialise_from is None:
            raise ValueError(f"fixed_pairs are those of initialise_from, got {self.fixed_pairs} and no set")
        if self.fixed_pairs >= self.num_pairs:
            raise ValueError(
                f"fixed_pairs must be below num_pairs, so that some pairs change, got {self.fixed_pairs} of "
                f"{self.num_pairs}"
            )
        if self.similarity != "identity" and self.student_loss == "info_nce":
            raise ValueError(
                f"similarity {self.similarity!r} needs a student_loss that reads it: extended_info_nce or weighted_bce"
            )
        return self

    def notes(self) -> list[str]:
        """What users should know of the shared settings before a run, a sentence each."""
        if self.decay_over is None or self.decay_over <= self.outer_steps:
            return []
        return [
            f"the outer rates fall over {self.decay_over} steps, of which the run takes {self.outer_steps}: they end "
            f"above a twentieth of their start; distillation.decay_over={self.outer_steps} lets them fall to the end"
        ]

    @property
    def declaration(self) -> MethodDeclaration:
        """The declaration of the method in use."""
        return declaration_of(self.method)

    def of(self, kind: type[Section]) -> Section:
        """The section of a method, by its class; its defaults if the study does not have the section."""
        known = (self.__pydantic_extra__ or {}).get(kind.method)
        return known if isinstance(known, kind) else kind()

    def section(self, method: str | None = None) -> MethodSettings:
        """The section of a method, by name; default: the method in use."""
        return self.of(declaration_of(method or self.method).settings)


def _below(key: str, error: ValidationError) -> list[InitErrorDetails]:
    """The errors of a section, located below its key."""
    return [
        {"type": e["type"], "loc": (key, *e["loc"]), "input": e["input"], "ctx": e.get("ctx", {})}
        for e in error.errors(include_url=False)
    ]


def _faults_of_fields(
    cls: type[DistillationSettings], values: Mapping[str, JsonValue | MethodSettings]
) -> list[InitErrorDetails]:
    """The errors of the shared settings, so that all faults of the section are reported at once."""
    try:
        cls.model_validate({key: value for key, value in values.items() if key in cls.model_fields})
    except ValidationError as error:
        return _at_top_level(error)
    return []


def _at_top_level(error: ValidationError) -> list[InitErrorDetails]:
    return [{**fault, "loc": fault["loc"][1:]} for fault in _below("", error)]
