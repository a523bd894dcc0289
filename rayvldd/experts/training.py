"""Train one expert with plain SGD on the real pairs, keeping its parameters after every epoch.

Source: Wu et al., section 3.2 and the released ``buffer.py`` (no momentum, no weight decay, rate 0.1 on both sides,
batch 128). Deviations: BatchNorm statistics stay frozen; an epoch may take one caption an image instead of all five.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from rayvldd.config.metrics import VAL_MEAN_RECALL
from rayvldd.config.settings import ExpertSettings
from rayvldd.errors import DivergedError
from rayvldd.evaluation.scoring import score
from rayvldd.experts.movement import Layouts, Movement, movement_between
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.randomness import SEED_END, Stream, generator_of, seeded
from rayvldd.records.json_values import JsonValue
from rayvldd.training.real_batches import RealEpoch
from rayvldd.training.sgd import SgdSettings, train_on_batches

OnEpoch = Callable[[int, dict[str, float]], None]


@dataclass(frozen=True)
class ExpertState:
    """State of an expert after an epoch, sufficient to resume training with the same result."""

    epoch: int
    parameters: Parameters
    metrics: list[dict[str, float]]
    """``epoch, train_loss, val_mean_recall, seconds`` for every epoch so far."""
    random_state: Mapping[str, JsonValue]
    """State of the generator of batches and dropout, as a JSON value."""
    movements: tuple[Movement, ...] = ()
    """How far the parameters moved in every epoch so far; fewer if an earlier version stored the state."""


@dataclass(frozen=True)
class ExpertTraining:
    """Training settings of experts, apart from model and data."""

    settings: ExpertSettings
    seed: int
    """Seed of the study."""


def train_expert(
    task: RetrievalTask, training: ExpertTraining, index: int, on_epoch: OnEpoch | None = None
) -> tuple[Trajectory, list[dict[str, float]]]:
    """Train the expert with the given number through all epochs.

    Args:
        task: Model and data.
        training: Settings and seed.
        index: Number of the expert in its set; with the study's seed it determines initialisation and batch order.
        on_epoch: Called with each finished epoch and its metrics.

    Returns:
        The trajectory and, for every epoch, ``epoch, train_loss, val_mean_recall, seconds``.

    Raises:
        DivergedError: when the training loss is not finite.
    """
    states = []
    for state in train_epochs(task, training, index):
        states.append(state)
        if on_epoch and state.epoch:
            on_epoch(state.epoch, state.metrics[-1])
    return Trajectory.of_every_epoch([state.parameters for state in states]), states[-1].metrics


def train_epochs(
    task: RetrievalTask, training: ExpertTraining, index: int, after: ExpertState | None = None
) -> Iterator[ExpertState]:
    """Train an expert and yield its initial state and its state after every epoch.

    On the same machine with the same number of threads, a resumed expert is bitwise equal to an uninterrupted one.

    Args:
        task: Model and data.
        training: Settings and seed.
        index: Number of the expert in its set; with the study's seed it determines initialisation and batch order.
        after: State to resume from, which is not yielded again; default: a new initialisation.

    Raises:
        DivergedError: when the training loss is not finite.
    """
    generator = generator_of(training.seed, Stream.EXPERT, index)
    if after is None:
        drawn = int(generator.integers(SEED_END))  # in any case: batches do not depend on the start
        if training.settings.shared_start:
            drawn = int(generator_of(training.seed, Stream.EXPERT_START).integers(SEED_END))
        parameters = task.model.initial_parameters(drawn)
        after = ExpertState(0, _on_cpu(parameters), [], generator.bit_generator.state)
        yield after
    else:
        generator.bit_generator.state = after.random_state
    state, layouts = after, Layouts(task.model.image_layout, task.model.text_layout)
    for epoch in range(state.epoch + 1, training.settings.epochs + 1):
        parameters, metrics = _trained_epoch(task, training.settings, index, epoch, state.parameters, generator)
        moved = movement_between(state.parameters, parameters, layouts)
        # Without a gap: the place in the list is the epoch.
        movements = (*state.movements, moved) if len(state.movements) == epoch - 1 else state.movements
        state = ExpertState(epoch, parameters, [*state.metrics, metrics], generator.bit_generator.state, movements)
        yield state


def _trained_epoch(
    task: RetrievalTask,
    settings: ExpertSettings,
    index: int,
    epoch: int,
    parameters: Parameters,
    generator: np.random.Generator,
) -> tuple[Parameters, dict[str, float]]:
    started = time.perf_counter()
    parameters, train_loss = _train_epoch(task, settings, parameters, generator)
    if not np.isfinite(train_loss):
        raise DivergedError(
            f"expert {index} diverged in epoch {epoch}: training loss {train_loss}, with "
            f"experts.lr_image={settings.lr_image}, experts.lr_text={settings.lr_text}",
            next_command="the same command with a smaller --set experts.lr_image=… or experts.lr_text=…",
        )
    metrics = {
        "epoch": float(epoch),
        "train_loss": train_loss,
        VAL_MEAN_RECALL: score(task, parameters, task.val).mean_recall,
        "seconds": time.perf_counter() - started,
    }
    return _on_cpu(parameters), metrics


def _on_cpu(parameters: Parameters) -> Parameters:
    return Parameters(parameters.image.cpu(), parameters.text.cpu())


def _train_epoch(
    task: RetrievalTask, settings: ExpertSettings, parameters: Parameters, generator: np.random.Generator
) -> tuple[Parameters, float]:
    """One pass over the real pairs; returns new parameters and the mean loss."""
    real = RealEpoch(task, settings.batch_size, settings.captions_per_image, settings.num_train_images)
    rates = SgdSettings(settings.lr_image, settings.lr_text)
    with seeded(int(generator.integers(SEED_END))):  # dropout's stream
        trained, losses = train_on_batches(task.model, parameters, real.batches(generator), rates)
    return trained, float(torch.stack(losses).mean())
