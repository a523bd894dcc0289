"""Coresets against slow, obvious versions of the same greedy rules."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tasks import load
from hypothesis import given, settings
from hypothesis import strategies as st

from rayvldd.config.study import Study
from rayvldd.coresets.forgetting import by_forgetting, first_both_ways, forgetting_events
from rayvldd.coresets.prototypes import prototypes, unit_rows
from rayvldd.coresets.selection import METHODS, Coreset, choose_coreset, herding, joint_features, k_center, k_means
from rayvldd.errors import ConfigError
from rayvldd.experts.recipe import expert_training
from rayvldd.experts.training import train_expert

FEATURES = st.tuples(st.integers(2, 12), st.integers(1, 4), st.sampled_from([1, 3, 50]), st.integers(0, 2**31 - 1))
"""Samples, dimensions, how far whole numbers reach (few: many duplicates), seed."""


def whole_numbers(samples: int, dim: int, reach: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-reach, reach + 1, (samples, dim)).astype(np.float64)


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(FEATURES, st.data())
def test_herding_brings_the_mean_as_near_as_one_more_sample_can(
    drawn: tuple[int, int, int, int], data: st.DataObject
) -> None:
    features = whole_numbers(*drawn)
    count = data.draw(st.integers(1, len(features)))
    chosen = herding(features, count).tolist()
    assert len(set(chosen)) == count
    for step in range(count):

        def distance(candidate: int, taken: tuple[int, ...] = tuple(chosen[:step])) -> float:
            return float(np.linalg.norm(features[[*taken, candidate]].mean(0) - features.mean(0)))

        nearest = min(distance(candidate) for candidate in range(len(features)) if candidate not in chosen[:step])
        assert distance(chosen[step]) == pytest.approx(nearest, abs=1e-9)


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(FEATURES, st.data())
def test_k_center_takes_the_farthest_from_all_chosen(drawn: tuple[int, int, int, int], data: st.DataObject) -> None:
    features = whole_numbers(*drawn)
    count = data.draw(st.integers(1, len(features)))
    chosen = k_center(features, count).tolist()
    assert len(set(chosen)) == count  # duplicates of a chosen sample are still other samples
    to_mean = np.linalg.norm(features - features.mean(0), axis=1)
    assert to_mean[chosen[0]] == pytest.approx(to_mean.min(), abs=1e-9)
    for step in range(1, count):

        def distance(candidate: int, taken: tuple[int, ...] = tuple(chosen[:step])) -> float:
            return min(float(np.linalg.norm(features[candidate] - features[i])) for i in taken)

        farthest = max(distance(candidate) for candidate in range(len(features)) if candidate not in chosen[:step])
        assert distance(chosen[step]) == pytest.approx(farthest, abs=1e-9)


@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(FEATURES, st.data())
def test_k_means_picks_are_distinct_also_among_duplicates(
    drawn: tuple[int, int, int, int], data: st.DataObject
) -> None:
    features = whole_numbers(*drawn)
    count = data.draw(st.integers(1, len(features)))
    chosen = k_means(features, count, seed=drawn[3]).tolist()
    assert len(set(chosen)) == count
    assert set(chosen) <= set(range(len(features)))
    assert chosen == k_means(features, count, seed=drawn[3]).tolist()


def test_k_means_takes_the_middle_of_each_cluster_and_the_largest_first() -> None:
    """Crosses with the middle at hand, far apart: which samples belong together leaves no doubt."""
    arms = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], dtype=np.float64)
    sizes = {0: 3, 1: 5, 2: 4}  # arms that each cross keeps, and always its middle
    crosses = [arms[:size] + 100 * cross for cross, size in sizes.items()]
    features, middles = np.concatenate(crosses), [0, 3, 8]
    for seed in range(6):
        assert k_means(features, 3, seed).tolist() == [middles[1], middles[2], middles[0]]
    assert k_means(features, 1, seed=0).tolist() == [((features - features.mean(0)) ** 2).sum(1).argmin()]


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=8))
def test_forgetting_events_are_counted_as_a_loop_would(record: list[list[bool]]) -> None:
    expected = []
    for pair in range(5):
        history = [epoch[pair] for epoch in record]
        forgotten = sum(before and not after for before, after in itertools.pairwise(history))
        expected.append(forgotten if True in history else len(history))
    assert forgetting_events(np.array(record)).tolist() == expected


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(st.integers(1, 8), st.sampled_from([1, 2, 100]), st.integers(0, 2**31 - 1))
def test_a_pair_is_right_when_it_alone_is_first_both_ways(pairs: int, levels: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    sides = [torch.from_numpy(generator.integers(-levels, levels + 1, (pairs, 2)).astype(np.float64)) for _ in "it"]
    scores = (sides[0] @ sides[1].T).tolist()
    expected = [
        all(scores[i][i] > scores[i][j] and scores[i][i] > scores[j][i] for j in range(pairs) if j != i)
        for i in range(pairs)
    ]
    assert first_both_ways(*sides).tolist() == expected


def test_nothing_is_right_where_embeddings_are_no_numbers() -> None:
    assert not first_both_ways(torch.full((3, 2), torch.nan), torch.ones(3, 2)).any()


def test_forgetting_follows_the_retrievals_of_the_expert(tiny_study: Study, tiny_cache: Path) -> None:
    """The same record, made one pair at a time from the trajectory of the same expert, in the same groups."""
    task = load(tiny_study, tiny_cache, **{"experts.batch_size": 8, "experts.epochs": 12})
    captions = np.arange(0, 200, 5)
    trajectory, _ = train_expert(task, expert_training(task.study), index=4)
    texts = torch.from_numpy(task.train.caption_embeddings[captions])
    groups = np.split(np.random.default_rng(0).permutation(40), 5)
    company = {int(pair): [int(other) for other in group if other != pair] for group in groups for pair in group}
    history = []
    for epoch in range(1, 13):
        images = task.model.embed_images(task.frozen_outputs(task.train, np.arange(40)), trajectory[epoch].image)
        s = images @ task.model.embed_texts(texts, trajectory[epoch].text).T
        history.append([all(s[i, i] > s[i, j] and s[i, i] > s[j, i] for j in company[i]) for i in range(40)])
    events = forgetting_events(np.array(history))
    assert len(set(events.tolist())) > 2  # else any order would do
    order = by_forgetting(task, expert_training(task.study), captions, 4, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(40))
    assert events[order].tolist() == sorted(events)


def test_the_least_and_the_most_forgotten_are_the_two_ends(tiny_study: Study, tiny_cache: Path) -> None:
    task = load(tiny_study, tiny_cache)
    least, most = (
        choose_coreset(task, method, 40, seed=2, training=expert_training(task.study))
        for method in ("forgetting", "forgetting_most")
    )
    assert least.image_index.tolist() == most.image_index.tolist()[::-1]


@pytest.mark.parametrize("method", [method for method in METHODS if method != "prototypes"])
def test_a_coreset_holds_different_images_with_captions_of_their_own(
    tiny_study: Study, tiny_cache: Path, method: str
) -> None:
    task = load(tiny_study, tiny_cache)
    coreset = choose_coreset(task, method, 12, seed=3, training=expert_training(task.study))
    assert len(coreset.image_index) == len(coreset.caption_index) == 12
    assert len(set(coreset.image_index.tolist())) == 12
    owners = task.train.split.caption_image[coreset.caption_index]
    assert owners.tolist() == coreset.image_index.tolist()
    pairs = coreset.pairs(task, 0.1)
    assert pairs.lr_image == pairs.lr_text == 0.1
    pixels = task.train.split.pixels[coreset.image_index]
    assert torch.allclose(task.model.denormalise(pairs.images) * 255, torch.from_numpy(pixels).float(), atol=1e-3)
    assert torch.equal(pairs.texts, torch.from_numpy(task.train.caption_embeddings[coreset.caption_index]))
    assert coreset.captions(task)[0] == task.train.split.captions[coreset.caption_index[0]]


def test_prototypes_pair_real_images_with_mean_texts(tiny_study: Study, tiny_cache: Path) -> None:
    task = load(tiny_study, tiny_cache)
    coreset = choose_coreset(task, "prototypes", 12, seed=3)
    assert len(set(coreset.image_index.tolist())) == len(coreset.captions(task)) == 12
    texts = coreset.pairs(task, 0.1).texts
    length = torch.tensor(np.array(task.train.caption_embeddings)).norm(dim=1).mean()
    assert torch.allclose(texts.norm(dim=1), length.expand(12), rtol=0.05)
    captions = torch.from_numpy(task.train.caption_embeddings[coreset.caption_index])
    assert not torch.equal(texts, captions)
    assert torch.nn.functional.cosine_similarity(texts, captions).min() > 0.3, "the captions are the nearest ones"
    assert torch.equal(coreset.first(5).pairs(task, 0.1).texts, texts[:5])


def test_texts_of_another_process_which_are_read_only_are_copied(tiny_study: Study, tiny_cache: Path) -> None:
    task, index = load(tiny_study, tiny_cache), np.arange(3)
    texts = np.ones((3, task.texts(task.train, index).shape[1]), dtype=np.float32)
    embeddings = Coreset(index, index, texts).embeddings(task)
    embeddings.zero_()
    assert (texts == 1).all() and embeddings.dtype == torch.float32


def test_clusters_are_matched_by_the_pairs_that_they_share() -> None:
    """Four clear groups on each side that belong together in another order, with one stray pair."""
    generator = np.random.default_rng(0)
    image_group, partner = np.repeat(np.arange(4), 10), np.array([2, 0, 3, 1])
    text_group = partner[image_group]
    text_group[0] = partner[1]
    images = np.eye(4)[image_group] + 0.01 * generator.standard_normal((40, 4))
    texts = 3 * np.eye(4)[text_group] + 0.01 * generator.standard_normal((40, 4))
    found = prototypes(images, texts, 4, seed=0)
    for image, text, mean in zip(found.image_index, found.text_index, found.texts, strict=True):
        assert int(mean.argmax()) == partner[image_group[image]] == text_group[text]
        assert np.linalg.norm(mean) == pytest.approx(np.linalg.norm(texts, axis=1).mean())


def test_the_matching_shares_the_most_pairs_of_all() -> None:
    """Against all one-to-one matchings of the same clusters."""
    generator = np.random.default_rng(1)
    images, texts = generator.standard_normal((30, 3)), generator.standard_normal((30, 3))
    found = prototypes(images, texts, 4, seed=5)
    from sklearn.cluster import KMeans

    labels = [KMeans(4, n_init=1, random_state=5).fit(unit_rows(side)).labels_ for side in (images, texts)]
    shared = np.array([[int(((labels[0] == i) & (labels[1] == j)).sum()) for j in range(4)] for i in range(4)])
    most = max(sum(shared[i, j] for i, j in enumerate(order)) for order in itertools.permutations(range(4)))
    means = [unit_rows(texts[labels[1] == j].mean(0, keepdims=True))[0] for j in range(4)]
    of_text = [int(np.argmax([mean @ row for mean in means])) for row in found.texts]
    assert sorted(of_text) == [0, 1, 2, 3]
    assert sum(shared[labels[0][image], j] for image, j in zip(found.image_index, of_text, strict=True)) == most


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_decides_a_coreset(tiny_study: Study, tiny_cache: Path, method: str) -> None:
    task = load(tiny_study, tiny_cache)
    first, again, other = (
        choose_coreset(task, method, 8, seed, training=expert_training(task.study)) for seed in (1, 1, 2)
    )
    assert first.image_index.tolist() == again.image_index.tolist()
    assert first.caption_index.tolist() == again.caption_index.tolist()
    assert first.caption_index.tolist() != other.caption_index.tolist()


def test_random_coresets_reach_every_image(tiny_study: Study, tiny_cache: Path) -> None:
    task = load(tiny_study, tiny_cache)
    whole = choose_coreset(task, "random", 40, seed=0, training=expert_training(task.study))
    assert sorted(whole.image_index.tolist()) == list(range(40))
    assert len({int(index) % 5 for index in whole.caption_index}) == 5  # not always the first caption


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model.protocol": "full_image_encoder"},
        {"model.protocol": "lora", "model.lora.targets": ["blocks.0"]},
    ],
    ids=["heads_only", "full_image_encoder", "lora"],
)
def test_features_are_those_of_the_plain_encoder(tiny_study: Study, tiny_cache: Path, changes: dict[str, Any]) -> None:
    task = load(tiny_study, tiny_cache, **changes)
    captions = np.arange(0, 200, 5)
    with torch.no_grad():
        stem = load(tiny_study, tiny_cache).model.frozen_part
        images = stem(task.pixels(task.train, np.arange(40)))
    texts = torch.from_numpy(task.train.caption_embeddings[captions])
    expected = torch.cat([torch.nn.functional.normalize(images), torch.nn.functional.normalize(texts)], dim=1)
    assert np.allclose(joint_features(task, captions), expected, atol=1e-5)


def test_a_wrong_method_and_a_wrong_number_are_named_together(tiny_study: Study, tiny_cache: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"(?s)'herdng'; allowed: random, herding, .*, prototypes, forgetting, .*got 41; allowed: 2 to 40",
    ):
        choose_coreset(load(tiny_study, tiny_cache), "herdng", 41, seed=0)
