"""The outer loop: move a synthetic set so that students trained on it follow the experts.

Source: Wu et al., algorithm 1 and the released ``distill.py``. Deviations: the gradient is exact at any number of
steps (see ``inner_loop``); learned step sizes are multiplied, not added to, so that they stay positive; a run that
leaves its range goes back to its last good state with smaller rates, and raises after a few times instead of ending
quietly; every random draw comes from the seed and is part of a checkpoint.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

import rayvldd
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.distillation.ema import MovingAverage
from rayvldd.distillation.frozen_features import FrozenFeatures
from rayvldd.distillation.initialisation import initial_set
from rayvldd.distillation.matching import MatchingLoss
from rayvldd.distillation.outer_optimisers import OUTER_OPTIMISERS
from rayvldd.distillation.segments import draw_segment
from rayvldd.distillation.similarity import build_similarity, pairs_within_budget
from rayvldd.distillation.unroll.batches import InnerBatches, StudentInputs
from rayvldd.distillation.unroll.inner_loop import InnerLoop
from rayvldd.errors import DivergedError, StoreError
from rayvldd.experts.trajectory import Segment, Trajectory
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.randomness import Stream, generator_of
from rayvldd.storage.tensor_files import save_tensors

Tensors = dict[str, Float[Tensor, "..."]]

STEP_SIZE_RANGE = 100.0
"""A learned step size this many times above or below its start has left its range: the student flies off, or stands
still while the matching loss stays at 2."""


@dataclass(frozen=True)
class StepReport:
    """What one outer step saw."""

    outer_step: int
    matching_loss: float
    matching_loss_image: float
    matching_loss_text: float
    lr_student_image: float
    lr_student_text: float
    drift: float
    """Root mean square of images or texts, whichever grew more, relative to the start."""
    rollbacks: int
    """Times the run has gone back so far."""

    def as_dict(self) -> dict[str, float]:
        """The numbers by name, without the step."""
        values = asdict(self)
        del values["outer_step"]
        return values


class Distiller:
    """A synthetic set on its way, with everything needed to go on from here."""

    def __init__(self, task: RetrievalTask, trajectories: Sequence[Trajectory], seed: int) -> None:
        """Start as the settings say; ``seed`` decides every draw.

        Raises:
            ConfigError: when a learned similarity leaves no pairs.
        """
        self.task, self.trajectories, self.seed = task, trajectories, seed
        self.settings = settings = task.study.distillation
        self.outer_step = self.rollbacks = 0
        self._generator = generator_of(task.study.seed, Stream.DISTILLATION, seed)
        numbers = 3 * task.study.data.image_size**2 + task.train.captions.shape[1]
        self.num_pairs = pairs_within_budget(settings, numbers)
        self._start = initial_set(task, settings, self.num_pairs, self._generator)
        drawn = torch.Generator().manual_seed(seed)
        self._similarity = build_similarity(settings, self.num_pairs, drawn)
        self._values: Tensors = {"images": self._start.images.clone(), "texts": self._start.texts.clone()}
        for name, value in self._similarity.values.items():
            self._values[f"similarity.{name}"] = value.to(task.device)
        self._sizes: Tensors = {
            "lr_image": torch.tensor(settings.lr_student_image, device=task.device),
            "lr_text": torch.tensor(settings.lr_student_text, device=task.device),
        }
        self._size_velocities = {name: torch.zeros_like(value) for name, value in self._sizes.items()}
        self._optimiser = OUTER_OPTIMISERS[settings.outer_optimiser](settings.momentum)
        self._average = MovingAverage(settings.ema_decay)
        self._inner_loop = InnerLoop(task.model, settings)
        self._good = self._state()

    def step(self) -> StepReport:
        """Take one outer step; where the run has left its range, go back to the last good state first.

        The last good state is that of the last evaluation, or the start.

        Raises:
            DivergedError: when the run has left its range once more than ``max_rollbacks``.
        """
        while True:
            loss, gradient = self._gradient(self._draw_segment(), self._draw_walk())
            fault = self._fault(loss, gradient)
            if fault is None:
                self._descend(gradient)
                fault = self._drifted()
            if fault is None:
                break
            self._roll_back(fault)
        self.outer_step += 1
        if self.outer_step % self.settings.evaluate_every == 0:
            self._good = self._state()
        return StepReport(
            self.outer_step,
            float(loss.total),
            float(loss.image),
            float(loss.text),
            float(self._sizes["lr_image"]),
            float(self._sizes["lr_text"]),
            self._drift(),
            self.rollbacks,
        )

    def _draw_segment(self) -> Segment:
        segment = draw_segment(self.trajectories, self.settings, self.outer_step, self._generator)
        device = self.task.device
        return Segment(
            Parameters(*(side.to(device) for side in segment.start)),
            Parameters(*(side.to(device) for side in segment.target)),
        )

    def _draw_walk(self) -> InnerBatches:
        """Pairs of each step: by epoch permutation, so that every pair is used once before any is again, or drawn."""
        settings, batches = self.settings, list[Tensor]()
        batch_size = min(settings.batch_size or self.num_pairs, self.num_pairs)
        per_epoch = self.num_pairs // batch_size if settings.batches == "permuted" else 1
        while len(batches) < settings.syn_steps:
            order = torch.from_numpy(self._generator.permutation(self.num_pairs)).to(self.task.device)
            batches += order[: per_epoch * batch_size].split(batch_size)
        seeds = [int(seed) for seed in self._generator.integers(2**31, size=settings.syn_steps)]
        return InnerBatches(batches[: settings.syn_steps], seeds)

    def _gradient(self, segment: Segment, walk: InnerBatches) -> tuple[MatchingLoss, Tensors]:
        """The matching loss and its gradient by pixels, embeddings, similarity and step sizes."""
        passage = FrozenFeatures(self.task.model, self.settings, self._values["images"], walk.seeds[0])
        learned = {
            name: self._values[f"similarity.{name}"].detach().requires_grad_() for name in self._similarity.values
        }
        matrix = self._similarity.with_values(learned).matrix()
        inputs = StudentInputs(
            passage.output,
            self._values["texts"],
            self._sizes["lr_image"],
            self._sizes["lr_text"],
            None if matrix is None else matrix.detach(),
        )
        loss, by = self._inner_loop.gradient(segment, inputs, walk)
        gradient = {"lr_image": by.lr_image, "lr_text": by.lr_text}
        if self.settings.matched != "text":
            gradient["images"] = passage.back(by.frozen_output)
        if self.settings.matched != "image":
            gradient["texts"] = by.texts
        if matrix is not None:
            parts = torch.autograd.grad(matrix, list(learned.values()), by.similarity)
            gradient |= {f"similarity.{name}": part for name, part in zip(learned, parts, strict=True)}
        return loss, gradient

    def _descend(self, gradient: Tensors) -> None:
        """The outer optimiser on the set; momentum and a multiplication on the learned step sizes.

        A step size a moves by a * exp(-lr_lr v / a): to first order the published a - lr_lr v, so that published
        rates keep their meaning, and positive whatever v is. One step at most halves or doubles it.
        """
        settings, scale = self.settings, 0.5**self.rollbacks
        rates = {"images": settings.lr_image * scale, "texts": settings.lr_text * scale}
        moved = {name: part for name, part in gradient.items() if name in self._values}
        self._optimiser.step(self._values, moved, {name: rates.get(name, settings.lr_sim * scale) for name in moved})
        for name, size in self._sizes.items():
            velocity = self._size_velocities[name].mul_(settings.momentum).add_(gradient[name])
            size *= (-settings.lr_lr * scale * velocity / size).clamp(-math.log(2), math.log(2)).exp()
        if settings.ema_decay:
            self._average.update({**self._values, **self._sizes})

    def _fault(self, loss: MatchingLoss, gradient: Tensors) -> str | None:
        finite = torch.stack([loss.total.isfinite(), *(part.isfinite().all() for part in gradient.values())]).all()
        return None if bool(finite) else f"matching loss {float(loss.total):.4g} or its gradient is not finite"

    def _drifted(self) -> str | None:
        drift = self._drift()
        if not drift <= self.settings.max_drift:
            return (
                f"images or texts have grown to {drift:.3g} times their start (max_drift {self.settings.max_drift:g})"
            )
        for name, start in (("lr_image", self.settings.lr_student_image), ("lr_text", self.settings.lr_student_text)):
            size = float(self._sizes[name])
            if not 1 / STEP_SIZE_RANGE < size / start < STEP_SIZE_RANGE:
                return f"the learned step size {name} went from {start:g} to {size:.3g}"
        return None

    def _drift(self) -> float:
        sides = (("images", self._start.images), ("texts", self._start.texts))
        return max(float(self._values[name].square().mean() / start.square().mean()) ** 0.5 for name, start in sides)

    def _roll_back(self, fault: str) -> None:
        """Go back to the last good state with half the rates; the random stream goes on, so other steps follow."""
        settings = self.settings
        if self.rollbacks >= settings.max_rollbacks:
            raise DivergedError(
                f"distillation diverged at outer step {self.outer_step + 1}, after {self.rollbacks} rollbacks: "
                f"{fault}, with lr_image={settings.lr_image:g}, lr_text={settings.lr_text:g}, "
                f"lr_lr={settings.lr_lr:g}, syn_steps={settings.syn_steps}",
                next_command="the same command with smaller --set distillation.lr_image=…, lr_text=… or lr_lr=…",
            )
        rollbacks = self.rollbacks + 1
        self._adopt(self._good)
        self.rollbacks = rollbacks

    def distilled_set(self, metrics: dict[str, float] | None = None) -> DistilledSet:
        """The set as it is now, or its moving average where there is one, with its card."""
        task, model = self.task, self.task.model
        card = {
            "study": task.study.model_dump(mode="json"),
            "fingerprints": task.fingerprints,
            "normalisation": {name: getattr(model, name).flatten().tolist() for name in ("mean", "std")},
            "matched_parameters": {"image": model.image_layout.size, "text": model.text_layout.size},
            "seed": self.seed,
            "outer_step": self.outer_step,
            "rollbacks": self.rollbacks,
            "metrics": metrics or {},
            "rayvldd_version": rayvldd.__version__,
        }
        now = {**self._values, **self._sizes, **self._average.values}
        learned = {name: now[f"similarity.{name}"].cpu().clone() for name in self._similarity.values}
        return DistilledSet(
            images=model.denormalise(now["images"]).cpu(),
            texts=now["texts"].cpu().clone(),
            start_images=model.denormalise(self._start.images).cpu(),
            start_texts=self._start.texts.cpu(),
            start_captions=self._start.captions,
            lr_student_image=float(now["lr_image"]),
            lr_student_text=float(now["lr_text"]),
            similarity=self._similarity.with_values(learned),
            card=card,
        )

    def _state(self) -> tuple[Tensors, int]:
        """Copies of every tensor that decides further steps, and the outer step."""
        parts = {
            "value": self._values,
            "size": self._sizes,
            "size_velocity": self._size_velocities,
            "optimiser": self._optimiser.state,
            "average": self._average.state,
        }
        tensors = {f"{part}.{name}": value.clone() for part, values in parts.items() for name, value in values.items()}
        return tensors, self.outer_step

    def _adopt(self, state: tuple[Tensors, int]) -> None:
        """Continue from a state; the inverse of ``_state``."""
        tensors, self.outer_step = state
        parts: dict[str, Tensors] = {part: {} for part in ("value", "size", "size_velocity", "optimiser", "average")}
        for name, value in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = value.clone()
        self._values, self._sizes, self._size_velocities = parts["value"], parts["size"], parts["size_velocity"]
        self._optimiser.state, self._average.state = parts["optimiser"], parts["average"]

    def save(self, path: Path) -> None:
        """Write everything that decides the next steps, whole or not at all."""
        tensors, outer_step = self._state()
        state = {
            "outer_step": outer_step,
            "rollbacks": self.rollbacks,
            "generator": self._generator.bit_generator.state,
            "good": self._good[1],
        }
        if self._good[1] != outer_step:  # between evaluations the last good state is another one
            tensors |= {f"good.{name}": value for name, value in self._good[0].items()}
        save_tensors(path, tensors, {"state": json.dumps(state)})

    def restore(self, path: Path) -> None:
        """Continue from a saved state of the same settings and seed, bit for bit.

        Raises:
            StoreError: when the state is not one of these settings.
        """
        with safe_open(path, framework="pt", device=str(self.task.device)) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            state = json.loads(file.metadata()["state"])
        good = {name.removeprefix("good."): tensors.pop(name) for name in list(tensors) if name.startswith("good.")}
        shapes = {f"value.{name}": value.shape for name, value in self._values.items()}
        if {name: value.shape for name, value in tensors.items() if name.startswith("value.")} != shapes:
            raise StoreError(
                f"{path} was written with other settings: its tensors are not those of this set",
                next_command="the same command with another --out or --set name=ANOTHER",
            )
        self._adopt((tensors, state["outer_step"]))
        self._good = (good or self._state()[0], state["good"])
        self.rollbacks = state["rollbacks"]
        self._generator.bit_generator.state = state["generator"]
