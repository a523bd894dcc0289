"""What students minimise: against the formulas entry by entry, and differentiable twice by all they read."""

import math
from collections.abc import Callable

import pytest
import torch
from helpers.tasks import CONVNET, drawn_like, random_inputs, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from rayvldd.models.pair_losses import PAIR_LOSSES, PairLoss, extended_info_nce, info_nce, weighted_bce

NAMES = sorted(PAIR_LOSSES)
DRAWN = st.tuples(st.integers(1, 7), st.integers(1, 5), st.floats(0.05, 2.0), st.integers(0, 1000))
"""Pairs, width of the embeddings, temperature, seed."""


def embeddings(pairs: int, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    empty = torch.empty(pairs, dim, dtype=torch.float64)
    return functional.normalize(drawn_like(empty, seed), dim=1), functional.normalize(
        drawn_like(empty, seed + 1), dim=1
    )


def similarity_of(pairs: int, seed: int) -> Tensor:
    """Around the identity, below 0 and above 1 too, and never on the border between positive and negative."""
    drawn = torch.eye(pairs, dtype=torch.float64) + drawn_like(torch.empty(pairs, pairs, dtype=torch.float64), seed)
    return torch.where((drawn - 0.5).abs() < 0.01, 0.6, drawn)


def slow_extended_info_nce(images: Tensor, texts: Tensor, similarity: Tensor, temperature: float) -> float:
    total, count = 0.0, len(images)
    weights = [[math.exp(float(image @ text) / temperature) for text in texts] for image in images]
    for i in range(count):
        for j in range(count):
            of_row = math.log(weights[i][j] / sum(weights[i]))
            of_column = math.log(weights[i][j] / sum(row[j] for row in weights))
            total -= float(similarity[i, j]) * (of_row + of_column)
    return total / (2 * count)


def slow_weighted_bce(images: Tensor, texts: Tensor, similarity: Tensor, temperature: float) -> float:
    positives, negatives = list[float](), list[float]()
    for i, image in enumerate(images):
        for j, text in enumerate(texts):
            score, s = float(image @ text) / temperature, float(similarity[i, j])
            yes, no = 1 / (1 + math.exp(-score)), 1 / (1 + math.exp(score))
            loss = -s * math.log(yes) - (1 - s) * math.log(no)
            (positives if s > 0.5 else negatives).append(loss)
    return sum(sum(side) / len(side) for side in (positives, negatives) if side) / 2


@pytest.mark.parametrize(
    ("loss", "slow"), [(extended_info_nce, slow_extended_info_nce), (weighted_bce, slow_weighted_bce)]
)
@settings(max_examples=25, derandomize=True, deadline=None, database=None)
@given(DRAWN)
def test_losses_are_those_of_the_formulas(
    loss: PairLoss, slow: Callable[[Tensor, Tensor, Tensor, float], float], drawn: tuple[int, int, float, int]
) -> None:
    pairs, dim, temperature, seed = drawn
    images, texts = embeddings(pairs, dim, seed)
    similarity = similarity_of(pairs, seed + 2)
    found = float(loss(images, texts, similarity, temperature))
    assert found == pytest.approx(slow(images, texts, similarity, temperature), rel=1e-9, abs=1e-11)
    swapped = float(loss(texts, images, similarity.T, temperature))
    assert found == pytest.approx(swapped, rel=1e-12, abs=1e-12)  # neither modality is preferred


@pytest.mark.parametrize("name", NAMES)
def test_no_similarity_means_the_identity(name: str) -> None:
    images, texts = embeddings(5, 3, seed=0)
    loss = PAIR_LOSSES[name]
    identity = torch.eye(5, dtype=torch.float64)
    assert float(loss(images, texts, None, 0.2)) == pytest.approx(float(loss(images, texts, identity, 0.2)), rel=1e-12)
    if name == "extended_info_nce":
        assert float(loss(images, texts, identity, 0.2)) == pytest.approx(float(info_nce(images, texts, None, 0.2)))


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_differentiable_twice_by_all_they_read(name: str) -> None:
    images, texts = embeddings(4, 3, seed=0)
    inputs = [side.requires_grad_() for side in (images, texts, similarity_of(4, seed=2))]
    inputs = inputs[:2] if name == "info_nce" else inputs

    def loss(images: Tensor, texts: Tensor, similarity: Tensor | None = None) -> Tensor:
        return PAIR_LOSSES[name](images, texts, similarity, 0.3)

    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


@pytest.mark.parametrize("name", NAMES)
def test_no_shape_depends_on_values(name: str) -> None:
    """Else neither torch.func, which refuses such shapes under vmap, nor torch.compile takes a step as a whole."""
    images, texts = (torch.stack(parts) for parts in zip(embeddings(4, 3, 0), embeddings(4, 3, 5), strict=True))
    similarity = torch.stack([similarity_of(4, 2), similarity_of(4, 3)])

    def loss(images: Tensor, texts: Tensor, similarity: Tensor) -> Tensor:
        return PAIR_LOSSES[name](images, texts, similarity, 0.3)

    together = torch.func.vmap(torch.func.grad(loss, (0, 1, 2)))(images, texts, similarity)
    for batch in (0, 1):
        left, right, target = (side[batch].clone().requires_grad_() for side in (images, texts, similarity))
        value = loss(left, right, target)
        apart = torch.autograd.grad(value, (left, right, target), allow_unused=True, materialize_grads=True)
        for found, expected in zip(together, apart, strict=True):
            assert torch.allclose(found[batch], expected, rtol=1e-12, atol=1e-14)


def test_positives_and_negatives_weigh_the_same_however_many_there_are() -> None:
    images = torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64)
    texts = torch.tensor([[0.0, 1.0]] * 3, dtype=torch.float64)  # all scores 0: p is 1/2 everywhere
    for positives in (1, 4, 9):
        similarity = torch.zeros(9, dtype=torch.float64)
        similarity[:positives] = 1.0
        sides = 1 if positives == 9 else 2
        loss = float(weighted_bce(images, texts, similarity.view(3, 3), 0.07))
        assert loss == pytest.approx(sides * math.log(2) / 2, rel=1e-12)


def test_weighted_bce_stays_exact_where_the_sigmoid_is_saturated() -> None:
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    images.requires_grad_()
    loss = weighted_bce(images, -images.detach(), torch.eye(2, dtype=torch.float64), 0.01)
    assert float(loss.detach()) == pytest.approx(50.0, rel=1e-12)  # the positives' 100, halved; a cap would show
    (gradient,) = torch.autograd.grad(loss, images)
    assert gradient[:, 0].tolist() == pytest.approx([25.0, 25.0])  # not flat: an image still feels its own text


def test_the_model_hands_similarity_and_temperature_on() -> None:
    model = small_model("heads_only", CONVNET, temperature=0.5)
    inputs, parameters = random_inputs(model, seed=0), model.initial_parameters(0)
    images = model.embed_images(inputs.frozen_output, parameters.image)
    texts = model.embed_texts(inputs.texts, parameters.text)
    similarity = similarity_of(4, seed=1)
    for name in NAMES:
        loss = model.loss(parameters, inputs.frozen_output, inputs.texts, similarity=similarity, pair_loss=name)
        assert torch.equal(loss, PAIR_LOSSES[name](images, texts, similarity, 0.5))
    assert torch.equal(model.loss(parameters, inputs.frozen_output, inputs.texts), info_nce(images, texts, None, 0.5))
