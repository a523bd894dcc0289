"""Synthetic set during optimisation: pairs, similarity, step sizes, and their update.

Source: Wu et al., algorithm 1 and the released ``distill.py``. Deviation: updates of the learned step sizes are
multiplicative, so that they stay positive.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rayvldd.config.distillation import DistillationSettings
from rayvldd.config.methods.inner_loop import InnerLoopSettings
from rayvldd.distillation.ema import MovingAverage
from rayvldd.distillation.initialisation import initial_set
from rayvldd.distillation.outer_optimisers import OUTER_OPTIMISERS
from rayvldd.distillation.pyramid import Pyramid
from rayvldd.distillation.rate_factors import SCALED_RATES, STEP_SIZES
from rayvldd.distillation.similarity import SimilarityParameters, build_similarity, pairs_within_budget
from rayvldd.models.retrieval_task import RetrievalTask

Tensors = dict[str, Float[Tensor, "..."]]

SIMILARITY = "similarity."
"""Prefix of the names of the similarity's values."""

STEP_SIZE_RANGE = 100.0
"""Largest factor between a learned step size and its initial value. Beyond it, the student diverges, or does not move
and the matching loss stays at 2."""

PAIRS = ("images", "texts")
"""Names of the values with one row for each pair."""

SQUARED_DRIFT = "squared_drift"
_REPORTED_AS = {"lr_image": "lr_student_image", "lr_text": "lr_student_text"}
"""Names of the step sizes in reports."""


