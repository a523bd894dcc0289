"""One SGD step of a student, and the way back through it: in one piece, in micro-batches, or compiled.

A step goes from theta to theta - a g with g the gradient of the student's loss at theta. Going back, with lambda the
gradient of the matching loss by where the step ended, everything needed is the gradient of one number,

    a <lambda, g(theta, x, y)>        by theta, x and y,

which costs one double backward through the step.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from rayvldd.config.distillation import DistillationSettings
from rayvldd.distillation.unroll.batches import Batch
from rayvldd.distillation.unroll.convolution import TwiceDifferentiableConvolutions
from rayvldd.models.pair_losses import PAIR_LOSSES
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_model import RetrievalModel
from rayvldd.randomness import seeded


class StepSizes(NamedTuple):
    """Learned step sizes of both sides."""

    image: Float[Tensor, ""]
    text: Float[Tensor, ""]


@dataclass
class StepTape:
    """A step to go back through: where it started, what it saw, and its gradient's graph if that was kept."""

    start: Parameters
    batch: Batch
    seed: int
    gradient: Parameters | None = None


class StepVJP(NamedTuple):
    """What going back through one step gives."""

    products: StepSizes
    """<lambda, g> of each side: the step sizes' part of the gradient, up to its sign."""
    by_batch: Batch
    """Gradient of a <lambda, g> by what the step saw."""
    by_parameters: Parameters | None
    """Gradient of a <lambda, g> by where the step started, where it was asked for."""


@runtime_checkable
class StudentStep(Protocol):
    """One way to compute a step and the way back."""

    keeps_graphs: bool
    """Whether ``take`` can keep a graph that ``back`` then need not compute again."""

    def gradient(self, start: Parameters, batch: Batch, seed: int) -> Parameters:
        """g at ``start``, without a graph."""

    def take(self, start: Parameters, batch: Batch, seed: int) -> StepTape:
        """The step as it is to be gone back through."""

    def back(self, taken: StepTape, adjoint: Parameters, sizes: StepSizes, through_parameters: bool) -> StepVJP:
        """Go back through a step that was taken."""


def build_student_step(model: RetrievalModel, settings: DistillationSettings) -> StudentStep:
    """The step that the engine's settings ask for."""
    engine = settings.engine
    if engine.compile:
        return CompiledStep(model, settings.student_loss, engine.autocast)
    if engine.micro_batch is not None:
        return MicroBatchedStep(model, settings.student_loss, engine.autocast, engine.micro_batch)
    return WholeStep(model, settings.student_loss, engine.autocast)


class WholeStep:
    """A step in one piece: one graph from all pairs to the gradient."""

    keeps_graphs = True

    def __init__(self, model: RetrievalModel, pair_loss: str, autocast: bool) -> None:
        self._model, self._pair_loss, self._autocast = model, pair_loss, autocast

    def gradient(self, start: Parameters, batch: Batch, seed: int) -> Parameters:
        """g at ``start``, without a graph."""
        image, text = _leaves(start)
        loss = self._loss(image, text, batch.detached(), seed)
        # With a graph though nobody goes back through it: without one convolutions round otherwise, and a run's last
        # digits would depend on how many graphs its memory had room for.
        gradient = torch.autograd.grad(loss, (image, text), create_graph=True)
        return _detached(Parameters(*gradient))

    def take(self, start: Parameters, batch: Batch, seed: int) -> StepTape:
        """The step with its graph; ``batch`` are leaves."""
        image, text = _leaves(start)
        loss = self._loss(image, text, batch, seed)
        gradient = Parameters(*torch.autograd.grad(loss, (image, text), create_graph=True))
        return StepTape(Parameters(image, text), batch, seed, gradient)

    def back(self, taken: StepTape, adjoint: Parameters, sizes: StepSizes, through_parameters: bool) -> StepVJP:
        """Backward through the graph of the step's gradient, which is then gone."""
        assert taken.gradient is not None
        products = StepSizes(adjoint.image @ taken.gradient.image, adjoint.text @ taken.gradient.text)
        product = sizes.image * products.image + sizes.text * products.text
        leaves = [*taken.batch.tensors(), *(taken.start if through_parameters else ())]
        gradients = list(torch.autograd.grad(product, leaves))
        by_batch = Batch(
            gradients.pop(0), gradients.pop(0), None if taken.batch.similarity is None else gradients.pop(0)
        )
        detached = StepSizes(products.image.detach(), products.text.detach())
        return StepVJP(detached, by_batch, Parameters(*gradients) if through_parameters else None)

    def _loss(self, image: Tensor, text: Tensor, batch: Batch, seed: int) -> Float[Tensor, ""]:
        with seeded(seed), _cast(self._autocast, image), TwiceDifferentiableConvolutions(batch.images):
            return self._model.loss(
                Parameters(image, text),
                batch.images,
                batch.texts,
                similarity=batch.similarity,
                pair_loss=self._pair_loss,
            )


