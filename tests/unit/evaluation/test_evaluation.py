"""Recall against a slow sort of every row, and students against torch's own optimiser on live modules."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tasks import load
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rayvldd.config.study import Study
from rayvldd.coresets.selection import choose_coreset
from rayvldd.evaluation.recall import RetrievalMetrics, RetrievalRanks, retrieval_ranks, retrieval_recall
from rayvldd.evaluation.scoring import score
from rayvldd.evaluation.students import Pairs, evaluate_pairs, train_student
from rayvldd.experts.recipe import expert_training
from rayvldd.models.parameters import Parameters

# --- recall -------------------------------------------------------------------------------------------------------


def slow_rank(scores: list[float], right: set[int]) -> int:
    """Rank of the best right answer after sorting, every wrong answer of the same score standing before it."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i in right))
    return 1 + min(order.index(i) for i in right)


def slow_recall(images: Tensor, captions: Tensor, caption_image: np.ndarray) -> RetrievalMetrics:
    scores = (images @ captions.T).tolist()
    to_text = [slow_rank(row, set(np.flatnonzero(caption_image == i).tolist())) for i, row in enumerate(scores)]
    columns = (images @ captions.T).T.tolist()
    to_image = [slow_rank(column, {int(caption_image[j])}) for j, column in enumerate(columns)]
    recalls = [100 * sum(rank <= k for rank in ranks) / len(ranks) for ranks in (to_text, to_image) for k in (1, 5, 10)]
    return RetrievalMetrics(*recalls)


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(
    images=st.integers(1, 24),
    captions_per_image=st.integers(1, 5),
    dim=st.integers(1, 3),
    levels=st.sampled_from([1, 2, 100]),
    seed=st.integers(0, 2**31 - 1),
)
def test_recall_is_that_of_a_slow_sort(images: int, captions_per_image: int, dim: int, levels: int, seed: int) -> None:
    generator = np.random.default_rng(seed)

    def whole_numbers(count: int) -> Tensor:  # products are exact, and with few levels most of them are ties
        return torch.from_numpy(generator.integers(-levels, levels + 1, (count, dim)).astype(np.float64))

    owners = generator.permutation(np.repeat(np.arange(images), captions_per_image))
    image_side, caption_side = whole_numbers(images), whole_numbers(len(owners))
    expected = slow_recall(image_side, caption_side, owners)
    assert asdict(retrieval_recall(image_side, caption_side, owners)) == pytest.approx(asdict(expected))


def test_recall_of_a_pool_longer_than_a_chunk() -> None:
    generator = torch.Generator().manual_seed(0)
    images, noise = (torch.randn(count, 12, generator=generator, dtype=torch.float64) for count in (300, 1500))
    owners = np.repeat(np.arange(300), 5)
    captions = images[owners] + 1.5 * noise
    metrics = retrieval_recall(images, captions, owners)
    assert asdict(metrics) == pytest.approx(asdict(slow_recall(images, captions, owners)))
    assert 5 < metrics.mean_recall < 95


def test_perfect_embeddings_score_all() -> None:
    images = torch.eye(20)
    owners = np.repeat(np.arange(20), 5)
    assert set(asdict(retrieval_recall(images, images[owners], owners)).values()) == {100.0}


@pytest.mark.parametrize("value", [0.0, 0.25, float("nan"), float("inf")])
def test_embeddings_that_say_nothing_score_nothing(value: float) -> None:
    owners = np.repeat(np.arange(20), 2)
    metrics = retrieval_recall(torch.full((20, 4), value), torch.full((40, 4), value), owners)
    assert set(asdict(metrics).values()) == {0.0}


@pytest.mark.parametrize("broken", ["images", "captions"])
def test_an_embedding_that_is_not_a_number_ranks_before_the_correct_answer(broken: str) -> None:
    images, captions, owners = torch.eye(20), torch.eye(20), np.arange(20)
    (images if broken == "images" else captions)[3] = float("nan")
    metrics = retrieval_recall(images, captions, owners)
    assert metrics.image_to_text_r1 == (95.0 if broken == "images" else 0.0)
    assert metrics.text_to_image_r1 == (0.0 if broken == "images" else 95.0)
    assert metrics.image_to_text_r5 == metrics.text_to_image_r5 == 95.0  # as a query of its own it finds nothing


