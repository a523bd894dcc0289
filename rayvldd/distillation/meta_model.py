"""Meta-model matching: a student trained on the synthetic set should have a low loss on real pairs.

    L = InfoNCE(theta_S; a batch of real pairs),    theta_0 ... theta_S: SGD on the synthetic pairs

An outer step draws a start, trains a student as evaluation does (with its momentum, weight decay and course of the
rates, over as many steps as are drawn), and computes the gradient of L with respect to pixels, embeddings, similarity
and step sizes. No experts are trained or matched; where a study has some, students can start at their snapshots.

Source: the bilevel objective of dataset distillation (Wang et al., arXiv 1811.10959), and the random truncated window
of RaT-BPTT (arXiv 2311.07025): the number of student steps is drawn uniformly from W to T, and the gradient goes
through the last W. Both were published for classification; for pairs the loss is the contrastive one of the students.
Deviations: students take the SGD of evaluation, with step sizes that are learned and kept in a range. The gradient
through the window is exact and needs the memory of one step (see ``unroll.inner_loop``); that through the last W steps
alone is, as in RaT-BPTT, a biased estimate of the whole. Starts at snapshots of experts, the rise of the most steps
over outer steps, and noise on the real features are ours.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rayvldd.config.distillation import DistillationSettings
from rayvldd.config.methods.meta_model import MetaModelSettings
from rayvldd.distillation.method import MethodStep
from rayvldd.distillation.set_inputs import SetInputs
from rayvldd.distillation.synthetic_set import SyntheticSet, Tensors
from rayvldd.distillation.unroll.batches import draw_batches
from rayvldd.distillation.unroll.inner_loop import EndLoss, InnerLoop, StudentSgd
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.copies import parameters_to_device, to_device
from rayvldd.models.pair_losses import info_nce
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_model import RetrievalModel
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.randomness import SEED_END
from rayvldd.training.gradients import vector_jacobian_products
from rayvldd.training.real_batches import draw_real_pairs


class RealBatch(NamedTuple):
    """Real pairs as the trained part of the model takes them."""

    images: Float[Tensor, "pair ..."]
    texts: Float[Tensor, "pair text_dim"]


class RealLoss:
    """Contrastive loss of a student on real pairs, without dropout, as students are scored."""

    def __init__(self, task: RetrievalTask, common: DistillationSettings, settings: MetaModelSettings) -> None:
        self._task, self._engine, self._settings = task, common.engine, settings

    def draw(self, generator: np.random.Generator) -> Callable[[], RealBatch]:
        """Draw real pairs, and noise for their features if that is set; they are read when the result is called."""
        captions = draw_real_pairs(self._task.train, self._settings.real_batch_size, generator)
        seed = int(generator.integers(SEED_END)) if self._settings.real_noise else None
        return partial(self._read, captions, seed)

    def _read(self, captions: Int[np.ndarray, " pair"], seed: int | None) -> RealBatch:
        task, train = self._task, self._task.train
        images = task.frozen_outputs(train, train.split.caption_image[captions])
        texts = task.texts(train, captions)
        if seed is not None:
            drawn = torch.Generator().manual_seed(seed)
            images, texts = (_with_noise(rows, self._settings.real_noise, drawn) for rows in (images, texts))
        return RealBatch(images, texts)

    def of(self, student: Parameters, batch: RealBatch) -> EndLoss:
        """Return the loss; with micro-batches also its gradient, computed with the memory of one part."""
        model, size = self._task.model, self._engine.micro_batch or len(batch.images)
        with _scored(model):
            if size >= len(batch.images):
                return EndLoss(self._loss(self._embed(batch.images, student), batch.texts, student), {})
            parts = batch.images.split(size)
            with torch.no_grad():
                embedded = torch.cat([self._embed(part, student) for part in parts])
            loss = self._loss(embedded.requires_grad_(), batch.texts, student)
            by_embedded, by_text = torch.autograd.grad(loss, (embedded, student.text))
            by_image = torch.zeros_like(student.image)
            for part, by_part in zip(parts, by_embedded.split(size), strict=True):
                by_image += vector_jacobian_products([self._embed(part, student)], [student.image], [by_part])[0]
            return EndLoss(loss, {}, Parameters(by_image, by_text))

    def _embed(self, images: Float[Tensor, "pair ..."], student: Parameters) -> Float[Tensor, "pair dim"]:
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self._engine.autocast):
            return self._task.model.embed_images(images, student.image)

    def _loss(
        self, embedded: Float[Tensor, "pair dim"], texts: Float[Tensor, "pair text_dim"], student: Parameters
    ) -> Float[Tensor, ""]:
        model = self._task.model
        with torch.autocast(texts.device.type, dtype=torch.bfloat16, enabled=self._engine.autocast):
            return info_nce(embedded, model.embed_texts(texts, student.text), None, model.settings.temperature)


class MetaModel:
    """Meta-model matching method; see the module docstring."""

    def __init__(self, task: RetrievalTask, settings: DistillationSettings, experts: Sequence[Trajectory]) -> None:
        self._task, self._common, self._experts = task, settings, experts
        self._settings = settings.of(MetaModelSettings)
        sgd = _sgd_of(self._settings)
        self._inner_loop = InnerLoop(task.model, settings, self._settings, sgd, task.further_devices)
        self._real = RealLoss(task, settings, self._settings)
        self.lr_step_sizes: float | None = self._settings.lr_lr

    def gradient(self, synthetic_set: SyntheticSet, outer_step: int, generator: np.random.Generator) -> MethodStep:
        """Draw a start, the number of student steps and real pairs, and return the loss and its gradient."""
        start = self._draw_start(generator)
        steps = draw_steps(self._settings, outer_step, generator)
        batches = draw_batches(self._settings, synthetic_set.num_pairs, generator, self._task.device, steps)
        drawn = self._real.draw(generator)
        with self._task.reading(self._task.train) as begin:
            real = begin(drawn)  # in the background during the student's steps, where it is copied from the host
            source = SetInputs(self._task.model, self._common, synthetic_set, batches.seeds[0])
            loss, by = self._inner_loop.gradient(
                start, lambda student: self._real.of(student, real()), source.inputs, batches
            )
        log = {"meta_loss": loss.value, "student_steps": torch.tensor(float(steps))}
        return MethodStep(loss.value, source.back(by), log)

    def state_dict(self) -> Tensors:
        """Return an empty state: every step depends only on the random stream of the run."""
        return {}

    def load_state_dict(self, state: Tensors) -> None:
        """Do nothing, because the method has no state."""

    def _draw_start(self, generator: np.random.Generator) -> Parameters:
        settings = self._settings
        if settings.starts == "experts" or (settings.starts == "both" and generator.integers(2)):
            expert = self._experts[int(generator.integers(len(self._experts)))]
            start = expert[int(generator.integers(settings.min_start_epoch, settings.max_start_epoch))]
        else:
            start = self._task.model.initial_parameters(int(generator.integers(SEED_END)))
        return parameters_to_device(start, self._task.device)


def _sgd_of(settings: MetaModelSettings) -> StudentSgd:
    momentum, weight_decay, decay = settings.momentum, settings.weight_decay, settings.learning_rate_decay
    if momentum is None or weight_decay is None or decay is None:
        raise ValueError("momentum, weight decay or course of the rates is None: pass Study.completed_distillation")
    return StudentSgd(momentum, weight_decay, decay)


def draw_steps(settings: MetaModelSettings, outer_step: int, generator: np.random.Generator) -> int:
    """Draw the number of student steps: from ``window`` to the most at this outer step, with equal probability.

    Args:
        settings: The window, the most steps, and the outer steps over which these rise.
        outer_step: Number of outer steps taken so far.
        generator: Not used without a window.
    """
    window, most = settings.window, settings.syn_steps
    if window is None:
        return most
    if settings.lengthen_over is not None:
        most = window + (most - window) * min(outer_step, settings.lengthen_over) // settings.lengthen_over
    return int(generator.integers(window, most + 1))


def _with_noise(
    rows: Float[Tensor, "pair feature"], scale: float, generator: torch.Generator
) -> Float[Tensor, "pair feature"]:
    """Add normal noise in standard deviations of each column; drawn on the CPU, so that devices agree."""
    noise = to_device(torch.randn(rows.shape, generator=generator, dtype=rows.dtype), rows.device)
    return rows + scale * rows.std(0) * noise


@contextmanager
def _scored(model: RetrievalModel) -> Iterator[None]:
    """Switch dropout off in this block of the inner loop."""
    training = model.training
    model.train(False)
    try:
        yield
    finally:
        model.train(training)
