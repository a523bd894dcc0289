"""Descriptors of a study: how far two studies are apart, before any of their results are compared."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from pydantic import JsonValue

from rayvldd.config.domains import as_number
from rayvldd.config.setting import flat_settings
from rayvldd.config.study import METHOD, Study
from rayvldd.hyperparameter_search.space_coordinates import SpaceCoordinates

_OTHER = {"method": 1.0, "protocol": 0.7, "image_encoder": 0.3, "text_encoder": 0.3, "data": 0.3}
"""Distance of studies that differ in this. Chosen by judgement, like all numbers here: what counts after the first
trials is the agreement of their results."""
_OTHER_OPTIMISER = 0.7
"""The same for the outer optimiser of one method, on whose choice the scale of good rates depends."""
_TENFOLD_PAIRS, _DOUBLED_IMAGES = 0.5, 0.25


@dataclass(frozen=True)
class Descriptors:
    """Properties on which it depends whether the good points of one study are those of another."""

    num_pairs: float
    image_size: float
    method: str
    outer_optimiser: str
    protocol: str
    image_encoder: str
    text_encoder: str
    data: str

    @classmethod
    def of(cls, settings: Mapping[str, JsonValue]) -> Self:
        """From settings by dotted key."""

        def words(*keys: str) -> str:
            return " ".join(str(settings.get(key)) for key in keys)

        def number(key: str) -> float:
            value = settings.get(key)
            return float(as_number(value)) if isinstance(value, int | float) and value > 0 else math.nan

        return cls(
            num_pairs=number("distillation.num_pairs"),
            image_size=number("data.image_size"),
            method=words(METHOD),
            outer_optimiser=words("distillation.outer_optimiser"),
            protocol=words("model.protocol"),
            image_encoder=words("model.image_encoder.name"),
            text_encoder=words("model.text_encoder.pooling", "model.text_encoder.name"),
            data=words("data.source", "data.root", "data.name"),
        )

    @classmethod
    def of_study(cls, study: Study) -> Self:
        """Of a study, in the middle of its space."""
        coordinates = SpaceCoordinates(study.space)
        middle = coordinates.point_of(np.full(len(coordinates.domains), 0.5))
        return cls.of(flat_settings(study.at(middle).model_dump(mode="json")))

    def distance(self, other: "Descriptors") -> float:
        """0 for studies that agree in everything here."""
        differing = sum(by for name, by in _OTHER.items() if getattr(self, name) != getattr(other, name))
        if self.method == other.method and self.outer_optimiser != other.outer_optimiser:
            differing += _OTHER_OPTIMISER
        pairs = _TENFOLD_PAIRS * _ratio(self.num_pairs, other.num_pairs) / math.log(10)
        return differing + pairs + _DOUBLED_IMAGES * _ratio(self.image_size, other.image_size) / math.log(2)


def _ratio(one: float, other: float) -> float:
    """Logarithm of the ratio of the larger to the smaller; 0 if one is unknown."""
    distance = abs(math.log(one / other))
    return 0.0 if math.isnan(distance) else distance
