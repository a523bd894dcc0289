"""The outer loop: its steps against torch's own optimiser on the whole chain, seeds, divergence, and resuming."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tasks import StudyTask, distillation_key, load, random_trajectory

import rayvldd.distillation.evaluations
import rayvldd.distillation.trajectory_matching
from rayvldd.config.study import Study
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.distillation.evaluations import EvaluationResult
from rayvldd.distillation.loop import OuterLoop, StepReport, distill
from rayvldd.distillation.method import MethodStep
from rayvldd.distillation.reference import unrolled_matching_loss
from rayvldd.distillation.unroll.batches import InnerBatches, StudentInputs
from rayvldd.distillation.unroll.inner_loop import InnerLoop
from rayvldd.errors import DivergedError, StoreError
from rayvldd.evaluation.recall import RetrievalMetrics
from rayvldd.evaluation.students import evaluate_pairs, mean_of
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.randomness import StudentPurpose, student_seeds
from rayvldd.testing.toy import toy_study

MakeTask = Callable[..., StudyTask]
FULL = {"model.protocol": "full_image_encoder"}
LORA = {"model.protocol": "lora", "model.lora.targets": ["blocks.0", "blocks.4"], "model.lora.rank": 2}


@pytest.fixture
def make_task(tiny_study: Study, tiny_cache: Path) -> MakeTask:
    """Load the tiny study with settings of the section ``distillation`` and dotted keys changed."""

    def make(dotted: dict[str, Any] | None = None, **distillation: Any) -> StudyTask:
        changes = {distillation_key(key): value for key, value in distillation.items()}
        return load(tiny_study, tiny_cache, **{**changes, **(dotted or {})})

    return make


def experts(task: RetrievalTask) -> list[Trajectory]:
    return [random_trajectory(task.model, seed) for seed in (10, 20)]


def assert_same(left: DistilledSet, right: DistilledSet) -> None:
    for name in ("images", "texts", "start_images", "start_texts"):
        assert torch.equal(getattr(left, name), getattr(right, name))
    assert left.lr_student_image == right.lr_student_image
    assert left.lr_student_text == right.lr_student_text
    assert left.start_captions == right.start_captions


# --- outer steps --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["trajectory_matching", "covariance"])
@pytest.mark.parametrize("allowed", [False, True])
def test_outer_steps_use_tf32_only_if_it_is_allowed(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch, method: str, allowed: bool
) -> None:
    task = make_task({"distillation.method": method, "distillation.engine.tf32": allowed})
    loop = OuterLoop(task.study, task, experts(task), seed=0)
    used: list[bool] = []
    gradient = loop._method.gradient

    def watched(*arguments: Any) -> MethodStep:
        used.append(torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32)
        return gradient(*arguments)

    monkeypatch.setattr(loop._method, "gradient", watched)
    loop.step()
    assert used == [allowed]
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("dotted", [{}, FULL, LORA], ids=["heads_only", "full_image_encoder", "lora"])
def test_outer_steps_are_sgd_on_the_gradient_of_the_whole_chain(make_task: MakeTask, dotted: dict[str, Any]) -> None:
    task = make_task(dotted, syn_steps=3, lr_image=2.0, lr_text=0.3, lr_lr=1e-4, momentum=0.6)
    (trajectory,) = experts(task)[:1]
    distiller = OuterLoop(task.study, task, [trajectory], seed=0)
    start = distiller.distilled_set().pairs(task)
    images, texts = start.images.requires_grad_(), start.texts.requires_grad_()
    optimiser = torch.optim.SGD([{"params": [images], "lr": 2.0}, {"params": [texts], "lr": 0.3}], momentum=0.6)
    step_sizes, velocity = torch.tensor([start.lr_image, start.lr_text]), torch.zeros(2)
    walk = InnerBatches([torch.arange(4)] * 3, [0] * 3)  # all pairs in every step, no dropout: nothing is drawn
    for outer_step in (1, 2, 3):
        step_sizes.requires_grad_()
        inputs = StudentInputs(task.model.frozen_part(images), texts, step_sizes[0], step_sizes[1])
        loss = unrolled_matching_loss(task.model, trajectory.segment(0, 1), inputs, walk, task.study.distillation)
        optimiser.zero_grad()
        (by_step_sizes,) = torch.autograd.grad(loss, step_sizes, retain_graph=True)
        loss.backward(inputs=[images, texts])
        optimiser.step()
        velocity = 0.6 * velocity + by_step_sizes
        step_sizes = step_sizes.detach() * torch.exp(-1e-4 * velocity / step_sizes.detach())

        report = distiller.step()
        assert report.outer_step == outer_step
        assert report.numbers["matching_loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
        assert report.numbers["matching_loss"] == pytest.approx(
            report.numbers["matching_loss_image"] + report.numbers["matching_loss_text"]
        )
        assert [report.numbers["lr_student_image"], report.numbers["lr_student_text"]] == pytest.approx(
            step_sizes.tolist(), rel=1e-4
        )
    made = distiller.distilled_set().pairs(task)
    began = OuterLoop(task.study, task, [trajectory], seed=0).distilled_set().pairs(task)
    for moved, expected, start_of in (
        (made.images, images.detach(), began.images),
        (made.texts, texts.detach(), began.texts),
    ):
        way = expected - start_of
        assert way.norm() > 1e-3 * start_of.norm()
        assert (moved - expected).norm() < 1e-3 * way.norm()


def test_step_sizes_move_as_published_to_first_order(make_task: MakeTask) -> None:
    """a * exp(-lr_lr v / a) is a - lr_lr v for a small rate."""
    moved = []
    for lr_lr in (1e-5, 2e-5):
        task = make_task(lr_lr=lr_lr)
        moved.append(OuterLoop(task.study, task, experts(task), seed=0).step().numbers["lr_student_text"] - 0.1)
    assert moved[0] != 0
    assert moved[1] == pytest.approx(2 * moved[0], rel=0.02)


@pytest.mark.parametrize("lr_lr", [1e3, 1e9])
def test_step_sizes_stay_positive_at_any_rate(make_task: MakeTask, lr_lr: float) -> None:
    task = make_task(lr_lr=lr_lr, momentum=0.0)
    distiller = OuterLoop(task.study, task, experts(task), seed=0)
    before = [0.1, 0.1]
    for _ in range(12):
        try:
            report = distiller.step()
        except DivergedError:  # step sizes that double each time make the student diverge, which is reported
            break
        after = [report.numbers["lr_student_image"], report.numbers["lr_student_text"]]
        for old, new in zip(before, after, strict=True):
            assert 0 < old / 2.001 < new < old * 2.001
        before = after
    assert distiller.outer_step >= 3


def test_start_from_real_pairs(make_task: MakeTask) -> None:
    task = make_task()
    made = OuterLoop(task.study, task, experts(task), seed=1).distilled_set()
    assert torch.equal(made.images, made.start_images) and torch.equal(made.texts, made.start_texts)
    pixels = torch.from_numpy(task.train.split.pixels.copy()) / 255
    for image, text, caption in zip(made.images, made.texts, made.start_captions, strict=True):
        number = task.train.split.captions.index(caption)
        assert torch.equal(text, torch.from_numpy(task.train.caption_embeddings[number].copy()))
        nearest = (pixels - image).abs().amax((1, 2, 3)).argmin()
        assert nearest == task.train.split.caption_image[number]
        assert torch.allclose(pixels[nearest], image, atol=1e-5)


def test_start_from_noise(make_task: MakeTask) -> None:
    task = make_task(start_images="noise", start_texts="noise", num_pairs=40)
    made = OuterLoop(task.study, task, experts(task), seed=1).distilled_set()
    images = task.model.normalise(made.images)
    assert abs(float(images.mean())) < 0.05 and abs(float(images.std()) - 1) < 0.05
    real = torch.from_numpy(task.train.caption_embeddings.copy())
    assert float(made.texts.std()) == pytest.approx(float(real.std()), rel=0.1)
    assert made.start_captions == [""] * 40
    only_images = make_task(start_images="noise")
    captions = OuterLoop(only_images.study, only_images, experts(only_images), seed=1).distilled_set().start_captions
    assert set(captions) <= set(task.train.split.captions)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_seed_decides_a_run(make_task: MakeTask, dropout: float) -> None:
    task = make_task({"model.dropout": dropout}, batch_size=2, max_start_epoch=2)

    def run(seed: int) -> tuple[list[StepReport], DistilledSet]:
        distiller = OuterLoop(task.study, task, experts(task), seed)
        return [distiller.step() for _ in range(3)], distiller.distilled_set()

    before = torch.get_rng_state()
    (reports, made), (reports_again, made_again), (_, other) = run(5), run(5), run(6)
    assert torch.equal(torch.get_rng_state(), before)
    assert reports == reports_again
    assert_same(made, made_again)
    assert made.start_captions != other.start_captions


def test_every_pair_is_used_once_before_any_is_used_again(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(num_pairs=6, batch_size=2, syn_steps=7)
    walks: list[InnerBatches] = []
    real = InnerLoop.gradient

    def watch(self: InnerLoop, start: Any, end_loss: Any, inputs: Any, walk: InnerBatches) -> Any:
        walks.append(walk)
        return real(self, start, end_loss, inputs, walk)

    monkeypatch.setattr(InnerLoop, "gradient", watch)
    distiller = OuterLoop(task.study, task, experts(task), seed=0)
    distiller.step(), distiller.step()
    for walk in walks:
        assert [len(batch) for batch in walk.batches] == [2] * 7
        for start in (0, 3):
            assert torch.cat(list(walk.batches[start : start + 3])).sort().values.tolist() == list(range(6))
        assert len(set(walk.seeds)) == 7
    assert walks[0].seeds != walks[1].seeds


def test_segments_start_between_the_epochs_of_the_settings(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(
        {"experts.epochs": 6}, min_start_epoch=1, max_start_epoch=4, expert_epochs=2, lr_text=0.1, lr_lr=1e-6
    )
    segments_read: list[tuple[int, int]] = []
    segment = Trajectory.segment

    def watch(self: Trajectory, start: int, target: int) -> Any:
        segments_read.append((start, target))
        return segment(self, start, target)

    monkeypatch.setattr(Trajectory, "segment", watch)
    distiller = OuterLoop(task.study, task, [random_trajectory(task.model, epochs=6)], seed=0)
    for _ in range(15):
        distiller.step()
    assert set(segments_read) == {(1, 3), (2, 4), (3, 5)}


def test_experts_shorter_than_the_settings_are_refused(make_task: MakeTask) -> None:
    task = make_task({"experts.epochs": 5}, min_start_epoch=3, max_start_epoch=4)
    with pytest.raises(StoreError, match="from epoch 3 to 4 is outside a trajectory of 2 epochs"):
        OuterLoop(task.study, task, experts(task), seed=0).step()


# --- divergence ---------------------------------------------------------------------------------------------------


def test_a_huge_rate_is_a_failure_that_names_it(make_task: MakeTask) -> None:
    task = make_task(lr_image=1e38, outer_steps=4)
    message = (
        "(?s)diverged at outer step ., after 3 rollbacks: .*with lr_image=1e\\+38.*Next: .*--set distillation.lr_image"
    )
    with pytest.raises(DivergedError, match=message):
        list(distill(task.study, task, experts(task), seed=0))
    assert not task.model.training


def test_numbers_that_are_not_finite_are_a_failure(make_task: MakeTask) -> None:
    task = make_task()
    first, second, third = (random_trajectory(task.model)[epoch] for epoch in range(3))
    broken = Parameters(second.image.clone(), second.text.clone())
    broken.text[3] = float("nan")
    distiller = OuterLoop(task.study, task, [Trajectory.of_every_epoch([first, broken, third])], seed=0)
    before = distiller.distilled_set()
    with pytest.raises(DivergedError, match="at outer step 1, after 3 rollbacks: matching loss nan"):
        distiller.step()
    assert distiller.outer_step == 0
    assert_same(distiller.distilled_set(), before)


def test_a_run_that_leaves_its_range_goes_back_with_half_the_rates(
    make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad draw must not cost a run: the last good state, smaller rates, other draws."""
    task = make_task(evaluate_every=2, outer_steps=6, lr_lr=1e-6, lr_text=0.1)
    good = experts(task)[0]
    distiller = OuterLoop(task.study, task, [good], seed=0)
    distiller.step(), distiller.step()
    after_two = distiller.distilled_set()
    distiller.step()
    nan = Parameters(torch.full_like(good[1].image, float("nan")), good[1].text)
    served = [good, Trajectory.of_every_epoch([good[0], nan, good[2]])]
    monkeypatch.setattr(
        rayvldd.distillation.trajectory_matching,
        "draw_segment",
        lambda *_: served.pop().segment(0, 1),
    )
    report = distiller.step()
    assert (report.outer_step, report.numbers["rollbacks"]) == (3, 1)  # back to 2, then one step
    assert not torch.equal(distiller.distilled_set().images, after_two.images)
    assert distiller.distilled_set().card_values()["rollbacks"] == 1

    served += [Trajectory.of_every_epoch([good[0], nan, good[2]])]
    hasty_task = make_task(max_rollbacks=0)
    hasty = OuterLoop(hasty_task.study, hasty_task, [good], seed=0)
    with pytest.raises(DivergedError, match="after 0 rollbacks"):
        hasty.step()


