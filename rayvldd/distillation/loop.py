"""The outer loop, the same for every method: step, roll back, checkpoint, evaluate, keep the best set.

Source: Wu et al., algorithm 1 and the released ``distill.py``. Deviations: a run that leaves its valid range returns to
its last good state with smaller rates, and raises an error after a few attempts instead of ending silently; every
random draw depends on the seed and is part of a checkpoint.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

import torch

from rayvldd.config.study import Study
from rayvldd.distillation.distilled_set import DistilledSet, card_of
from rayvldd.distillation.evaluations import SMALLER_RATES, EvaluatedRun, EvaluationResult, FirstRecalls, rates_of
from rayvldd.distillation.method import DistillationMethod, MethodStep, build_method, fingerprints_of
from rayvldd.distillation.outer_optimisers import outer_rate_factor
from rayvldd.distillation.rate_factors import DRAWS, factors_of, relative_gradients
from rayvldd.distillation.synthetic_set import SQUARED_DRIFT, SyntheticSet, Tensors
from rayvldd.errors import DivergedError, StoreError
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.gpus import tf32
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.models.scalars import read_scalars
from rayvldd.randomness import Stream, generator_of
from rayvldd.records.json_values import JsonValue
from rayvldd.storage.saved_state import state_metadata, verified_state
from rayvldd.storage.tensor_files import save_tensors
from rayvldd.storage.tensor_source import MappedTensors


class SavedState(TypedDict):
    """Numbers of a saved state, beside its tensors."""

    outer_step: int
    rollbacks: int
    generator: dict[str, JsonValue]
    """State of the random generator."""
    good: int
    """Outer step of the last good state."""


@dataclass(frozen=True)
class StepReport:
    """Numbers of one outer step."""

    outer_step: int
    loss_name: str
    """Name of the method's loss, e.g. ``matching_loss``."""
    numbers: dict[str, float]
    """Logged numbers: those of the method, ``lr_student_image``, ``lr_student_text``, ``drift`` and
    ``rollbacks``; under ``scaled_sgd`` also the rates of ``sgd`` that equal its own."""

    @property
    def loss(self) -> float:
        """Value of the method's loss."""
        return self.numbers[self.loss_name]


def distill(
    study: Study,
    task: RetrievalTask,
    experts: Sequence[Trajectory],
    seed: int,
    checkpoint_folder: Path | None = None,
    on_step: Callable[[StepReport], None] | None = None,
    on_evaluation: Callable[[EvaluationResult], None] | None = None,
    first_recalls: FirstRecalls | None = None,
) -> Iterator[EvaluationResult]:
    """Distil and yield an evaluation at outer step 0, at every ``evaluate_every`` and at the last.

    Args:
        study: The study at one point.
        task: Its model and data.
        experts: Trajectories that its method requires.
        seed: Determines every random draw of the run.
        checkpoint_folder: Folder where the state is saved before each yield, and between slow ones every
            ``resources.checkpoint_minutes``, and resumed from; its ``best`` folder holds the best set so far. A resumed
            run gives the same numbers as an uninterrupted one.
        on_step: Called after every outer step.
        on_evaluation: Called with every evaluation before the state is saved, so that a run that is interrupted at any
            moment has called it for each evaluation that it saved.
        first_recalls: Known validation recalls of initial sets; those of this run's are taken from it, or added.

    Raises:
        DivergedError: when roll-backs do not help (see :meth:`OuterLoop.step`), or when validation recall stays below
            half of its initial value, a divergence that the loss does not show.
        StoreError: when the folder holds the state of a run with other settings.
    """
    loop = OuterLoop(study, task, experts, seed)
    run = EvaluatedRun(study, task, loop, seed, checkpoint_folder, on_evaluation, first_recalls)
    settings = study.distillation
    if not run.resume():
        yield run.evaluate()
    while loop.outer_step < settings.outer_steps or run.steps:
        run.raise_if_collapsed()
        # A resumed run may be within an interval, or at its end with the evaluation still to come.
        interval = (loop.outer_step - bool(run.steps)) // settings.evaluate_every + 1
        goal = min(interval * settings.evaluate_every, settings.outer_steps)
        while loop.outer_step < goal:
            with run.timed_matching():
                report = loop.step()
            run.add(report.numbers)
            if on_step:
                on_step(report)
        yield run.evaluate()


