"""Points of a search space as coordinates from 0 to 1, for models that need distances between points."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from rayvldd.config.domains import ChoiceDomain, DrawnDomain, FixedDomain, FloatDomain, SettingValue, as_number
from rayvldd.config.space import Space

_MOST_VALUES = 1000
"""A numeric domain with more values is treated as continuous until its value is rounded."""
_OTHER_VALUE = 0.3
"""Probability that a neighbour of a point has another value of a choice."""


class SpaceCoordinates:
    """Conversion between points, units and coordinates.

    Units have one column for each sampled setting: its place in its domain from 0 to 1, on a log scale if it has one.
    Coordinates are the inputs of a model: a choice has one for each value, and an inactive setting is in the middle of
    its domain, with an indicator for each distinct condition.

    Args:
        space: The space; fixed values have neither units nor coordinates.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.domains: dict[str, DrawnDomain] = {key: space.drawn[key] for key in space.order if key in space.drawn}
        self._grids = [_grid_of(domain) for domain in self.domains.values()]
        self.conditional = np.array([bool(domain.when) for domain in self.domains.values()])
        """Which settings are not active everywhere."""
        first_with = dict[str, int]()
        for column, domain in enumerate(self.domains.values()):
            if domain.when:
                first_with.setdefault(repr(sorted(domain.when.items())), column)
        self._indicators = list(first_with.values())

    def units_of(self, points: Sequence[Mapping[str, SettingValue]]) -> tuple[np.ndarray, np.ndarray]:
        """Units of points, 0.5 where a point does not have the setting; and which settings each point has."""
        active = np.array([[key in point for key in self.domains] for point in points], dtype=bool)
        active = active.reshape(len(points), len(self.domains))
        units = np.full(active.shape, 0.5)
        for row, point in enumerate(points):
            for column, (key, domain) in enumerate(self.domains.items()):
                if active[row, column]:
                    units[row, column] = _unit_of(domain, point[key])
        return units, active

    def point_of(self, units: np.ndarray) -> dict[str, SettingValue]:
        """The point at one row of units."""
        places = dict(zip(self.domains, units.tolist(), strict=True))
        return self.space.point(
            lambda key, domain: domain.value if isinstance(domain, FixedDomain) else _value_at(domain, places[key])
        )

    def active_at(self, units: np.ndarray) -> np.ndarray:
        """Which settings are active in each row of units."""
        active = np.ones(units.shape, dtype=bool)
        if self.conditional.any():
            for row, one in enumerate(units):
                point = self.point_of(one)
                active[row] = [key in point for key in self.domains]
        return active

    def coordinates(self, units: np.ndarray, active: np.ndarray) -> np.ndarray:
        """The inputs of a model for each row."""
        columns = []
        for column, domain in enumerate(self.domains.values()):
            place, has = units[:, column], active[:, column]
            if isinstance(domain, ChoiceDomain):
                index = np.rint(place * max(len(domain.values) - 1, 1)).astype(int)
                one_hot = (index[:, None] == np.arange(len(domain.values))) & has[:, None]
                columns += list(one_hot.T / math.sqrt(2))  # then two values have the distance 1
            else:
                columns.append(np.where(has, place, 0.5))
        columns += [active[:, column].astype(float) for column in self._indicators]
        return np.stack(columns, axis=1)

    def draw(self, generator: np.random.Generator, number: int) -> np.ndarray:
        """Units of points that are spread evenly over the domains."""
        units = generator.uniform(size=(number, len(self.domains)))
        for column, grid in enumerate(self._grids):
            if grid is not None:
                units[:, column] = grid[(units[:, column] * len(grid)).astype(int)]
        return units

    def near(self, generator: np.random.Generator, units: np.ndarray, number: int, distance: float) -> np.ndarray:
        """Units of neighbours: ``number`` of each row, each with some settings changed by about ``distance``."""
        rows = np.repeat(units, number, axis=0)
        changed = generator.uniform(size=rows.shape) < max(0.4, 1.5 / rows.shape[1])
        moved = np.clip(rows + changed * generator.normal(0, distance, rows.shape), 0, 1)
        anew = self.draw(generator, len(rows))
        for column, (domain, grid) in enumerate(zip(self.domains.values(), self._grids, strict=True)):
            if isinstance(domain, ChoiceDomain):
                jumps = generator.uniform(size=len(rows)) < _OTHER_VALUE
                moved[:, column] = np.where(jumps, anew[:, column], rows[:, column])
            elif grid is not None:
                step = 1 / max(len(grid) - 1, 1)
                wide = rows[:, column] + changed[:, column] * generator.normal(0, max(distance, step), len(rows))
                nearest = np.abs(wide[:, None] - grid[None, :]).argmin(1)
                moved[:, column] = grid[nearest]
        return moved


def _grid_of(domain: DrawnDomain) -> np.ndarray | None:
    """Units of all values of a domain with few values."""
    number = domain.num_values
    if isinstance(domain, ChoiceDomain):
        return np.linspace(0, 1, len(domain.values)) if len(domain.values) > 1 else np.zeros(1)
    if number is None or number > _MOST_VALUES:
        return None
    return np.array([_unit_of(domain, domain.nth(index)) for index in range(number)])


def _unit_of(domain: DrawnDomain, value: SettingValue) -> float:
    if isinstance(domain, ChoiceDomain):
        return domain.values.index(value) / max(len(domain.values) - 1, 1)
    low, high = _scaled(domain, domain.low), _scaled(domain, domain.high)
    return (_scaled(domain, as_number(value)) - low) / (high - low) if high > low else 0.5


def _value_at(domain: DrawnDomain, unit: float) -> SettingValue:
    if isinstance(domain, ChoiceDomain):
        return domain.values[round(unit * (len(domain.values) - 1))]
    low, high = _scaled(domain, domain.low), _scaled(domain, domain.high)
    scaled = low + unit * (high - low)
    value = min(max(math.exp(scaled) if domain.log else scaled, domain.low), domain.high)
    if domain.step is None:
        return float(value)
    if isinstance(domain, FloatDomain):
        return domain.nth(round((value - domain.low) / domain.step))
    return domain.nth(min(round((value - domain.low) / domain.step), domain.num_values - 1))


def _scaled(domain: DrawnDomain, value: float) -> float:
    assert not isinstance(domain, ChoiceDomain)
    return math.log(value) if domain.log else float(value)
