"""The gradient of the inner loop compared with the full unroll and with finite differences, and its memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from helpers.tasks import (
    CONVNET,
    distillation_settings,
    encoder,
    random_batches,
    random_inputs,
    random_segment,
    small_model,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rayvldd.config.distillation import DistillationSettings
from rayvldd.config.methods.trajectory_matching import TrajectoryMatchingSettings
from rayvldd.distillation.reference import unrolled_matching_loss
from rayvldd.distillation.trajectory_matching import matching_loss
from rayvldd.distillation.unroll.batches import InnerBatches, StudentInputs
from rayvldd.distillation.unroll.checkpoints import StudentState, build_checkpoints
from rayvldd.distillation.unroll.convolution import Convolution, Geometry
from rayvldd.distillation.unroll.inner_loop import EndLoss, InnerLoop
from rayvldd.distillation.unroll.student_step import CompiledStep, build_student_step
from rayvldd.errors import ConfigError
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


OPTIONS: dict[str, dict[str, Any]] = {
    "as published": {},
    "all graphs kept": {"engine": {"graph_budget_gb": 100}},
    "no graph kept": {"engine": {"graph_budget_gb": 0}},
    "states in a file": {"engine": {"graph_budget_gb": 0, "parameter_checkpoints": "offload"}},
    "states walked again": {"engine": {"graph_budget_gb": 0, "parameter_checkpoints": "recompute"}},
    "similarity, weighted_bce": {"similarity": "full", "student_loss": "weighted_bce"},
    "similarity, extended_info_nce, no graph kept": {
        "similarity": "low_rank",
        "student_loss": "extended_info_nce",
        "engine": {"graph_budget_gb": 0},
    },
}


def unrolled(
    model: RetrievalModel, segment: Segment, inputs: StudentInputs, walk: InnerBatches, options: DistillationSettings
) -> tuple[Tensor, list[Tensor]]:
    leaves = inputs._replace(
        **{name: value.clone().requires_grad_() for name, value in inputs._asdict().items() if value is not None}
    )
    model.train()
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels cannot be differentiated twice
        loss = unrolled_matching_loss(model, segment, leaves, walk, options)
        gradient = torch.autograd.grad(loss, present(leaves))
    model.train(False)
    return loss.detach(), list(gradient)


def present(inputs: StudentInputs) -> list[Tensor]:
    return [value for value in inputs if value is not None]


def matching_gradient(
    model: RetrievalModel, segment: Segment, inputs: StudentInputs, walk: InnerBatches, **options: Any
) -> tuple[EndLoss, StudentInputs]:
    """The matching loss and its gradient as the inner loop computes them."""
    common = distillation_settings(**options)
    settings = common.of(TrajectoryMatchingSettings)

    def end_loss(student: Parameters) -> EndLoss:
        loss = matching_loss(student, segment, settings.matched)
        return EndLoss(loss.total, {"image": loss.image, "text": loss.text})

    return InnerLoop(model, common, settings).gradient(segment.start, end_loss, inputs, walk)


def assert_close(left: Tensor, right: Tensor, relative: float) -> None:
    """Compare by the norm of the difference: single entries near zero have no relative accuracy of their own."""
    assert left.shape == right.shape
    assert right.norm() > 0
    assert (left - right).norm() <= relative * right.norm()


def assert_gradient_is_unrolled(
    model: RetrievalModel, inputs: StudentInputs, walk: InnerBatches, relative: float, **options: Any
) -> None:
    segment = random_segment(model, seed=walk.seeds[0] % 1000)
    loss, gradient = matching_gradient(model, segment, inputs, walk, **options)
    expected_loss, expected = unrolled(model, segment, inputs, walk, distillation_settings(**options))
    assert float(loss.value) == pytest.approx(float(expected_loss), rel=relative)
    for left, right in zip(present(gradient), expected, strict=True):
        assert_close(left, right, relative)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", MODELS)
def test_gradient_is_that_of_the_unrolled_walk(name: str, dtype: torch.dtype) -> None:
    model = small_model(**MODELS[name]).to(dtype)
    inputs = random_inputs(model, seed=3)
    walk = random_batches(seed=4, steps=3, batch_size=3)
    assert_gradient_is_unrolled(model, inputs, walk, 1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", ["heads_only, dropout", "norm-free", "lora on attention", "lora on convolutions"])
def test_gradient_is_the_same_however_it_is_computed(name: str, options: dict[str, Any]) -> None:
    model = small_model(**MODELS[name])
    inputs = random_inputs(model, seed=3, with_similarity="similarity" in options)
    assert_gradient_is_unrolled(model, inputs, random_batches(seed=4, steps=5, batch_size=3), 1e-12, **options)


LOSSES = ["info_nce", "weighted_bce", "extended_info_nce"]
MICRO_BATCHES = [1, 2, 4]


@pytest.mark.parametrize(
    ("name", "loss", "micro_batch"),
    [
        *(("heads_only", loss, micro_batch) for loss in LOSSES for micro_batch in MICRO_BATCHES),
        # The larger models in a Latin square: each pair of model, loss and size is met, not each triple.
        *(
            (name, loss, MICRO_BATCHES[(row + column) % 3])
            for row, name in enumerate(["convnet", "norm-free", "lora on attention"])
            for column, loss in enumerate(LOSSES)
        ),
    ],
)
def test_gradient_is_the_same_in_micro_batches(name: str, loss: str, micro_batch: int) -> None:
    model = small_model(**MODELS[name])
    inputs = random_inputs(model, seed=3, pairs=5, with_similarity=loss != "info_nce")
    options = {
        "student_loss": loss,
        "similarity": "identity" if loss == "info_nce" else "full",
        "engine": {"micro_batch": micro_batch},
    }
    assert_gradient_is_unrolled(model, inputs, random_batches(seed=4, pairs=5, steps=3, batch_size=4), 1e-12, **options)


def test_dropout_in_micro_batches_repeats() -> None:
    model = small_model("heads_only", CONVNET, dropout=0.5)
    segment, inputs, walk = random_segment(model, seed=1), random_inputs(model, seed=2), random_batches(seed=3)
    first, again = (
        matching_gradient(model, segment, inputs, walk, engine={"micro_batch": 2, "parameter_checkpoints": kind})[1]
        for kind in ("memory", "recompute")  # which walks each step twice: with other masks it would end elsewhere
    )
    for left, right in zip(present(first), present(again), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("kept", [0, 100])
@pytest.mark.parametrize(
    "name, options",
    [
        ("convnet", {"augmentation": ("color", "crop", "cutout", "flip", "scale", "rotate")}),
        ("lora on convolutions", {"augmentation": ("crop", "flip")}),
        ("heads_only", {"blending": 1.0}),
        ("heads_only, dropout", {"blending": 0.5}),
    ],
)
def test_gradient_goes_through_augmentation_and_blending(name: str, options: dict[str, Any], kept: int) -> None:
    model = small_model(**MODELS[name])
    walk = random_batches(seed=4, steps=6, batch_size=3)
    options = {**options, "engine": {"graph_budget_gb": kept}}
    assert_gradient_is_unrolled(model, random_inputs(model, seed=3), walk, 1e-11, **options)


@pytest.mark.parametrize("name", ["heads_only", "lora on attention", "BatchNorm"])
@pytest.mark.parametrize("loss", ["info_nce", "weighted_bce"])
def test_gradient_is_the_same_compiled(name: str, loss: str) -> None:
    """Compiled for aot_eager: every transformation of torch.compile but the code it writes, which takes minutes."""
    model = small_model(**MODELS[name])
    with_similarity = loss != "info_nce"
    inputs = random_inputs(model, seed=3, with_similarity=with_similarity)
    options = {
        "student_loss": loss,
        "similarity": "full" if with_similarity else "identity",
        "engine": {"compile": True},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
        assert_gradient_is_unrolled(model, inputs, random_batches(seed=4, steps=3, batch_size=3), 1e-12, **options)
    assert len(vars(model)["compiled_steps"]) == 1
    compiled = dict(vars(model)["compiled_steps"])
    common = distillation_settings(**options)
    InnerLoop(model, common, common.of(TrajectoryMatchingSettings))  # another trial of the process
    assert vars(model)["compiled_steps"] == compiled


def test_gradient_is_the_same_as_replayed_graphs_whose_memory_is_written_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a CPU in place of a GPU: torch.compile is asked for graphs, and every call overwrites the results before."""
    model = small_model(**MODELS["lora on attention"])
    modes, begun, results = list[str](), list[int](), list[tuple[Tensor, ...]]()

    def compile_into_the_same_memory(function: Callable[..., Any], *, mode: str) -> Callable[..., Any]:
        modes.append(mode)

        def call(*tensors: Tensor | None) -> Any:
            assert not torch.is_grad_enabled() and len(begun) == len(results) + 1, "a step is announced"
            for earlier in results[-1:]:
                for value in earlier:
                    value.fill_(torch.nan)
            found = function(*tensors)
            flat = found if isinstance(found[0], Tensor) else (*found[0], *found[1])
            results.append(flat)
            return found

        return call

    monkeypatch.setattr(torch, "compile", compile_into_the_same_memory)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(1))
    step = CompiledStep(model, "info_nce", autocast=False, cuda_graphs=True)
    monkeypatch.setattr("rayvldd.distillation.unroll.inner_loop.build_student_step", lambda *_: step)
    segment, inputs, walk = random_segment(model, seed=1), random_inputs(model, seed=2), random_batches(seed=3, steps=3)
    found = matching_gradient(model, segment, inputs, walk)[1]
    monkeypatch.undo()
    expected = matching_gradient(model, segment, inputs, walk)[1]
    assert modes == ["reduce-overhead"] * 2 and len(results) == 6, "a forward and a backward pass of each step"
    for left, right in zip(present(found), present(expected), strict=True):
        assert_close(left, right, 1e-12)


