"""Meta-model matching: its gradient against one graph over all steps, its draws, and its settings."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tasks import StudyTask, load, random_trajectory
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rayvldd.config.methods.meta_model import MetaModelSettings
from rayvldd.config.study import Study
from rayvldd.distillation.loop import OuterLoop
from rayvldd.distillation.meta_model import MetaModel, RealBatch, RealLoss, draw_steps
from rayvldd.distillation.reference import unrolled_meta_loss
from rayvldd.distillation.set_inputs import SetInputs
from rayvldd.distillation.synthetic_set import SIMILARITY, SyntheticSet
from rayvldd.distillation.unroll.batches import InnerBatches, StudentInputs, draw_batches
from rayvldd.distillation.unroll.inner_loop import EndLoss, InnerLoop, StudentSgd
from rayvldd.evaluation.students import Pairs, train_student
from rayvldd.models.parameters import Parameters
from rayvldd.testing import toy_study

META = "distillation.meta_model"
PROTOCOLS: dict[str, dict[str, Any]] = {
    "heads_only": {},
    "full_image_encoder": {"model.protocol": "full_image_encoder"},
    "lora": {"model.protocol": "lora", "model.lora.targets": ["blocks.0", "blocks.4"], "model.lora.rank": 2},
}
LEARNED = {
    "distillation.similarity": "low_rank",
    "distillation.student_loss": "weighted_bce",
    "distillation.sim_rank": 1,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no graph kept": {"distillation.engine.graph_budget_gb": 0},
    "states in a file": {
        "distillation.engine.graph_budget_gb": 0,
        "distillation.engine.parameter_checkpoints": "offload",
    },
    "states taken again": {
        "distillation.engine.graph_budget_gb": 0,
        "distillation.engine.parameter_checkpoints": "recompute",
    },
    "micro-batches": {"distillation.engine.micro_batch": 3},
    "micro-batches, states taken again": {
        "distillation.engine.micro_batch": 2,
        "distillation.engine.parameter_checkpoints": "recompute",
    },
    "learned similarity": LEARNED,
    "learned similarity, micro-batches": {**LEARNED, "distillation.engine.micro_batch": 3},
    "batches of a part": {f"{META}.batch_size": 4},
    "dropout": {"model.dropout": 0.3},
    "no momentum": {f"{META}.momentum": 0.0},
    "no weight decay": {f"{META}.weight_decay": 0.0},
    "all steps": {f"{META}.window": None},
    "all steps, no graph kept": {f"{META}.window": None, "distillation.engine.graph_budget_gb": 0},
    "window of one": {f"{META}.window": 1},
    "cosine decay": {"evaluation.learning_rate_decay": "cosine"},
    "cosine decay, no graph kept": {
        "evaluation.learning_rate_decay": "cosine",
        "distillation.engine.graph_budget_gb": 0,
    },
    "cosine decay, no momentum": {"evaluation.learning_rate_decay": "cosine", f"{META}.momentum": 0.0},
    "step decay, all steps": {f"{META}.learning_rate_decay": "step", f"{META}.window": None},
}
MakeTask = Callable[..., StudyTask]


@pytest.fixture
def make_task(tiny_study: Study, tiny_cache: Path) -> MakeTask:
    """The tiny study with this method: at most 7 steps, of which 4 are differentiated, with a high weight decay."""

    def make(**changes: Any) -> StudyTask:
        own = {
            "distillation.method": "meta_model",
            "distillation.num_pairs": 7,
            f"{META}.syn_steps": 7,
            f"{META}.window": 4,
            f"{META}.real_batch_size": 8,
            "evaluation.weight_decay": 0.05,
        }
        return load(tiny_study, tiny_cache, **{**own, **changes})

    return make


def in_float64(task: StudyTask) -> StudyTask:
    """The same task with a model and real pairs in float64; pixels stay what they are."""
    task.model.double()
    train = replace(task.train, caption_embeddings=task.train.caption_embeddings.astype(np.float64))
    if task.model.encoder_is_frozen:
        train = replace(train, images=task.train.images.astype(np.float64))
    return replace(task, train=train)


def set_of(task: StudyTask) -> SyntheticSet:
    """A synthetic set in float64 in which no value is special."""
    made = SyntheticSet(task, task.study.distillation, np.random.default_rng(0), seed=0)
    noise = torch.Generator().manual_seed(5)
    for name, value in made.values.items():
        drawn = torch.randn(value.shape, generator=noise, dtype=torch.float64)
        made.values[name] = value.double() + (0.1 * drawn if name.startswith(SIMILARITY) else 0)
    made.step_sizes = {
        "lr_image": torch.tensor(0.07, dtype=torch.float64),
        "lr_text": torch.tensor(0.05, dtype=torch.float64),
    }
    return made


def method_of(task: StudyTask, experts: int = 0) -> MetaModel:
    trajectories = [random_trajectory(task.model, seed) for seed in range(1, experts + 1)]
    return MetaModel(task, task.study.completed_distillation, trajectories)


def naive_gradient(task: StudyTask, made: SyntheticSet, seed: int) -> tuple[Tensor, dict[str, Tensor], int]:
    """Loss and gradient by automatic differentiation of the whole loop, from the same draws."""
    settings = task.study.completed_distillation
    own, generator = settings.of(MetaModelSettings), np.random.default_rng(seed)
    start = task.model.initial_parameters(int(generator.integers(2**31)))
    steps = own.syn_steps if own.window is None else int(generator.integers(own.window, own.syn_steps + 1))
    batches = draw_batches(own, made.num_pairs, generator, task.device, steps)
    train, order = task.train, generator.permutation(len(task.train.caption_embeddings))
    first_of_image: dict[int, int] = {}
    for caption in order:
        first_of_image.setdefault(int(train.split.caption_image[caption]), int(caption))
    captions = np.array([caption for caption in order if caption in first_of_image.values()][: own.real_batch_size])
    real = task.frozen_outputs(train, train.split.caption_image[captions]), task.texts(train, captions)

    leaves = {name: value.clone().requires_grad_() for name, value in {**made.values, **made.step_sizes}.items()}
    learned = {name: leaves[SIMILARITY + name] for name in made.similarity_leaves().values}
    inputs = StudentInputs(
        task.model.frozen_part(leaves["images"]),
        leaves["texts"],
        leaves["lr_image"],
        leaves["lr_text"],
        made.similarity_leaves().with_values(learned).matrix(),
    )
    assert own.momentum is not None and own.weight_decay is not None and own.learning_rate_decay is not None
    task.model.train()
    with sdpa_kernel(SDPBackend.MATH):
        loss = unrolled_meta_loss(
            task.model, start, inputs, batches, settings, real,
            momentum=own.momentum, weight_decay=own.weight_decay, decay=own.learning_rate_decay, window=own.window,
        )  # fmt: skip
        found = torch.autograd.grad(loss, list(leaves.values()))
    task.model.train(False)
    return loss.detach(), dict(zip(leaves, found, strict=True)), steps


def assert_is_naive(task: StudyTask, seed: int = 7) -> None:
    task = in_float64(task)
    made = set_of(task)
    step = method_of(task).gradient(made, 0, np.random.default_rng(seed))
    loss, expected, steps = naive_gradient(task, made, seed)
    assert float(step.log["student_steps"]) == steps
    assert float(step.loss) == pytest.approx(float(loss), rel=1e-12)
    assert set(step.gradients) == set(expected)
    for name, value in expected.items():
        assert value.norm() > 0, name
        assert (step.gradients[name] - value).norm() <= 1e-11 * value.norm(), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gradient_is_that_of_the_naive_version(make_task: MakeTask, variant: str) -> None:
    assert_is_naive(make_task(**VARIANTS[variant]))


@pytest.mark.parametrize("variant", ["no graph kept", "micro-batches, states taken again", "learned similarity"])
@pytest.mark.parametrize("protocol", ["full_image_encoder", "lora"])
def test_the_gradient_is_that_of_the_naive_version_through_the_encoder(
    make_task: MakeTask, protocol: str, variant: str
) -> None:
    assert_is_naive(make_task(**PROTOCOLS[protocol], **VARIANTS[variant]))


@pytest.mark.parametrize("decay", ["none", "cosine", "step"])
def test_the_inner_loop_ends_where_a_student_of_evaluation_does(make_task: MakeTask, decay: str) -> None:
    """Momentum, weight decay and course of the rates are those of evaluation, as torch's SGD has them."""
    changes = {f"{META}.window": None, "evaluation.epochs": 7, "evaluation.learning_rate_decay": decay}
    task = in_float64(make_task(**changes))
    made, settings = set_of(task), task.study.completed_distillation
    own, evaluation = settings.of(MetaModelSettings), task.study.evaluation
    assert (own.momentum, own.weight_decay, own.learning_rate_decay) == (evaluation.momentum, 0.05, decay)
    assert own.momentum is not None and own.weight_decay is not None and own.learning_rate_decay is not None
    pairs = Pairs(made.images, made.texts, 0.07, 0.05)
    expected = train_student(task, pairs, task.model.frozen_part(made.images).detach(), evaluation, seed=3)
    ended: list[Parameters] = []

    def end_loss(student: Parameters) -> EndLoss:
        ended.append(Parameters(student.image.detach(), student.text.detach()))
        return EndLoss(student.image.sum(), {})

    batches = InnerBatches([torch.arange(7)] * 7, list(range(7)))
    sgd = StudentSgd(own.momentum, own.weight_decay, own.learning_rate_decay)
    loop = InnerLoop(task.model, settings, own, sgd)
    loop.gradient(task.model.initial_parameters(3), end_loss, SetInputs(task.model, settings, made, 0).inputs, batches)
    for side, other in zip(ended[0], expected, strict=True):
        assert torch.allclose(side, other, rtol=1e-10, atol=1e-12)