class SyntheticSet:
    """Values optimised by a method: ``images``, ``texts``, the similarity, and the step sizes."""

    def __init__(
        self, task: RetrievalTask, settings: DistillationSettings, generator: np.random.Generator, seed: int
    ) -> None:
        """Initialise the set.

        Args:
            task: Task with the real pairs.
            settings: Distillation settings.
            generator: Random stream of the run, which draws the initial pairs and noise.
            seed: Seed of the initial low-rank similarity.

        Raises:
            ConfigError: when a learned similarity leaves no pairs, or there are fewer training images than pairs.
        """
        self.settings = settings
        numbers = 3 * task.image_size**2 + task.train.caption_embeddings.shape[1]
        self.num_pairs = pairs_within_budget(settings, numbers)
        self.initial = initial_set(task, settings, self.num_pairs, generator)
        self._similarity = build_similarity(settings, self.num_pairs, torch.Generator().manual_seed(seed))
        self.values: Tensors = {"images": self.initial.images.clone(), "texts": self.initial.texts.clone()}
        for name, value in self._similarity.values.items():
            self.values[SIMILARITY + name] = value.to(task.device)
        self._pyramid = Pyramid(self.initial.images) if settings.image_parametrisation == "pyramid" else None
        sizes = self.initial.step_sizes or (settings.lr_student_image, settings.lr_student_text)
        self._initial_step_sizes = dict(zip(("lr_image", "lr_text"), sizes, strict=True))
        self.step_sizes: Tensors = {
            name: torch.tensor(size, device=task.device) for name, size in self._initial_step_sizes.items()
        }
        self._size_velocities = {name: torch.zeros_like(value) for name, value in self.step_sizes.items()}
        self._optimiser = OUTER_OPTIMISERS[settings.outer_optimiser](settings.momentum)
        self.rate_factors: dict[str, float] = {}
        """Factors on the rates under ``scaled_sgd``, see :mod:`rayvldd.distillation.rate_factors`; empty until they
        are measured."""
        self._average = MovingAverage(settings.ema_decay)

    @property
    def images(self) -> Float[Tensor, "pair 3 height width"]:
        """Pixels on the encoder's normalised scale."""
        return self.values["images"]

    @property
    def texts(self) -> Float[Tensor, "pair text_dim"]:
        """Caption embeddings."""
        return self.values["texts"]

    def similarity_leaves(self) -> SimilarityParameters:
        """Return the similarity with its values as leaves of a new graph."""
        learned = {name: self.values[SIMILARITY + name].detach().requires_grad_() for name in self._similarity.values}
        return self._similarity.with_values(learned)

    def averaged(self) -> Tensors:
        """Return values and step sizes for evaluation and saving: the moving average if enabled."""
        values, fixed = {**self.values, **self.step_sizes, **self._average.values}, self.settings.fixed_pairs
        if fixed and self._average.values:
            for name in PAIRS:  # an average of equal values may differ from them in the last bit
                values[name] = torch.cat([self.values[name][:fixed], values[name][fixed:]])
        return values

    def similarity_of(self, values: Tensors) -> SimilarityParameters:
        """Return the similarity in values from :meth:`averaged`, on the CPU."""
        learned = {name: values[SIMILARITY + name].cpu().clone() for name in self._similarity.values}
        return self._similarity.with_values(learned)

    def descend(self, gradients: Tensors, scale: float, lr_step_sizes: float | None) -> None:
        """Update the values with the outer optimiser, and the step sizes multiplicatively with momentum.

        A step size a becomes a * exp(-rate v / a). To first order this is the published a - rate v, so published rates
        apply; it is positive for every v. One step at most halves or doubles it, and it stays within the method's
        ``step_size_range`` if that is set.

        Args:
            gradients: Gradients by name; values and step sizes without a gradient do not change.
            scale: Factor on all rates.
            lr_step_sizes: Learning rate of the step sizes, if they have a gradient.
        """
        settings, section = self.settings, self.settings.section()
        factor = section.step_size_range if isinstance(section, InnerLoopSettings) else None
        rates = {name: rate * scale for name, rate in self.rates_of_pairs().items()}
        moved = {name: self._of_free_pairs(name, part) for name, part in gradients.items() if name in self.values}
        rates = {name: rates.get(name, settings.lr_sim * scale) for name in moved}
        if self._pyramid and "images" in moved:
            moved |= self._pyramid.gradients(moved.pop("images"))
            rates |= self._pyramid.rates(rates.pop("images"), by_size=self._optimiser.by_size)
        self._optimiser.step({**self.values, **self._levels}, moved, rates)
        if self._pyramid:
            self.values["images"] = self._pyramid.images()
        if lr_step_sizes is not None:
            lr_step_sizes *= self.rate_factors.get(STEP_SIZES, 1.0)
        for name, size in self.step_sizes.items():
            if lr_step_sizes is not None and name in gradients:
                velocity = self._size_velocities[name].mul_(settings.momentum).add_(gradients[name])
                size *= (-lr_step_sizes * scale * velocity / size).clamp(-math.log(2), math.log(2)).exp()
                if factor is not None:
                    start = self._initial_step_sizes[name]
                    size.clamp_(start / factor, start * factor)
        if settings.ema_decay:
            self._average.update({**self.values, **self.step_sizes})

    def rates_of_pairs(self) -> dict[str, float]:
        """Return the outer learning rates of images and texts, with the factors measured at the start."""
        stated = (("images", self.settings.lr_image), ("texts", self.settings.lr_text))
        return {name: rate * self.rate_factors.get(name, 1.0) for name, rate in stated}

    def scaled_rates(self, lr_step_sizes: float | None) -> dict[str, float]:
        """Return the rates of ``sgd`` that equal those of ``scaled_sgd``, for logs; none if no factor is measured.

        Args:
            lr_step_sizes: Learning rate of the step sizes, if they have a gradient.
        """
        rates = self.rates_of_pairs()
        if lr_step_sizes is not None:
            rates[STEP_SIZES] = lr_step_sizes * self.rate_factors.get(STEP_SIZES, 1.0)
        return {SCALED_RATES[name]: rates[name] for name in self.rate_factors}

    @property
    def _levels(self) -> Tensors:
        """Levels of the images by name; none for plain pixels."""
        return self._pyramid.levels if self._pyramid else {}

    def _of_free_pairs(self, name: str, gradient: Tensor) -> Tensor:
        """Return the gradient with 0 for the fixed pairs; where it was 0 at every step, no optimiser moves them."""
        fixed = self.settings.fixed_pairs
        if not fixed or name not in PAIRS:
            return gradient
        return torch.cat([torch.zeros_like(gradient[:fixed]), gradient[fixed:]])

    def measured(self) -> Tensors:
        """Return the squared drift and the learned step sizes, on the device.

        The drift is the growth of the root mean square relative to the initial set, the larger of images and texts.
        """
        sides = (("images", self.initial.images), ("texts", self.initial.texts))
        growth = [self.values[name].square().mean() / start.square().mean() for name, start in sides]
        sizes = {_REPORTED_AS[name]: size for name, size in self.step_sizes.items()}
        return {SQUARED_DRIFT: torch.stack(growth).amax(), **sizes}

    def fault(self, numbers: Mapping[str, float]) -> str | None:
        """Describe the first value outside its valid range; None if all are valid.

        Args:
            numbers: Those of :meth:`measured`.
        """
        drift, limit = numbers[SQUARED_DRIFT] ** 0.5, self.settings.max_drift
        if not drift <= limit:
            return f"images or texts have grown to {drift:.3g} times their start (max_drift {limit:g})"
        for name, start in self._initial_step_sizes.items():
            size = numbers[_REPORTED_AS[name]]
            if not 1 / STEP_SIZE_RANGE < size / start < STEP_SIZE_RANGE:
                return f"the learned step size {name} went from {start:g} to {size:.3g}"
        return None

    def state_dict(self) -> Tensors:
        """Return copies of all tensors that determine further steps, by part and name."""
        parts = {
            "value": self.values,
            "size": self.step_sizes,
            "size_velocity": self._size_velocities,
            "optimiser": self._optimiser.state,
            "average": self._average.state,
            "level": self._levels,
        }
        state = {f"{part}.{name}": value.clone() for part, values in parts.items() for name, value in values.items()}
        factors = {name: torch.tensor(factor, dtype=torch.float64) for name, factor in self.rate_factors.items()}
        return state | {f"rate_factor.{name}": factor for name, factor in factors.items()}

    def load_state_dict(self, state: Tensors) -> None:
        """Restore a state from :meth:`state_dict`."""
        names = ("value", "size", "size_velocity", "optimiser", "average", "level", "rate_factor")
        parts: dict[str, Tensors] = {part: {} for part in names}
        for name, value in state.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value.clone()
        self.values, self.step_sizes, self._size_velocities = parts["value"], parts["size"], parts["size_velocity"]
        self._optimiser.state, self._average.state = parts["optimiser"], parts["average"]
        self.rate_factors = {name: float(factor) for name, factor in parts["rate_factor"].items()}
        if self._pyramid:
            self._pyramid.levels = parts["level"]
