"""Train one expert: plain SGD on the real pairs, its parameters kept after every epoch.

Source: Wu et al., section 3.2 and the released ``buffer.py`` (no momentum, no weight decay, rate 0.1 on both sides,
batch 128). Deviations: BatchNorm statistics stay frozen; an epoch may take one caption an image instead of all five.
"""

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from rayvldd.errors import DivergedError
from rayvldd.evaluation.recall import RetrievalMetrics
from rayvldd.evaluation.scoring import score
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.parameters import Parameters
from rayvldd.models.problem import Problem

OnEpoch = Callable[[int, dict[str, float]], None]


def train_expert(
    problem: Problem, index: int, on_epoch: OnEpoch | None = None
) -> tuple[Trajectory, list[dict[str, float]]]:
    """Train the expert with the given number.

    Args:
        problem: Model and data.
        index: Number of the expert in its set; with the study's seed it decides initialisation and batch order.
        on_epoch: Told the epoch and its metrics as soon as it is finished.

    Returns:
        The trajectory and, for every epoch, ``epoch, train_loss, val_mean_recall, seconds``.

    Raises:
        DivergedError: when the training loss is not finite.
    """
    settings = problem.study.experts
    generator = np.random.default_rng([problem.study.seed, 1, index])
    parameters = problem.model.initial_parameters(int(generator.integers(2**31)))
    snapshots, metrics = [parameters], []
    for epoch in range(1, settings.epochs + 1):
        started = time.perf_counter()
        parameters, train_loss = _train_epoch(problem, parameters, generator)
        if not np.isfinite(train_loss):
            raise DivergedError(
                f"expert {index} diverged in epoch {epoch}: training loss {train_loss}, with "
                f"experts.lr_image={settings.lr_image}, experts.lr_text={settings.lr_text}",
                next_command="the same command with a smaller --set experts.lr_image=… or experts.lr_text=…",
            )
        snapshots.append(parameters)
        row = {
            "epoch": float(epoch),
            "train_loss": train_loss,
            "val_mean_recall": score(problem, parameters, problem.val).mean_recall,
            "seconds": time.perf_counter() - started,
        }
        metrics.append(row)
        if on_epoch:
            on_epoch(epoch, row)
    return Trajectory([Parameters(image.cpu(), text.cpu()) for image, text in snapshots]), metrics


def train_on_all(problem: Problem, epochs: int, seed: int) -> Parameters:
    """Train a fresh model on all real training pairs as experts are: the full-data bound of evaluation."""
    generator = np.random.default_rng([problem.study.seed, 2, seed])
    parameters = problem.model.initial_parameters(int(generator.integers(2**31)))
    for _ in range(epochs):
        parameters, _ = _train_epoch(problem, parameters, generator)
    return parameters


def full_data_recall(problem: Problem, split: str, seed: int) -> RetrievalMetrics:
    """Recall of a model trained on all real pairs."""
    epochs = problem.study.evaluation.full_data_epochs
    return score(problem, train_on_all(problem, epochs, seed), getattr(problem, split))


def _train_epoch(problem: Problem, parameters: Parameters, generator: np.random.Generator) -> tuple[Parameters, float]:
    """One pass over the real pairs; returns new parameters and the mean loss."""
    settings, model = problem.study.experts, problem.model
    image, text = (side.to(problem.device).clone().requires_grad_() for side in parameters)
    optimiser = torch.optim.SGD(
        [{"params": [image], "lr": settings.lr_image}, {"params": [text], "lr": settings.lr_text}]
    )
    model.train()
    losses = []
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(int(generator.integers(2**31)))  # dropout's stream
        for images, captions in _batches(problem, generator):
            stem_outputs = problem.stem_outputs(problem.train, images)
            loss = model.loss(Parameters(image, text), stem_outputs, problem.texts(problem.train, captions))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())  # no .item(): it would wait for the device at every step
    model.train(False)
    return Parameters(image.detach(), text.detach()), float(torch.stack(losses).mean())


def _batches(problem: Problem, generator: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Image and caption indexes of an epoch's batches, in random order; a last batch of one pair is left out."""
    settings, caption_image = problem.study.experts, problem.train.split.caption_image
    used = caption_image < (settings.num_train_images or problem.train.num_images)
    captions = generator.permutation(np.flatnonzero(used))
    if settings.captions_per_image == "one":
        _, first = np.unique(caption_image[captions], return_index=True)  # the first in random order: a random one
        captions = captions[np.sort(first)]
    for start in range(0, len(captions), settings.batch_size):
        chosen = captions[start : start + settings.batch_size]
        if len(chosen) > 1:
            yield caption_image[chosen], chosen