def test_the_loss_on_real_pairs_has_no_dropout_and_leaves_the_mode(make_task: MakeTask) -> None:
    task = make_task(**{"model.dropout": 0.5})
    real = RealLoss(task, task.study.distillation, MetaModelSettings())
    batch = real.draw(np.random.default_rng(0))()
    student = task.model.initial_parameters(1)
    task.model.train()
    values = {float(real.of(student, batch).value) for _ in range(3)}
    assert task.model.text_part.training and len(values) == 1
    task.model.train(False)
    expected = task.model.loss(student, batch.images, batch.texts)
    assert float(expected) == pytest.approx(values.pop(), rel=1e-6)


def test_noise_is_in_standard_deviations_of_each_feature(make_task: MakeTask) -> None:
    task = make_task(**{"data.num_train": 40})

    def drawn(noise: float, size: int = 40) -> RealBatch:
        settings = MetaModelSettings(real_noise=noise, real_batch_size=size)
        return RealLoss(task, task.study.distillation, settings).draw(np.random.default_rng(3))()

    clean, noisy = drawn(0.0), drawn(0.5)
    for one, other in zip(clean, noisy, strict=True):
        moved = one.std(0) > 0
        added = ((other - one) / one.std(0))[:, moved]
        assert float(added.std()) == pytest.approx(0.5, rel=0.1)
        assert torch.equal(other[:, ~moved], one[:, ~moved])
    assert torch.equal(drawn(0.5).texts, noisy.texts)


