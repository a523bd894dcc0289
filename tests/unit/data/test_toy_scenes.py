"""Toy scenes: deterministic, with true and distinctive captions, and things at their positions."""

import re
from collections import Counter

import numpy as np
import pytest

from rayvldd.config.settings import ToyScenesData
from rayvldd.data.toy_scenes import LONGEST_CAPTION, Scene, Thing, draw_split, scenes_of

COLOURS = "red|orange|yellow|green|blue|purple|pink|black"
SHAPES = "ball|ring|star|heart|moon|house|tree|fish|boat|flower"
MENTION = rf"(?:(?:an|a|the) )?(?:(large|big|small|little) )?(?:({COLOURS}) )?({SHAPES})\b"
RELATIONS = {
    "to the left of": lambda a, b: a.x < b.x,
    "to the right of": lambda a, b: a.x > b.x,
    "above": lambda a, b: a.y < b.y,
    "below": lambda a, b: a.y > b.y,
    "diagonally across from": lambda a, b: a.x != b.x and a.y != b.y,
}
RELATED = rf"{MENTION}(?: is| lies)? ({'|'.join(RELATIONS)}) {MENTION}"
PLACES = {
    "meadow|grass": "meadow",
    "sea|waves": "sea",
    "desert|dunes": "desert",
    "night": "night",
    "snow|winter": "snow",
    "sunset|evening": "sunset",
}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return scenes_of(ToyScenesData(source="toy_scenes", num_train=400), "train")


def thing_of(scene: Scene, shape: str) -> Thing:
    (thing,) = [thing for thing in scene.things if thing.shape == shape]
    return thing


def test_the_same_seed_draws_the_same() -> None:
    settings = ToyScenesData(source="toy_scenes", num_val=8)
    pixels, captions = draw_split(settings, "val")
    again, captions_again = draw_split(settings, "val")
    np.testing.assert_array_equal(pixels, again)
    assert captions == captions_again
    assert pixels.shape == (8, 3, 32, 32) and pixels.dtype == np.uint8


def test_splits_and_seeds_differ_and_growing_keeps_the_first() -> None:
    settings = ToyScenesData(source="toy_scenes", num_train=30, num_val=30, num_test=30)
    train, val, test = (scenes_of(settings, split) for split in ("train", "val", "test"))
    other = scenes_of(settings.model_copy(update={"seed": 1}), "train")
    assert not set(train) & set(val) and not set(val) & set(test) and not set(train) & set(other)
    assert scenes_of(settings.model_copy(update={"num_train": 40}), "train")[:30] == train


def test_every_mention_is_true(scenes: list[Scene]) -> None:
    for scene in scenes:
        for caption in scene.captions:
            mentions = re.findall(MENTION, caption.lower())
            assert len(mentions) >= 2, caption
            for size, colour, shape in mentions:
                thing = thing_of(scene, shape)
                assert colour in ("", thing.colour), caption
                assert size in ("", *(("large", "big") if thing.is_large else ("small", "little"))), caption


def test_every_colour_in_later_captions_is_true(scenes: list[Scene]) -> None:
    named = [
        (scene, *found)
        for scene in scenes
        for caption in scene.captions
        for found in re.findall(rf"the ({SHAPES})[^,]*? is ({COLOURS})\b", caption.lower())
    ]
    assert len(named) > 50
    assert all(thing_of(scene, shape).colour == colour for scene, shape, colour in named)


def test_every_relation_is_true(scenes: list[Scene]) -> None:
    seen: Counter[str] = Counter()
    for scene in scenes:
        for caption in scene.captions:
            text = re.sub(r"^(above|below) (the .+) is (an? .+)\.$", r"\3 \1 \2.", caption.lower())
            for *_, a, relation, _, _, b in re.findall(RELATED, text):
                assert RELATIONS[relation](thing_of(scene, a), thing_of(scene, b)), caption
                seen[relation] += 1
    assert set(seen) == set(RELATIONS)
    assert min(seen[relation] for relation in list(RELATIONS)[:4]) > 100


def test_every_place_is_true(scenes: list[Scene]) -> None:
    relations = 0
    for scene in scenes:
        for caption in scene.captions:
            for words, backdrop in PLACES.items():
                if re.search(rf"\b({words})\b", caption.lower()):
                    assert scene.backdrop == backdrop, caption
                    relations += 1
    assert relations > 2 * len(scenes)


def test_captions_are_five_different_sentences(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert len(set(scene.captions)) == 5
        assert all(re.fullmatch(r"[A-Z][a-z, ]+\.", caption) for caption in scene.captions)
        assert max(map(len, scene.captions)) < LONGEST_CAPTION
        assert not any(re.search(r"\ba [aeio]|\ban [^aeio]", caption.lower()) for caption in scene.captions)


def test_captions_tell_scenes_apart() -> None:
    captions = [caption for scene in scenes_of(ToyScenesData(source="toy_scenes"), "val") for caption in scene.captions]
    assert len(captions) == 1500
    assert len(set(captions)) > 1450


def test_things_do_not_overlap_and_lie_inside(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert len({thing.shape for thing in scene.things}) == len(scene.things)
        for i, a in enumerate(scene.things):
            assert a.radius < min(a.x, a.y, 1 - a.x, 1 - a.y)
            assert all(np.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius for b in scene.things[:i])


def test_balls_are_drawn_at_their_positions() -> None:
    settings = ToyScenesData(source="toy_scenes", num_train=60, image_size=48)
    pixels, _ = draw_split(settings, "train")
    expected = {"red": (226, 43, 48), "green": (46, 160, 67), "blue": (38, 96, 224), "yellow": (255, 217, 46)}
    balls = 0
    for image, scene in zip(pixels, scenes_of(settings, "train"), strict=True):
        for thing in scene.things:
            if thing.shape == "ball" and thing.colour in expected:
                seen = image[:, round(thing.y * 48), round(thing.x * 48)].astype(int)
                assert np.abs(seen - expected[thing.colour]).max() < 40
                balls += 1
    assert balls >= 5


@pytest.mark.parametrize("size", [16, 33, 96])
def test_any_size(size: int) -> None:
    pixels, _ = draw_split(ToyScenesData(source="toy_scenes", num_train=3, image_size=size), "train")
    assert pixels.shape == (3, 3, size, size)
    assert pixels.std() > 20