def test_halved_rates_move_half_as_far(make_task: MakeTask) -> None:
    task = make_task(momentum=0.0, lr_image=2.0, lr_text=0.2, lr_lr=1e-6)
    ways = []
    for rollbacks in (0, 1):
        distiller = OuterLoop(task.study, task, experts(task)[:1], seed=0)
        distiller.rollbacks = rollbacks
        distiller.step()
        made = distiller.distilled_set()
        ways.append((made.images - made.start_images, made.texts - made.start_texts))
    for whole, half in zip(*ways, strict=True):
        assert torch.allclose(whole, 2 * half, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"lr_text": 1e4, "lr_lr": 1e-6}, "images or texts have grown to .* times their start"),
        ({"lr_text": 1e-3, "lr_image": 1e-3, "lr_lr": 1e6}, "the learned step size lr_.* went from 0.1 to"),
    ],
)
def test_divergence_that_stays_finite_is_seen(make_task: MakeTask, settings: dict[str, float], reason: str) -> None:
    task = make_task(**settings, outer_steps=60, evaluate_every=30, max_rollbacks=1)
    with pytest.raises(DivergedError, match=reason):
        list(distill(task.study, task, experts(task), seed=0))


def test_recall_that_falls_far_below_the_start_ends_a_run(
    make_task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(outer_steps=8, evaluate_every=1, lr_lr=1e-6, lr_text=0.1)

    def run(recalls: list[float], folder: Path) -> list[int]:
        served, steps = iter(recalls), []
        monkeypatch.setattr(
            rayvldd.distillation.evaluations, "evaluate_pairs", lambda *_: [RetrievalMetrics(*[next(served)] * 6)]
        )
        monkeypatch.setattr(rayvldd.distillation.evaluations.EvaluatedRun, "_floor", lambda self: self.start_recall / 2)
        for evaluation in distill(task.study, task, experts(task), 0, folder):
            steps.append(evaluation.outer_step)
        return steps

    assert run([50.0, 24.0, 60.0, 24.0, 60.0, 24.0, 60.0, 24.0, 60.0], tmp_path / "recovers") == list(range(9))
    with pytest.raises(DivergedError, match=r"below half of the start's 50.00 for 2 evaluations"):
        run([50.0, 24.0, 60.0, 24.0, 23.0], tmp_path / "falls")
    with pytest.raises(DivergedError, match="below half"):  # and the same command does not resume it
        run([], tmp_path / "falls")
    assert DistilledSet.load(tmp_path / "falls" / "best").origin.outer_step == 2  # the best set is kept


def test_a_start_near_guessing_has_no_floor(make_task: MakeTask) -> None:
    task = make_task(outer_steps=1)
    run = rayvldd.distillation.evaluations.EvaluatedRun(
        task.study, task, OuterLoop(task.study, task, experts(task), 0), 0, None
    )
    guessing = 100 * 16 / 3 / task.val.num_images
    run.start_recall = 2.9 * guessing
    assert run._floor() == 0
    run.start_recall = 3.1 * guessing
    assert run._floor() == pytest.approx(1.55 * guessing)


def test_outer_rates_fall_by_half_a_cosine_and_stay(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the full rates at the first step to a twentieth of them, of all values and of the learned step sizes."""
    scales: dict[int | None, list[float]] = {None: [], 4: []}
    for decay_over, found in scales.items():
        task = make_task(decay_over=decay_over)
        distiller = OuterLoop(task.study, task, experts(task), 0)
        monkeypatch.setattr(distiller.set, "descend", lambda gradients, scale, rate, to=found: to.append(scale))
        for _ in range(6):
            distiller.step()
    assert scales[None] == [1.0] * 6
    expected = [1.0, 0.05 + 0.95 * (1 + 0.5**0.5) / 2, 0.525, 0.05 + 0.95 * (1 - 0.5**0.5) / 2, 0.05, 0.05]
    assert scales[4] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("decay_over", "shown"), [(None, []), (5, []), (6, []), (8, ["over 8 steps, of which the run takes 6"])]
)
def test_rates_that_do_not_fall_to_the_end_are_named(decay_over: int | None, shown: list[str]) -> None:
    changes: dict[str, Any] = {"distillation.outer_steps": 6, "distillation.decay_over": decay_over}
    notes = toy_study(**changes).notes()
    assert len(notes) == len(shown) and all(part in note for part, note in zip(shown, notes, strict=True))


# --- methods as settings ------------------------------------------------------------------------------------------

METHODS: dict[str, dict[str, Any]] = {
    "LoRS": {"similarity": "low_rank", "sim_rank": 2, "student_loss": "weighted_bce", "lr_sim": 1.0},
    "LoRS, full similarity": {"similarity": "full", "student_loss": "extended_info_nce", "lr_sim": 1.0},
    "RepBlend": {"blending": 1.0},
    "AMD": {"separate_start_epochs": True},
    "DATM": {"widen_over": 2},
    "EMA": {"ema_decay": 0.9},
    "falling rates": {"decay_over": 3},
    "DSA": {"augmentation": ["color", "crop", "flip"]},
    "image only": {"matched": "image"},
    "text only": {"matched": "text"},
    "truncated": {"gradient": "truncated", "truncated_steps": 1},
    "TESLA": {"gradient": "tesla"},
    "k-means": {"start_pairs": "k_means"},
    "Adam": {"outer_optimiser": "adam", "lr_image": 1.0, "lr_text": 1.0},
    "scaled": {"outer_optimiser": "scaled_sgd", "lr_image": 1.0, "lr_text": 1.0},
    "scaled, one side": {"outer_optimiser": "scaled_sgd", "lr_image": 1.0, "matched": "image"},
    "normalised": {"outer_optimiser": "normalised_sgd", "lr_image": 1.0, "lr_text": 1.0},
    "pyramid": {"image_parametrisation": "pyramid"},
    "pyramid, averaged, Adam": {
        "image_parametrisation": "pyramid",
        "ema_decay": 0.9,
        "outer_optimiser": "adam",
        "lr_image": 1.0,
        "lr_text": 1.0,
    },
    "drawn batches": {"batches": "drawn", "batch_size": 3},
    "micro-batches": {"engine": {"micro_batch": 3}},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_repeats_and_continues(make_task: MakeTask, tmp_path: Path, method: str) -> None:
    """As settings of a whole run: it moves the set, a stopped run ends with the same bits, its set loads and trains."""
    settings = {"num_pairs": 8, "outer_steps": 4, "evaluate_every": 2, "lr_lr": 1e-6, "lr_text": 0.1, "max_drift": 1e6}
    task = make_task({"model.dropout": 0.1, "experts.epochs": 3}, **{**settings, **METHODS[method]})
    trajectories = [random_trajectory(task.model, seed, epochs=3) for seed in (10, 20)]
    whole = list(distill(task.study, task, trajectories, 3, tmp_path / "whole"))
    stop_after(2, distill(task.study, task, trajectories, 3, tmp_path / "parts"))
    rest = list(distill(task.study, task, trajectories, 3, tmp_path / "parts"))
    assert [evaluation.outer_step for evaluation in rest] == [4]
    assert numbers(rest[0]) == numbers(whole[-1])
    made = whole[-1].distilled_set
    assert_same(rest[0].distilled_set, made)
    for name, value in made.similarity.values.items():
        assert torch.equal(rest[0].distilled_set.similarity.values[name], value)

    assert torch.equal(made.images, made.start_images) == (METHODS[method].get("matched") == "text")
    assert torch.equal(made.texts, made.start_texts) == (METHODS[method].get("matched") == "image")
    made.save(tmp_path / "set")
    loaded = DistilledSet.load(tmp_path / "set")
    assert_same(loaded, made)
    scores = [evaluate_pairs(task, each.pairs(task), task.val, task.study.evaluation, [1]) for each in (made, loaded)]
    assert scores[0] == scores[1]


def test_a_learned_similarity_costs_pairs_and_moves(make_task: MakeTask) -> None:
    task = make_task(num_pairs=8, lr_sim=1.0, **{k: v for k, v in METHODS["LoRS"].items() if k != "lr_sim"})
    distiller = OuterLoop(task.study, task, experts(task), seed=0)
    distiller.step(), distiller.step()
    made = distiller.distilled_set()
    assert len(made) == 7  # one pair fewer, as LoRS counts
    matrix = made.similarity.matrix()
    assert matrix is not None and matrix.shape == (7, 7) and not torch.equal(matrix, torch.eye(7))
    pairs = made.pairs(task)
    assert pairs.pair_loss == "weighted_bce" and pairs.similarity is not None
    assert "loss: weighted_bce at temperature 0.07 with the learned similarity" in made.describe()
    plain = replace(pairs, similarity=None)
    assert evaluate_pairs(task, pairs, task.val, task.study.evaluation, [1]) != evaluate_pairs(
        task, plain, task.val, task.study.evaluation, [1]
    )


def test_a_set_names_the_matched_parts_of_the_model(make_task: MakeTask) -> None:
    """The released number for LoRA, 18 M parameters, has neither layers nor rank; here both are stated and counted."""
    task = make_task({**LORA, "model.lora.alpha": 6.0})
    made = OuterLoop(task.study, task, experts(task), seed=0).distilled_set()
    adapters = sum(p.numel() for name, p in task.model.image_part.named_parameters() if "lora_" in name)
    heads = sum(p.numel() for p in task.model.text_part.parameters())
    assert (
        f"lora of rank 2, alpha 6 on layers blocks.0, blocks.4; {adapters:,} image and {heads:,} text"
        in made.describe()
    )


def test_the_average_is_evaluated_and_saved(make_task: MakeTask) -> None:
    settings = {"lr_lr": 1e-6, "lr_text": 0.1, "outer_steps": 3, "evaluate_every": 1}
    plain, averaged = (
        [evaluation.distilled_set for evaluation in distill(task.study, task, experts(task), 0)][1:]
        for task in (make_task(**settings), make_task(**settings, ema_decay=0.5))
    )
    for count in (1, 2, 3):
        weights = [0.5 ** (count - step) for step in range(count)]
        expected = sum(weight * made.images for weight, made in zip(weights, plain, strict=False)) / sum(weights)
        assert torch.allclose(averaged[count - 1].images, torch.as_tensor(expected), atol=1e-5)


def test_a_state_of_other_settings_is_refused(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task(outer_steps=2, evaluate_every=1)
    stop_after(2, distill(task.study, task, experts(task), 0, tmp_path))
    other = make_task(outer_steps=2, evaluate_every=1, momentum=0.25)
    with pytest.raises(StoreError, match=r"a run with other settings: momentum was 0.5, is 0.25.*"):
        next(distill(other.study, other, experts(other), 0, tmp_path))
    with pytest.raises(StoreError, match="seed was 0, is 1"):
        next(distill(task.study, task, experts(task), 1, tmp_path))
    longer = make_task(outer_steps=3, evaluate_every=1)
    assert [e.outer_step for e in distill(longer.study, longer, experts(longer), 0, tmp_path)] == [2, 3]


# --- a whole run --------------------------------------------------------------------------------------------------

RECALLS = {f"val_{name}" for name in RetrievalMetrics(*[0.0] * 6).as_dict()}
SECONDS = {"seconds_matching", "seconds_evaluating"}
DIAGNOSTICS = {"concentration_image", "concentration_text", "nearest_image_cosine"}
STEP = {
    *("matching_loss", "matching_loss_image", "matching_loss_text"),
    *("lr_student_image", "lr_student_text", "drift", "rollbacks"),
}


def numbers(evaluation: EvaluationResult) -> dict[str, float]:
    """What must repeat: everything but how long it took."""
    return {name: value for name, value in evaluation.metrics.items() if name not in SECONDS}


def test_a_run_is_evaluated_at_the_start_every_so_often_and_at_the_end(make_task: MakeTask) -> None:
    task = make_task(outer_steps=5, evaluate_every=2)
    steps: list[StepReport] = []
    evaluations = list(distill(task.study, task, experts(task), seed=0, on_step=steps.append))
    assert [evaluation.outer_step for evaluation in evaluations] == [0, 2, 4, 5]
    assert [step.outer_step for step in steps] == [1, 2, 3, 4, 5]
    best = -1.0
    for evaluation, since in zip(evaluations, ([], steps[:2], steps[2:4], steps[4:]), strict=True):
        metrics = evaluation.metrics
        assert set(metrics) == RECALLS | SECONDS | DIAGNOSTICS | {"best_val_mean_recall"} | (STEP if since else set())
        for name in STEP if since else ():
            assert metrics[name] == pytest.approx(sum(step.numbers[name] for step in since) / len(since))
        assert evaluation.is_best == (metrics["val_mean_recall"] > best)
        best = max(best, metrics["val_mean_recall"])
        assert metrics["best_val_mean_recall"] == best
        assert evaluation.distilled_set.origin.metrics == metrics
        assert evaluation.distilled_set.origin.outer_step == evaluation.outer_step
        students = evaluate_pairs(
            task,
            evaluation.distilled_set.pairs(task),
            task.val,
            task.study.evaluation,
            student_seeds(task.study.seed, 1),
        )
        assert mean_of(students).as_dict("val_").items() <= metrics.items()


def test_the_first_rung_is_evaluated_by_its_proxy(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[int, int]] = []

    def noted(task: Any, pairs: Any, inputs: Any, settings: Any, seeds: list[int]) -> list[RetrievalMetrics]:
        trained.append((len(seeds), settings.epochs))
        return [RetrievalMetrics(*[50.0] * 6)]

    monkeypatch.setattr(rayvldd.distillation.evaluations, "evaluate_pairs", noted)
    settings = {"outer_steps": 4, "evaluate_every": 1}
    for changes, first in (({"proxy_epochs": 3}, (1, 3)), ({"proxy_epochs": 9}, (1, 7)), ({}, (2, 7))):
        evaluation = {
            f"evaluation.{name}": value for name, value in {**changes, "num_students": 2, "epochs": 7}.items()
        }
        task = make_task({**evaluation, "search.grace_evaluations": 2}, **settings)
        trained.clear()
        list(distill(task.study, task, experts(task), seed=1))
        assert trained == [first, first, first, (2, 7), (2, 7)]


def test_runs_with_the_same_start_evaluate_it_once(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, evaluations = 0, rayvldd.distillation.evaluations

    def noted(*values: Any) -> list[RetrievalMetrics]:
        nonlocal counted
        counted += 1
        return evaluate_pairs(*values)

    monkeypatch.setattr(evaluations, "evaluate_pairs", noted)
    known: dict[str, dict[str, float]] = {}

    def run(seed: int = 1, study: dict[str, Any] | None = None, **distillation: Any) -> int:
        """Evaluations of the start by a run; its numbers are those of a run that knows none."""
        nonlocal counted
        task, counted = make_task(study, **distillation), 0
        first = next(distill(task.study, task, experts(task), seed, first_recalls=known))
        own = counted
        assert numbers(first) == numbers(next(distill(task.study, task, experts(task), seed)))
        return own

    assert run() == 1
    assert run() == run(lr_image=7.0, lr_text=3.0, lr_lr=0.003, outer_steps=9) == 0, "the start does not depend on it"
    others: list[dict[str, Any]] = [
        {"seed": 2},
        {"lr_student_image": 0.05},
        {"num_pairs": 3},
        {"start_texts": "noise"},
        {"study": {"evaluation.epochs": 3}},
        {"study": {"evaluation.num_students": 2}},
        {"study": {"model.temperature": 0.1}},
        {"similarity": "full", "student_loss": "extended_info_nce"},
    ]
    assert [run(**other) for other in others] == [1] * len(others) and len(known) == 1 + len(others)
    task = make_task(outer_steps=1)
    counted = 0
    assert len(list(distill(task.study, task, experts(task), 1, first_recalls=known))) == 2 and counted == 1


def test_an_evaluation_does_not_change_with_later_steps(make_task: MakeTask) -> None:
    task = make_task(outer_steps=2, evaluate_every=1)
    run = distill(task.study, task, experts(task), seed=0)
    first = next(run)
    images, texts = first.distilled_set.images.clone(), first.distilled_set.texts.clone()
    last = list(run)[-1]
    assert torch.equal(first.distilled_set.images, images) and torch.equal(first.distilled_set.texts, texts)
    assert not torch.equal(last.distilled_set.images, images) and not torch.equal(last.distilled_set.texts, texts)
    assert torch.equal(last.distilled_set.start_images, first.distilled_set.images)


def test_two_runs_of_a_seed_have_the_same_numbers(make_task: MakeTask) -> None:
    task = make_task({"model.dropout": 0.2}, batch_size=2)
    first, again = (list(distill(task.study, task, experts(task), seed=3)) for _ in range(2))
    assert list(map(numbers, first)) == list(map(numbers, again))
    assert_same(first[-1].distilled_set, again[-1].distilled_set)


class Stopped(Exception):
    """Stands for Ctrl-C, or for a process that dies."""


def stop_after(evaluations: int, run: Iterator[EvaluationResult]) -> None:
    for _ in range(evaluations):
        next(run)
    run.close()  # type: ignore[attr-defined]  # a generator


@pytest.mark.parametrize("stopped_at", ["evaluation", "step", "writing the state", "writing the progress"])
def test_a_run_that_was_stopped_ends_like_one_that_was_not(
    make_task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: str
) -> None:
    task = make_task({"model.dropout": 0.2}, outer_steps=6, evaluate_every=2, batch_size=2, lr_image=50.0)
    whole = list(distill(task.study, task, experts(task), 3, tmp_path / "whole"))

    parts = tmp_path / "parts"
    if stopped_at == "evaluation":
        stop_after(2, distill(task.study, task, experts(task), 3, parts))
    elif stopped_at == "step":

        def stop(report: StepReport) -> None:
            if report.outer_step == 3:
                raise Stopped

        with pytest.raises(Stopped):
            list(distill(task.study, task, experts(task), 3, parts, stop))
    else:
        last_written = "state-000004.safetensors" if stopped_at == "writing the state" else "progress.json"
        run = distill(task.study, task, experts(task), 3, parts)
        next(run), next(run)

        def killed_at_last(source: Path, target: Path, replace: Callable[[Path, Path], None] = os.replace) -> None:
            if target.name == last_written:
                raise Stopped
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed_at_last)
            with pytest.raises(Stopped):
                next(run)

    rest = list(distill(task.study, task, experts(task), 3, parts))
    assert [evaluation.outer_step for evaluation in rest] == [4, 6]
    assert list(map(numbers, rest)) == list(map(numbers, whole[2:]))
    assert [evaluation.is_best for evaluation in rest] == [evaluation.is_best for evaluation in whole[2:]]
    for left, right in zip(rest, whole[2:], strict=True):
        assert_same(left.distilled_set, right.distilled_set)
    assert_same(DistilledSet.load(parts / "best"), DistilledSet.load(tmp_path / "whole" / "best"))
    assert rest[-1].metrics["seconds_matching"] > rest[0].metrics["seconds_matching"] > 0


def test_a_finished_run_has_nothing_left_to_do(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task()
    assert len(list(distill(task.study, task, experts(task), 0, tmp_path))) == 3
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert list(distill(task.study, task, experts(task), 0, tmp_path)) == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_folder_holds_one_state_and_the_best_set(
    make_task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(outer_steps=6, evaluate_every=2)
    recalls = iter([10.0, 30.0, 20.0, 30.0])

    def scored(*_: Any) -> list[RetrievalMetrics]:
        return [RetrievalMetrics(*[next(recalls)] * 6)]

    monkeypatch.setattr(rayvldd.distillation.evaluations, "evaluate_pairs", scored)
    evaluations = []
    for evaluation in distill(task.study, task, experts(task), 0, tmp_path / "run"):
        evaluations.append(evaluation)
        best = DistilledSet.load(tmp_path / "run" / "best")  # exists already when the evaluation is reported
        assert best.origin.metrics["val_mean_recall"] == evaluation.metrics["best_val_mean_recall"]
    assert [evaluation.is_best for evaluation in evaluations] == [True, True, False, False]  # not for an equal one
    assert_same(best, evaluations[1].distilled_set)
    assert best.origin.outer_step == 2
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == ["best", "progress.json", "state-000006.safetensors"]
    assert json.loads((tmp_path / "run" / "progress.json").read_text())["best_recall"] == 30


def test_students_of_validation_and_test_are_others(make_task: MakeTask) -> None:
    task = make_task()
    assert student_seeds(task.study.seed, 3) == student_seeds(task.study.seed, 5)[:3]
    assert not set(student_seeds(task.study.seed, 5)) & set(student_seeds(task.study.seed, 5, StudentPurpose.TEST))
    assert mean_of([RetrievalMetrics(*[1.0] * 6), RetrievalMetrics(*[2.0] * 6)]).mean_recall == 1.5
