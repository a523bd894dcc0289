"""A study: one YAML file that describes a search completely, and the points inside it.

The constants stand in the sections ``data`` to ``resources``; ``search.space`` names, by dotted key, the settings
that are searched. A point is the study with those keys set: it has no space of its own and describes one trial.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, field_validator, model_validator
from pydantic_core import PydanticKnownError

from rayvldd.config.base import Settings
from rayvldd.config.distillation import DistillationSettings
from rayvldd.config.domains import Domain, FloatDomain, Scalar
from rayvldd.config.methods.declaration import MethodDeclaration
from rayvldd.config.methods.registry import declaration_of, method_names
from rayvldd.config.metrics import OBJECTIVES, VAL_MEAN_RECALL
from rayvldd.config.search_plugins import RULES, SAMPLERS
from rayvldd.config.setting import (
    MayChange,
    SettingInfo,
    info_of,
    setting,
    settings_below,
    value_at,
)
from rayvldd.config.settings import DataSettings, EvaluationSettings, ExpertSettings, ModelSettings, ResourceSettings
from rayvldd.config.space import Space
from rayvldd.errors import did_you_mean
from rayvldd.randomness import trial_seed

METHOD = "distillation.method"
"""The setting that chooses the distillation method."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _known_objective(name: str) -> str:
    if name not in OBJECTIVES:
        allowed = ", ".join(map(repr, OBJECTIVES))
        raise ValueError(f"unknown {name!r}{did_you_mean(name, OBJECTIVES)}; allowed: {allowed}")
    return name


Objective = Annotated[str, AfterValidator(_known_objective)]
"""What a search can optimise: a name of ``rayvldd.config.metrics.OBJECTIVES``."""

_NO_PBT = (
    "pbt changes the settings of a distillation on its way: what comes out belongs to no point that `rayvldd distill` "
    "could repeat, and neither steps, pairs, starts nor experts can change on the way"
)