class MicroBatchedStep:
    """A step whose images go through the image side in parts: memory for one part's graph, whatever the pairs.

    With e the image embeddings, J their derivative by the image parameters and c the loss's gradient by e, the image
    side's gradient is J'c, and its product with lambda is <e_dot, c> where e_dot = J lambda. The loss needs all
    embeddings together, the encoder none: embeddings first, then the loss by itself, then the encoder part by part.
    Exact. Under dropout each part has its own stream, so that another size of parts draws other masks.
    """

    keeps_graphs = False

    def __init__(self, model: RetrievalModel, pair_loss: str, autocast: bool, micro_batch: int) -> None:
        self._model, self._autocast, self._size = model, autocast, micro_batch
        self._pair_loss = PAIR_LOSSES[pair_loss]

    def gradient(self, start: Parameters, batch: Batch, seed: int) -> Parameters:
        """g at ``start``, without a graph."""
        image, text = _leaves(start)
        embeddings = self._embed_all(image, batch, seed).requires_grad_()
        by_embeddings, by_text = torch.autograd.grad(self._loss(embeddings, text, batch, seed), (embeddings, text))
        by_image = torch.zeros_like(image)
        for part, rows in self._parts(batch):
            embedded = self._embed(image, rows.detach(), seed, part)
            by_image += torch.autograd.grad(embedded, image, by_embeddings[part])[0]
        return Parameters(by_image, by_text)

    def take(self, start: Parameters, batch: Batch, seed: int) -> StepTape:
        """The step without its graph, which is computed part by part on the way back."""
        return StepTape(start, batch, seed)

    def back(self, taken: StepTape, adjoint: Parameters, sizes: StepSizes, through_parameters: bool) -> StepVJP:
        """Twice through the encoder: once for J lambda and the second derivatives, once for what the loss adds."""
        batch, seed = taken.batch, taken.seed
        image, text = _leaves(taken.start)
        texts = batch.texts.detach().requires_grad_()
        similarity = None if batch.similarity is None else batch.similarity.detach().requires_grad_()
        embeddings = self._embed_all(image, batch, seed).requires_grad_()
        loss = self._loss(embeddings, text, Batch(batch.images, texts, similarity), seed)
        cotangent, by_text = torch.autograd.grad(loss, (embeddings, text), create_graph=True)

        weighted = sizes.image * adjoint.image
        by_image, by_images = torch.zeros_like(image), torch.zeros_like(batch.images)
        tangent = torch.zeros_like(embeddings)
        image_product = torch.zeros_like(sizes.image)
        for part, rows in self._parts(batch):
            parts = self._second_order(image, rows, cotangent[part].detach(), weighted, seed, part)
            tangent[part], by_images[part], image_product = parts[1], parts[2], image_product + parts[0]
            by_image += parts[3]

        text_product = adjoint.text @ by_text
        outer = (tangent * cotangent).sum() + sizes.text * text_product
        leaves = [embeddings, texts, text, *([] if similarity is None else [similarity])]
        by_embeddings, by_texts, by_text_parameters, *by_similarity = torch.autograd.grad(outer, leaves)
        for part, rows in self._parts(batch):
            rows = rows.detach().requires_grad_()
            embedded = self._embed(image, rows, seed, part)
            first_order = torch.autograd.grad(embedded, (image, rows), by_embeddings[part])
            by_image += first_order[0]
            by_images[part] += first_order[1]
        products = StepSizes(image_product / sizes.image, text_product.detach())
        by_batch = Batch(by_images, by_texts, by_similarity[0] if by_similarity else None)
        return StepVJP(products, by_batch, Parameters(by_image, by_text_parameters) if through_parameters else None)

    def _second_order(
        self, image: Tensor, rows: Tensor, cotangent: Tensor, weighted: Tensor, seed: int, part: slice
    ) -> tuple[Tensor, ...]:
        """<weighted, J'c> of a part, and its gradient by c (which is J weighted), the images, and the parameters."""
        rows, cotangent = rows.detach().requires_grad_(), cotangent.requires_grad_()
        embedded = self._embed(image, rows, seed, part)
        (by_image,) = torch.autograd.grad(embedded, image, cotangent, create_graph=True)
        product = weighted @ by_image
        return product.detach(), *torch.autograd.grad(product, (cotangent, rows, image))

    def _parts(self, batch: Batch) -> list[tuple[slice, Tensor]]:
        starts = range(0, len(batch.images), self._size)
        return [(part, batch.images[part]) for part in (slice(start, start + self._size) for start in starts)]

    @torch.no_grad()
    def _embed_all(self, image: Tensor, batch: Batch, seed: int) -> Tensor:
        return torch.cat([self._embed(image, rows, seed, part) for part, rows in self._parts(batch)])

    def _embed(self, image: Tensor, rows: Tensor, seed: int, part: slice) -> Tensor:
        with seeded(seed + 1 + part.start), _cast(self._autocast, image), TwiceDifferentiableConvolutions(rows):
            return self._model.embed_images(rows, image)

    def _loss(self, embeddings: Tensor, text: Tensor, batch: Batch, seed: int) -> Tensor:
        with seeded(seed), _cast(self._autocast, text):
            texts = self._model.embed_texts(batch.texts, text)
            return self._pair_loss(embeddings, texts, batch.similarity, self._model.settings.temperature)


