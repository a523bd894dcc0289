"""Train one expert with plain SGD on the real pairs, keeping its parameters after every epoch.

Source: Wu et al., section 3.2 and the released ``buffer.py`` (no momentum, no weight decay, rate 0.1 on both sides,
batch 128). Deviations: BatchNorm statistics stay frozen; an epoch may take one caption an image instead of all five.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
import torch

from rayvldd.config.metrics import VAL_MEAN_RECALL
from rayvldd.config.settings import ExpertSettings
from rayvldd.errors import DivergedError
from rayvldd.evaluation.scoring import score
from rayvldd.experts.movement import Layouts, Movement, movement_between
from rayvldd.experts.recipe import ExpertTraining
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.randomness import SEED_END, Stream, generator_of, seeded
from rayvldd.records.json_values import JsonValue
from rayvldd.training.real_batches import RealEpoch
from rayvldd.training.sgd import SgdSettings, train_on_batches
from rayvldd.training.stacked import StackedBatch, train_stacked

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
    for (state,) in train_epochs_together(task, training, [index], None if after is None else [after]):
        yield state


def train_epochs_together(
    task: RetrievalTask,
    training: ExpertTraining,
    indexes: Sequence[int],
    after: Sequence[ExpertState] | None = None,
) -> Iterator[list[ExpertState]]:
    """Train experts in one pass, and yield their initial states and their states after every epoch.

    Batches and initialisation of each are those of :func:`train_epochs`; its numbers too, up to the order of sums.

    Args:
        task: Model and data; several experts need a model without dropout.
        training: Settings and seed.
        indexes: Numbers of the experts in their set.
        after: States of one epoch to resume from, which are not yielded again; default: new initialisations.

    Raises:
        DivergedError: when a training loss is not finite.
    """
    generators = [generator_of(training.seed, Stream.EXPERT, index) for index in indexes]
    if after is None:
        after = [_initial_state(task, training, generator) for generator in generators]
        yield list(after)
    else:
        for generator, state in zip(generators, after, strict=True):
            generator.bit_generator.state = state.random_state
    states, layouts = list(after), Layouts(task.model.image_layout, task.model.text_layout)
    for epoch in range(states[0].epoch + 1, training.settings.epochs + 1):
        starts = [state.parameters for state in states]
        trained = _trained_epoch(task, training.settings, indexes, epoch, starts, generators)
        before, states = states, []
        for state, generator, (parameters, metrics) in zip(before, generators, trained, strict=True):
            moved = movement_between(state.parameters, parameters, layouts)
            # Without a gap: the place in the list is the epoch.
            movements = (*state.movements, moved) if len(state.movements) == epoch - 1 else state.movements
            random_state = generator.bit_generator.state
            states.append(ExpertState(epoch, parameters, [*state.metrics, metrics], random_state, movements))
        yield states


def _initial_state(task: RetrievalTask, training: ExpertTraining, generator: np.random.Generator) -> ExpertState:
    drawn = int(generator.integers(SEED_END))  # in any case: batches do not depend on the start
    if training.settings.shared_start:
        drawn = int(generator_of(training.seed, Stream.EXPERT_START).integers(SEED_END))
    return ExpertState(0, _on_cpu(task.model.initial_parameters(drawn)), [], generator.bit_generator.state)


def _trained_epoch(
    task: RetrievalTask,
    settings: ExpertSettings,
    indexes: Sequence[int],
    epoch: int,
    starts: Sequence[Parameters],
    generators: Sequence[np.random.Generator],
) -> list[tuple[Parameters, dict[str, float]]]:
    """One epoch of each expert: its parameters on the CPU and its metrics; time is divided between the experts."""
    begun = time.perf_counter()
    if len(indexes) == 1:
        trained = [_train_epoch(task, settings, starts[0], generators[0])]
    else:
        trained = _train_epoch_together(task, settings, starts, generators)
    seconds = (time.perf_counter() - begun) / len(indexes)
    found = []
    for index, (parameters, train_loss) in zip(indexes, trained, strict=True):
        begun = time.perf_counter()
        if not np.isfinite(train_loss):
            raise DivergedError(
                f"expert {index} diverged in epoch {epoch}: training loss {train_loss}, with "
                f"experts.lr_image={settings.lr_image}, experts.lr_text={settings.lr_text}",
                next_command="the same command with a smaller --set experts.lr_image=… or experts.lr_text=…",
            )
        recall = score(task, parameters, task.val).mean_recall
        metrics = {"epoch": float(epoch), "train_loss": train_loss, VAL_MEAN_RECALL: recall}
        found.append((_on_cpu(parameters), {**metrics, "seconds": seconds + time.perf_counter() - begun}))
    return found


def _on_cpu(parameters: Parameters) -> Parameters:
    return Parameters(parameters.image.cpu(), parameters.text.cpu())


def _train_epoch(
    task: RetrievalTask, settings: ExpertSettings, parameters: Parameters, generator: np.random.Generator
) -> tuple[Parameters, float]:
    """One pass over the real pairs; returns new parameters and the mean loss."""
    dropout = seeded(int(generator.integers(SEED_END)))
    with dropout, closing(_real_epoch(task, settings).batches(generator)) as batches:
        graphs = task.has_step_graphs
        trained, losses = train_on_batches(task.model, parameters, batches, _rates(settings), cuda_graphs=graphs)
    return trained, float(torch.stack(losses).mean())


def _train_epoch_together(
    task: RetrievalTask,
    settings: ExpertSettings,
    starts: Sequence[Parameters],
    generators: Sequence[np.random.Generator],
) -> list[tuple[Parameters, float]]:
    """One pass over the real pairs for several experts, each in an order of its own."""
    for generator in generators:
        generator.integers(SEED_END)  # dropout's stream, which is not used
    real, graphs = _real_epoch(task, settings), task.has_step_graphs
    with ExitStack() as open_readers:
        of_each = [open_readers.enter_context(closing(real.batches(generator))) for generator in generators]
        batches = (
            StackedBatch(
                torch.stack([batch.frozen_output for batch in of_experts]),
                torch.stack([batch.texts for batch in of_experts]),
            )
            for of_experts in zip(*of_each, strict=True)
        )
        trained, losses = train_stacked(task.model, starts, batches, _rates(settings), cuda_graphs=graphs)
    return list(zip(trained, torch.stack(losses).mean(0).tolist(), strict=True))


def _real_epoch(task: RetrievalTask, settings: ExpertSettings) -> RealEpoch:
    return RealEpoch(task, settings.batch_size, settings.captions_per_image, settings.num_train_images)


def _rates(settings: ExpertSettings) -> SgdSettings:
    return SgdSettings(settings.lr_image, settings.lr_text)
