"""A study: one YAML file that describes a search completely, and the points inside it.

The constants stand in the sections ``data`` to ``resources``; ``search.space`` names, by dotted key, the settings
that are searched. A point is the study with those keys set: it has no space of its own and describes one trial.
"""

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from rayvldd.config.domains import Domain, FloatDomain, Scalar
from rayvldd.config.settings import (
    DataSettings,
    DistillationSettings,
    EvaluationSettings,
    ExpertSettings,
    ModelSettings,
    ResourceSettings,
    Settings,
)

SEARCHABLE_SECTIONS = ("model", "experts", "distillation")
"""What a trial may change. Data and evaluation are the measuring stick, the same for all trials of a study."""

_MOST_CORNERS = 512
"""Combinations of domain ends that are checked in full; takes well under a second."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class SearchSettings(Settings):
    """What is searched, how, and for how long."""

    space: dict[str, Domain] = Field(default_factory=dict)
    """Dotted key of a setting to the domain it is drawn from; bounds included."""
    sampler: Literal["tpe", "random", "gp", "cmaes", "qmc"] = "tpe"
    """Optuna's sampler: what proposes the next point."""
    num_trials: int = Field(default=16, ge=1)
    """Points to try."""
    max_concurrent: int = Field(default=2, ge=1)
    """Trials that may run at the same time, if the resources allow it."""
    time_budget_s: float | None = Field(default=None, gt=0)
    """Stop the search after so many seconds; what is running then keeps its best set. Default: no limit."""
    grace_evaluations: int = Field(default=2, ge=1)
    """Evaluations that every trial gets before it may be stopped early."""
    reduction_factor: float = Field(default=3.0, gt=1)
    """ASHA keeps one in so many trials at each rung."""
    initial_points: tuple[dict[str, Scalar], ...] = ()
    """Points to try first, e.g. published settings; keys left out are drawn by the sampler."""


class Study(Settings):
    """Everything that decides the outcome of a search."""

    name: str
    """Name of the study: its folder in the workspace and its parent run in MLflow."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Root of every random stream of the study."""
    data: DataSettings
    """The real pairs."""
    model: ModelSettings
    """The two-tower model and its protocol."""
    experts: ExpertSettings = ExpertSettings()
    """How trajectories are made."""
    distillation: DistillationSettings = DistillationSettings()
    """How the synthetic set is made."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How a set is scored."""
    search: SearchSettings = SearchSettings()
    """What is searched and for how long."""
    resources: ResourceSettings = ResourceSettings()
    """What actors and trials take of the machine."""

    @field_validator("name")
    @classmethod
    def _is_file_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"must be letters, digits, '.', '_' or '-' and start with one of the first, got {name!r}")
        return name

    @model_validator(mode="after")
    def _within_the_experts(self) -> Self:
        if not self.search.space and self.distillation.last_epoch_read > self.experts.epochs:
            raise ValueError(
                f"a segment reaches epoch {self.distillation.last_epoch_read} (max_start_epoch - 1 + expert_epochs), "
                f"beyond the experts' last epoch {self.experts.epochs}: lower distillation.max_start_epoch or "
                f"distillation.expert_epochs, or raise experts.epochs"
            )
        return self

    @model_validator(mode="after")
    def _method_fits_the_model(self) -> Self:
        if self.search.space:  # then its points are what must fit
            return self
        if self.distillation.blending is not None and self.model.protocol != "heads_only":
            raise ValueError(
                f"distillation.blending mixes what enters the projection heads, which only protocol heads_only matches "
                f"alone, got {self.model.protocol}: leave blending out, or set model.protocol to heads_only"
            )
        if self.distillation.engine.compile and self.model.dropout:
            raise ValueError(
                f"distillation.engine.compile wants model.dropout 0, got {self.model.dropout}: compiled code draws "
                f"other masks on the way back than on the way there"
            )
        return self

    def at(self, point: Mapping[str, Scalar]) -> "Study":
        """Return the study with the dotted keys of ``point`` set and nothing left to search.

        Raises:
            pydantic.ValidationError: when a value does not fit its setting.
        """
        values = self.model_dump(mode="json")
        values["search"]["space"] = {}
        values["search"]["initial_points"] = []
        for key, value in point.items():
            set_dotted(values, key, value)
        return Study.model_validate(values)

    def first_point(self) -> dict[str, Scalar]:
        """The first initial point: what ``distill`` runs when the file also describes a search."""
        return dict(self.search.initial_points[0]) if self.search.initial_points else {}

    def expert_points(self) -> list["Study"]:
        """The study at every combination of searched settings that changes the experts.

        Each of them needs an expert set of its own; most studies have exactly one.
        """
        keys = [key for key in self.search.space if changes_experts(key)]
        domains = [self.search.space[key] for key in keys]
        values = [[] if isinstance(domain, FloatDomain) else domain.values_in_full() for domain in domains]
        return [
            self.at({**self._corner(), **dict(zip(keys, combination, strict=True))})
            for combination in itertools.product(*values)
        ]

    def reached_epochs(self) -> frozenset[int]:
        """The expert epochs at which the segments of any point can begin or end, and epoch 0."""
        first = min(self._values_of("min_start_epoch"))
        starts = range(first, max(self._values_of("max_start_epoch")))
        targets = (start + ahead for start in starts for ahead in self._values_of("expert_epochs"))
        return frozenset({0, *starts, *targets})

    def _values_of(self, name: str) -> list[int]:
        """Every value that a whole-numbered setting of the distillation can take."""
        domain = self.search.space.get(f"distillation.{name}")
        if domain is None:
            return [getattr(self.distillation, name)]
        values = domain.corners() if isinstance(domain, FloatDomain) else domain.values_in_full()
        return [int(value) for value in values]

    def corners(self) -> Iterator[dict[str, Scalar]]:
        """Points at the ends of all domains, which show whether any point of the space can be invalid.

        Every combination where they are few; otherwise each end alone against the lowest of the others, and all
        highest together.
        """
        ends = {key: domain.corners() for key, domain in self.search.space.items()}
        if math.prod(map(len, ends.values())) <= _MOST_CORNERS:
            for combination in itertools.product(*ends.values()):
                yield dict(zip(ends, combination, strict=True))
            return
        for key, values in ends.items():
            for value in values:
                yield {**self._corner(), key: value}
        yield {key: values[-1] for key, values in ends.items()}

    def _corner(self) -> dict[str, Scalar]:
        return {key: domain.corners()[0] for key, domain in self.search.space.items()}


def changes_experts(key: str) -> bool:
    """Whether a trial with another value of this setting needs experts of its own."""
    return key.startswith(("model.", "experts.")) and key != "experts.num_experts"


def set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    """Set ``values["a"]["b"]`` for the key ``a.b``, making the sections on the way.

    Raises:
        TypeError: when a part of the key names a plain value, not a section.
    """
    *path, last = key.split(".")
    for part in path:
        values = open_section(values, part)
    values[last] = value


def open_section(values: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the section at ``key``, made if it is missing or left empty.

    Raises:
        TypeError: when a plain value stands there.
    """
    if values.get(key) is None:
        values[key] = {}
    if not isinstance(values[key], dict):
        raise TypeError(f"{key!r} is a value, not a section with keys")
    section: dict[str, Any] = values[key]
    return section
