"""The student's walk on the synthetic set and the exact gradient of where it ends, at one step's memory.

    theta_{i+1} = theta_i - a * g_i,    g_i = gradient of l(theta_i, x, y) at theta_i,    i = 0 ... S - 1

on both sides at once, a being the learned step size of the side. The released code keeps one graph over all steps,
so its memory grows with S. Here the steps run without a graph and only theta_0 ... theta_S are kept; then, with
lambda_S = dL/dtheta_S, a sweep back from i = S - 1 to 0 gathers

    dL/dx += -a (dg_i/dx)' lambda_{i+1}
    dL/da += -<lambda_{i+1}, g_i>
    lambda_i = lambda_{i+1} - a (dg_i/dtheta)' lambda_{i+1}

with one double backward a step. This is the gradient, to rounding; the two-pass form published as TESLA
(arXiv 2211.10586) and copied by follow-ups is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rayvldd.distillation.matching import MatchingLoss, matching_loss
from rayvldd.experts.trajectory import Segment
from rayvldd.models.image_encoder import seeded
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_model import RetrievalModel


@dataclass(frozen=True)
class Walk:
    """What decides a student's steps besides the synthetic set: which pairs each step uses, and its dropout seed."""

    batches: Sequence[Int[Tensor, " batch"]]
    """Pair indexes of each step."""
    seeds: Sequence[int]
    """Seed of the randomness inside each step, so that the sweep can replay it."""


class StudentInputs(NamedTuple):
    """What the matching loss is differentiated by."""

    stem_output: Float[Tensor, "pair ..."]
    """The synthetic images after the frozen stem (the images themselves where there is none)."""
    texts: Float[Tensor, "pair text_dim"]
    """The synthetic caption embeddings."""
    lr_image: Float[Tensor, ""]
    """Learned step size of the image side."""
    lr_text: Float[Tensor, ""]
    """Learned step size of the text side."""


def matching_gradient(
    model: RetrievalModel, segment: Segment, inputs: StudentInputs, walk: Walk
) -> tuple[MatchingLoss, StudentInputs]:
    """Return the matching loss and its exact gradient by everything in ``inputs``."""
    model.train()
    with sdpa_kernel(SDPBackend.MATH):  # fused attention has no double backward
        states = _walk_forward(model, segment.start, inputs, walk)
        loss, arrival = _loss_and_arrival_gradient(states[-1], segment)
        gradient = _sweep_back(model, states, inputs, walk, arrival)
    model.train(False)
    return loss, gradient


def _walk_forward(model: RetrievalModel, start: Parameters, inputs: StudentInputs, walk: Walk) -> list[Parameters]:
    """theta_0 ... theta_S; memory: S + 1 parameter vectors."""
    states = [Parameters(start.image, start.text)]
    for batch, seed in zip(walk.batches, walk.seeds, strict=True):
        image, text = (side.detach().requires_grad_() for side in states[-1])
        with seeded(seed):
            loss = model.loss(Parameters(image, text), inputs.stem_output[batch].detach(), inputs.texts[batch].detach())
        image_gradient, text_gradient = torch.autograd.grad(loss, (image, text))
        states.append(
            Parameters(
                image.detach() - inputs.lr_image.detach() * image_gradient,
                text.detach() - inputs.lr_text.detach() * text_gradient,
            )
        )
    return states


def _loss_and_arrival_gradient(arrival: Parameters, segment: Segment) -> tuple[MatchingLoss, Parameters]:
    image, text = (side.detach().requires_grad_() for side in arrival)
    loss = matching_loss(Parameters(image, text), segment)
    return loss.detached(), Parameters(*torch.autograd.grad(loss.total, (image, text)))


def _sweep_back(
    model: RetrievalModel, states: Sequence[Parameters], inputs: StudentInputs, walk: Walk, arrival: Parameters
) -> StudentInputs:
    stem_total, text_total = torch.zeros_like(inputs.stem_output), torch.zeros_like(inputs.texts)
    lr_image_total, lr_text_total = torch.zeros_like(inputs.lr_image), torch.zeros_like(inputs.lr_text)
    image_adjoint, text_adjoint = arrival
    for step in reversed(range(len(walk.batches))):
        batch = walk.batches[step]
        image, text = (side.detach().requires_grad_() for side in states[step])
        stem_output = inputs.stem_output[batch].detach().requires_grad_()
        texts = inputs.texts[batch].detach().requires_grad_()
        with seeded(walk.seeds[step]):
            loss = model.loss(Parameters(image, text), stem_output, texts)
        image_gradient, text_gradient = torch.autograd.grad(loss, (image, text), create_graph=True)
        image_product, text_product = image_adjoint @ image_gradient, text_adjoint @ text_gradient
        lr_image_total -= image_product.detach()
        lr_text_total -= text_product.detach()
        product = inputs.lr_image.detach() * image_product + inputs.lr_text.detach() * text_product
        by_image, by_text, by_stem, by_texts = torch.autograd.grad(product, (image, text, stem_output, texts))
        image_adjoint, text_adjoint = image_adjoint - by_image, text_adjoint - by_text
        stem_total.index_add_(0, batch, -by_stem)
        text_total.index_add_(0, batch, -by_texts)
    return StudentInputs(stem_total, text_total, lr_image_total, lr_text_total)