class ChooseSettings(Settings):
    """Which set of the Pareto front is chosen, tested and kept as the best, where there are several objectives."""

    by: Objective = VAL_MEAN_RECALL
    """The objective that the chosen set is best in, of those within the bounds; the others decide a tie."""
    at_most: dict[Objective, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Upper bounds by objective, e.g. ``{num_pairs: 200}``."""
    at_least: dict[Objective, Annotated[float, Field(ge=0, le=100)]] = Field(default_factory=dict)
    """Lower bound of the recall in percent, e.g. ``{val_mean_recall: 20}``."""

    @model_validator(mode="after")
    def _bounds_point_the_right_way(self) -> Self:
        wrong = [f"at_most.{name}" for name in self.at_most if OBJECTIVES[name].rises]
        wrong += [f"at_least.{name}" for name in self.at_least if not OBJECTIVES[name].rises]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: at_most bounds what should be low, at_least what should be high")
        return self


class SearchSettings(Settings):
    """What is searched, how, and for how long."""

    space: dict[str, Domain] = setting({})
    """Dotted key of a setting to the domain it is drawn from; bounds included."""
    objectives: tuple[Objective, ...] = setting((VAL_MEAN_RECALL,), min_length=1)
    """What the search is for. With several, the answer is the Pareto front: the sets that no other one beats in all."""
    choose: ChooseSettings = setting(ChooseSettings(), may_change=MayChange.UNTIL_CHOSEN)
    """Which set of the front is chosen; may change until it is."""
    sampler: str = "tpe"
    """Optuna's sampler, what proposes the next point. ``tpe``: tree-structured Parzen estimators over all settings
    together, over each branch of conditional ones apart; ``gp``: a Gaussian process; ``cmaes``: for numbers alone;
    ``qmc``: a Sobol sequence; ``random``."""
    scheduler: str = "asha"
    """What stops poor trials early. ``asha``: successive halving; ``hyperband``: the same in brackets of different
    patience; ``median``: who is below the median of the others; ``none``: nothing, which several objectives need, for
    what is cheap has less recall."""
    num_trials: int = setting(16, ge=1, unit="trials", may_change=MayChange.UNTIL_FINISHED)
    """Points to try."""
    num_start_trials: int | None = setting(None, ge=1, unit="trials")
    """Trials, initial points among them, before ``tpe``, ``gp`` and ``cmaes`` model what they know; until then points
    are drawn at random. Default: a fifth of ``num_trials``, but 3 to 10."""
    max_concurrent: int = setting(2, ge=1, unit="trials", may_change=MayChange.UNTIL_FINISHED)
    """Trials that may run at the same time, if the resources allow it."""
    time_budget_s: float | None = setting(None, gt=0, unit="seconds", may_change=MayChange.UNTIL_FINISHED)
    """Stop the search after so many seconds; what is running then keeps its best set. Finalists and test come after it.
    Default: no limit."""
    grace_evaluations: int = setting(1, ge=1, unit="evaluations")
    """Evaluations that every trial gets before it may be stopped early; the default suits 10 to 20 in a trial."""
    stop_without_gain: bool = True
    """Stop a trial that has not got above its start's recall by then, even the first, which no others are there to
    compare with: what does worse than the real pairs that it began with seldom gets far. Not under ``none``."""
    reduction_factor: float = setting(2.0, gt=1)
    """ASHA and Hyperband keep one in so many trials at each rung, and have the next rung at so many times as many
    evaluations. Many rungs of little severity served Flickr8k better than few of more."""
    trial_seeds: Literal["common", "own"] = "common"
    """``common``: all trials start from the same pairs and meet the same segments, so that two of them differ by their
    settings alone (common random numbers); what one seed favours, the finalists' fresh seeds show. ``own``: a seed for
    each trial, from the study's seed and the trial's number."""
    num_finalists: int = setting(2, ge=0, unit="trials", may_change=MayChange.UNTIL_CHOSEN)
    """Best trials whose points are distilled again with fresh seeds, so that no lucky draw is chosen: the best mean on
    validation is tested. 1: the best trial alone, for an interval over sets, as always with several objectives; 0: its
    own set is tested as it is, and the interval is over students alone."""
    finalist_seeds: int = setting(3, ge=2, unit="sets", may_change=MayChange.UNTIL_CHOSEN)
    """Synthetic sets of each finalist, each with a seed of its own and ``evaluation.num_test_students`` students of its
    own; the interval of the test is over these sets."""
    initial_points: tuple[dict[str, Scalar], ...] = ()
    """Points to try first, e.g. published settings; keys left out are drawn by the sampler."""

    @field_validator("sampler")
    @classmethod
    def _is_sampler(cls, name: str) -> str:
        return _registered(name, SAMPLERS)

    @field_validator("scheduler")
    @classmethod
    def _is_rule(cls, name: str) -> str:
        if name == "pbt" and name not in RULES:
            raise ValueError(f"{_NO_PBT}: use asha, hyperband, median or none")
        return _registered(name, RULES)


def _registered(name: str, known: Collection[str]) -> str:
    if name not in known:
        raise PydanticKnownError("literal_error", {"expected": ", ".join(map(repr, known))})
    return name


class Study(Settings):
    """Everything that decides the outcome of a search."""

    name: str = setting(in_point=False, changes_recall=False)
    """Name of the study: its folder in the workspace and its parent run in MLflow."""
    seed: int = setting(0, ge=0, lt=2**31, changes_experts=True, changes_recall=False)
    """Root of every random stream of the study."""
    data: DataSettings = setting(changes_experts=True, by_content=True)
    """The real pairs."""
    model: ModelSettings = setting(searchable=True, changes_experts=True)
    """The two-tower model and its protocol."""
    experts: ExpertSettings = setting(ExpertSettings(), searchable=True, changes_experts=True)
    """How trajectories are made."""
    distillation: DistillationSettings = setting(DistillationSettings(), searchable=True)
    """How the synthetic set is made."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How a set is scored."""
    search: SearchSettings = setting(SearchSettings(), in_point=False, changes_recall=False)
    """What is searched and for how long."""
    resources: ResourceSettings = setting(
        ResourceSettings(), in_point=False, changes_recall=False, may_change=MayChange.ALWAYS
    )
    """What actors and trials take of the machine."""

    @field_validator("name")
    @classmethod
    def _is_file_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"must be letters, digits, '.', '_' or '-' and start with one of the first, got {name!r}")
        return name

    @model_validator(mode="before")
    @classmethod
    def _with_searched_methods(cls, values: Any) -> Any:
        """Add the section of every method that the search can choose, so that its constants are part of the study."""
        space = value_at(values, "search.space")
        domain = space.get(METHOD) if isinstance(space, dict) else None
        searched = domain.get("values") if isinstance(domain, dict) else None
        names = [name for name in searched if name in method_names()] if isinstance(searched, list) else []
        given = values.get("distillation", {}) if isinstance(values, dict) else None
        if not names or not isinstance(given, dict):
            return values
        return {**values, "distillation": {**dict.fromkeys(names, {}), **given}}

    @model_validator(mode="after")
    def _settings_fit_each_other(self) -> Self:
        faults = [] if self.search.space else self.distillation.declaration.faults(self)  # else its points are checked
        if faults:
            raise ValueError("; ".join(faults))
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

    def override(self, overrides: Sequence[str] | Mapping[str, object]) -> "Study":
        """Return the study with other values, checked as a whole.

        An override of a searched setting pins it, as ``--set`` does: the setting leaves the search space.

        Args:
            overrides: Values by dotted key, e.g. ``{"search.num_trials": 4}``; or ``KEY=VALUE`` texts.

        Raises:
            ConfigError: listing every fault.
        """
        from rayvldd.config.loading import load_study  # which checks studies, so it imports this module

        return load_study(self.model_dump(mode="json"), overrides)

    def trial_seed(self, number: int) -> int:
        """Seed of the trial with this number; under ``search.trial_seeds: common`` the same for all of them."""
        return trial_seed(self.seed, 0 if self.search.trial_seeds == "common" else number)

    def first_point(self) -> dict[str, Scalar]:
        """The first initial point: what ``distill`` runs when the file also describes a search."""
        points = self.initial_points()
        return points[0] if points else {}

    def initial_points(self) -> list[dict[str, Scalar]]:
        """The points to try first, with what follows from them, without what is not searched here."""
        space = self.space
        return [space.completed(point) for point in self.search.initial_points]

    @property
    def space(self) -> Space:
        """What is searched at some point or other, with the constants that its conditions are about."""
        domains = self.search.space
        named = {name for domain in domains.values() for name in domain.when}
        values = self.model_dump(mode="json") if named else {}
        return Space.of(domains, {name: value_at(values, name) for name in named})

    def expert_points(self) -> list["Study"]:
        """The study at every combination of searched settings that changes the experts.

        Each of them needs an expert set of its own; most studies have exactly one.
        """
        return [self.at(point) for _, point in self.expert_combinations()]

    def expert_combinations(self) -> list[tuple[dict[str, Scalar], dict[str, Scalar]]]:
        """Every combination of searched settings that changes the experts, each with a whole point that has it."""
        space, found = self.space, dict[str, tuple[dict[str, Scalar], dict[str, Scalar]]]()
        keys = [key for key in space.domains if changes_experts(key)]
        for combination in space.points(_in_full, keys):
            part = {key: value for key, value in combination.items() if key in keys}
            found.setdefault(repr(part), (part, space.lowest(combination)))
        return list(found.values())

    def methods(self) -> list[MethodDeclaration]:
        """The distillation methods that some point uses."""
        domain = self.space.domains.get(METHOD)
        names = [str(name) for name in _in_full(METHOD, domain)] if domain is not None else []
        return [declaration_of(str(name)) for name in dict.fromkeys([*names, *self._constants_of(METHOD)])]

    @property
    def requires_experts(self) -> bool:
        """Whether some point of the study uses experts."""
        return any(method.requires_experts for method in self.methods())

    def reached_epochs(self) -> frozenset[int]:
        """The expert epochs that the methods read at any point."""
        reached: frozenset[int] = frozenset()
        for method in self.methods():
            if method.reached_epochs is not None:
                reached |= method.reached_epochs(partial(self._values_of, method.name))
        return reached

    def _values_of(self, method: str, name: str) -> list[int]:
        """Every value that a whole-numbered setting of a method can take."""
        key = f"distillation.{method}.{name}"
        domain = self.space.domains.get(key)
        values = _in_full(key, domain) if domain is not None else []
        return [int(value) for value in [*values, *self._constants_of(key)]]

    def largest(self, key: str) -> int:
        """The largest value that a numeric setting can take at any point, rounded up."""
        domain = self.space.domains.get(key)
        values = domain.corners() if domain is not None else []
        return max(math.ceil(float(value)) for value in [*values, *self._constants_of(key)])

    def _constants_of(self, key: str) -> list[Any]:
        """The constant of a setting, where some point keeps it: one that is not searched, or not everywhere."""
        domain = self.space.domains.get(key)
        return [value_at(self.model_dump(mode="json"), key)] if domain is None or domain.when else []

    def corners(self) -> Iterator[dict[str, Scalar]]:
        """Points at the ends of all domains, which show whether any point of the space can be invalid."""
        return self.space.corners()