def test_a_pool_of_fewer_than_ten_is_scored_as_it_is() -> None:
    owners = np.repeat(np.arange(3), 5)
    constant = retrieval_recall(torch.ones(3, 2), torch.ones(15, 2), owners)
    assert (constant.text_to_image_r1, constant.text_to_image_r5) == (0.0, 100.0)
    assert (constant.image_to_text_r5, constant.image_to_text_r10) == (0.0, 0.0)  # 11th after ten wrong captions


def test_a_caption_that_two_images_share_is_right_for_its_own_image_only() -> None:
    """Images 0 and 1 have the same caption, and image 0 a second one of no use; image 2 is different."""
    images = torch.eye(3, 4)
    shared = torch.tensor([0.8, 0.6, 0.0, 0.0])
    captions, owners = torch.stack([shared, torch.eye(4)[3], shared, torch.eye(4)[2]]), np.array([0, 0, 1, 2])
    ranks = retrieval_ranks(images, captions, owners)
    assert ranks.image_to_text.tolist() == [2, 2, 1]  # the copy has the same score and ranks first
    assert ranks.text_to_image.tolist() == [1, 3, 2, 1]  # as a query, the copy of image 1 finds image 0 first
    unlike = captions.clone()
    unlike[1] = images[0]  # another caption of image 0 is found before either copy
    assert retrieval_ranks(images, unlike, owners).image_to_text.tolist() == [1, 2, 1]


def test_recalls_are_computed_from_ranks() -> None:
    ranks = RetrievalRanks(np.array([1, 5, 6, 11]), np.array([10, 2]))
    assert ranks.recalls() == RetrievalMetrics(25.0, 50.0, 75.0, 0.0, 50.0, 100.0)


def test_metrics_have_names_that_say_direction_and_split() -> None:
    metrics = RetrievalMetrics(1.0, 2.0, 3.0, 4.0, 5.0, 9.0)
    assert metrics.mean_recall == 4
    assert metrics.as_dict("val_") == {
        "val_image_to_text_r1": 1,
        "val_image_to_text_r5": 2,
        "val_image_to_text_r10": 3,
        "val_text_to_image_r1": 4,
        "val_text_to_image_r5": 5,
        "val_text_to_image_r10": 9,
        "val_mean_recall": 4,
    }


def test_an_owner_with_a_wrong_shape_is_refused() -> None:
    with pytest.raises(Exception, match="caption_image"):  # of labels [caption, 1], broadcasting makes recall 100
        retrieval_recall(torch.eye(3), torch.eye(3), np.arange(3)[:, None])


# --- students -----------------------------------------------------------------------------------------------------

