"""Domains of a search space: the value types that a setting can be sampled from.

Bounds are inclusive at both ends, as in Optuna. Ray Tune's integer ranges exclude the upper end, and their conversion
drops the step of a log range with only a log message; therefore these types are passed to Optuna directly, and
domains that Optuna would change are rejected when a study is loaded.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from rayvldd.config.base import Settings
from rayvldd.printable import value_as_text

Plain = bool | int | float | str
SettingValue = Plain | tuple[Plain, ...] | None
"""A value of a searched setting; the lists of study files are tuples here, which can be compared and hashed."""


def point_as_text(point: Mapping[str, SettingValue]) -> str:
    """Format searched settings briefly: the last part of each key, floats with three digits."""
    return ", ".join(f"{key.rpartition('.')[2]}={_short(value)}" for key, value in point.items())


def _short(value: SettingValue) -> str:
    return f"{value:.3g}" if isinstance(value, float) else value_as_text(value)


class _Domain(Settings):
    when: dict[str, tuple[SettingValue, ...]] = Field(default_factory=dict)
    """Conditions: the setting is searched only if each of these settings, by dotted key, has the given value or one of
    the listed values; otherwise it keeps its constant. Default: always searched."""

    @field_validator("when", mode="before", json_schema_input_type=dict[str, SettingValue | tuple[SettingValue, ...]])
    @classmethod
    def _listed(cls, when: object) -> object:
        """Accept a single value in place of a list; a single list is written as a list of one list."""
        if not isinstance(when, dict):
            return when
        return {key: value if isinstance(value, list | tuple) else (value,) for key, value in when.items()}

    def place_of(self, value: SettingValue) -> SettingValue:
        """What identifies a value among those of the domain."""
        return value


class FloatDomain(_Domain):
    """Real numbers from ``low`` to ``high``, both included."""

    type: Literal["float"]
    low: float
    """Smallest value, included."""
    high: float
    """Largest value, included."""
    log: bool = False
    """Sample uniformly in the logarithm: for values that span several orders of magnitude."""
    step: float | None = Field(default=None, gt=0)
    """Grid spacing from ``low``; not together with ``log``, which Optuna would drop."""

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        _check_bounds(self.low, self.high, self.log, self.step is not None)
        if self.step is not None:
            steps = (self.high - self.low) / self.step
            if not _is_whole(steps):
                raise ValueError(f"high must be low plus a whole number of steps, got {steps:g} steps")
        return self

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return self.step is None or _is_whole((value - self.low) / self.step)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (f" in steps of {self.step:g}" if self.step else "")

    def corners(self) -> list[SettingValue]:
        """Values that are validated to check the whole domain: its ends, or all values of a choice."""
        return [self.low] if self.low == self.high else [self.low, self.high]

    @property
    def num_values(self) -> int | None:
        """Number of values; None if there are infinitely many."""
        if self.low == self.high:
            return 1
        return None if self.step is None else 1 + round((self.high - self.low) / self.step)

    def nth(self, index: int) -> SettingValue:
        """A value of a finite domain, by its place."""
        # The last sum may round to slightly above high, which neither this domain nor Optuna's contains.
        return min(self.low + index * (self.step or 0.0), self.high)

    def place_of(self, value: SettingValue) -> SettingValue:
        """What identifies a value: on a grid its place, since computed values differ in the last digit."""
        return value if self.step is None else round((as_number(value) - self.low) / self.step)


class IntDomain(_Domain):
    """Whole numbers from ``low`` to ``high``, both included."""

    type: Literal["int"]
    low: int
    """Smallest value, included."""
    high: int
    """Largest value, included."""
    log: bool = False
    """Sample uniformly in the logarithm."""
    step: int = Field(default=1, ge=1)
    """Grid spacing from ``low``; not together with ``log``, which Optuna rejects."""

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        _check_bounds(self.low, self.high, self.log, self.step != 1)
        if (self.high - self.low) % self.step:
            raise ValueError(f"high must be low plus a multiple of step, got ({self.low}, {self.high}, {self.step})")
        return self

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        return self.low <= value <= self.high and (value - self.low) % self.step == 0

    def __str__(self) -> str:
        return f"{self.low} to {self.high}" + (f" in steps of {self.step}" if self.step > 1 else "")

    def corners(self) -> list[SettingValue]:
        """Values that are validated to check the whole domain: its ends, or all values of a choice."""
        return [self.low] if self.low == self.high else [self.low, self.high]

    def all_values(self) -> list[SettingValue]:
        """Every value of the domain, in order."""
        return list(range(self.low, self.high + 1, self.step))

    @property
    def num_values(self) -> int:
        """Number of values."""
        return 1 + (self.high - self.low) // self.step

    def nth(self, index: int) -> SettingValue:
        """A value of the domain, by its place."""
        return self.low + index * self.step


class ChoiceDomain(_Domain):
    """One of the listed values, without an order."""

    type: Literal["choice"]
    values: tuple[SettingValue, ...] = Field(min_length=1)
    """The values to choose from, each at most once."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        """Optuna identifies values by equality, and 1, 1.0 and True are equal."""
        if len(set(self.values)) != len(self.values):
            raise ValueError(f"values must be distinct, and 1, 1.0 and true are equal, got [{self}]")
        return self

    def __contains__(self, value: object) -> bool:
        return is_among(value, self.values)

    def __str__(self) -> str:
        return ", ".join(map(value_as_text, self.values))

    def corners(self) -> list[SettingValue]:
        """Values that are validated to check the whole domain: its ends, or all values of a choice."""
        return list(self.values)

    def all_values(self) -> list[SettingValue]:
        """Every value of the domain, in order."""
        return list(self.values)

    @property
    def num_values(self) -> int:
        """Number of values."""
        return len(self.values)

    def nth(self, index: int) -> SettingValue:
        """A value of the domain, by its place."""
        return self.values[index]


class FixedDomain(_Domain):
    """One value, for a setting that depends on another choice, e.g. a loss that needs a learned similarity."""

    type: Literal["fixed"]
    value: SettingValue
    """Value of the setting if the domain's conditions are fulfilled."""

    def __contains__(self, value: object) -> bool:
        return is_among(value, (self.value,))

    def __str__(self) -> str:
        return value_as_text(self.value)

    def corners(self) -> list[SettingValue]:
        """Values that are validated to check the whole domain: its ends, or all values of a choice."""
        return [self.value]

    def all_values(self) -> list[SettingValue]:
        """Every value of the domain."""
        return [self.value]

    @property
    def num_values(self) -> int:
        """Number of values."""
        return 1

    def nth(self, index: int) -> SettingValue:
        """The value."""
        return self.value


DrawnDomain = FloatDomain | IntDomain | ChoiceDomain
"""The domains that a sampler samples from."""

Domain = Annotated[DrawnDomain | FixedDomain, Field(discriminator="type")]


def is_among(value: object, allowed: tuple[SettingValue, ...]) -> bool:
    """Whether a value is one of the allowed values; true is not equal to 1, and a list equals a tuple."""
    value = tuple(value) if isinstance(value, list) else value
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed)


def as_number(value: object) -> int | float:
    """The value of a numeric setting; true and false, texts and lists are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value_as_text(value)} is no number")
    return value


def _is_whole(number: float) -> bool:
    return math.isclose(number, round(number), abs_tol=1e-9)


def _check_bounds(low: float, high: float, log: bool, stepped: bool) -> None:
    if low > high:
        raise ValueError(f"low <= high must hold, got (low={low}, high={high})")
    if log and low <= 0:
        raise ValueError(f"a log range must start above 0, got low={low}")
    if log and stepped:
        raise ValueError("log and step cannot be combined: leave out one of them")
