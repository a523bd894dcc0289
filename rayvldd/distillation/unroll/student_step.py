"""One SGD step of a student and its backward pass: in one piece, in micro-batches, or compiled.

A step goes from theta to theta - a g with g the gradient of the student's loss at theta. With lambda the gradient of
the matching loss with respect to the parameters after the step, the backward pass needs the gradient of one number,

    a <lambda, g(theta, x, y)>        by theta, x and y,

which costs one double backward through the step.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from rayvldd.config.distillation import DistillationSettings
from rayvldd.distillation.unroll.batches import Batch
from rayvldd.distillation.unroll.convolution import TwiceDifferentiableConvolutions
from rayvldd.errors import ConfigError, Fault
from rayvldd.models.copies import to_device
from rayvldd.models.pair_losses import PAIR_LOSSES
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_model import RetrievalModel
from rayvldd.randomness import seeded
from rayvldd.training.gradients import vector_jacobian_products

_Results = tuple[Tensor | tuple[Tensor, ...], ...]
"""Results of a compiled function."""


class StepSizes(NamedTuple):
    """Step sizes of both sides."""

    image: Float[Tensor, ""]
    text: Float[Tensor, ""]


@dataclass
class StepTape:
    """Record of a step for its backward pass: start parameters, batch, and the graph of its gradient if kept."""

    start: Parameters
    batch: Batch
    seed: int
    gradient: Parameters | None = None


class StepVJP(NamedTuple):
    """Result of the backward pass through one step."""

    products: StepSizes
    """<lambda, g> of each side: the gradient with respect to the step sizes, up to its sign."""
    by_batch: Batch
    """Gradient of a <lambda, g> with respect to the batch."""
    by_parameters: Parameters | None
    """Gradient of a <lambda, g> with respect to the start parameters, if requested."""


@runtime_checkable
class StudentStep(Protocol):
    """Implementation of a step and its backward pass."""

    keeps_graphs: bool
    """Whether ``take`` can keep a graph, so that ``back`` need not recompute it."""

    def gradient(self, start: Parameters, batch: Batch, seed: int) -> Parameters:
        """Return g at ``start``, without a graph."""

    def take(self, start: Parameters, batch: Batch, seed: int) -> StepTape:
        """Return the record of the step for ``back``."""

    def back(self, taken: StepTape, adjoint: Parameters, sizes: StepSizes, through_parameters: bool) -> StepVJP:
        """Return the backward pass through a recorded step."""


def build_student_step(
    model: RetrievalModel, settings: DistillationSettings, further_devices: Sequence[torch.device] = ()
) -> StudentStep:
    """Create the step implementation selected by the engine settings.

    Args:
        model: The two-tower model.
        settings: Distillation settings.
        further_devices: Devices that share the images of a step with that of the model.

    Raises:
        ConfigError: if CUDA graphs are requested and the model is not on a GPU.
    """
    engine = settings.engine
    if engine.compile:
        graphs, device = engine.compile == "cuda_graphs", model.mean.device.type
        if graphs and device != "cuda":
            fault = Fault("distillation.engine.compile", f"cuda_graphs, and the trial runs on {device}", "a GPU")
            raise ConfigError([fault], next_command="the same command with --set distillation.engine.compile=true")
        return CompiledStep(model, settings.student_loss, engine.autocast, graphs)
    if engine.micro_batch is not None or further_devices:
        return MicroBatchedStep(model, settings.student_loss, engine.autocast, engine.micro_batch, further_devices)
    return WholeStep(model, settings.student_loss, engine.autocast)


class WholeStep:
    """A step in one piece: one graph from all pairs to the gradient."""

    keeps_graphs = True

    def __init__(self, model: RetrievalModel, pair_loss: str, autocast: bool) -> None:
        self._model, self._pair_loss, self._autocast = model, pair_loss, autocast

    def gradient(self, start: Parameters, batch: Batch, seed: int) -> Parameters:
        """Return g at ``start``, without a graph."""
        image, text = _leaves(start)
        loss = self._loss(image, text, batch.detached(), seed)
        # With a graph, although it is not used: without one convolutions round differently, and the last digits of a
        # run would depend on the number of graphs that fit into its memory.
        gradient = torch.autograd.grad(loss, (image, text), create_graph=True)
        return _detached(Parameters(*gradient))

    def take(self, start: Parameters, batch: Batch, seed: int) -> StepTape:
        """Return the record of the step with its graph; ``batch`` must be leaves."""
        image, text = _leaves(start)
        loss = self._loss(image, text, batch, seed)
        gradient = Parameters(*torch.autograd.grad(loss, (image, text), create_graph=True))
        return StepTape(Parameters(image, text), batch, seed, gradient)

    def back(self, taken: StepTape, adjoint: Parameters, sizes: StepSizes, through_parameters: bool) -> StepVJP:
        """Propagate through the graph of the step's gradient, which is then freed."""
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
        images = self._model.laid_out(batch.images)
        with seeded(seed), _cast(self._autocast, image), TwiceDifferentiableConvolutions(images):
            return self._model.loss(
                Parameters(image, text),
                images,
                batch.texts,
                similarity=batch.similarity,
                pair_loss=self._pair_loss,
            )