@pytest.mark.parametrize("name", ["convnet", "norm-free", "BatchNorm", "lora on convolutions"])
@pytest.mark.parametrize("engine", [{}, {"graph_budget_gb": 0}, {"micro_batch": 3}], ids=str)
def test_gradient_is_the_same_with_the_channels_last(
    name: str, engine: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"dropout": 0.0} if engine.get("micro_batch") else {}
    model, walk = small_model(**{**MODELS[name], **changes}), random_batches(seed=4, steps=3, batch_size=4)
    segment, inputs = random_segment(model, seed=1), random_inputs(model, seed=3)
    expected = matching_gradient(model, segment, inputs, walk, engine=engine)
    start = model.initial_parameters(5)
    layouts, skipped, plain, convolve = list[bool](), list[bool](), Geometry.forward, Convolution.apply

    def forward(self: Geometry, images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        layouts.append(images.is_contiguous(memory_format=torch.channels_last))
        return plain(self, images, weight, bias)

    def apply(*args: Any) -> Any:
        skipped.append(args[-1])
        return convolve(*args)

    monkeypatch.setattr(Geometry, "forward", forward)
    monkeypatch.setattr(Convolution, "apply", apply)
    found = matching_gradient(model.with_channels_last(), segment, inputs, walk, engine=engine)
    assert layouts and all(layouts), "also the second derivatives"
    assert any(skipped), "the images of the step are still recognised"
    assert float(found[0].value) == pytest.approx(float(expected[0].value), rel=1e-12)
    for left, right in zip(present(found[1]), present(expected[1]), strict=True):
        assert_close(left, right, 1e-11)
    assert all(map(torch.equal, model.initial_parameters(5), start)), "a student begins with the same bits"


def test_graphs_are_refused_without_a_gpu() -> None:
    common = distillation_settings(engine={"compile": "cuda_graphs"})
    with pytest.raises(ConfigError, match="cuda_graphs, and the trial runs on cpu; allowed: a GPU") as refused:
        build_student_step(small_model(**MODELS["heads_only"]), common)
    assert refused.value.next_command.endswith("--set distillation.engine.compile=true")


def test_all_kept_or_none_gives_the_same_bits() -> None:
    """What is free in memory when a run begins must not show in its numbers."""
    model = small_model(**MODELS["lora on convolutions"]).float()
    segment, inputs, walk = random_segment(model, seed=1), random_inputs(model, seed=2), random_batches(seed=3, steps=6)
    few, all_of_them = (
        matching_gradient(model, segment, inputs, walk, engine={"graph_budget_gb": gb})[1] for gb in (0, 100)
    )
    for left, right in zip(present(few), present(all_of_them), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("matched", ["image", "text"])
def test_one_side_alone_is_matched(matched: str) -> None:
    model = small_model("heads_only", CONVNET)
    inputs, walk = random_inputs(model, seed=3), random_batches(seed=4)
    segment = random_segment(model, seed=1)
    loss, gradient = matching_gradient(model, segment, inputs, walk, matched=matched)
    both, gradient_of_both = matching_gradient(model, segment, inputs, walk)
    _, gradient_of_other = matching_gradient(
        model, segment, inputs, walk, matched="text" if matched == "image" else "image"
    )
    assert float(loss.value) == float(both.log[matched])
    for one, two, sum_of_them in zip(
        present(gradient), present(gradient_of_other), present(gradient_of_both), strict=True
    ):
        assert_close(one + two, sum_of_them, 1e-12)


def test_truncated_gradient_is_that_of_the_last_steps_alone() -> None:
    """A walk of 5 steps cut to 2 is a walk of 2 from where the first 3 arrived, with the distances of the whole."""
    model = small_model("heads_only", CONVNET)
    inputs, walk, segment = random_inputs(model, seed=3), random_batches(seed=4, steps=5), random_segment(model, seed=1)
    for kind in ("memory", "recompute", "offload"):
        engine = {"graph_budget_gb": 0, "parameter_checkpoints": kind}
        _, cut = matching_gradient(model, segment, inputs, walk, gradient="truncated", truncated_steps=2, engine=engine)
        leaves = StudentInputs(*(value.clone().requires_grad_() for value in present(inputs)))
        image, text = (side.clone().requires_grad_() for side in segment.start)
        model.train()
        for step, batch in enumerate(walk.batches):
            source = leaves if step >= 3 else StudentInputs(*(value.detach() for value in present(leaves)))
            loss = model.loss(Parameters(image, text), source.frozen_output[batch], source.texts[batch])
            by_image, by_text = torch.autograd.grad(loss, (image, text), create_graph=True)
            image, text = image - source.lr_image * by_image, text - source.lr_text * by_text
            if step == 2:
                image, text = image.detach().requires_grad_(), text.detach().requires_grad_()
        model.train(False)
        expected = torch.autograd.grad(matching_loss(Parameters(image, text), segment).total, present(leaves))
        for left, right in zip(present(cut), expected, strict=True):
            assert_close(left, right, 1e-12)
    _, whole = matching_gradient(model, segment, inputs, walk, gradient="truncated", truncated_steps=9)
    for left, right in zip(present(whole), present(matching_gradient(model, segment, inputs, walk)[1]), strict=True):
        assert torch.equal(left, right)


def test_tesla_is_the_two_pass_form_and_not_the_gradient() -> None:
    """The released form: sum the steps' gradients, then differentiate |start - a sum - target|^2 with theta_i fixed."""
    model = small_model("heads_only", CONVNET)
    inputs, walk, segment = random_inputs(model, seed=3), random_batches(seed=4, steps=5), random_segment(model, seed=1)
    _, gradient = matching_gradient(model, segment, inputs, walk, gradient="tesla")
    leaves = StudentInputs(*(value.clone().requires_grad_() for value in present(inputs)))
    image, text = (side.clone() for side in segment.start)
    image_sum, text_sum = torch.zeros_like(image), torch.zeros_like(text)
    for batch in walk.batches:
        fixed = Parameters(image.detach().requires_grad_(), text.detach().requires_grad_())
        loss = model.loss(fixed, leaves.frozen_output[batch], leaves.texts[batch])
        by_image, by_text = torch.autograd.grad(loss, fixed, create_graph=True)
        image_sum, text_sum = image_sum + by_image, text_sum + by_text
        image, text = image - inputs.lr_image * by_image.detach(), text - inputs.lr_text * by_text.detach()
    arrived = Parameters(
        segment.start.image - leaves.lr_image * image_sum, segment.start.text - leaves.lr_text * text_sum
    )
    expected = torch.autograd.grad(matching_loss(arrived, segment).total, present(leaves))
    for left, right in zip(present(gradient), expected, strict=True):
        assert_close(left, right, 1e-12)
    exact = matching_gradient(model, segment, inputs, walk)[1]
    assert (gradient.texts - exact.texts).norm() > 1e-3 * exact.texts.norm()
    one_step = random_batches(seed=4, steps=1)  # with one step there is no dg_i/dtheta to leave out
    for left, right in zip(
        present(matching_gradient(model, segment, inputs, one_step, gradient="tesla")[1]),
        present(matching_gradient(model, segment, inputs, one_step)[1]),
        strict=True,
    ):
        assert_close(left, right, 1e-12)


@settings(max_examples=25, derandomize=True, deadline=None, database=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    pairs=st.integers(2, 6),
    steps=st.integers(1, 6),
    batch_size=st.integers(2, 6),
    dropout=st.sampled_from([0.0, 0.25]),
    protocol=st.sampled_from(["heads_only", "full_image_encoder"]),
    image_size=st.sampled_from([16, 24]),
    step_sizes=st.tuples(st.floats(1e-3, 0.3), st.floats(1e-3, 0.3)),
    loss=st.sampled_from(["info_nce", "weighted_bce", "extended_info_nce"]),
    engine=st.fixed_dictionaries(
        {
            "graph_budget_gb": st.sampled_from([0.0, 1e-4, 100.0]),
            "parameter_checkpoints": st.sampled_from(["memory", "offload", "recompute"]),
        }
    ),
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
    loss: str,
    engine: dict[str, Any],
) -> None:
    convnet = encoder("convnet_d3", img_size=image_size, width=3)
    model = small_model(protocol, convnet, image_size, dropout=dropout)
    inputs = random_inputs(model, seed, pairs, image_size, step_sizes, with_similarity=loss != "info_nce")
    walk = random_batches(seed, pairs, steps, min(batch_size, pairs))
    similarity = "identity" if loss == "info_nce" else "full"
    assert_gradient_is_unrolled(model, inputs, walk, 1e-11, student_loss=loss, similarity=similarity, engine=engine)


class MatchingLossOfInputs(torch.autograd.Function):
    """The matching loss as one operation whose backward pass is the sweep."""

    @staticmethod
    def forward(context: Any, model: RetrievalModel, segment: Segment, walk: InnerBatches, *inputs: Tensor) -> Tensor:
        with torch.enable_grad():  # which autograd turns off in here
            loss, context.gradient = matching_gradient(model, segment, StudentInputs(*inputs), walk)
        return loss.value

    @staticmethod
    def backward(context: Any, *outgoing: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *(outgoing[0] * part for part in present(context.gradient))


def test_gradient_is_that_of_finite_differences() -> None:
    model = small_model("heads_only", encoder("convnet_d3", img_size=16, width=1), dropout=0.2)
    inputs = StudentInputs(*(value.requires_grad_() for value in present(random_inputs(model, seed=5, pairs=3))))
    segment, walk = random_segment(model, seed=6), random_batches(seed=7, pairs=3, steps=3, batch_size=2)

    def loss_of(*values: Tensor) -> Tensor:
        loss: Tensor = MatchingLossOfInputs.apply(model, segment, walk, *values)
        return loss

    assert torch.autograd.gradcheck(loss_of, tuple(present(inputs)), fast_mode=True)


@pytest.mark.parametrize("name", MODELS)
def test_student_steps_as_torch_sgd_does(name: str) -> None:
    model = small_model(**MODELS[name])
    segment, inputs = random_segment(model, seed=8), random_inputs(model, seed=9)
    walk = random_batches(seed=10, steps=4, batch_size=3)
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
            images = torch.nn.functional.normalize(model.image_part(inputs.frozen_output[batch]))
            texts = torch.nn.functional.normalize(model.text_part(inputs.texts[batch]))
        scores = images @ texts.T / 0.07
        diagonal = scores.diagonal()
        student_loss = (2 * diagonal - scores.logsumexp(0) - scores.logsumexp(1)).mean() / -2
        optimiser.zero_grad()
        student_loss.backward()
        optimiser.step()

    arrived = Parameters(model.image_layout.flatten(model.image_part), model.text_layout.flatten(model.text_part))
    expected = matching_loss(arrived, segment)
    assert float(loss.log["image"]) == pytest.approx(float(expected.image), rel=1e-10)
    assert float(loss.log["text"]) == pytest.approx(float(expected.text), rel=1e-10)


def test_loss_is_zero_at_the_target_and_two_at_the_start() -> None:
    segment = random_segment(small_model("heads_only", CONVNET), seed=1)
    assert float(matching_loss(segment.target, segment).total) == 0
    at_start = matching_loss(segment.start, segment)
    assert float(at_start.image) == float(at_start.text) == 1
    assert float(at_start.total) == 2


class BytesOfGraph:
    """Counts the bytes of the tensors that the autograd graph saves."""

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

    def most_bytes(steps: int, graph_budget_gb: float) -> int:
        graph = BytesOfGraph()
        with torch.autograd.graph.saved_tensors_hooks(graph.pack, graph.unpack):
            engine = {"graph_budget_gb": graph_budget_gb}
            matching_gradient(model, segment, inputs, random_batches(seed=13, steps=steps), engine=engine)
        return graph.most

    assert most_bytes(16, 0) == most_bytes(2, 0) > 0
    assert most_bytes(16, 100) > 6 * most_bytes(2, 100)  # the count does see graphs that are kept
    one_graph = most_bytes(1, 0) / 1e9
    assert most_bytes(2, 0) < most_bytes(16, 4 * one_graph) < most_bytes(16, 100)


def test_stored_states_do_not_grow_with_the_steps() -> None:
    """The vectors alive at the same time: with ``recompute`` about twice the root of the steps, in a file none."""
    for kind, most in (("memory", 25), ("recompute", 2 * 5 + 1)):
        alive = 0
        states = build_checkpoints(kind, range(25), torch.device("cpu"), lambda step, state: state)
        for step in range(25):
            states.put(step, StudentState(Parameters(torch.zeros(2), torch.zeros(3))))
        for step in reversed(range(25)):
            states.get(step)
            alive = max(alive, sum(len(value) for value in vars(states).values() if isinstance(value, dict)))
        assert alive <= most


def test_fused_attention_is_switched_in_the_inner_loop_only_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    model = small_model(**MODELS["lora on attention"])
    common = DistillationSettings()
    loop = InnerLoop(model, common, common.of(TrajectoryMatchingSettings))
    inputs, segment = random_inputs(model, seed=2), random_segment(model, seed=1)
    with caplog.at_level("INFO", logger="rayvldd"):
        for seed in (3, 4):
            loop.gradient(
                segment.start, lambda end: EndLoss(matching_loss(end, segment).total, {}), inputs, random_batches(seed)
            )
    assert [record.message for record in caplog.records] == [
        "attention runs unfused inside the inner loop: the fused kernels have no double backward"
    ]
    assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()


def test_global_random_stream_is_left_alone() -> None:
    model = small_model("heads_only", CONVNET, dropout=0.5)
    before = torch.get_rng_state()
    matching_gradient(model, random_segment(model, seed=1), random_inputs(model, seed=2), random_batches(seed=3))
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_takes_part_and_its_seed_decides() -> None:
    model = small_model("heads_only", CONVNET, dropout=0.5)
    segment, inputs, walk = random_segment(model, seed=1), random_inputs(model, seed=2), random_batches(seed=3)
    first, again = (matching_gradient(model, segment, inputs, walk)[1].texts for _ in range(2))
    other = matching_gradient(model, segment, inputs, InnerBatches(walk.batches, [seed + 1 for seed in walk.seeds]))[
        1
    ].texts
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert not model.training


@pytest.mark.parametrize("micro_batch", [None, 1])
@pytest.mark.parametrize(
    ("protocol", "image_encoder", "more"),
    [
        ("full_image_encoder", CONVNET, {}),
        ("lora", CONVNET, {"lora": {"targets": ["blocks.0", "blocks.4"], "rank": 2}}),
    ],
)
def test_a_step_over_two_devices_is_exact(
    protocol: str, image_encoder: dict[str, Any], more: dict[str, Any], micro_batch: int | None
) -> None:
    model = small_model(protocol, image_encoder, **more)
    segment, batches = random_segment(model, 1), random_batches(3, pairs=5)
    inputs = random_inputs(model, 2, pairs=5, with_similarity=True)
    loss: dict[str, Any] = {"similarity": "full", "student_loss": "weighted_bce"}
    _, expected = matching_gradient(model, segment, inputs, batches, **loss)

    common = distillation_settings(**loss, engine={"micro_batch": micro_batch})
    settings = common.of(TrajectoryMatchingSettings)
    loop = InnerLoop(model, common, settings, further_devices=[torch.device("cpu")])
    _, found = loop.gradient(
        segment.start, lambda student: EndLoss(matching_loss(student, segment).total, {}), inputs, batches
    )

    for one, other in zip(present(found), present(expected), strict=True):
        assert_close(one, other, 1e-12)