def test_a_real_batch_has_each_image_once_and_all_its_captions_in_time(make_task: MakeTask) -> None:
    task = make_task()
    train, seen = task.train, set()
    real = RealLoss(task, task.study.distillation, MetaModelSettings(real_batch_size=1000))
    for seed in range(60):
        batch = real.draw(np.random.default_rng(seed))()
        assert len(batch.images) == train.num_images
        captions = [int(np.flatnonzero((train.caption_embeddings == row).all(1))[0]) for row in batch.texts.numpy()]
        images = [int(train.split.caption_image[caption]) for caption in captions]
        assert torch.equal(batch.images, task.frozen_outputs(train, np.array(images)))
        seen |= set(captions)
    assert len(seen) == len({row.tobytes() for row in train.caption_embeddings})


def test_the_end_is_drawn_from_the_window_to_the_most_steps() -> None:
    generator = np.random.default_rng(0)
    settings = MetaModelSettings(syn_steps=9, window=4)
    assert {draw_steps(settings, 0, generator) for _ in range(200)} == set(range(4, 10))
    assert draw_steps(MetaModelSettings(syn_steps=9, window=None), 0, generator) == 9
    rising = MetaModelSettings(syn_steps=9, window=4, lengthen_over=10)
    for outer_step, most in ((0, 4), (4, 6), (10, 9), (99, 9)):
        assert max(draw_steps(rising, outer_step, generator) for _ in range(200)) == most


def test_students_start_where_the_setting_has_them_start(make_task: MakeTask) -> None:
    found = {}
    for starts in ("fresh", "experts", "both"):
        task = make_task(**{f"{META}.starts": starts, f"{META}.min_start_epoch": 1, f"{META}.max_start_epoch": 3})
        method, generator = method_of(task, experts=2), np.random.default_rng(0)
        snapshots = {bytes(expert[epoch].text.numpy()) for expert in method._experts for epoch in (1, 2)}
        drawn = [bytes(method._draw_start(generator).text.numpy()) for _ in range(60)]
        found[starts] = sum(start in snapshots for start in drawn)
        assert starts == "fresh" or snapshots <= set(drawn)
        assert starts == "experts" or len(set(drawn)) > 15
    assert found["fresh"] == 0 and found["experts"] == 60 and 15 < found["both"] < 45


def test_only_a_study_that_starts_at_snapshots_uses_experts() -> None:
    study = toy_study("meta_model", {})
    assert not study.requires_experts and study.reached_epochs() == frozenset()
    for starts in ("experts", "both"):
        point = study.at({f"{META}.starts": starts})
        assert point.requires_experts and point.reached_epochs() == {0, 1}
    searched = study.model_dump(mode="json")
    searched["search"]["space"] = {f"{META}.starts": {"type": "choice", "values": ["fresh", "both"]}}
    assert Study.model_validate(searched).requires_experts
    searched["search"]["space"] = {f"{META}.starts": {"type": "choice", "values": ["fresh"]}}
    assert not Study.model_validate(searched).requires_experts