class MicroBatchedStep:
    """A step that processes its images in parts, with the memory of one part's graph for any number of pairs.

    With e the image embeddings, J their derivative with respect to the image parameters and c the gradient of the loss
    with respect to e, the gradient of the image side is J'c, and its product with lambda is <e_dot, c> where
    e_dot = J lambda. The loss needs all embeddings together, the encoder does not: compute the embeddings, then the
    loss, then the encoder part by part. The result is exact. With dropout each part has its own stream, so another part
    size draws other masks.

    With further devices the parts take turns on all of them, and the host waits for none: they compute at the same
    time. Each sums the gradient of its parts, and the first one adds the sums.
    """

    keeps_graphs = False

    def __init__(
        self,
        model: RetrievalModel,
        pair_loss: str,
        autocast: bool,
        micro_batch: int | None,
        further_devices: Sequence[torch.device] = (),
    ) -> None:
        """Create the step; by default each device takes one part."""
        self._models = [model, *(deepcopy(model).to(device) for device in further_devices)]
        self._autocast, self._size, self._pair_loss = autocast, micro_batch, PAIR_LOSSES[pair_loss]

    def gradient(self, start: Parameters, batch: Batch, seed: int) -> Parameters:
        """Return g at ``start``, without a graph."""
        image, text = _leaves(start)
        embeddings = self._embed_all(image, batch, seed).requires_grad_()
        by_embeddings, by_text = torch.autograd.grad(self._loss(embeddings, text, batch, seed), (embeddings, text))
        copies = self._on_every_device(image)
        by_copies = [torch.zeros_like(each) for each in copies]
        for at, part, rows in self._parts(batch):
            embedded = self._embed(at, copies[at], rows.detach(), seed, part)
            by_part = to_device(by_embeddings[part], embedded.device)
            by_copies[at] += vector_jacobian_products([embedded], [copies[at]], [by_part])[0]
        return Parameters(_sum_on_first(by_copies), by_text)

    def take(self, start: Parameters, batch: Batch, seed: int) -> StepTape:
        """Return the record of the step without its graph; the backward pass computes it part by part."""
        return StepTape(start, batch, seed)

    def back(self, taken: StepTape, adjoint: Parameters, sizes: StepSizes, through_parameters: bool) -> StepVJP:
        """Pass twice through the encoder: for J lambda with the second derivatives, and for the terms of the loss."""
        batch, seed = taken.batch, taken.seed
        image, text = _leaves(taken.start)
        texts = batch.texts.detach().requires_grad_()
        similarity = None if batch.similarity is None else batch.similarity.detach().requires_grad_()
        embeddings = self._embed_all(image, batch, seed).requires_grad_()
        loss = self._loss(embeddings, text, Batch(batch.images, texts, similarity), seed)
        cotangent, by_text = torch.autograd.grad(loss, (embeddings, text), create_graph=True)

        copies, weights = self._on_every_device(image), self._on_every_device(sizes.image * adjoint.image)
        by_copies, by_images = [torch.zeros_like(each) for each in copies], torch.zeros_like(batch.images)
        tangent = torch.zeros_like(embeddings)
        image_product = torch.zeros_like(sizes.image)
        for at, part, rows in self._parts(batch):
            by_part = to_device(cotangent[part].detach(), rows.device)
            product, of_tangent, of_rows, of_copy = self._second_order(
                at, copies[at], rows, by_part, weights[at], seed, part
            )
            tangent[part], by_images[part] = to_device(of_tangent, tangent.device), to_device(of_rows, tangent.device)
            image_product = image_product + to_device(product, tangent.device)
            by_copies[at] += of_copy

        text_product = adjoint.text @ by_text
        outer = (tangent * cotangent).sum() + sizes.text * text_product
        leaves = [embeddings, texts, text, *([] if similarity is None else [similarity])]
        by_embeddings, by_texts, by_text_parameters, *by_similarity = torch.autograd.grad(outer, leaves)
        for at, part, rows in self._parts(batch):
            rows = rows.detach().requires_grad_()
            embedded = self._embed(at, copies[at], rows, seed, part)
            by_part = to_device(by_embeddings[part], rows.device)
            first_order = vector_jacobian_products([embedded], [copies[at], rows], [by_part])
            by_copies[at] += first_order[0]
            by_images[part] += to_device(first_order[1], by_images.device)
        products = StepSizes(image_product / sizes.image, text_product.detach())
        by_batch = Batch(by_images, by_texts, by_similarity[0] if by_similarity else None)
        by_parameters = Parameters(_sum_on_first(by_copies), by_text_parameters) if through_parameters else None
        return StepVJP(products, by_batch, by_parameters)

    def _second_order(
        self, at: int, image: Tensor, rows: Tensor, cotangent: Tensor, weighted: Tensor, seed: int, part: slice
    ) -> tuple[Tensor, ...]:
        """Return <weighted, J'c> of a part, and its gradient by c (which is J weighted), images and parameters."""
        rows, cotangent = rows.detach().requires_grad_(), cotangent.requires_grad_()
        embedded = self._embed(at, image, rows, seed, part)
        (by_image,) = vector_jacobian_products([embedded], [image], [cotangent], create_graph=True)
        product = weighted @ by_image
        return product.detach(), *torch.autograd.grad(product, (cotangent, rows, image))

    def _parts(self, batch: Batch) -> list[tuple[int, slice, Tensor]]:
        """Return the number of the device, the rows and the images of every part; images are on the device."""
        count = len(self._models)
        size = self._size or -(-len(batch.images) // count)
        parts = [slice(start, start + size) for start in range(0, len(batch.images), size)]
        devices = [model.mean.device for model in self._models]
        return [
            (number % count, part, to_device(batch.images[part], devices[number % count]))  # type: ignore[arg-type]
            for number, part in enumerate(parts)
        ]

    def _on_every_device(self, values: Tensor) -> list[Tensor]:
        """Return the values, and copies of them on the further devices as leaves where they are leaves."""
        further = [to_device(values.detach(), model.mean.device) for model in self._models[1:]]  # type: ignore[arg-type]
        return [values, *(each.requires_grad_(values.requires_grad) for each in further)]

    @torch.no_grad()
    def _embed_all(self, image: Tensor, batch: Batch, seed: int) -> Tensor:
        copies = self._on_every_device(image)
        parts = [self._embed(at, copies[at], rows, seed, part) for at, part, rows in self._parts(batch)]
        return torch.cat([to_device(part, image.device) for part in parts])

    def _embed(self, at: int, image: Tensor, rows: Tensor, seed: int, part: slice) -> Tensor:
        model = self._models[at].train(self._models[0].training)
        rows = model.laid_out(rows)
        with seeded(seed + 1 + part.start), _cast(self._autocast, image), TwiceDifferentiableConvolutions(rows):
            return model.embed_images(rows, image)

    def _loss(self, embeddings: Tensor, text: Tensor, batch: Batch, seed: int) -> Tensor:
        with seeded(seed), _cast(self._autocast, text):
            model = self._models[0]
            texts = model.embed_texts(batch.texts, text)
            return self._pair_loss(embeddings, texts, batch.similarity, model.settings.temperature)


class CompiledStep:
    """A step in one piece through torch.compile, written with torch.func, which torch.compile supports.

    The compiled functions are stored with the model, so that all trials of a process with this model share them.

    As CUDA graphs (torch.compile's mode ``reduce-overhead``) the same functions are recorded and replayed. Both
    derivatives are computed inside the compiled functions, which nothing differentiates in turn: torch.compile has no
    second derivative through a compiled function, and none is asked for.
    """

    keeps_graphs = False

    def __init__(self, model: RetrievalModel, pair_loss: str, autocast: bool, cuda_graphs: bool = False) -> None:
        """Compile both functions, which happens at their first call."""
        compiled, key = vars(model).setdefault("compiled_steps", {}), (pair_loss, autocast, cuda_graphs)
        if key not in compiled:
            functions = _functional_step(model, pair_loss, autocast)
            compiled[key] = tuple(map(_replayed if cuda_graphs else torch.compile, functions))
        self._gradient, self._back = compiled[key]

    def gradient(self, start: Parameters, batch: Batch, seed: int) -> Parameters:
        """Return g at ``start``; ``seed`` is not used, as there is no dropout."""
        return Parameters(*self._gradient(*_detached(start), *batch.detached()))

    def take(self, start: Parameters, batch: Batch, seed: int) -> StepTape:
        """Return the record of the step without a graph; the backward pass recomputes it."""
        return StepTape(start, batch, seed)

    def back(self, taken: StepTape, adjoint: Parameters, sizes: StepSizes, through_parameters: bool) -> StepVJP:
        """Call the compiled backward pass."""
        gradients, products = self._back(*_detached(taken.start), *taken.batch.detached(), *adjoint, *sizes)
        by_image, by_text, *by_batch = gradients
        by_parameters = Parameters(by_image, by_text) if through_parameters else None
        by = Batch(by_batch[0], by_batch[1], by_batch[2] if len(by_batch) == 3 else None)
        return StepVJP(StepSizes(*products), by, by_parameters)


def _replayed(function: Callable[..., _Results]) -> Callable[..., _Results]:
    """Compile a function whose calls are replayed as a CUDA graph; its results are copies, which no replay overwrites.

    A student's steps keep their results until the backward sweep. The replay has memory of its own, which it overwrites
    at the next call, and it is only begun anew once the caller says that a new step begins.
    """
    compiled = torch.compile(function, mode="reduce-overhead")

    def call(*tensors: Tensor | None) -> _Results:
        torch.compiler.cudagraph_mark_step_begin()
        with torch.no_grad():  # else torch.compile waits for a backward pass through the graph, which never comes
            return _copied(compiled(*tensors))

    return call


def _copied(results: _Results) -> _Results:
    return tuple(
        part.clone() if isinstance(part, Tensor) else tuple(inner.clone() for inner in part) for part in results
    )


def _functional_step(
    model: RetrievalModel, pair_loss: str, autocast: bool
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return functions of tensors for the gradient of the step and for the gradient of a <lambda, g>."""

    def loss(image: Tensor, text: Tensor, images: Tensor, texts: Tensor, similarity: Tensor | None) -> Tensor:
        with _cast(autocast, image):
            parameters = Parameters(image, text)
            return model.loss(parameters, model.laid_out(images), texts, similarity=similarity, pair_loss=pair_loss)

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


def _sum_on_first(of_devices: list[Tensor]) -> Tensor:
    first, *further = of_devices
    for other in further:
        first += to_device(other, first.device)
    return first


def _leaves(parameters: Parameters) -> tuple[Tensor, Tensor]:
    image, text = (side.detach().requires_grad_() for side in parameters)
    return image, text


def _detached(parameters: Parameters) -> Parameters:
    return Parameters(parameters.image.detach(), parameters.text.detach())


def _cast(autocast: bool, where: Tensor) -> AbstractContextManager[object]:
    return torch.autocast(where.device.type, dtype=torch.bfloat16, enabled=autocast)
