"""A search space with conditional settings.

A domain may depend on other settings (``when``), which may be searched themselves. A point contains the settings that
are active at it; every other setting keeps its constant.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter

from pydantic import JsonValue

from rayvldd.config.domains import Domain, DrawnDomain, FixedDomain, SettingValue, is_among

PointKey = tuple[tuple[str, SettingValue], ...]
"""Identifies a point."""

_MOST_BRANCHES = 10_000
"""Up to this many combinations of settings in conditions are counted; this takes well under a second."""

_MOST_CORNERS = 512
"""Up to this many combinations of domain ends are all checked; this takes well under a second."""


@dataclass(frozen=True)
class Space:
    """Domains by dotted key, and the constants of the other settings that their conditions refer to."""

    domains: Mapping[str, Domain]
    constants: Mapping[str, JsonValue]
    """Values of the settings in conditions, used at points where these settings are not searched."""

    @classmethod
    def of(cls, domains: Mapping[str, Domain], constants: Mapping[str, JsonValue]) -> "Space":
        """The space without domains that are active at no point, and without conditions that constants fulfil.

        Args:
            domains: All domains by dotted key.
            constants: Values of the settings that conditions refer to.
        """
        active = dict(domains)
        while inactive := [key for key, domain in active.items() if not _can_hold(domain, active, constants)]:
            for key in inactive:
                del active[key]
        conditions = {key: {k: v for k, v in domain.when.items() if k in active} for key, domain in active.items()}
        return cls({k: d.model_copy(update={"when": conditions[k]}) for k, d in active.items()}, constants)

    @cached_property
    def order(self) -> list[str]:
        """The keys in topological order of their conditions; otherwise in the given order.

        Raises:
            ValueError: if the conditions form a cycle.
        """
        graph = {key: [name for name in domain.when if name in self.domains] for key, domain in self.domains.items()}
        try:
            return list(TopologicalSorter(graph).static_order()) if any(graph.values()) else list(graph)
        except CycleError as error:
            raise ValueError(" -> ".join(error.args[1])) from None

    @property
    def drawn(self) -> dict[str, DrawnDomain]:
        """The domains that a sampler samples from: all except fixed values."""
        return {key: domain for key, domain in self.domains.items() if not isinstance(domain, FixedDomain)}

    @property
    def unconditional(self) -> dict[str, DrawnDomain]:
        """The sampled domains that are active at every point."""
        return {key: domain for key, domain in self.drawn.items() if not domain.when}

    @property
    def has_one_point(self) -> bool:
        """Whether nothing is searched: there is no domain, or each has one value."""
        return all(len(set(domain.corners())) == 1 for domain in self.domains.values())

    @cached_property
    def num_points(self) -> int | None:
        """Number of points; None if there are infinitely many, or too many conditions to count them."""
        counts = {key: domain.num_values for key, domain in self.domains.items()}
        finite = {key: count for key, count in counts.items() if count is not None}
        if len(finite) < len(counts):
            return None
        referenced = self._with_conditions([name for domain in self.domains.values() for name in domain.when])
        if math.prod(finite[key] for key in referenced) > _MOST_BRANCHES:
            return None
        others = [key for key in self.domains if key not in referenced]
        branches = self.points(_every_value, list(referenced))
        return sum(math.prod(finite[key] for key in others if self.is_active(key, branch)) for branch in branches)

    def every_point(self) -> Iterator[dict[str, SettingValue]]:
        """Yield all points of a finite space."""
        return self.points(_every_value)

    def key_of(self, point: Mapping[str, SettingValue]) -> PointKey:
        """What identifies a point: two points are the same if their keys are equal."""
        return tuple((key, self.domains[key].place_of(point[key])) for key in self.domains if key in point)

    def is_complete(self, point: Mapping[str, SettingValue]) -> bool:
        """Whether a point has a value for each setting that is active at it."""
        return all(key in point or not self.is_active(key, point) for key in self.order)

    def is_active(self, key: str, point: Mapping[str, SettingValue]) -> bool:
        """Whether a setting is searched at a point, which must contain the active settings that precede it."""
        conditions = self.domains[key].when.items()
        return all(is_among(point.get(name, self.constants.get(name)), values) for name, values in conditions)

    def point(self, choose: Callable[[str, Domain], SettingValue]) -> dict[str, SettingValue]:
        """The point with the value that ``choose`` returns for each active setting, called in topological order."""
        point: dict[str, SettingValue] = {}
        for key in self.order:
            if self.is_active(key, point):
                point[key] = choose(key, self.domains[key])
        return {key: point[key] for key in self.domains if key in point}

    def completed(self, given: Mapping[str, SettingValue]) -> dict[str, SettingValue]:
        """Complete a partial point with the fixed values that follow from it; drop settings that are not searched."""
        point = {key: value for key, value in given.items() if key in self.domains}
        for key in self.order:
            domain = self.domains[key]
            known = all(name in point or name not in self.domains for name in domain.when)
            if isinstance(domain, FixedDomain) and known and self.is_active(key, point):
                point[key] = domain.value
        return point

    def points(
        self, values: Callable[[str, Domain], Sequence[SettingValue]], keys: Sequence[str] | None = None
    ) -> Iterator[dict[str, SettingValue]]:
        """Yield every combination of the given values of each setting.

        Args:
            values: Returns the values of a setting, from its key and domain.
            keys: Settings to combine, together with those in their conditions; default: all.
        """
        selected = set(self.domains) if keys is None else self._with_conditions(keys)
        yield from self._points_from([key for key in self.order if key in selected], {}, values)

    def _points_from(
        self, keys: list[str], point: dict[str, SettingValue], values: Callable[[str, Domain], Sequence[SettingValue]]
    ) -> Iterator[dict[str, SettingValue]]:
        if not keys:
            yield {key: point[key] for key in self.domains if key in point}
            return
        key, *rest = keys
        if not self.is_active(key, point):
            yield from self._points_from(rest, point, values)
            return
        for value in values(key, self.domains[key]):
            yield from self._points_from(rest, {**point, key: value}, values)

    def _with_conditions(self, keys: Sequence[str]) -> set[str]:
        found, waiting = set[str](), [key for key in keys if key in self.domains]
        while waiting:
            key = waiting.pop()
            if key not in found:
                found.add(key)
                waiting += [name for name in self.domains[key].when if name in self.domains]
        return found

    def lowest(self, fixed: Mapping[str, SettingValue] | None = None) -> dict[str, SettingValue]:
        """The point at the lower end of every domain, apart from the settings in ``fixed``."""
        given = fixed or {}
        return self.point(lambda key, domain: given.get(key, domain.corners()[0]))

    def highest(self) -> dict[str, SettingValue]:
        """The point at the upper end of every domain."""
        return self.point(lambda key, domain: domain.corners()[-1])

    def corners(self) -> Iterator[dict[str, SettingValue]]:
        """Yield points at the ends of all domains, to check whether a point of the space can be invalid.

        If there are few combinations, all of them. Otherwise each end of each domain, with the lower ends of the
        others and the values that activate the setting; and the point of all upper ends.
        """
        ends = {key: domain.corners() for key, domain in self.domains.items()}
        if math.prod(map(len, ends.values())) <= _MOST_CORNERS:
            yield from self.points(lambda key, domain: ends[key])
            return
        for key, value in itertools.chain.from_iterable(((k, v) for v in values) for k, values in ends.items()):
            yield self.lowest({**self._activating_values(key), key: value})
        yield self.highest()

    def _activating_values(self, key: str) -> dict[str, SettingValue]:
        """Values of other searched settings for which this setting is active."""
        given: dict[str, SettingValue] = {}
        for name, values in self.domains[key].when.items():
            if name in self.domains:
                fitting = [value for value in values if value in self.domains[name]]
                given |= self._activating_values(name) | ({name: fitting[0]} if fitting else {})
        return given


def _every_value(key: str, domain: Domain) -> list[SettingValue]:
    """All values of a finite domain."""
    return [domain.nth(index) for index in range(domain.num_values or 0)]


def _can_hold(domain: Domain, active: Mapping[str, Domain], constants: Mapping[str, JsonValue]) -> bool:
    """Whether the conditions of a domain can be fulfilled, given the domains that are active at some point."""
    return all(name in active or is_among(constants.get(name), values) for name, values in domain.when.items())
