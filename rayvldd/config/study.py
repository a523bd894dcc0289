"""A study: the complete description of a search, and the points of its search space.

The sections ``data`` to ``resources`` contain the constants; ``search.space`` contains the domains of the searched
settings by dotted key. The study at a point has these keys set and an empty space; it describes one trial.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, JsonValue, field_validator, model_validator
from pydantic_core import PydanticKnownError

from rayvldd.config.base import Settings
from rayvldd.config.distillation import DistillationSettings
from rayvldd.config.domains import Domain, FloatDomain, SettingValue, as_number
from rayvldd.config.methods.declaration import MethodDeclaration
from rayvldd.config.methods.inner_loop import InnerLoopSettings
from rayvldd.config.methods.registry import declaration_of, method_names
from rayvldd.config.metrics import OBJECTIVES, VAL_MEAN_RECALL
from rayvldd.config.search_plugins import RULES, SAMPLERS
from rayvldd.config.setting import (
    MayChange,
    SettingInfo,
    info_of,
    setting,
    setting_at,
    settings_below,
)
from rayvldd.config.settings import (
    DataSettings,
    EvaluationSettings,
    ExpertSettings,
    ImageEncoderSettings,
    ModelSettings,
    ResourceSettings,
    ToyScenesData,
)
from rayvldd.config.space import Space
from rayvldd.errors import did_you_mean
from rayvldd.randomness import trial_seed

METHOD = "distillation.method"
INITIAL_SET = "distillation.initialise_from"
"""The setting that chooses the distillation method."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _known_objective(name: str) -> str:
    if name not in OBJECTIVES:
        allowed = ", ".join(map(repr, OBJECTIVES))
        raise ValueError(f"unknown {name!r}{did_you_mean(name, OBJECTIVES)}; allowed: {allowed}")
    return name


Objective = Annotated[str, AfterValidator(_known_objective)]
"""Name of an objective: a key of ``rayvldd.config.metrics.OBJECTIVES``."""

_NO_PBT = (
    "pbt changes settings during a distillation: the result belongs to no single point that `rayvldd distill` could "
    "repeat, and steps, pairs, initialisation and experts cannot change during a run"
)


