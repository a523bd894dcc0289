"""A search space with conditions: which settings are searched at a point, and in which order they are decided.

A domain may depend on other settings (``when``), which may be searched themselves. A point holds the settings that are
searched there; every other setting keeps its constant.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter

from pydantic import JsonValue

from rayvldd.config.domains import Domain, DrawnDomain, FixedDomain, Scalar, is_among

_MOST_CORNERS = 512
"""Combinations of domain ends that are checked in full; takes well under a second."""


@dataclass(frozen=True)
class Space:
    """Domains by dotted key, and what the settings are that their conditions name and nobody searches."""

    domains: Mapping[str, Domain]
    constants: Mapping[str, JsonValue]
    """Values of the settings that conditions name, for where these are not searched."""

    @classmethod
    def of(cls, domains: Mapping[str, Domain], constants: Mapping[str, JsonValue]) -> "Space":
        """The part of the domains that some point can reach, without the conditions that constants fulfil.

        Args:
            domains: All domains by dotted key.
            constants: Values of the settings that conditions name.
        """
        live = dict(domains)
        while dormant := [key for key, domain in live.items() if not _can_hold(domain, live, constants)]:
            for key in dormant:
                del live[key]
        conditions = {key: {k: v for k, v in domain.when.items() if k in live} for key, domain in live.items()}
        return cls({k: d.model_copy(update={"when": conditions[k]}) for k, d in live.items()}, constants)

    @cached_property
    def order(self) -> list[str]:
        """The keys, each after those that its conditions name; otherwise as they were given.

        Raises:
            ValueError: when conditions go round in a circle.
        """
        graph = {key: [name for name in domain.when if name in self.domains] for key, domain in self.domains.items()}
        try:
            return list(TopologicalSorter(graph).static_order()) if any(graph.values()) else list(graph)
        except CycleError as error:
            raise ValueError(" -> ".join(error.args[1])) from None

    @property
    def drawn(self) -> dict[str, DrawnDomain]:
        """The domains from which a sampler draws: those with more to them than a fixed value."""
        return {key: domain for key, domain in self.domains.items() if not isinstance(domain, FixedDomain)}

    @property
    def unconditional(self) -> dict[str, DrawnDomain]:
        """The drawn domains whose settings every point holds."""
        return {key: domain for key, domain in self.drawn.items() if not domain.when}

    @property
    def has_one_point(self) -> bool:
        """Whether nothing is searched: there is no domain, or each has one value."""
        return all(len(set(domain.corners())) == 1 for domain in self.domains.values())

    def is_active(self, key: str, point: Mapping[str, Scalar]) -> bool:
        """Whether a setting is searched at a point that holds, of those before it, the ones that are searched."""
        conditions = self.domains[key].when.items()
        return all(is_among(point.get(name, self.constants.get(name)), values) for name, values in conditions)

    def point(self, choose: Callable[[str, Domain], Scalar]) -> dict[str, Scalar]:
        """The point where ``choose`` decides each setting that is searched, asked in order."""
        point: dict[str, Scalar] = {}
        for key in self.order:
            if self.is_active(key, point):
                point[key] = choose(key, self.domains[key])
        return {key: point[key] for key in self.domains if key in point}

    def completed(self, given: Mapping[str, Scalar]) -> dict[str, Scalar]:
        """A part of a point with the fixed values that follow from it, and without settings that are never searched."""
        point = {key: value for key, value in given.items() if key in self.domains}
        for key in self.order:
            domain = self.domains[key]
            known = all(name in point or name not in self.domains for name in domain.when)
            if isinstance(domain, FixedDomain) and known and self.is_active(key, point):
                point[key] = domain.value
        return point

    def points(
        self, values: Callable[[str, Domain], Sequence[Scalar]], keys: Sequence[str] | None = None
    ) -> Iterator[dict[str, Scalar]]:
        """Every combination of the values that ``values`` allows for each setting.

        Args:
            values: The values of a setting, by key and domain.
            keys: Settings to combine, and with them those that their conditions name; default: all.
        """
        asked = set(self.domains) if keys is None else self._with_conditions(keys)
        yield from self._points_from([key for key in self.order if key in asked], {}, values)

    def _points_from(
        self, keys: list[str], point: dict[str, Scalar], values: Callable[[str, Domain], Sequence[Scalar]]
    ) -> Iterator[dict[str, Scalar]]:
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

    def lowest(self, fixed: Mapping[str, Scalar] | None = None) -> dict[str, Scalar]:
        """The point with the first end of every domain, apart from the settings in ``fixed``."""
        given = fixed or {}
        return self.point(lambda key, domain: given.get(key, domain.corners()[0]))

    def highest(self) -> dict[str, Scalar]:
        """The point with the last end of every domain."""
        return self.point(lambda key, domain: domain.corners()[-1])

    def corners(self) -> Iterator[dict[str, Scalar]]:
        """Points at the ends of all domains, which show whether any point of the space can be invalid.

        Every combination where they are few; otherwise each end alone against the lowest of the others, with what
        makes its setting a searched one, and all highest together.
        """
        ends = {key: domain.corners() for key, domain in self.domains.items()}
        if math.prod(map(len, ends.values())) <= _MOST_CORNERS:
            yield from self.points(lambda key, domain: ends[key])
            return
        for key, value in itertools.chain.from_iterable(((k, v) for v in values) for k, values in ends.items()):
            yield self.lowest({**self._what_activates(key), key: value})
        yield self.highest()

    def _what_activates(self, key: str) -> dict[str, Scalar]:
        """Values of other searched settings under which this one is searched too."""
        given: dict[str, Scalar] = {}
        for name, values in self.domains[key].when.items():
            if name in self.domains:
                fitting = [value for value in values if value in self.domains[name]]
                given |= self._what_activates(name) | ({name: fitting[0]} if fitting else {})
        return given


def _can_hold(domain: Domain, live: Mapping[str, Domain], constants: Mapping[str, JsonValue]) -> bool:
    return all(name in live or is_among(constants.get(name), values) for name, values in domain.when.items())
