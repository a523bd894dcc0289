"""The recorded responses of ``record_responses.py``: what distillations reached, at points spread over a space.

A point answers as its nearest recorded neighbour does, every setting on a scale from 0 to 1 between the ends of its
domain (logarithmic where the domain is), and within one search each run answers once (:class:`Answers`). So whatever is
replayed meets only recalls that some real run reached, and no proposal gets better than the best of them.

The shipped tables are compressed (``xz -9e TABLE``); those that are still recorded are not, so that lines can be added.
"""

import json
import lzma
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from rayvldd.config.domains import ChoiceDomain, Domain, FixedDomain, SettingValue, as_number
from rayvldd.config.study import Study

DEFAULT_TABLE = Path(__file__).with_name("flickr8k_responses.jsonl.xz")
DEFAULT_SEARCHES = Path(__file__).with_name("flickr8k_searches.jsonl.xz")


@dataclass(frozen=True)
class Response:
    """One recorded run."""

    point: dict[str, SettingValue]
    failed: str
    """Why it was given up; empty where it reached its last step."""
    outer_steps: tuple[int, ...]
    seconds: tuple[float, ...]
    """From the start until each evaluation."""
    val_mean_recalls: tuple[float, ...]
    seconds_evaluating: float
    """Those of all its evaluations."""
    seconds_in_all: float
    compared: tuple[dict[str, float], ...]
    """Recalls of one set by cheaper evaluations and by the full one, each with its seconds."""
    stopped: bool = False
    """Whether the scheduler ended it, so that nobody knows what would have come."""

    def has(self, number: int) -> bool:
        """Whether it comes to an evaluation of this number.

        Raises:
            SystemExit: where it was not let go on so far when it was recorded.
        """
        if number >= len(self.seconds) and self.stopped:
            sys.exit(
                "the scheduler lets a recorded trial go on that it stopped when it was recorded\n"
                "Next: record_searches.py with another --out, or the same command with --spread-only"
            )
        return number < len(self.seconds)

    @property
    def best(self) -> float:
        """The highest recall of the run, what a search maximises; 0 where it failed before it was evaluated."""
        return max(self.val_mean_recalls, default=0.0)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """A line of the table."""
        evaluations = row["evaluations"]
        return cls(
            row["point"],
            row["failed"],
            outer_steps=tuple(each["outer_step"] for each in evaluations),
            seconds=tuple(each["seconds"] for each in evaluations),
            val_mean_recalls=tuple(each["val_mean_recall"] for each in evaluations),
            seconds_evaluating=sum(each["seconds_evaluating"] for each in evaluations[-1:]),
            seconds_in_all=row["seconds"],
            compared=tuple(
                {"own": _recall_at(evaluations, each["outer_step"]), **each} for each in row.get("compared", ())
            ),
            stopped=row.get("stopped", False),
        )


def _lines(table: Path) -> list[str]:
    content = table.read_bytes()
    return (lzma.decompress(content) if table.suffix == ".xz" else content).decode("utf-8").splitlines()


def _recall_at(evaluations: list[dict[str, float]], outer_step: int) -> float:
    return next(each["val_mean_recall"] for each in evaluations if each["outer_step"] == outer_step)


@dataclass(frozen=True)
class Table:
    """All recorded runs, and the study they belong to."""

    head: dict[str, Any]
    responses: list[Response]
    """At points that are spread over the space."""
    searched_s: float = math.inf
    """Trial-seconds after which recorded searches end."""
    searches: dict[int, list[Response]] = field(default_factory=dict)
    """The trials of recorded searches, in their order, by the seed of the search."""

    @classmethod
    def load(cls, file: Path, searches: Path | None = None) -> Self:
        """Read the file of ``record_responses.py`` and, where it is named, that of ``record_searches.py``."""
        head, *rows = _lines(file)
        table = cls(json.loads(head), [Response.of(json.loads(row)) for row in rows])
        if searches is None:
            return table
        ended, *trials = map(json.loads, _lines(searches))
        by_seed: dict[int, list[Response]] = {}
        for trial in trials:
            by_seed.setdefault(trial["seed"], []).append(Response.of(trial))
        return replace(table, searched_s=ended["until"], searches=by_seed)

    @cached_property
    def study(self) -> Study:
        """The study; where its files lay is not recorded."""
        values = json.loads(json.dumps(self.head["study"]))
        values["name"] = "recorded"
        if values["data"]["source"] != "toy_scenes":
            values["data"]["root"] = "recorded"
        if values["model"]["text_encoder"]["pooling"] != "hashed_ngrams":
            values["model"]["text_encoder"]["name"] = "recorded"
        return Study.model_validate(values)

    def error_of_neighbours(self) -> tuple[list[float], list[float]]:
        """The best recall of each run, and what its nearest neighbour would have answered in its place."""
        own, neighbours = [], []
        for number, response in enumerate(self.responses):
            distances = self.distances(response.point)
            distances[number] = math.inf
            own.append(response.best)
            neighbours.append(self.responses[int(np.argmin(distances))].best)
        return own, neighbours

    def distances(self, point: Mapping[str, SettingValue]) -> np.ndarray:
        """Of all recorded points from this one."""
        squares: np.ndarray = np.square(self._places - _place(point, self.study.search.space)).sum(1)
        return squares

    @cached_property
    def _places(self) -> np.ndarray:
        return np.array([_place(response.point, self.study.search.space) for response in self.responses])


class Answers:
    """The table as one search meets it: a point answers as the nearest run does that has not answered before.

    A trial beside the best one would in truth be another distillation, with a recall of its own. Were the nearest run
    to answer again and again, whoever looks more closely where recall is high would find nothing there, ever. Once all
    have answered, all may again.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._left = set(range(len(table.responses)))

    def nearest(self, point: Mapping[str, SettingValue]) -> Response:
        """What is answered at a point."""
        distances = self._table.distances(point)
        number = min(self._left, key=lambda left: (distances[left], left))
        self._left.remove(number)
        if not self._left:
            self._left = set(range(len(self._table.responses)))
        return self._table.responses[number]


class SearchAnswers:
    """What answers a search of ours: where it was recorded, its own trials, and else the nearest runs of the table."""

    def __init__(self, table: Table, seed: int) -> None:
        self._spread = Answers(table)
        self._recorded = list(table.searches.get(seed, ()))
        self.own = self.others = 0
        """Points answered by a run at that very point, and by another one."""

    def nearest(self, point: Mapping[str, SettingValue]) -> Response:
        """What is answered at a point."""
        found = next((number for number, known in enumerate(self._recorded) if known.point == point), None)
        if found is None:
            self.others += 1
            return self._spread.nearest(point)
        self.own += 1
        return self._recorded.pop(found)


def _place(point: Mapping[str, SettingValue], space: Mapping[str, Domain]) -> np.ndarray:
    """Coordinates from 0 to 1; of a choice one for each of its values.

    A setting that a point does not have, since its condition is not met, is in the middle of its domain.
    """
    coordinates: list[float] = []
    for key, domain in space.items():
        if isinstance(domain, ChoiceDomain):
            coordinates += [float(key in point and value == point[key]) for value in domain.values]
            continue
        if isinstance(domain, FixedDomain):
            continue  # the same wherever a point has it
        if key not in point:
            coordinates.append(0.5)
            continue
        ends = domain.low, domain.high, float(as_number(point[key]))
        scaled = [math.log(value) if domain.log else value for value in ends]
        low, high, value = scaled
        coordinates.append((value - low) / (high - low) if high > low else 0.0)
    return np.array(coordinates)