PROTOCOLS: dict[str, dict[str, Any]] = {
    "heads_only": {},
    "full_image_encoder": {"model.protocol": "full_image_encoder"},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_score_embeds_every_image_and_caption(tiny_study: Study, tiny_cache: Path, protocol: str) -> None:
    task = load(tiny_study, tiny_cache, **PROTOCOLS[protocol])
    parameters = task.model.initial_parameters(1)
    with torch.no_grad():
        pixels = torch.from_numpy(np.array(task.val.split.pixels)).float() / 255
        images = task.model.embed_images(task.model.frozen_part(task.model.normalise(pixels)), parameters.image)
        captions = task.model.embed_texts(torch.from_numpy(np.array(task.val.caption_embeddings)), parameters.text)
    expected = slow_recall(images, captions, task.val.split.caption_image)
    assert asdict(score(task, parameters, task.val)) == pytest.approx(asdict(expected))


def test_a_student_is_scored_on_a_pool_of_two(tiny_study: Study, tiny_cache: Path) -> None:
    task = load(tiny_study, tiny_cache, **{"data.num_test": 2, "evaluation.epochs": 1})
    (found,) = evaluate_pairs(task, coreset_pairs(task, 4), task.test, task.study.evaluation, [0])
    assert task.test.num_images == 2 and found.text_to_image_r5 == 100.0


def coreset_pairs(task: Any, num_pairs: int) -> Pairs:
    pairs: Pairs = choose_coreset(task, "random", num_pairs, seed=1, training=expert_training(task.study)).pairs(
        task, 0.1
    )
    return Pairs(pairs.images, pairs.texts, lr_image=0.05, lr_text=0.2)  # two rates: each side must take its own


@pytest.mark.parametrize("decay", ["none", "cosine", "step"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_student_is_trained_as_a_plain_module_is(
    tiny_study: Study, tiny_cache: Path, protocol: str, decay: str
) -> None:
    changes = {"evaluation.epochs": 3, "evaluation.batch_size": 100, **PROTOCOLS[protocol]}
    changes["evaluation.learning_rate_decay"] = decay
    task = load(tiny_study, tiny_cache, **changes)
    model, pairs = task.model, coreset_pairs(task, 6)
    with torch.no_grad():
        frozen_output = model.frozen_part(pairs.images)
    trained = train_student(task, pairs, frozen_output, task.study.evaluation, seed=3)

    model.initial_parameters(3)  # leaves the modules where a student of this seed starts
    optimiser = torch.optim.SGD(
        [
            {"params": [p for p in model.image_part.parameters() if p.requires_grad], "lr": 0.05},
            {"params": model.text_part.parameters(), "lr": 0.2},
        ],
        momentum=0.9,
        weight_decay=5e-4,
    )
    schedules = {
        "none": torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1),
        "cosine": torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=3),
        "step": torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones=[2], gamma=0.1),
    }
    for _ in range(3):  # one batch holds all pairs, whose order does not matter
        images = nn.functional.normalize(model.image_part(frozen_output))
        scores = images @ nn.functional.normalize(model.text_part(pairs.texts)).T / 0.07
        loss = (scores.logsumexp(0) + scores.logsumexp(1) - 2 * scores.diagonal()).mean() / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedules[decay].step()
    expected = Parameters(model.image_layout.flatten(model.image_part), model.text_layout.flatten(model.text_part))
    for left, right in zip(trained, expected, strict=True):
        assert torch.allclose(left, right, atol=1e-5)


def test_a_seed_decides_a_student(tiny_study: Study, tiny_cache: Path) -> None:
    changes = {"model.dropout": 0.2, "evaluation.batch_size": 2, "evaluation.epochs": 2}
    task = load(tiny_study, tiny_cache, **changes)
    pairs = coreset_pairs(task, 5)  # batches of 2, 2 and 1: the last pair has no negatives
    before = torch.get_rng_state()
    with torch.no_grad():
        frozen_output = task.model.frozen_part(pairs.images)
    first, again, other = (train_student(task, pairs, frozen_output, task.study.evaluation, seed) for seed in (1, 1, 2))
    assert torch.equal(first.image, again.image) and torch.equal(first.text, again.text)
    assert not torch.equal(first.text, other.text)
    assert torch.equal(torch.get_rng_state(), before)
    scores = evaluate_pairs(task, pairs, task.val, task.study.evaluation, [1, 2])
    assert scores == [score(task, parameters, task.val) for parameters in (first, other)]


def test_students_learn_their_training_set(tiny_study: Study, tiny_cache: Path) -> None:
    task = load(tiny_study, tiny_cache, **{"evaluation.epochs": 60})
    pairs = choose_coreset(task, "random", 40, seed=0, training=expert_training(task.study)).pairs(task, 0.1)
    untrained = score(task, task.model.initial_parameters(0), task.train)
    (trained,) = evaluate_pairs(task, pairs, task.train, task.study.evaluation, [0])
    assert trained.mean_recall > 1.5 * untrained.mean_recall