def test_learned_step_sizes_stay_in_their_range(make_task: MakeTask) -> None:
    task = make_task(**{f"{META}.step_size_range": 3.0, "distillation.lr_student_image": 0.1})
    made = SyntheticSet(task, task.study.distillation, np.random.default_rng(0), seed=0)
    for sign, bound in ((-1.0, 0.3), (1.0, 0.1 / 3)):
        for _ in range(12):
            still = torch.zeros_like(made.texts)
            made.descend({"texts": still, "lr_image": torch.tensor(sign)}, 1.0, 100.0)
            assert 0.1 / 3 - 1e-6 <= float(made.step_sizes["lr_image"]) <= 0.3 + 1e-6
        assert float(made.step_sizes["lr_image"]) == pytest.approx(bound, rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({f"{META}.window": 9, f"{META}.syn_steps": 8}, "window must be at most syn_steps, got 9 and 8"),
        ({f"{META}.window": None, f"{META}.lengthen_over": 5}, "lengthen_over needs a window"),
        ({f"{META}.min_start_epoch": 2}, "min_start_epoch must be below max_start_epoch, got 2 and 2"),
        ({f"{META}.starts": "both", f"{META}.max_start_epoch": 4}, "beyond the experts' last epoch 2"),
        ({f"{META}.real_noise": 0.1, "model.protocol": "full_image_encoder"}, "real_noise is noise on the features"),
        ({f"{META}.batch_size": 9}, "meta_model.batch_size must be at most distillation.num_pairs, got 9 and 4"),
        ({f"{META}.step_size_range": 100}, "less than 100"),
        ({"distillation.engine.compile": True, "model.dropout": 0.1}, "compile needs model.dropout 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], expected: str) -> None:
    study = toy_study("meta_model", {})
    with pytest.raises(ValueError, match=expected):
        study.at(changes)
    if f"{META}.starts" in changes:
        assert study.at({**changes, f"{META}.starts": "fresh"}), "without experts their epochs do not matter"


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, []),
        ({"distillation.num_pairs": 500}, ["40 steps on 500 pairs each, those of evaluations 200 steps on 100:"]),
        ({"distillation.num_pairs": 500, "evaluation.batch_size": 1000}, []),
        ({"distillation.num_pairs": 500, f"{META}.batch_size": 100, "evaluation.epochs": 8}, []),
        ({"evaluation.epochs": 20}, ["40 steps on 100 pairs each, those of evaluations 20 steps on 100:"]),
        ({"distillation.num_pairs": 101, f"{META}.syn_steps": 1, "evaluation.epochs": 1}, ["1 step on 101 pairs each"]),
        ({"distillation.num_pairs": 500, f"{META}.window": 15}, []),
    ],
)
def test_students_that_are_evaluated_otherwise_are_named(changes: dict[str, Any], expected: list[str]) -> None:
    as_evaluated = {"distillation.num_pairs": 100, f"{META}.window": None, "evaluation.epochs": 40}
    notes = toy_study("meta_model", {}, **{**as_evaluated, "evaluation.batch_size": 100, **changes}).notes()
    assert len(notes) == len(expected) and all(part in note for part, note in zip(expected, notes, strict=True))


def test_a_method_without_notes_has_none() -> None:
    assert not toy_study("trajectory_matching").notes()


@pytest.mark.parametrize("pairs, batch_size", [(4, 100), (8, 4), (9, 4), (10, 4)])
def test_students_take_the_steps_that_are_counted(
    pairs: int, batch_size: int, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, taken = make_task(**{"evaluation.epochs": 2, "evaluation.batch_size": batch_size}), []

    def count(model: Any, student: Parameters, batches: Any, *others: Any) -> tuple[Parameters, None]:
        taken.append(len(list(batches)))
        return student, None

    monkeypatch.setattr("rayvldd.evaluation.students.train_on_batches", count)
    given = Pairs(torch.zeros(pairs, 3, 8, 8), torch.zeros(pairs, 4), 0.1, 0.1)
    train_student(task, given, torch.zeros(pairs, 4), task.study.evaluation, seed=0)
    assert taken == [task.study.evaluation.student_steps(pairs)]


def test_the_loss_on_real_pairs_falls(make_task: MakeTask) -> None:
    """In float32 as studies run it: the loss of fresh students on real pairs falls."""
    changes = {
        "distillation.outer_optimiser": "adam",
        "distillation.lr_image": 30.0,
        "distillation.lr_text": 30.0,
        "distillation.evaluate_every": 30,
        f"{META}.real_batch_size": 64,
        f"{META}.lr_lr": 1e-3,  # a higher one raises the step sizes in the first steps, and the loss begins low
    }
    task = make_task(**changes)
    loop = OuterLoop(task.study, task, [], 1)
    losses = [loop.step().loss for _ in range(25)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1