def _in_full(key: str, domain: Domain) -> list[Scalar]:
    """Every value of a domain; of a float domain, which has endlessly many, its ends."""
    return domain.corners() if isinstance(domain, FloatDomain) else domain.values_in_full()


def all_settings() -> Mapping[str, SettingInfo]:
    """The metadata of every setting that a study can have, by dotted key."""
    return settings_below(Study)


def about(key: str) -> SettingInfo | None:
    """The metadata of the setting at a dotted key of a study; None where there is no such setting."""
    return info_of(all_settings(), key)


def changes_experts(key: str) -> bool:
    """Whether a trial with another value of this setting needs experts of its own."""
    info = about(key)
    return info is not None and info.changes_experts


def sections_where(which: Callable[[SettingInfo], bool]) -> tuple[str, ...]:
    """The sections of a study that have a setting which ``which`` selects by its metadata."""
    chosen = (key.partition(".") for key, info in all_settings().items() if which(info))
    return tuple(dict.fromkeys(section for section, dot, _ in chosen if dot))


def set_dotted(values: dict[str, JsonValue], key: str, value: JsonValue) -> None:
    """Set ``values["a"]["b"]`` for the key ``a.b``, making the sections on the way.

    Raises:
        TypeError: when a part of the key names a plain value, not a section.
    """
    *path, last = key.split(".")
    for part in path:
        values = open_section(values, part)
    values[last] = value


def open_section(values: dict[str, JsonValue], key: str) -> dict[str, JsonValue]:
    """Return the section at ``key``, made if it is missing or left empty.

    Raises:
        TypeError: when a plain value stands there.
    """
    section = values.get(key)
    if section is None:
        section = values[key] = {}
    if not isinstance(section, dict):
        raise TypeError(f"{key!r} is a value, not a section with keys")
    return section
