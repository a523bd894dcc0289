"""The outer loop: move a synthetic set so that students trained on it follow the experts.

Source: Wu et al., algorithm 1 and the released ``distill.py``. Deviations: the gradient is exact at any number of
steps (see ``inner_loop``); learned step sizes are multiplied, not added to, so that they stay positive; a loss that
is not finite raises instead of ending the run quietly; every random draw comes from the seed and is part of a
checkpoint.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

import rayvldd
from rayvldd.coresets.selection import choose_coreset
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.distillation.inner_loop import StudentInputs, Walk, matching_gradient
from rayvldd.distillation.matching import MatchingLoss
from rayvldd.errors import DivergedError
from rayvldd.experts.trajectory import Segment, Trajectory
from rayvldd.models.parameters import Parameters
from rayvldd.models.problem import Problem
from rayvldd.models.tensor_files import save_tensors


@dataclass(frozen=True)
class StepReport:
    """What one outer step saw."""

    outer_step: int
    matching_loss: float
    matching_loss_image: float
    matching_loss_text: float
    lr_student_image: float
    lr_student_text: float

    def as_dict(self) -> dict[str, float]:
        """The numbers by name, without the step."""
        values = asdict(self)
        del values["outer_step"]
        return values


class Distiller:
    """A synthetic set on its way, with everything needed to go on from here."""

    def __init__(self, problem: Problem, trajectories: Sequence[Trajectory], seed: int) -> None:
        """Start from random real pairs or noise, as the settings say; ``seed`` decides every draw."""
        self.problem, self.trajectories, self.seed = problem, trajectories, seed
        self.settings = problem.study.distillation
        self.outer_step = 0
        self._generator = np.random.default_rng([problem.study.seed, 4, seed])
        self._start(choose_coreset(problem, "random", self.settings.num_pairs, int(self._generator.integers(2**31))))
        self._images, self._texts = self._start_images.clone(), self._start_texts.clone()
        self._lr_image = torch.tensor(self.settings.lr_student_image, device=problem.device)
        self._lr_text = torch.tensor(self.settings.lr_student_text, device=problem.device)
        self._velocity = [torch.zeros_like(value) for value in self._moved()]

    def _start(self, coreset: Any) -> None:
        """Set what the synthetic set starts from."""
        pairs = coreset.pairs(self.problem)
        self._start_images, self._start_texts = pairs.images, pairs.texts
        self._start_captions = coreset.captions(self.problem)
        noise = torch.Generator().manual_seed(int(self._generator.integers(2**31)))
        if self.settings.start_images == "noise":
            self._start_images = torch.randn(pairs.images.shape, generator=noise).to(pairs.images)
        if self.settings.start_texts == "noise":  # at the scale of the real embeddings, which differs between encoders
            drawn = torch.randn(pairs.texts.shape, generator=noise).to(pairs.texts)
            self._start_texts = drawn * pairs.texts.std() + pairs.texts.mean()
            self._start_captions = [""] * len(drawn)

    def _moved(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self._images, self._texts, self._lr_image, self._lr_text

    def step(self) -> StepReport:
        """Take one outer step.

        Raises:
            DivergedError: when the matching loss or its gradient is not finite.
        """
        segment, walk = self._draw_segment(), self._draw_walk()
        loss, gradient = self._gradient(segment, walk)
        finite = all(bool(part.isfinite().all()) for part in gradient) and math.isfinite(float(loss.total))
        if not finite:
            raise DivergedError(
                f"distillation diverged at outer step {self.outer_step + 1}: matching loss {float(loss.total):.4g} "
                f"with lr_image={self.settings.lr_image}, lr_text={self.settings.lr_text}, "
                f"lr_lr={self.settings.lr_lr}, syn_steps={self.settings.syn_steps}",
                next_command="the same command with smaller --set distillation.lr_image=… or distillation.lr_text=…",
            )
        self._descend(gradient)
        self.outer_step += 1
        return StepReport(
            self.outer_step,
            float(loss.total),
            float(loss.image),
            float(loss.text),
            float(self._lr_image),
            float(self._lr_text),
        )

    def _draw_segment(self) -> Segment:
        settings = self.settings
        trajectory = self.trajectories[int(self._generator.integers(len(self.trajectories)))]
        start = int(self._generator.integers(settings.min_start_epoch, settings.max_start_epoch))
        segment = trajectory.segment(start, start + settings.expert_epochs)
        device = self.problem.device
        return Segment(
            Parameters(*(side.to(device) for side in segment.start)),
            Parameters(*(side.to(device) for side in segment.target)),
        )

    def _draw_walk(self) -> Walk:
        """Pairs of each step by epoch permutation: every pair is used once before any is used again."""
        settings, batches = self.settings, list[Tensor]()
        batch_size = settings.batch_size or settings.num_pairs
        per_epoch = settings.num_pairs // batch_size
        while len(batches) < settings.syn_steps:
            order = torch.from_numpy(self._generator.permutation(settings.num_pairs)).to(self.problem.device)
            batches += order[: per_epoch * batch_size].split(batch_size)
        seeds = [int(seed) for seed in self._generator.integers(2**31, size=settings.syn_steps)]
        return Walk(batches[: settings.syn_steps], seeds)

    def _gradient(self, segment: Segment, walk: Walk) -> tuple[MatchingLoss, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """The gradient by pixels, embeddings and step sizes.

        The frozen stem runs once forward and once back, however many steps the student takes: its features of the
        synthetic set are the same in all of them.
        """
        model = self.problem.model
        images = self._images.detach().requires_grad_()
        stem_output = model.stem(images)
        inputs = StudentInputs(stem_output.detach(), self._texts, self._lr_image, self._lr_text)
        loss, by_inputs = matching_gradient(model, segment, inputs, walk)
        by_images = by_inputs.stem_output
        if model.stem_is_frozen_encoder:
            (by_images,) = torch.autograd.grad(stem_output, images, by_inputs.stem_output)
        return loss, (by_images, by_inputs.texts, by_inputs.lr_image, by_inputs.lr_text)

    def _descend(self, gradient: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        """SGD with momentum, as ``torch.optim.SGD`` counts it, on pixels and embeddings.

        A step size a moves by a * exp(-lr_lr v / a): to first order the published a - lr_lr v, so that published
        rates keep their meaning, and positive whatever v is. One step at most halves or doubles it.
        """
        settings = self.settings
        for velocity, part in zip(self._velocity, gradient, strict=True):
            velocity.mul_(settings.momentum).add_(part)
        self._images -= settings.lr_image * self._velocity[0]
        self._texts -= settings.lr_text * self._velocity[1]
        for step_size, velocity in ((self._lr_image, self._velocity[2]), (self._lr_text, self._velocity[3])):
            step_size *= (-settings.lr_lr * velocity / step_size).clamp(-math.log(2), math.log(2)).exp()

    def distilled_set(self, metrics: dict[str, float] | None = None) -> DistilledSet:
        """The set as it is now, with its card."""
        problem, model = self.problem, self.problem.model
        card = {
            "study": problem.study.model_dump(mode="json"),
            "fingerprints": problem.fingerprints,
            "normalisation": {name: getattr(model, name).flatten().tolist() for name in ("mean", "std")},
            "matched_parameters": {"image": model.image_layout.size, "text": model.text_layout.size},
            "seed": self.seed,
            "outer_step": self.outer_step,
            "metrics": metrics or {},
            "rayvldd_version": rayvldd.__version__,
        }
        return DistilledSet(
            images=model.denormalise(self._images).cpu(),
            texts=self._texts.cpu().clone(),
            start_images=model.denormalise(self._start_images).cpu(),
            start_texts=self._start_texts.cpu(),
            start_captions=self._start_captions,
            lr_student_image=float(self._lr_image),
            lr_student_text=float(self._lr_text),
            card=card,
        )

    def save(self, path: Path) -> None:
        """Write everything that decides the next steps, whole or not at all."""
        tensors = dict(zip(_MOVED, self._moved(), strict=True))
        tensors |= {f"velocity.{name}": value for name, value in zip(_MOVED, self._velocity, strict=True)}
        state = {"outer_step": self.outer_step, "generator": self._generator.bit_generator.state}
        save_tensors(path, tensors, {"state": json.dumps(state)})

    def restore(self, path: Path) -> None:
        """Continue from a saved state of the same settings and seed, bit for bit."""
        with safe_open(path, framework="pt") as file:
            for name, value, velocity in zip(_MOVED, self._moved(), self._velocity, strict=True):
                value.copy_(file.get_tensor(name))
                velocity.copy_(file.get_tensor(f"velocity.{name}"))
            state = json.loads(file.metadata()["state"])
        self.outer_step = state["outer_step"]
        self._generator.bit_generator.state = state["generator"]


_MOVED = ("images", "texts", "lr_image", "lr_text")
