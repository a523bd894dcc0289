"""The parts that distillation methods are made of, each on its own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tasks import distillation_settings, drawn_like, load
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rayvldd.config.distillation import DistillationSettings
from rayvldd.config.methods.trajectory_matching import TrajectoryMatchingSettings
from rayvldd.config.study import Study
from rayvldd.coresets.selection import choose_coreset
from rayvldd.distillation.augmentation import Augmentation, augment, draw_augmentation
from rayvldd.distillation.blending import Blend, blend, draw_blend
from rayvldd.distillation.ema import MovingAverage
from rayvldd.distillation.initialisation import initial_set
from rayvldd.distillation.outer_optimisers import OUTER_OPTIMISERS
from rayvldd.distillation.segments import draw_segment, start_bound
from rayvldd.distillation.similarity import build_similarity, pairs_within_budget
from rayvldd.errors import ConfigError
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.parameters import Parameters

KINDS = ("color", "crop", "cutout", "flip", "scale", "rotate")


def doubles(*shape: int, seed: int = 0) -> Tensor:
    return drawn_like(torch.empty(*shape, dtype=torch.float64), seed)


def distillation(**changes: Any) -> DistillationSettings:
    return distillation_settings(**changes)


def segments(**changes: Any) -> TrajectoryMatchingSettings:
    return TrajectoryMatchingSettings.model_validate(changes)


def learned(form: str, **changes: Any) -> DistillationSettings:
    return distillation(similarity=form, student_loss="weighted_bce", **changes)


# --- learned similarity -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["full", "low_rank"])
def test_a_similarity_starts_exactly_at_the_identity_and_can_leave_it(form: str) -> None:
    similarity = build_similarity(learned(form, sim_rank=2, sim_alpha=0.3), 5, torch.Generator().manual_seed(0))
    values = {name: value.requires_grad_() for name, value in similarity.values.items()}
    matrix = similarity.matrix()
    assert matrix is not None
    assert torch.equal(matrix, torch.eye(5))
    gradients = torch.autograd.grad(matrix.square().sum() + matrix.sum(), list(values.values()))
    stuck = {name for name, gradient in zip(values, gradients, strict=True) if not gradient.any()}
    assert stuck <= {"left"}  # it waits one step for ``right``, which starts at zero


def test_a_low_rank_similarity_is_that_of_the_formula() -> None:
    similarity = build_similarity(learned("low_rank", sim_rank=2, sim_alpha=0.3), 4, torch.Generator())
    moved = {name: doubles(*value.shape, seed=seed) for seed, (name, value) in enumerate(similarity.values.items())}
    matrix = similarity.with_values(moved).matrix()
    assert matrix is not None
    for i in range(4):
        for j in range(4):
            expected = 0.3 / 2 * sum(moved["left"][i, k] * moved["right"][j, k] for k in range(2))
            expected = expected + (moved["diagonal"][i] if i == j else 0)
            assert float(matrix[i, j]) == pytest.approx(float(expected), rel=1e-12)
    assert torch.equal(similarity.values["diagonal"], torch.ones(4))  # the first is left as it was


def test_a_seed_decides_the_left_factor_and_the_identity_learns_nothing() -> None:
    low_rank = learned("low_rank")
    left = [build_similarity(low_rank, 9, torch.Generator().manual_seed(seed)).values["left"] for seed in (1, 1, 2)]
    assert torch.equal(left[0], left[1])
    assert not torch.equal(left[0], left[2])
    identity = build_similarity(distillation(), 9, torch.Generator())
    assert identity.values == {}
    assert identity.matrix() is None


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(st.integers(2, 60), st.sampled_from(["identity", "full", "low_rank"]), st.integers(1, 9), st.integers(1, 400))
def test_similarity_and_pairs_together_are_within_the_budget(
    num_pairs: int, form: str, rank: int, numbers_per_pair: int
) -> None:
    chosen = learned(form, num_pairs=num_pairs, sim_rank=rank)

    def cost(pairs: int) -> int:
        values = build_similarity(chosen, pairs, torch.Generator()).values.values()
        return pairs * numbers_per_pair + sum(value.numel() for value in values)

    affordable = max(pairs for pairs in range(num_pairs + 1) if cost(pairs) <= num_pairs * numbers_per_pair)
    if affordable < 2:
        with pytest.raises(ConfigError, match=f"{form}.* leaves {affordable} of {num_pairs} pairs"):
            pairs_within_budget(chosen, numbers_per_pair)
    else:
        assert pairs_within_budget(chosen, numbers_per_pair) == affordable


@pytest.mark.parametrize(("num_pairs", "rank"), [(100, 10), (200, 5), (500, 20), (500, 40)])
def test_the_similarities_of_the_paper_cost_one_pair(num_pairs: int, rank: int) -> None:
    numbers_per_pair = 3 * 224 * 224 + 768
    assert (
        pairs_within_budget(learned("low_rank", num_pairs=num_pairs, sim_rank=rank), numbers_per_pair) == num_pairs - 1
    )


# --- blending -----------------------------------------------------------------------------------------------------


def test_blending_mixes_each_row_with_its_partner() -> None:
    rows = doubles(5, 3, 2)
    drawn = draw_blend(3, 5, 1.0)
    assert sorted(drawn.partner.tolist()) == list(range(5))
    assert 0 < drawn.share < 1
    mixed = blend(rows, drawn)
    for row, partner in enumerate(drawn.partner.tolist()):
        assert torch.allclose(mixed[row], drawn.share * rows[row] + (1 - drawn.share) * rows[partner], rtol=1e-12)
    assert torch.allclose(mixed.sum(0), rows.sum(0), rtol=1e-12)


def test_a_share_of_one_keeps_rows_and_of_none_swaps_them() -> None:
    rows, partner = doubles(6, 4), torch.randperm(6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(blend(rows, Blend(partner, 1.0)), rows)
    assert torch.equal(blend(rows, Blend(partner, 0.0)), rows[partner])


def test_blends_are_decided_by_their_seed_alone_and_by_the_concentration() -> None:
    state = torch.get_rng_state()
    first, again, other = (draw_blend(seed, 8, 1.0) for seed in (1, 1, 2))
    assert first.share == again.share != other.share
    assert torch.equal(first.partner, again.partner)
    assert torch.equal(torch.get_rng_state(), state)
    shares = {at: np.array([draw_blend(seed, 2, at).share for seed in range(400)]) for at in (0.2, 1.0, 50.0)}
    for concentration, found in shares.items():  # the moments of Beta(c, c)
        assert found.mean() == pytest.approx(0.5, abs=0.08)
        assert found.var() == pytest.approx(1 / (4 * (2 * concentration + 1)), rel=0.25)


# --- augmentation -------------------------------------------------------------------------------------------------


def drawn_of(kind: str, seed: int = 0) -> Augmentation:
    return draw_augmentation(seed, [kind])


@pytest.mark.parametrize("kind", KINDS)
def test_an_augmented_part_is_the_part_of_the_augmented(kind: str) -> None:
    images = doubles(6, 3, 9, 7)
    for seed in range(5):
        whole = augment(images, drawn_of(kind, seed))
        assert whole.shape == images.shape
        for part in (slice(0, 1), slice(1, 6), torch.tensor([4, 0, 3])):
            assert torch.allclose(augment(images[part], drawn_of(kind, seed)), whole[part], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_augmentation_is_differentiable_twice(kind: str) -> None:
    images = doubles(2, 3, 5, 4).requires_grad_()

    def bent(images: Tensor) -> Tensor:  # on both sides, or there would be nothing to differentiate a second time
        return augment(images.tanh(), drawn_of(kind, 3)).square()

    assert torch.autograd.gradcheck(bent, images)
    assert torch.autograd.gradgradcheck(bent, images)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_affine_in_the_pixels(kind: str) -> None:
    images, others = doubles(2, 3, 8, 8), doubles(2, 3, 8, 8, seed=1)
    drawn = drawn_of(kind, 5)
    middle = augment(0.25 * images + 0.75 * others, drawn)
    assert torch.allclose(middle, 0.25 * augment(images, drawn) + 0.75 * augment(others, drawn), atol=1e-12)


def test_a_seed_decides_an_augmentation_and_no_other_stream_does() -> None:
    state = torch.get_rng_state()
    drawn = [draw_augmentation(seed, KINDS) for seed in range(300)]
    assert drawn == [draw_augmentation(seed, KINDS) for seed in range(300)]
    images = doubles(1, 3, 8, 8)
    for each in drawn[:20]:
        assert torch.equal(augment(images, each), augment(images, each))
    assert torch.equal(torch.get_rng_state(), state)
    counts = {kind: sum(each.name == kind for each in drawn) for kind in KINDS}
    assert all(25 <= count <= 80 for count in counts.values()), counts
    flips = [each.parameters for each in drawn if each.name == "flip"]
    assert {(0.0,), (1.0,)} == set(flips)


@pytest.mark.parametrize(
    ("kind", "ranges"),
    [
        ("color", [(-0.5, 0.5), (0, 2), (0.5, 1.5)]),
        ("scale", [(1 / 1.2, 1.2)] * 2),
        ("rotate", [(-15, 15)]),
    ],
)
def test_parameters_fill_the_published_ranges(kind: str, ranges: list[tuple[float, float]]) -> None:
    drawn = np.array([drawn_of(kind, seed).parameters for seed in range(400)])
    for values, (low, high) in zip(drawn.T, ranges, strict=True):
        width = high - low
        assert low <= values.min() < low + 0.05 * width
        assert high - 0.05 * width < values.max() <= high
    if drawn.shape[1] > 1:
        assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.2


def test_crops_shift_by_whole_pixels_up_to_an_eighth_and_fill_with_zeros() -> None:
    images = doubles(1, 3, 16, 8)
    found = set()
    for seed in range(200):
        made = augment(images, drawn_of("crop", seed))
        matches = []
        for down in range(-2, 3):
            for right in range(-1, 2):
                shifted = torch.zeros_like(images)
                rows = slice(max(0, -down), min(16, 16 - down)), slice(max(0, -right), min(8, 8 - right))
                source = slice(max(0, down), min(16, 16 + down)), slice(max(0, right), min(8, 8 + right))
                shifted[:, :, rows[0], rows[1]] = images[:, :, source[0], source[1]]
                matches += [(down, right)] * torch.equal(shifted, made)
        assert len(matches) == 1
        found |= set(matches)
    assert len(found) == 15  # five shifts down or up, three to the sides


@pytest.mark.parametrize("size", [8, 9])
def test_a_cutout_zeroes_one_rectangle_of_half_the_sides_that_may_reach_outside(size: int) -> None:
    images, sides = torch.ones(2, 3, size, size), set()
    for seed in range(200):
        made = augment(images, drawn_of("cutout", seed))
        assert torch.equal(made, made[:1, :1].expand_as(made))  # one rectangle for all images and channels
        gone = made[0, 0] == 0
        rows, columns = gone.any(1), gone.any(0)
        assert torch.equal(gone, rows[:, None] & columns)
        for line in (rows, columns):
            where = line.nonzero().flatten()
            assert len(where) == where[-1] - where[0] + 1
            sides.add(len(where))
    half = (size + 1) // 2
    assert sides == set(range(half // 2 + size % 2 * (half % 2), half + 1))


def test_neutral_parameters_change_nothing() -> None:
    images = doubles(2, 3, 8, 6)
    neutral = {"color": (0.0, 1.0, 1.0), "flip": (0.0,), "scale": (1.0, 1.0), "rotate": (0.0,), "crop": (0.5, 0.5)}
    for kind, parameters in neutral.items():
        assert torch.allclose(augment(images, Augmentation(kind, parameters)), images, atol=1e-12), kind


def test_rotation_turns_about_the_centre_and_scale_stretches_both_axes_apart() -> None:
    images = doubles(2, 3, 6, 6)
    assert torch.allclose(augment(images, Augmentation("rotate", (90.0,))), images.rot90(1, (2, 3)), atol=1e-12)
    assert torch.equal(augment(images, Augmentation("flip", (1.0,))), images.flip(3))
    ramp = torch.arange(8, dtype=torch.float64) - 3.5
    across = ramp.expand(1, 3, 8, 8)
    middle = slice(2, 6)  # far enough from the border that nothing from outside is mixed in
    for axis in (0, 1):
        factors = [1.0, 1.0]
        factors[axis] = 1.2
        slope = augment(across if axis == 0 else across.mT, Augmentation("scale", tuple(factors)))
        slope = slope if axis == 0 else slope.mT
        assert torch.allclose(slope[0, 0, middle, middle], 1.2 * ramp[middle].expand(4, 4), atol=1e-12)


def test_colours_change_brightness_saturation_and_contrast() -> None:
    images = doubles(2, 3, 4, 5)
    brighter = augment(images, Augmentation("color", (0.3, 1.0, 1.0)))
    assert torch.allclose(brighter, images + 0.3, atol=1e-12)
    grey = augment(images, Augmentation("color", (0.0, 0.0, 1.0)))
    assert torch.allclose(grey, images.mean(1, keepdim=True).expand_as(images), atol=1e-12)
    harder = augment(images, Augmentation("color", (0.0, 1.0, 1.5)))
    assert torch.allclose(harder.std((1, 2, 3)), 1.5 * images.std((1, 2, 3)), atol=1e-12)
    assert torch.allclose(harder.mean((1, 2, 3)), images.mean((1, 2, 3)), atol=1e-12)


# --- segments -----------------------------------------------------------------------------------------------------


def numbered_trajectory(expert: int, epochs: int = 9) -> Trajectory:
    """Parameters whose values encode expert, epoch and side."""
    return Trajectory.of_every_epoch(
        [
            Parameters(torch.tensor([expert, epoch, 0.0]), torch.tensor([expert, epoch, 1.0]))
            for epoch in range(epochs + 1)
        ]
    )


EXPERTS = [numbered_trajectory(expert) for expert in range(3)]


def drawn_segments(count: int, outer_step: int = 0, **changes: Any) -> list[tuple[list[float], ...]]:
    """Expert, epoch and side of image start, text start, image target and text target."""
    generator, found = np.random.default_rng(0), []
    for _ in range(count):
        segment = draw_segment(EXPERTS, segments(**changes), outer_step, generator)
        found.append(tuple(side.tolist() for end in (segment.start, segment.target) for side in end))
    return found


def test_segments_start_anywhere_in_the_range_with_both_sides_together() -> None:
    found = drawn_segments(200, min_start_epoch=2, max_start_epoch=5, expert_epochs=3)
    for image_start, text_start, image_target, text_target in found:
        expert, start, _ = image_start
        assert text_start == [expert, start, 1]
        assert image_target == [expert, start + 3, 0]
        assert text_target == [expert, start + 3, 1]
    assert {(image[0], image[1]) for image, *_ in found} == {(e, s) for e in (0, 1, 2) for s in (2, 3, 4)}


def test_segments_without_options_are_drawn_as_expert_then_epoch() -> None:
    generator = np.random.default_rng(0)
    expected = [[float(generator.integers(3)), float(generator.integers(0, 7)), 0.0] for _ in range(50)]
    assert [image for image, *_ in drawn_segments(50, max_start_epoch=7)] == expected


def test_sides_with_epochs_apart_keep_expert_and_length() -> None:
    found = drawn_segments(300, max_start_epoch=3, expert_epochs=2, separate_start_epochs=True)
    for image_start, text_start, image_target, text_target in found:
        assert image_start[0] == text_start[0] == image_target[0] == text_target[0]
        assert image_target[1] == image_start[1] + 2
        assert text_target[1] == text_start[1] + 2
        assert [part[2] for part in (image_start, text_start, image_target, text_target)] == [0, 1, 0, 1]
    assert {(image[1], text[1]) for image, text, *_ in found} == {(i, t) for i in range(3) for t in range(3)}


def test_a_widening_range_opens_evenly_from_the_first_epoch() -> None:
    widening = {"min_start_epoch": 1, "max_start_epoch": 6, "widen_over": 10}
    bounds = [start_bound(segments(**widening), step) for step in range(15)]
    assert bounds == [2, 2, 2, 3, 3, 4, 4, 4, 5, 5, 6, 6, 6, 6, 6]
    for step in (0, 5, 10):
        starts = {image[1] for image, *_ in drawn_segments(200, outer_step=step, **widening)}
        assert starts == set(range(1, bounds[step]))
    assert start_bound(segments(max_start_epoch=6), 0) == 6


# --- starts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["random", "k_means", "prototypes"])
def test_real_starts_are_the_coreset_of_the_generators_first_number(
    tiny_study: Study, tiny_cache: Path, method: str
) -> None:
    task = load(tiny_study, tiny_cache)
    settings = DistillationSettings.model_validate({"initialisation": {"pairs": method}})
    start = initial_set(task, settings, 6, np.random.default_rng(4))
    coreset = choose_coreset(task, method, 6, int(np.random.default_rng(4).integers(2**31)))
    pairs = coreset.pairs(task, 0.1)
    assert torch.equal(start.images, pairs.images)
    assert torch.equal(start.texts, pairs.texts)
    assert start.captions == coreset.captions(task)


def test_noise_takes_the_place_of_one_side_and_leaves_the_other(tiny_study: Study, tiny_cache: Path) -> None:
    task = load(tiny_study, tiny_cache)
    texts_elsewhere = replace(task.train, caption_embeddings=task.train.caption_embeddings * 3 + 5)
    task = replace(task, train=texts_elsewhere)

    def begun(images: str, texts: str, seed: int = 4) -> Any:
        chosen = DistillationSettings.model_validate({"initialisation": {"images": images, "texts": texts}})
        return initial_set(task, chosen, 20, np.random.default_rng(seed))

    real, noisy = begun("real", "real"), begun("noise", "noise")
    noise_images, noise_texts = begun("noise", "real"), begun("real", "noise")
    assert torch.equal(noise_images.texts, real.texts)
    assert torch.equal(noise_texts.images, real.images)
    assert noise_images.captions == real.captions
    assert noise_texts.captions == [""] * 20
    assert torch.equal(noisy.images, begun("noise", "noise").images)
    assert not torch.equal(noisy.images, begun("noise", "noise", seed=5).images)
    assert noisy.images.shape == real.images.shape
    assert float(noisy.images.std()) == pytest.approx(1, abs=0.05)
    assert float(noisy.images.mean()) == pytest.approx(0, abs=0.05)
    assert float(noisy.texts.std()) == pytest.approx(float(real.texts.std()), rel=0.1)
    assert float(noisy.texts.mean()) == pytest.approx(float(real.texts.mean()), abs=float(real.texts.std()) / 5)


# --- outer optimisers ---------------------------------------------------------------------------------------------


def descend(name: str, steps: int, split_at: int | None = None) -> dict[str, Tensor]:
    """Minimise a quadratic from a fixed start, optionally with another optimiser from ``split_at`` on."""
    values = {"images": doubles(4, 2), "similarity.left": doubles(3, seed=1)}
    optimiser = OUTER_OPTIMISERS[name](0.6)
    for step in range(steps):
        if step == split_at:
            state = {key: value.clone() for key, value in optimiser.state.items()}
            optimiser = OUTER_OPTIMISERS[name](0.6)
            optimiser.state = state
            values = {key: value.clone() for key, value in values.items()}
        gradients = {key: value**3 - 0.2 for key, value in values.items()}
        optimiser.step(values, gradients, {"images": 0.3, "similarity.left": 0.05})
    return values


def torch_descends(make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer], steps: int, **scale: float) -> Any:
    values = {"images": doubles(4, 2), "similarity.left": doubles(3, seed=1)}
    rates = {"images": 0.3, "similarity.left": 0.05}
    optimiser = make([{"params": [value], "lr": rates[key] * scale.get("rate", 1)} for key, value in values.items()])
    for _ in range(steps):
        for value in values.values():
            gradient = value**3 - 0.2
            value.grad = gradient * (scale["rms"] / float(gradient.square().mean().sqrt()) if "rms" in scale else 1)
        optimiser.step()
    return values


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", lambda: torch_descends(lambda groups: torch.optim.SGD(groups, momentum=0.6), 5)),
        ("scaled_sgd", lambda: torch_descends(lambda groups: torch.optim.SGD(groups, momentum=0.6), 5)),
        ("normalised_sgd", lambda: torch_descends(lambda groups: torch.optim.SGD(groups, momentum=0.6), 5, rms=1e-3)),
        ("adam", lambda: torch_descends(lambda groups: torch.optim.Adam(groups, betas=(0.6, 0.999)), 5, rate=1e-3)),
    ],
)
def test_outer_optimisers_are_those_of_torch(name: str, expected: Callable[[], dict[str, Tensor]]) -> None:
    for key, value in expected().items():
        assert torch.allclose(descend(name, 5)[key], value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", sorted(OUTER_OPTIMISERS))
def test_an_optimiser_resumes_from_its_state_bit_for_bit(name: str) -> None:
    whole, resumed, forgetful = descend(name, 6), descend(name, 6, split_at=3), descend(name, 3)
    for key, value in whole.items():
        assert torch.equal(resumed[key], value)
        assert not torch.equal(forgetful[key], value)


@pytest.mark.parametrize("name", sorted(OUTER_OPTIMISERS))
def test_values_without_a_gradient_stay_and_zeros_move_nothing(name: str) -> None:
    values = {"images": torch.ones(3), "texts": torch.ones(2), "left": torch.ones(2)}
    optimiser = OUTER_OPTIMISERS[name](0.5)
    gradients = {"images": torch.tensor([1.0, -2.0, 0.5]), "left": torch.zeros(2)}
    optimiser.step(values, gradients, {"images": 0.1, "left": 0.1})
    assert torch.equal(values["texts"], torch.ones(2))
    assert torch.equal(values["left"], torch.ones(2))
    assert torch.equal((values["images"] - 1).sign(), -gradients["images"].sign())
    assert all(value.grad is None for value in values.values())
    assert gradients["images"].tolist() == [1.0, -2.0, 0.5]


def test_a_normalised_first_step_has_the_length_of_the_rate() -> None:
    for size in (1e-6, 1.0, 1e6):
        values = {"images": torch.zeros(50)}
        gradient = drawn_like(torch.empty(50), seed=0, scale=size)
        OUTER_OPTIMISERS["normalised_sgd"](0.5).step(values, {"images": gradient}, {"images": 1000.0})
        assert float(values["images"].square().mean().sqrt()) == pytest.approx(1.0, rel=1e-5)


# --- moving average -----------------------------------------------------------------------------------------------


@settings(max_examples=30, derandomize=True, deadline=None, database=None)
@given(st.integers(1, 12), st.floats(0, 0.99), st.integers(0, 1000))
def test_an_average_weighs_every_update_by_its_age(updates: int, decay: float, seed: int) -> None:
    seen = [doubles(3, seed=seed + update) for update in range(updates)]
    average = MovingAverage(decay)
    for values in seen:
        average.update({"images": values})
    weights = [decay ** (updates - 1 - update) for update in range(updates)]
    expected = sum(weight * values for weight, values in zip(weights, seen, strict=True)) / sum(weights)
    assert torch.allclose(average.values["images"], torch.as_tensor(expected), rtol=1e-9, atol=1e-12)


def test_an_average_starts_empty_keeps_constants_and_copies_values() -> None:
    average = MovingAverage(0.9)
    assert average.values == {}
    values = {"images": torch.full((3,), 2.0), "lr_image": torch.tensor(0.1)}
    for _ in range(4):
        average.update(values)
    kept = average.values
    assert torch.allclose(kept["images"], torch.full((3,), 2.0))
    values["images"].zero_()
    average.update(values)
    assert torch.allclose(kept["images"], torch.full((3,), 2.0))
    assert float(average.values["images"][0]) < 2


def test_an_average_resumes_from_its_state_and_without_decay_is_the_last() -> None:
    whole, first = MovingAverage(0.7), MovingAverage(0.7)
    for update in range(3):
        for average in (whole, first):
            average.update({"images": doubles(4, seed=update)})
    resumed, last = MovingAverage(0.7), MovingAverage(0.0)
    resumed.state = {name: value.clone() for name, value in first.state.items()}
    for average in (whole, resumed, last):
        average.update({"images": doubles(4, seed=9)})
    assert torch.equal(whole.values["images"], resumed.values["images"])
    assert torch.equal(last.values["images"], doubles(4, seed=9))