class OuterLoop:
    """A synthetic set, the method that optimises it, and the complete state for resuming."""

    def __init__(self, study: Study, task: RetrievalTask, experts: Sequence[Trajectory], seed: int) -> None:
        """Initialise the set and the method; ``seed`` determines every random draw.

        Raises:
            ConfigError: when a learned similarity leaves no pairs.
        """
        self.task, self.settings, self.seed, self._study_seed = task, study.distillation, seed, study.seed
        self.outer_step = self.rollbacks = 0
        self._generator = generator_of(study.seed, Stream.DISTILLATION, seed)
        self.set = SyntheticSet(task, self.settings, self._generator, seed)
        self._method: DistillationMethod = build_method(task, study.completed_distillation, experts)
        self.fingerprints = fingerprints_of(task, self.settings)
        self._card = card_of(study, task, seed).model_copy(update={"fingerprints": self.fingerprints})
        self._good = self._state()

    def step(self) -> StepReport:
        """Take one outer step; if the run has left its valid range, return to the last good state first.

        The last good state is that of the last evaluation, or the initial state.

        Raises:
            DivergedError: when the run has left its valid range more than ``max_rollbacks`` times, or its rates
                cannot be scaled.
        """
        if self.settings.outer_optimiser == "scaled_sgd" and not self.set.rate_factors:
            self.set.rate_factors = self._measured_factors()
            self._good = self._state()
        while True:
            with tf32(self.settings.engine.tf32):
                step = self._method.gradient(self.set, self.outer_step, self._generator)
            fault, numbers = _not_finite(step), dict[str, float]()
            if fault is None:
                scale = 0.5**self.rollbacks * outer_rate_factor(self.outer_step, self.settings.decay_over)
                self.set.descend(step.gradients, scale, self._method.lr_step_sizes)
                numbers = read_scalars({**step.log, **self.set.measured()})
                fault = self.set.fault(numbers)
            if fault is None:
                break
            self._roll_back(fault)
        self.outer_step += 1
        if self.outer_step % self.settings.evaluate_every == 0:
            self._good = self._state()
        numbers["drift"] = numbers.pop(SQUARED_DRIFT) ** 0.5
        numbers |= self.set.scaled_rates(self._method.lr_step_sizes)
        return StepReport(self.outer_step, next(iter(step.log)), numbers | {"rollbacks": float(self.rollbacks)})

    def _measured_factors(self) -> dict[str, float]:
        """Return the factors of ``scaled_sgd``; the set, the method and the random stream stay as they are."""
        values = {**self.set.values, **self.set.step_sizes}
        of_method = {name: value.clone() for name, value in self._method.state_dict().items()}
        draws = list[dict[str, float]]()
        for number in range(DRAWS):
            generator = generator_of(self._study_seed, Stream.RATE_FACTORS, self.seed, number)
            with tf32(self.settings.engine.tf32):
                step = self._method.gradient(self.set, 0, generator)
            draws.append(relative_gradients(step.gradients, values))
        self._method.load_state_dict(of_method)
        return factors_of(draws, self.settings.momentum)

    def _roll_back(self, fault: str) -> None:
        """Return to the last good state with half the rates; the random stream continues, so the next steps differ."""
        if self.rollbacks >= self.settings.max_rollbacks:
            raise DivergedError(
                f"distillation diverged at outer step {self.outer_step + 1}, after {self.rollbacks} rollbacks: "
                f"{fault}, with {rates_of(self.settings)}",
                next_command=SMALLER_RATES,
            )
        rollbacks = self.rollbacks + 1
        self._adopt(self._good)
        self.rollbacks = rollbacks

    def distilled_set(self, metrics: dict[str, float] | None = None) -> DistilledSet:
        """Return the current set, or its moving average if enabled, with its card."""
        model, initial, now = self.task.model, self.set.initial, self.set.averaged()
        return DistilledSet(
            images=model.denormalise(now["images"]).cpu(),
            texts=now["texts"].cpu().clone(),
            start_images=model.denormalise(initial.images).cpu(),
            start_texts=initial.texts.cpu(),
            start_captions=initial.captions,
            lr_student_image=float(now["lr_image"]),
            lr_student_text=float(now["lr_text"]),
            similarity=self.set.similarity_of(now),
            card=self._card.model_copy(
                update={"outer_step": self.outer_step, "rollbacks": self.rollbacks, "metrics": metrics or {}}
            ),
        )

    def _state(self) -> tuple[Tensors, int]:
        """Return copies of all tensors that determine further steps, and the outer step."""
        method = {f"method.{name}": value.clone() for name, value in self._method.state_dict().items()}
        return {**self.set.state_dict(), **method}, self.outer_step

    def _adopt(self, state: tuple[Tensors, int]) -> None:
        """Restore a state; the inverse of ``_state``."""
        tensors, self.outer_step = state
        of_method = {name: value for name, value in tensors.items() if name.startswith("method.")}
        self.set.load_state_dict({name: value for name, value in tensors.items() if name not in of_method})
        self._method.load_state_dict({name.removeprefix("method."): value.clone() for name, value in of_method.items()})

    def save(self, path: Path) -> None:
        """Write the complete state atomically."""
        tensors, outer_step = self._state()
        state: SavedState = {
            "outer_step": outer_step,
            "rollbacks": self.rollbacks,
            "generator": {**self._generator.bit_generator.state},
            "good": self._good[1],
        }
        if self._good[1] != outer_step:  # between evaluations the last good state differs
            tensors |= {f"good.{name}": value for name, value in self._good[0].items()}
        save_tensors(path, tensors, state_metadata(tensors, state))

    def restore(self, path: Path) -> None:
        """Restore a saved state of the same settings and seed, bitwise exactly.

        Raises:
            StoreError: when the state belongs to other settings.
            DamagedFileError: when the file differs from what was saved.
        """
        file = MappedTensors(path)
        read = {name: file.tensor(name) for name in file.names}
        state = cast(SavedState, verified_state(read, file.metadata))
        tensors = {name: value.to(self.task.device, copy=True) for name, value in read.items()}
        good = {name.removeprefix("good."): tensors.pop(name) for name in list(tensors) if name.startswith("good.")}
        shapes = {f"value.{name}": value.shape for name, value in self.set.values.items()}
        if {name: value.shape for name, value in tensors.items() if name.startswith("value.")} != shapes:
            raise StoreError(
                f"{path} was written with other settings: its tensors are not those of this set",
                next_command="the same command with another --out or --set name=ANOTHER",
            )
        self._adopt((tensors, state["outer_step"]))
        self._good = (good or self._state()[0], state["good"])
        self.rollbacks = state["rollbacks"]
        self._generator.bit_generator.state = state["generator"]


def _not_finite(step: MethodStep) -> str | None:
    finite = torch.stack([step.loss.isfinite(), *(part.isfinite().all() for part in step.gradients.values())]).all()
    if bool(finite):
        return None
    return f"{next(iter(step.log)).replace('_', ' ')} {float(step.loss):.4g} or its gradient is not finite"