class CompiledStep:
    """A step in one piece through torch.compile, which takes it when it is written with torch.func.

    The compiled functions stay with the model, so that all trials of a process that use the model share them.
    """

    keeps_graphs = False

    def __init__(self, model: RetrievalModel, pair_loss: str, autocast: bool) -> None:
        compiled = vars(model).setdefault("compiled_steps", {})
        if (pair_loss, autocast) not in compiled:
            compiled[pair_loss, autocast] = tuple(map(torch.compile, _functional_step(model, pair_loss, autocast)))
        self._gradient, self._back = compiled[pair_loss, autocast]

    def gradient(self, start: Parameters, batch: Batch, seed: int) -> Parameters:
        """g at ``start``; ``seed`` decides nothing, as there is no dropout."""
        return Parameters(*self._gradient(*_detached(start), *batch.detached()))

    def take(self, start: Parameters, batch: Batch, seed: int) -> StepTape:
        """The step as plain values: the way back computes all of it."""
        return StepTape(start, batch, seed)

    def back(self, taken: StepTape, adjoint: Parameters, sizes: StepSizes, through_parameters: bool) -> StepVJP:
        """One call of the compiled way back."""
        gradients, products = self._back(*_detached(taken.start), *taken.batch.detached(), *adjoint, *sizes)
        by_image, by_text, *by_batch = gradients
        by_parameters = Parameters(by_image, by_text) if through_parameters else None
        by = Batch(by_batch[0], by_batch[1], by_batch[2] if len(by_batch) == 3 else None)
        return StepVJP(StepSizes(*products), by, by_parameters)


def _functional_step(
    model: RetrievalModel, pair_loss: str, autocast: bool
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The step's gradient, and the gradient of a <lambda, g>, as functions of tensors alone."""

    def loss(image: Tensor, text: Tensor, images: Tensor, texts: Tensor, similarity: Tensor | None) -> Tensor:
        with _cast(autocast, image):
            parameters = Parameters(image, text)
            return model.loss(parameters, images, texts, similarity=similarity, pair_loss=pair_loss)

    gradient: Callable[..., Any] = torch.func.grad(loss, argnums=(0, 1))

    def back(
        image: Tensor,
        text: Tensor,
        images: Tensor,
        texts: Tensor,
        similarity: Tensor | None,
        *direction: Tensor,
    ) -> Any:
        by_image, by_text, size_image, size_text = direction

        def product(*leaves: Tensor) -> Any:
            of_image, of_text = gradient(*leaves, *(() if similarity is not None else (None,)))
            products = by_image @ of_image, by_text @ of_text
            return size_image * products[0] + size_text * products[1], products

        leaves = (image, text, images, texts, *(() if similarity is None else (similarity,)))
        of_product: Callable[..., Any] = torch.func.grad(product, argnums=tuple(range(len(leaves))), has_aux=True)
        gradients, products = of_product(*leaves)
        return gradients, products

    return gradient, back


def _leaves(parameters: Parameters) -> tuple[Tensor, Tensor]:
    image, text = (side.detach().requires_grad_() for side in parameters)
    return image, text


def _detached(parameters: Parameters) -> Parameters:
    return Parameters(parameters.image.detach(), parameters.text.detach())


def _cast(autocast: bool, where: Tensor) -> AbstractContextManager[Any]:
    return torch.autocast(where.device.type, dtype=torch.bfloat16, enabled=autocast)
