"""Registry of samplers and stopping rules: built-in ones, and those of other packages by entry point.

A declaration states the possible combinations of a sampler or rule, which are checked when a study is loaded, and names
its implementation, which is imported when a search begins.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from rayvldd.config.domains import ChoiceDomain
from rayvldd.config.space import Space

SAMPLER_GROUP = "rayvldd.samplers"
"""Entry points of this group name :class:`SamplerDeclaration` objects."""
RULE_GROUP = "rayvldd.stopping_rules"
"""Entry points of this group name :class:`StoppingRuleDeclaration` objects."""


@dataclass(frozen=True)
class Incompatibility:
    """A combination of search settings that is not supported."""

    key: str
    """Key inside ``search``."""
    problem: str
    allowed: str


@dataclass(frozen=True)
class Declaration:
    """Common base of the declarations of samplers and stopping rules."""

    name: str
    """Name in study files."""
    implementation: str
    """``module:attribute`` of the factory function; see :mod:`rayvldd.hyperparameter_search.strategy`."""
    several_objectives: bool
    """Whether it supports more than one objective."""

    def factory(self) -> object:
        """Import and return the factory function."""
        module, _, attribute = self.implementation.partition(":")
        found: object = getattr(import_module(module), attribute)
        return found


@dataclass(frozen=True)
class SamplerDeclaration(Declaration):
    """A sampler, and the spaces that it models. Settings that it does not model it would silently sample at random."""

    several_objectives: bool = True
    models_choices: bool = True
    """Whether it models categorical settings."""
    models_conditions: bool = True
    """Whether it models conditional settings, so that points may have different settings."""
    min_settings: int = 1
    """Minimum number of searched settings; with fewer it would sample at random."""
    begins_with_earlier: bool = True
    """Whether a study begins with good points of earlier studies; not one whose points are to be spread evenly."""
    predicts_gain: bool = False
    """Whether it predicts the gain of its proposals, for ``search.stop_below_gain``."""

    def incompatibilities(self, space: Space, num_objectives: int) -> list[Incompatibility]:
        """Properties of a search over ``space`` that this sampler does not support."""
        found = []
        conditional = [key for key, domain in space.drawn.items() if domain.when]
        choices = [
            k for k, domain in space.drawn.items() if isinstance(domain, ChoiceDomain) and len(domain.values) > 1
        ]
        if conditional and not self.models_conditions:
            problem = f"{self.name} would sample conditional settings at random: {', '.join(conditional)}"
            others = _names(one for one in _samplers() if one.models_conditions)
            found.append(Incompatibility("sampler", problem, f"{others}; or conditions on fixed values only"))
        if choices and not self.models_choices:
            problem = f"{self.name} would sample choices at random: {', '.join(choices)}"
            others = _names(one for one in _samplers() if one.models_choices)
            found.append(Incompatibility("sampler", problem, f"{others}; or float and int domains only"))
        if 0 < len(space.drawn) < self.min_settings:
            problem = f"{self.name} needs {self.min_settings} or more settings and would sample fewer at random"
            others = _names(one for one in _samplers() if len(space.drawn) >= one.min_settings)
            found.append(Incompatibility("sampler", problem, others))
        if num_objectives > 1 and not self.several_objectives:
            others = _names(one for one in _samplers() if one.several_objectives)
            found.append(Incompatibility("sampler", f"{self.name} supports a single objective only", others))
        return found


@dataclass(frozen=True)
class StoppingRuleDeclaration(Declaration):
    """A rule that stops poor trials early."""

    several_objectives: bool = False
    stops: bool = True
    """Whether it stops trials at all; if not, ``search.stop_without_gain`` has no effect either."""

    def incompatibilities(self, objectives: tuple[str, ...]) -> list[Incompatibility]:
        """Properties of a search for ``objectives`` that this rule does not support."""
        if len(objectives) < 2 or self.several_objectives:
            return []
        problem = f"{self.name} compares trials by recall only, and would stop cheap ones"
        others = _names(one for one in (RULES[name] for name in RULES) if one.several_objectives)
        return [Incompatibility("scheduler", problem, f"{others}, with the objectives {', '.join(objectives)}")]


D = TypeVar("D", bound=Declaration)


class Registry(Mapping[str, D], Generic[D]):
    """Declarations by name; those of other packages are imported on first access."""

    def __init__(self, group: str, kind: type[D], built_in: Iterable[D]) -> None:
        self.group, self._kind = group, kind
        self._known = {declaration.name: declaration for declaration in built_in}

    def __getitem__(self, name: str) -> D:
        if name not in self._known:
            found = _entry_points(self.group)[name].load()
            if not isinstance(found, self._kind) or found.name != name:
                raise TypeError(
                    f"the entry point {name!r} of {self.group} is not a {self._kind.__name__} with that name: {found!r}"
                )
            self._known[name] = found
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._known, *_entry_points(self.group)]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def add(self, declaration: D) -> None:
        """Add a declaration in this process only, for a notebook or a test; packages use an entry point."""
        self._known[declaration.name] = declaration

    def remove(self, name: str) -> None:
        """Remove a declaration that :meth:`add` added."""
        del self._known[name]


_OPTUNA = "rayvldd.hyperparameter_search.optuna_samplers"
_STOPPING = "rayvldd.hyperparameter_search.stopping"

SAMPLERS = Registry(
    SAMPLER_GROUP,
    SamplerDeclaration,
    (
        SamplerDeclaration("tpe", f"{_OPTUNA}:make_tpe"),
        SamplerDeclaration("curves", f"{_OPTUNA}:make_curves", predicts_gain=True),
        SamplerDeclaration("gp", f"{_OPTUNA}:make_gp", models_conditions=False),
        SamplerDeclaration(
            "cmaes",
            f"{_OPTUNA}:make_cmaes",
            several_objectives=False,
            models_choices=False,
            models_conditions=False,
            min_settings=2,
        ),
        SamplerDeclaration(
            "qmc", f"{_OPTUNA}:make_qmc", models_choices=False, models_conditions=False, begins_with_earlier=False
        ),
        SamplerDeclaration("random", f"{_OPTUNA}:make_random", begins_with_earlier=False),
    ),
)
"""All samplers."""

RULES = Registry(
    RULE_GROUP,
    StoppingRuleDeclaration,
    (
        StoppingRuleDeclaration("asha", f"{_STOPPING}:make_asha"),
        StoppingRuleDeclaration("hyperband", f"{_STOPPING}:make_hyperband"),
        StoppingRuleDeclaration("median", f"{_STOPPING}:make_median"),
        StoppingRuleDeclaration("none", f"{_STOPPING}:make_none", several_objectives=True, stops=False),
    ),
)
"""All stopping rules."""


def _samplers() -> list[SamplerDeclaration]:
    return [SAMPLERS[name] for name in SAMPLERS]


def _names(declarations: Iterable[Declaration]) -> str:
    return ", ".join(declaration.name for declaration in declarations)


@cache
def _entry_points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}
