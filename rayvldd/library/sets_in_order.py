"""Distilled sets that students are trained on one after another: which ones can be, and the name of their row.

Source: the phases of PTM-ST (arXiv 2603.25388), whose released evaluation trains on later sets at a tenth of the rate;
``evaluation/students.py`` has the deviations.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rayvldd.errors import Fault
from rayvldd.records.json_values import JsonValue
from rayvldd.records.set_scores import name_in_order, whole_place

if TYPE_CHECKING:
    from rayvldd.config.study import Study
    from rayvldd.distillation.distilled_set import DistilledSet

_COMMON = ("data", "model", "evaluation")
"""Sections of the settings that sets in order have in common; the other settings of students are the first set's."""
_MOST_KEYS = 5
"""Differing settings that an error lists of each set."""


@dataclass(frozen=True)
class InOrder:
    """Students are trained on all sets, in the order in which these are given."""

    later_rate: float = 1.0
    """Factor on the learning rates of all sets but the first."""

    def name(self, places: Sequence[str]) -> str:
        """Name of the row of the sets in these places."""
        return name_in_order(places, self.later_rate)

    def faults(self, sets: "Mapping[str, DistilledSet]", studies: "Mapping[str, Study]") -> list[Fault]:
        """The faults of sets that no student can be trained on one after another.

        Args:
            sets: The sets by their places.
            studies: Their settings, without those of unreadable cards; at least one.
        """
        found: list[Fault] = []
        first, *others = studies
        for place in others:
            found += _differing_settings(place, studies[place], first, studies[first])
            if (form := _trained_by(sets[place])) != (of_first := _trained_by(sets[first])):
                problem = f"students train with {form}, those on {first} with {of_first}"
                allowed = "one loss and one form of similarity; each set keeps its own values of a learned one"
                found.append(Fault(place, problem, allowed))
        return found


def read_order(
    places: Sequence[str], in_order: bool, later_rate: float, of_single_sets: Mapping[str, bool]
) -> tuple[InOrder | None, list[Fault]]:
    """Check the options of sets in order, named as on the command line; None if sets are evaluated one by one.

    Args:
        places: The sets as the user gives them.
        in_order: Whether students are trained on all of them in order.
        later_rate: Factor on the learning rates of all sets but the first.
        of_single_sets: Whether options are given that measure the pairs of a single set, by name.
    """
    faults = []
    if not in_order:
        if later_rate != 1:
            faults.append(Fault("--later-rate", "given without --in-order", "both together"))
        return None, faults
    if len(places) < 2:
        faults.append(Fault("--in-order", "one set", "two or more sets, in the order of training"))
    whole = [whole_place(place) for place in places]
    twice = dict.fromkeys(place for place, one in zip(places, whole, strict=True) if whole.count(one) > 1)
    if twice:
        faults.append(Fault("--in-order", f"{' and '.join(twice)} given more than once", "each set once"))
    if not 0 < later_rate < math.inf:
        faults.append(Fault("--later-rate", f"got {later_rate:g}", "a number above 0, such as 0.1"))
    for option, is_given in of_single_sets.items():
        if is_given:
            faults.append(Fault(f"--{option}", "given together with --in-order", "sets one by one, without --in-order"))
    return InOrder(later_rate), faults


def _differing_settings(place: str, study: "Study", first: str, of_first: "Study") -> Iterator[Fault]:
    """The settings of students that differ from those of the first set."""
    values, expected = (one.model_dump(mode="json", include=set(_COMMON)) for one in (study, of_first))
    differing = list(_differing(values, expected))
    for key, problem in differing[:_MOST_KEYS]:
        allowed = f"the {', '.join(_COMMON)} settings of one study for all sets, or --set {key}=VALUE"
        yield Fault(f"{place}/card.json: {key}", f"{problem} in {first}", allowed)
    if len(differing) > _MOST_KEYS:
        problem = f"{len(differing) - _MOST_KEYS} more settings differ from those of {first}"
        yield Fault(f"{place}/card.json", problem, "the same settings")


def _differing(values: JsonValue, expected: JsonValue, key: str = "") -> Iterator[tuple[str, str]]:
    """Key and words of every value that is not the expected one."""
    if isinstance(values, dict) and isinstance(expected, dict):
        for name in dict.fromkeys([*values, *expected]):
            yield from _differing(values.get(name), expected.get(name), f"{key}.{name}".removeprefix("."))
    elif values != expected:
        yield key, f"is {values!r}, but {expected!r}"


def _trained_by(distilled: "DistilledSet") -> str:
    """Loss and form of similarity of students on a set, in words."""
    known = set(distilled.similarity.values)
    form = "the identity" if not known else "a full similarity" if "matrix" in known else "a low-rank similarity"
    return f"{distilled.student_loss} and {form}"