class ChooseSettings(Settings):
    """Rule that chooses the best set from the Pareto front of several objectives."""

    by: Objective = VAL_MEAN_RECALL
    """Among the sets within the bounds, the one that is best in this objective is chosen; the others break ties."""
    at_most: dict[Objective, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Upper bounds by objective, e.g. ``{num_pairs: 200}``."""
    at_least: dict[Objective, Annotated[float, Field(ge=0, le=100)]] = Field(default_factory=dict)
    """Lower bound of the recall, in percent, e.g. ``{val_mean_recall: 20}``."""

    @model_validator(mode="after")
    def _bounds_match_directions(self) -> Self:
        wrong = [f"at_most.{name}" for name in self.at_most if OBJECTIVES[name].rises]
        wrong += [f"at_least.{name}" for name in self.at_least if not OBJECTIVES[name].rises]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: at_most is for minimised objectives, at_least for maximised ones")
        return self


class SearchSettings(Settings):
    """Search space, sampler, scheduler and budget of a search."""

    space: dict[str, Domain] = setting({})
    """Domains by dotted key of the setting; bounds are inclusive."""
    objectives: tuple[Objective, ...] = setting((VAL_MEAN_RECALL,), min_length=1)
    """Objectives of the search. With several, the result is the Pareto front: the sets that no other set dominates."""
    choose: ChooseSettings = setting(ChooseSettings(), may_change=MayChange.UNTIL_CHOSEN)
    """Choice of a set from the front; may change until a set is chosen."""
    sampler: str = "tpe"
    """Optuna sampler that proposes the next point. ``tpe``: multivariate tree-structured Parzen estimator, with a
    separate model for each branch of conditional settings; ``curves``: Gaussian process over point and outer step,
    fitted to every evaluation of all trials, which predicts the recall of each proposal; ``gp``: Gaussian process over
    final recalls; ``cmaes``: CMA-ES, for numeric settings only; ``qmc``: Sobol sequence; ``random``."""
    scheduler: str = "asha"
    """Rule that stops poor trials early. ``asha``: asynchronous successive halving; ``hyperband``: several brackets of
    it, with different grace periods; ``median``: stops trials below the median of the others; ``none``: stops no
    trial, required for several objectives, because cheap sets have lower recall."""
    num_trials: int = setting(16, ge=1, unit="trials", may_change=MayChange.UNTIL_FINISHED)
    """Number of trials; fewer run if the space has fewer points and trials share their seed."""
    num_start_trials: int | None = setting(None, ge=1, unit="trials")
    """Trials, including the initial points, before ``tpe``, ``gp`` and ``cmaes`` use their models; until then points
    are sampled at random. Default: a fifth of ``num_trials``, at least 3 and at most 10. ``curves``
    counts trials with an evaluation, running ones included."""
    max_concurrent: int = setting(2, ge=1, unit="trials", may_change=MayChange.UNTIL_FINISHED)
    """Maximum number of concurrent trials, if the resources allow it."""
    time_budget_s: float | None = setting(None, gt=0, unit="seconds", may_change=MayChange.UNTIL_FINISHED)
    """Time limit of the search in seconds; running trials are stopped and keep their best sets. Finalists and test
    follow afterwards. Default: no limit."""
    stop_below_gain: float | None = setting(None, gt=0, unit="sd of noise", may_change=MayChange.UNTIL_FINISHED)
    """End the search before ``num_trials`` once the model of ``sampler: curves`` expects a smaller gain of recall from
    a further trial, in standard deviations of an evaluation's noise; 0.25 is a quarter of what one evaluation is
    uncertain by. Running trials go on to their ends. Only with ``curves`` and one objective. Default: never."""
    grace_evaluations: int = setting(1, ge=1, unit="evaluations")
    """Evaluations of every trial before it can be stopped early; the default suits trials with 10 to 20."""
    stop_without_gain: bool = True
    """Stop a trial whose recall is not above that of its initial set after ``grace_evaluations``, even the first trial,
    when there are no others to compare with: a set that is worse than its initial real pairs rarely improves much. No
    effect with ``scheduler: none``."""
    reduction_factor: float = setting(2.0, gt=1)
    """ASHA and Hyperband continue one in this many trials at each rung, and place the next rung at this many times the
    evaluations. On Flickr8k, many rungs with a small factor gave better results than few rungs with a large one."""
    trial_seeds: Literal["common", "own"] = "common"
    """``common``: all trials use the same initial pairs and segments, so two trials differ only in their settings
    (common random numbers), and no point is run twice; a result that is specific to this seed shows in the finalists,
    which use other seeds. ``own``: a seed for each trial, from the study's seed and the trial's number."""
    num_finalists: int = setting(2, ge=0, unit="trials", may_change=MayChange.UNTIL_CHOSEN)
    """Number of best trials whose points are distilled again with new seeds; the point with the best mean on validation
    is tested. This avoids choosing a trial by chance. 1: only the best trial, for an interval over sets; always so
    with several objectives. 0: the best trial's set is tested, with an interval over students only."""
    finalist_seeds: int = setting(3, ge=2, unit="sets", may_change=MayChange.UNTIL_CHOSEN)
    """Synthetic sets of each finalist, each with its own seed and its own ``evaluation.num_test_students`` students;
    the interval of the test is over these sets."""
    initial_points: tuple[dict[str, SettingValue], ...] = ()
    """Points to evaluate first, e.g. published settings; the sampler draws missing keys."""

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
    """Everything that determines the outcome of a search."""

    name: str = setting(in_point=False, changes_recall=False)
    """Name of the study: its folder in the workspace and its parent run in MLflow."""
    seed: int = setting(0, ge=0, lt=2**31, changes_experts=True, changes_recall=False)
    """Root of every random stream of the study."""
    data: DataSettings = setting(changes_experts=True, by_content=True)
    """The real pairs."""
    model: ModelSettings = setting(searchable=True, changes_experts=True)
    """The two-tower model and its protocol."""
    experts: ExpertSettings = setting(ExpertSettings(), searchable=True, changes_experts=True)
    """Training of the experts."""
    distillation: DistillationSettings = setting(DistillationSettings(), searchable=True)
    """Distillation of the synthetic set."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """Evaluation of a set."""
    search: SearchSettings = setting(SearchSettings(), in_point=False, changes_recall=False)
    """Search space and budget."""
    resources: ResourceSettings = setting(
        ResourceSettings(), in_point=False, changes_recall=False, may_change=MayChange.ALWAYS
    )
    """Resources of actors and trials."""

    @field_validator("name")
    @classmethod
    def _is_file_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"must consist of letters, digits, '.', '_' or '-' and start with a letter or digit, got {name!r}"
            )
        return name

    @model_validator(mode="before")
    @classmethod
    def _with_searched_methods(cls, values: JsonValue) -> JsonValue:
        """Add the sections of all methods that are searched, so that their constants are part of the study."""
        space = setting_at(values, "search.space")
        domain = space.get(METHOD) if isinstance(space, dict) else None
        searched = domain.get("values") if isinstance(domain, dict) else None
        names = [name for name in searched if name in method_names()] if isinstance(searched, list) else []
        given = values.get("distillation", {}) if isinstance(values, dict) else None
        if not names or not isinstance(values, dict) or not isinstance(given, dict):
            return values
        return {**values, "distillation": {**{name: {} for name in names}, **given}}

    @model_validator(mode="after")
    def _settings_fit_each_other(self) -> Self:
        if self.search.space:  # its points are checked
            return self
        faults = self.distillation.declaration.faults(self) + _faults_of_idle_gpus(self) + _faults_of_graphs(self)
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @model_validator(mode="after")
    def _poor_pairs_are_found_by_frozen_features(self) -> Self:
        if not isinstance(self.data, ToyScenesData) and self.data.drop_pairs and self.model.protocol != "heads_only":
            raise ValueError(f"data.drop_pairs needs model.protocol heads_only, got {self.model.protocol}")
        return self

    def at(self, point: Mapping[str, SettingValue]) -> "Study":
        """Return the study at a point: with the dotted keys of ``point`` set and an empty search space.

        Raises:
            pydantic.ValidationError: if a value is invalid for its setting.
        """
        values = self.model_dump(mode="json")
        values["search"]["space"] = {}
        values["search"]["initial_points"] = []
        for key, value in point.items():
            set_dotted(values, key, list(value) if isinstance(value, tuple) else value)
        return Study.model_validate(values)

    def override(self, overrides: Sequence[str] | Mapping[str, object]) -> "Study":
        """Return the study with changed values, validated as a whole.

        An override of a searched setting fixes it, as ``--set`` does: the setting is removed from the search space.

        Args:
            overrides: Values by dotted key, e.g. ``{"search.num_trials": 4}``; or ``KEY=VALUE`` texts.

        Raises:
            ConfigError: listing every fault.
        """
        from rayvldd.config.loading import load_study  # imports this module

        return load_study(self.model_dump(mode="json"), overrides)

    @property
    def trials_share_seed(self) -> bool:
        """Whether all trials have one seed, so that a second trial at a point would repeat the first."""
        return self.search.trial_seeds == "common"

    @property
    def max_trials(self) -> int:
        """Number of trials that a search runs at most: where trials share their seed, each point is run once."""
        points = self.space.num_points if self.trials_share_seed else None
        return self.search.num_trials if points is None else min(points, self.search.num_trials)

    def trial_seed(self, number: int) -> int:
        """Seed of the trial with this number; with ``search.trial_seeds: common`` the same for all trials."""
        return trial_seed(self.seed, 0 if self.trials_share_seed else number)

    def first_point(self) -> dict[str, SettingValue]:
        """The first initial point, which ``distill`` uses if the study has a search space."""
        points = self.initial_points()
        return points[0] if points else {}

    def initial_points(self) -> list[dict[str, SettingValue]]:
        """The initial points, completed with fixed values and without settings that are not searched."""
        space = self.space
        return [space.completed(point) for point in self.search.initial_points]

    @property
    def space(self) -> Space:
        """The search space: domains that are active at some point, and the constants in their conditions."""
        domains = self.search.space
        named = {name for domain in domains.values() for name in domain.when}
        values = self.model_dump(mode="json") if named else {}
        return Space.of(domains, {name: setting_at(values, name) for name in named})

    def expert_points(self) -> list["Study"]:
        """The study at every combination of searched settings that change the experts.

        Each of them needs its own expert set; most studies have exactly one.
        """
        return [self.at(point) for _, point in self.expert_combinations()]

    def expert_combinations(self) -> list[tuple[dict[str, SettingValue], dict[str, SettingValue]]]:
        """Combinations of searched settings that change the experts, each with a complete point that contains it."""
        space, found = self.space, dict[str, tuple[dict[str, SettingValue], dict[str, SettingValue]]]()
        keys = [key for key in space.domains if changes_experts(key)]
        for combination in space.points(_all_values, keys):
            part = {key: value for key, value in combination.items() if key in keys}
            found.setdefault(repr(part), (part, space.lowest(combination)))
        return list(found.values())

    def methods(self) -> list[MethodDeclaration]:
        """The distillation methods that are used at some point."""
        domain = self.space.domains.get(METHOD)
        names = [str(name) for name in _all_values(METHOD, domain)] if domain is not None else []
        return [declaration_of(str(name)) for name in dict.fromkeys([*names, *self._constants_of(METHOD)])]

    @property
    def requires_experts(self) -> bool:
        """Whether experts are used at some point."""
        return any(self._uses_experts(method) for method in self.methods())

    def _uses_experts(self, method: MethodDeclaration) -> bool:
        if method.reached_epochs is None or not method.without_experts:
            return method.reached_epochs is not None
        keys = {f"distillation.{method.name}.{name}": value for name, value in method.without_experts.items()}
        return any(set(self._every_value_of(key)) != {value} for key, value in keys.items())

    def further_image_encoders(self) -> dict[str, ImageEncoderSettings]:
        """The image encoders that methods read beside the model's, by dotted key, of all methods used at some point."""
        return {
            f"distillation.{method.name}.{key}": encoder
            for method in self.methods()
            for key, encoder in self.distillation.section(method.name).further_image_encoders.items()
        }

    def initial_sets(self) -> list[str]:
        """The distilled sets that the study starts from at some point: folders and addresses, sorted."""
        return sorted({str(place) for place in self._every_value_of(INITIAL_SET) if place is not None})

    @property
    def completed_distillation(self) -> DistillationSettings:
        """The distillation settings of one point, with the values that the method takes from other sections."""
        declaration = self.distillation.declaration
        if declaration.completed is None:
            return self.distillation
        return self.distillation.model_copy(update={declaration.name: declaration.completed(self)})

    def notes(self) -> list[str]:
        """What users should know of the settings of one point before it runs, a sentence each."""
        return [*self.distillation.notes(), *self.distillation.declaration.notes(self)]

    def reached_epochs(self) -> frozenset[int]:
        """The expert epochs that the methods read at any point."""
        reached: frozenset[int] = frozenset()
        for method in self.methods():
            if method.reached_epochs is not None and self._uses_experts(method):
                reached |= method.reached_epochs(partial(self._values_of, method.name))
        return reached

    def _values_of(self, method: str, name: str) -> list[int]:
        """All possible values of an integer setting of a method."""
        return [int(as_number(value)) for value in self._every_value_of(f"distillation.{method}.{name}")]

    def _every_value_of(self, key: str) -> list[SettingValue | JsonValue]:
        """All possible values of a setting; of a float domain its ends."""
        domain = self.space.domains.get(key)
        return [*(_all_values(key, domain) if domain is not None else []), *self._constants_of(key)]

    def largest(self, key: str) -> int:
        """The largest value of a numeric setting at any point, rounded up."""
        domain = self.space.domains.get(key)
        values = domain.corners() if domain is not None else []
        return max(math.ceil(as_number(value)) for value in [*values, *self._constants_of(key)])

    @property
    def num_finalists(self) -> int:
        """Number of points that are distilled again; with several objectives only the chosen one."""
        count = self.search.num_finalists
        return count if len(self.search.objectives) == 1 else min(count, 1)

    def last_step_at(self, point: Mapping[str, SettingValue]) -> int:
        """Outer step at which a trial at a point of the space ends."""
        return int(as_number(point.get("distillation.outer_steps", self.distillation.outer_steps)))

    def evaluation_at(self, outer_step: int) -> EvaluationSettings:
        """The student settings of an evaluation at an outer step: fewer and shorter students at the first rung.

        The rung is a property of the study, so trials compared at the same step are scored in the same way.
        """
        evaluation, grace = self.evaluation, self.search.grace_evaluations * self.distillation.evaluate_every
        if evaluation.proxy_epochs is None or outer_step > grace:
            return evaluation
        epochs = min(evaluation.proxy_epochs, evaluation.epochs)
        return evaluation.model_copy(update={"num_students": 1, "epochs": epochs})

    def _constants_of(self, key: str) -> list[JsonValue]:
        """The constant of a setting as a list; empty if the setting is searched at every point."""
        domain = self.space.domains.get(key)
        return [setting_at(self.model_dump(mode="json"), key)] if domain is None or domain.when else []

    def corners(self) -> Iterator[dict[str, SettingValue]]:
        """Points at the ends of all domains, to check whether a point of the space can be invalid."""
        return self.space.corners()


def _all_values(key: str, domain: Domain) -> list[SettingValue]:
    """All values of a domain; for a float domain, its ends."""
    return domain.corners() if isinstance(domain, FloatDomain) else domain.all_values()


def all_settings() -> Mapping[str, SettingInfo]:
    """The metadata of all settings of a study, by dotted key."""
    return settings_below(Study)


def about(key: str) -> SettingInfo | None:
    """The metadata of the setting at a dotted key of a study; None if there is no such setting."""
    return info_of(all_settings(), key)


def changes_experts(key: str) -> bool:
    """Whether a trial with another value of this setting needs its own experts."""
    info = about(key)
    return info is not None and info.changes_experts


def sections_where(which: Callable[[SettingInfo], bool]) -> tuple[str, ...]:
    """The sections of a study with at least one setting that ``which`` selects by its metadata."""
    chosen = (key.partition(".") for key, info in all_settings().items() if which(info))
    return tuple(dict.fromkeys(section for section, dot, _ in chosen if dot))


def set_dotted(values: dict[str, JsonValue], key: str, value: JsonValue) -> None:
    """Set ``values["a"]["b"]`` for the key ``a.b``; missing sections are created.

    Raises:
        TypeError: if a part of the key is a plain value, not a section.
    """
    *path, last = key.split(".")
    for part in path:
        values = open_section(values, part)
    values[last] = value


def open_section(values: dict[str, JsonValue], key: str) -> dict[str, JsonValue]:
    """Return the section at ``key``; it is created if it is missing or null.

    Raises:
        TypeError: if the key has a plain value.
    """
    section = values.get(key)
    if section is None:
        section = values[key] = {}
    if not isinstance(section, dict):
        raise TypeError(f"{key!r} is a value, not a section with keys")
    return section


def _faults_of_idle_gpus(study: Study) -> list[str]:
    """Refuse further GPUs for a trial that has no work for them."""
    gpus = study.resources.gpus_per_trial or 0.0
    if gpus <= 1:
        return []
    if not isinstance(study.distillation.section(), InnerLoopSettings):
        reason = f"distillation.method {study.distillation.method} has no student steps"
    elif study.model.protocol == "heads_only":
        reason = "under model.protocol heads_only a step has features, not images"
    elif study.distillation.engine.compile:
        reason = "distillation.engine.compile takes a step as a whole"
    else:
        return []
    return [
        f"resources.gpus_per_trial {gpus:g} divides the images of a student step between GPUs, but {reason}: set "
        f"resources.gpus_per_trial to 1"
    ]


def _faults_of_graphs(study: Study) -> list[str]:
    """Refuse CUDA graphs where no GPU is used, or with dropout; a machine without a GPU is found by its own check."""
    resources, faults = study.resources, []
    if study.distillation.engine.compile == "cuda_graphs" and resources.gpus_per_trial == 0:
        faults.append(
            "distillation.engine.compile cuda_graphs needs a GPU, got resources.gpus_per_trial 0: set "
            "distillation.engine.compile to true, or leave resources.gpus_per_trial out"
        )
    if resources.cuda_graphs and resources.gpus_per_trial == 0 == resources.gpus_per_expert:
        faults.append(
            "resources.cuda_graphs needs a GPU, got resources.gpus_per_trial 0 and resources.gpus_per_expert 0: set "
            "resources.cuda_graphs to false, or leave one of the two out"
        )
    if resources.cuda_graphs and study.model.dropout:
        faults.append(
            f"resources.cuda_graphs needs model.dropout 0, got {study.model.dropout}: a replayed step would draw other "
            f"masks: set resources.cuda_graphs to false"
        )
    return faults
