"""The sweep's gradient against the graph of the whole walk, against finite differences, and what it keeps in memory."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import (
    CONVNET,
    encoder,
    loss_of_unrolled_walk,
    random_inputs,
    random_segment,
    random_walk,
    small_model,
)
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rayvldd.distillation.inner_loop import StudentInputs, Walk, matching_gradient
from rayvldd.distillation.matching import matching_loss
from rayvldd.experts.trajectory import Segment
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_model import RetrievalModel

MODELS: dict[str, dict[str, Any]] = {
    "heads_only": {"protocol": "heads_only", "image_encoder": CONVNET},
    "heads_only, dropout": {"protocol": "heads_only", "image_encoder": CONVNET, "dropout": 0.3},
    "convnet": {"protocol": "full_image_encoder", "image_encoder": CONVNET},
    "convnet, both heads, dropout": {
        "protocol": "full_image_encoder",
        "image_encoder": CONVNET,
        "image_head": True,
        "dropout": 0.2,
    },
    "BatchNorm": {"protocol": "full_image_encoder", "image_encoder": encoder("test_efficientnet")},
    "GroupNorm": {"protocol": "full_image_encoder", "image_encoder": encoder("test_efficientnet_gn")},
    "norm-free": {"protocol": "full_image_encoder", "image_encoder": encoder("test_nfnet")},
    "lora on attention": {"protocol": "lora", "image_encoder": encoder("test_vit", img_size=16), "lora": {"rank": 2}},
    "lora on convolutions": {
        "protocol": "lora",
        "image_encoder": encoder("test_efficientnet"),
        "lora": {"rank": 3, "targets": ("conv_exp", "conv_pwl")},
        "image_head": True,
        "dropout": 0.1,
    },
}


def unrolled(
    model: RetrievalModel, segment: Segment, inputs: StudentInputs, walk: Walk
) -> tuple[Tensor, Sequence[Tensor]]:
    leaves = StudentInputs(*(value.clone().requires_grad_() for value in inputs))
    model.train()
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels cannot be differentiated twice
        loss = loss_of_unrolled_walk(model, segment, leaves, walk)
        gradient = torch.autograd.grad(loss, leaves)
    model.train(False)
    return loss.detach(), gradient


def assert_close(left: Tensor, right: Tensor, relative: float) -> None:
    """Compare by the norm of the difference: single entries near zero have no relative accuracy of their own."""
    assert left.shape == right.shape
    assert right.norm() > 0
    assert (left - right).norm() <= relative * right.norm()


def assert_gradient_is_unrolled(model: RetrievalModel, inputs: StudentInputs, walk: Walk, relative: float) -> None:
    segment = random_segment(model, seed=walk.seeds[0] % 1000)
    loss, gradient = matching_gradient(model, segment, inputs, walk)
    expected_loss, expected = unrolled(model, segment, inputs, walk)
    assert float(loss.total) == pytest.approx(float(expected_loss), rel=relative)
    for left, right in zip(gradient, expected, strict=True):
        assert_close(left, right, relative)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", MODELS)
def test_gradient_is_that_of_the_unrolled_walk(name: str, dtype: torch.dtype) -> None:
    model = small_model(**MODELS[name]).to(dtype)
    inputs = random_inputs(model, seed=3)
    walk = random_walk(seed=4, steps=3, batch_size=3)
    assert_gradient_is_unrolled(model, inputs, walk, 1e-12 if dtype == torch.float64 else 1e-5)


@settings(max_examples=12, derandomize=True, deadline=None, database=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    pairs=st.integers(2, 6),
    steps=st.integers(1, 6),
    batch_size=st.integers(2, 6),
    dropout=st.sampled_from([0.0, 0.25]),
    protocol=st.sampled_from(["heads_only", "full_image_encoder"]),
    image_size=st.sampled_from([16, 24]),
    step_sizes=st.tuples(st.floats(1e-3, 0.3), st.floats(1e-3, 0.3)),
)
def test_gradient_holds_for_any_walk(
    seed: int,
    pairs: int,
    steps: int,
    batch_size: int,
    dropout: float,
    protocol: str,
    image_size: int,
    step_sizes: tuple[float, float],
) -> None:
    convnet = encoder("convnet_d3", img_size=image_size, width=3)
    model = small_model(protocol, convnet, image_size, dropout=dropout)
    inputs = random_inputs(model, seed, pairs, image_size, step_sizes)
    assert_gradient_is_unrolled(model, inputs, random_walk(seed, pairs, steps, min(batch_size, pairs)), 1e-11)


class MatchingLossOfInputs(torch.autograd.Function):
    """The matching loss as one operation whose backward pass is the sweep."""

    @staticmethod
    def forward(context: Any, model: RetrievalModel, segment: Segment, walk: Walk, *inputs: Tensor) -> Tensor:
        with torch.enable_grad():  # which autograd turns off in here
            loss, context.gradient = matching_gradient(model, segment, StudentInputs(*inputs), walk)
        return loss.total

    @staticmethod
    def backward(context: Any, *outgoing: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *(outgoing[0] * part for part in context.gradient)


def test_gradient_is_that_of_finite_differences() -> None:
    model = small_model("heads_only", encoder("convnet_d3", img_size=16, width=1), dropout=0.2)
    inputs = StudentInputs(*(value.requires_grad_() for value in random_inputs(model, seed=5, pairs=3)))
    segment, walk = random_segment(model, seed=6), random_walk(seed=7, pairs=3, steps=3, batch_size=2)

    def loss_of(*values: Tensor) -> Tensor:
        loss: Tensor = MatchingLossOfInputs.apply(model, segment, walk, *values)
        return loss

    assert torch.autograd.gradcheck(loss_of, tuple(inputs), fast_mode=True)


@pytest.mark.parametrize("name", MODELS)
def test_student_steps_as_torch_sgd_does(name: str) -> None:
    model = small_model(**MODELS[name])
    segment, inputs = random_segment(model, seed=8), random_inputs(model, seed=9)
    walk = random_walk(seed=10, steps=4, batch_size=3)
    loss, _ = matching_gradient(model, segment, inputs, walk)

    for part, layout, start in (
        (model.image_part, model.image_layout, segment.start.image),
        (model.text_part, model.text_layout, segment.start.text),
    ):
        part.load_state_dict(layout.unflatten(start), strict=False)
    trained = [[p for p in part.parameters() if p.requires_grad] for part in (model.image_part, model.text_part)]
    optimiser = torch.optim.SGD(
        [{"params": trained[0], "lr": float(inputs.lr_image)}, {"params": trained[1], "lr": float(inputs.lr_text)}]
    )
    model.train()
    for batch, seed in zip(walk.batches, walk.seeds, strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            images = torch.nn.functional.normalize(model.image_part(inputs.stem_output[batch]))
            texts = torch.nn.functional.normalize(model.text_part(inputs.texts[batch]))
        scores = images @ texts.T / 0.07
        diagonal = scores.diagonal()
        student_loss = (2 * diagonal - scores.logsumexp(0) - scores.logsumexp(1)).mean() / -2
        optimiser.zero_grad()
        student_loss.backward()
        optimiser.step()

    arrived = Parameters(model.image_layout.flatten(model.image_part), model.text_layout.flatten(model.text_part))
    expected = matching_loss(arrived, segment)
    assert float(loss.image) == pytest.approx(float(expected.image), rel=1e-10)
    assert float(loss.text) == pytest.approx(float(expected.text), rel=1e-10)


def test_loss_is_zero_at_the_target_and_two_at_the_start() -> None:
    segment = random_segment(small_model("heads_only", CONVNET), seed=1)
    assert float(matching_loss(segment.target, segment).total) == 0
    at_start = matching_loss(segment.start, segment)
    assert float(at_start.image) == float(at_start.text) == 1
    assert float(at_start.total) == 2


class BytesOfGraph:
    """Counts the bytes that the graph keeps at a time, by what it hands over when it saves a tensor."""

    def __init__(self) -> None:
        self.alive = self.most = 0

    def pack(self, value: Tensor) -> "SavedTensor":
        return SavedTensor(self, value.detach())

    @staticmethod
    def unpack(saved: "SavedTensor") -> Tensor:
        return saved.value


class SavedTensor:
    def __init__(self, graph: BytesOfGraph, value: Tensor) -> None:
        self.graph, self.value = graph, value
        graph.alive += value.nbytes
        graph.most = max(graph.most, graph.alive)

    def __del__(self) -> None:
        self.graph.alive -= self.value.nbytes


@pytest.mark.parametrize("protocol", ["heads_only", "full_image_encoder"])
def test_graph_does_not_grow_with_the_steps(protocol: str) -> None:
    model = small_model(protocol, CONVNET)
    segment, inputs = random_segment(model, seed=11), random_inputs(model, seed=12)

    def most_bytes(gradient: Any, steps: int) -> int:
        graph = BytesOfGraph()
        with torch.autograd.graph.saved_tensors_hooks(graph.pack, graph.unpack):
            gradient(model, segment, inputs, random_walk(seed=13, steps=steps))
        return graph.most

    assert most_bytes(matching_gradient, 16) == most_bytes(matching_gradient, 2) > 0
    assert most_bytes(unrolled, 16) > 6 * most_bytes(unrolled, 2)  # the count does see a graph that grows


def test_global_random_stream_is_left_alone() -> None:
    model = small_model("heads_only", CONVNET, dropout=0.5)
    before = torch.get_rng_state()
    matching_gradient(model, random_segment(model, seed=1), random_inputs(model, seed=2), random_walk(seed=3))
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_takes_part_and_its_seed_decides() -> None:
    model = small_model("heads_only", CONVNET, dropout=0.5)
    segment, inputs, walk = random_segment(model, seed=1), random_inputs(model, seed=2), random_walk(seed=3)
    first, again = (matching_gradient(model, segment, inputs, walk)[1].texts for _ in range(2))
    other = matching_gradient(model, segment, inputs, Walk(walk.batches, [seed + 1 for seed in walk.seeds]))[1].texts
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not model.training
