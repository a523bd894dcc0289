"""Scenes of coloured things drawn in code, each with five true captions: the dataset that needs no download.

A scene shows two or three things before a backdrop. Each thing has a shape, a colour, a size and a place; captions
name different parts of this, so that telling scenes apart takes shapes, colours bound to them, and relations.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
from jaxtyping import UInt8
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from rayvldd.config.settings import DrawnData
from rayvldd.data.array_cache import fingerprint
from rayvldd.data.records import SPLITS

_T = TypeVar("_T")

CAPTIONS_PER_SCENE = 5

DRAWING_FINGERPRINT = fingerprint([Path(__file__).read_text(encoding="utf-8"), PIL.__version__])
"""Names this file's drawing code: pixels that another version of it drew are never read from a cache."""


@dataclass(frozen=True)
class Thing:
    """One thing in a scene."""

    shape: str
    """Key of the shapes below."""
    colour: str
    """Key of the colours below."""
    is_large: bool
    """Large or small."""
    x: float
    """Centre, 0 at the left edge and 1 at the right."""
    y: float
    """Centre, 0 at the top and 1 at the bottom."""
    tilt: int
    """Rotation in degrees, clockwise."""

    @property
    def radius(self) -> float:
        """Half the extent, as a part of the image's side."""
        return _LARGE if self.is_large else _SMALL


@dataclass(frozen=True)
class Scene:
    """A backdrop, the things before it, and what is said about them."""

    backdrop: str
    """Key of the backdrops below."""
    variant: int
    """Which of the backdrop's drawings."""
    things: tuple[Thing, ...]
    """Two or three things; no two of the same shape."""
    captions: tuple[str, ...]
    """Five different true captions."""


_LARGE, _SMALL = 0.21, 0.135
_NUM_VARIANTS = 6
_TILTS = (-12, -6, 0, 6, 12)

_COLOURS = {
    "red": (226, 43, 48),
    "orange": (255, 140, 26),
    "yellow": (255, 217, 46),
    "green": (46, 160, 67),
    "blue": (38, 96, 224),
    "purple": (133, 56, 190),
    "pink": (255, 130, 185),
    "black": (38, 38, 44),
}


# --- what is in a scene -------------------------------------------------------------------------------------------


def draw_split(
    settings: DrawnData, split: str
) -> tuple[UInt8[np.ndarray, "image 3 height width"], list[tuple[str, ...]]]:
    """Draw every scene of a split; return the pixels and the captions of each image."""
    scenes = scenes_of(settings, split)
    pixels = np.empty((len(scenes), 3, settings.image_size, settings.image_size), dtype=np.uint8)
    for _ in draw_into(pixels, scenes):
        pass
    return pixels, [scene.captions for scene in scenes]


def scenes_of(settings: DrawnData, split: str) -> list[Scene]:
    """Make up the scenes of a split; the first ones stay the same when the split grows."""
    count = {"train": settings.num_train, "val": settings.num_val, "test": settings.num_test}[split]
    random = np.random.default_rng(np.random.SeedSequence([settings.seed, SPLITS.index(split)]))
    return [_make_scene(random) for _ in range(count)]


def _make_scene(random: np.random.Generator) -> Scene:
    backdrop = _pick(random, list(_BACKDROPS))
    things = _place_things(random, _pick(random, [2, 3, 3]))
    captions: list[str] = []
    while len(captions) < CAPTIONS_PER_SCENE:
        kind = _CAPTION_KINDS[len(captions)]
        caption = kind(random, things, backdrop)
        if caption not in captions:
            captions.append(caption)
    order = random.permutation(CAPTIONS_PER_SCENE)
    return Scene(backdrop, int(random.integers(_NUM_VARIANTS)), things, tuple(captions[i] for i in order))


def _place_things(random: np.random.Generator, count: int) -> tuple[Thing, ...]:
    """Draw things until none overlap; each try is new, since three large ones rarely fit."""
    while True:
        shapes = random.permutation(list(_SHAPES))[:count]
        things = []
        for shape in shapes:
            is_large = bool(random.random() < 0.5)
            margin = (_LARGE if is_large else _SMALL) + 0.03
            x, y = random.uniform(margin, 1 - margin, size=2).round(3).tolist()
            things.append(Thing(str(shape), _pick(random, list(_COLOURS)), is_large, x, y, _pick(random, _TILTS)))
        if all(_apart(a, b) for i, a in enumerate(things) for b in things[:i]):
            return tuple(things)


def _apart(a: Thing, b: Thing) -> bool:
    return math.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius + 0.02


def _pick(random: np.random.Generator, values: Sequence[_T]) -> _T:
    return values[int(random.integers(len(values)))]


# --- what is said about it ----------------------------------------------------------------------------------------

_PLACES = {
    "meadow": ("in a meadow", "on the grass"),
    "sea": ("by the sea", "over the waves"),
    "desert": ("in the desert", "among the dunes"),
    "night": ("at night", "in the dark of night"),
    "snow": ("in the snow", "on a winter day"),
    "sunset": ("at sunset", "in the evening"),
}
_SIZES = {True: ("large", "big"), False: ("small", "little")}


def _name(thing: Thing, *words: str, article: str = "a") -> str:
    phrase = " ".join([*words, thing.shape])
    if article == "a":
        article = "an" if phrase[0] in "aeio" else "a"
    return f"{article} {phrase}"


def _coloured(thing: Thing, article: str = "a") -> str:
    return _name(thing, thing.colour, article=article)


def _described(random: np.random.Generator, thing: Thing) -> str:
    return _name(thing, _pick(random, _SIZES[thing.is_large]), thing.colour)


def _relation(a: Thing, b: Thing) -> str:
    """How ``a`` lies to ``b``, in words, where one direction clearly prevails; otherwise they are near each other."""
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) > 1.4 * abs(dy):
        return "to the left of" if dx < 0 else "to the right of"
    if abs(dy) > 1.4 * abs(dx):
        return "above" if dy < 0 else "below"
    return "near"


def _pair(random: np.random.Generator, things: Sequence[Thing]) -> tuple[Thing, Thing, str]:
    """Pick two things, in either order, with a clear relation where the scene has one."""
    pairs = [(a, b, _relation(a, b)) for a in things for b in things if a is not b]
    return _pick(random, [pair for pair in pairs if pair[2] != "near"] or pairs)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _all_things(random: np.random.Generator, things: Sequence[Thing], backdrop: str) -> str:
    names = [_coloured(things[i]) for i in random.permutation(len(things))]
    listed = " and ".join([", ".join(names[:-1]), names[-1]])
    place = _pick(random, _PLACES[backdrop])
    return _sentence(_pick(random, [f"{listed} {place}", f"{place}, {listed}", f"{place} there are {listed}"]))


def _related(random: np.random.Generator, things: Sequence[Thing], backdrop: str) -> str:
    a, b, relation = _pair(random, things)
    place = _pick(random, _PLACES[backdrop])
    whole = f"{_coloured(a)} {relation} {_coloured(b)}"
    return _sentence(_pick(random, [f"{whole} {place}", f"{place}, {_coloured(a)} is {relation} {_coloured(b)}"]))


def _sized(random: np.random.Generator, things: Sequence[Thing], backdrop: str) -> str:
    a, b, relation = _pair(random, things)
    first, second = _described(random, a), _described(random, b)
    return _sentence(
        _pick(random, [f"{first} and {second}", f"{first} {relation} {second}", f"{first} together with {second}"])
    )


def _pointed(random: np.random.Generator, things: Sequence[Thing], backdrop: str) -> str:
    a, b, relation = _pair(random, things)
    known, new = _coloured(b, article="the"), _described(random, a)
    forms = [f"there is {new} {relation} {known}", f"{new} is {relation} {known}"]
    if relation in ("above", "below"):
        forms.append(f"{relation} {known} is {new}")
    return _sentence(_pick(random, forms))


def _named_then_told(random: np.random.Generator, things: Sequence[Thing], backdrop: str) -> str:
    a, b, relation = _pair(random, things)
    size = _pick(random, _SIZES[b.is_large])
    forms = [
        f"the {a.shape} {relation} the {b.shape} is {a.colour}, the {b.shape} is {b.colour}",
        f"the {a.shape} is {a.colour} and the {b.shape} is {b.colour}",
        f"{_coloured(a)} lies {relation} {_name(b, size)} {_pick(random, _PLACES[backdrop])}",
    ]
    if len(things) == 3:
        c = next(thing for thing in things if thing not in (a, b))
        forms.append(f"{_name(a)}, {_coloured(b)} and {_coloured(c)}")
        forms.append(f"{_coloured(a)} {relation} {_coloured(b)}, and {_name(c)} with them")
    return _sentence(_pick(random, forms))


_CAPTION_KINDS: tuple[Callable[[np.random.Generator, Sequence[Thing], str], str], ...] = (
    _all_things,
    _related,
    _sized,
    _pointed,
    _named_then_told,
)


# --- shapes: polygons in a square from -1 to 1, y downwards -------------------------------------------------------

_Polygon = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class _Shape:
    body: tuple[_Polygon, ...]
    holes: tuple[_Polygon, ...] = ()
    dark: tuple[_Polygon, ...] = ()
    """Details in a darker shade of the colour."""
    light: tuple[_Polygon, ...] = ()
    """Details in a lighter one."""


def _ellipse(x: float, y: float, rx: float, ry: float | None = None) -> _Polygon:
    angles = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    return tuple((x + rx * math.cos(t), y + (rx if ry is None else ry) * math.sin(t)) for t in angles)


def _star() -> _Polygon:
    radii = [1.0, 0.45] * 5
    angles = [math.pi * (i / 5 - 0.5) for i in range(10)]
    return tuple((r * math.cos(t), 0.06 + r * math.sin(t)) for r, t in zip(radii, angles, strict=True))


def _heart() -> _Polygon:
    angles = np.linspace(0, 2 * math.pi, 64, endpoint=False)
    xs = np.sin(angles) ** 3
    ys = -(13 * np.cos(angles) - 5 * np.cos(2 * angles) - 2 * np.cos(3 * angles) - np.cos(4 * angles)) / 16 - 0.08
    return tuple(zip((0.98 * xs).tolist(), ys.tolist(), strict=True))


def _petals() -> tuple[_Polygon, ...]:
    angles = [2 * math.pi * (i / 6 + 0.25) for i in range(6)]
    return tuple(_ellipse(0.58 * math.cos(t), 0.58 * math.sin(t), 0.4) for t in angles)


_SHAPES = {
    "ball": _Shape((_ellipse(0, 0, 0.92),), light=(_ellipse(-0.32, -0.36, 0.24, 0.18),)),
    "ring": _Shape((_ellipse(0, 0, 0.95),), holes=(_ellipse(0, 0, 0.48),)),
    "star": _Shape((_star(),)),
    "heart": _Shape((_heart(),), light=(_ellipse(-0.45, -0.45, 0.17, 0.14),)),
    "moon": _Shape((_ellipse(-0.05, 0, 0.95),), holes=(_ellipse(0.42, -0.18, 0.78),)),
    "house": _Shape(
        (
            ((-0.72, -0.1), (0.72, -0.1), (0.72, 0.92), (-0.72, 0.92)),
            ((0, -0.98), (1.0, -0.02), (-1.0, -0.02)),
        ),
        dark=(((-0.2, 0.35), (0.2, 0.35), (0.2, 0.92), (-0.2, 0.92)),),
        light=(_ellipse(0, -0.38, 0.2),),
    ),
    "tree": _Shape(
        (
            ((0, -1.0), (0.58, -0.2), (-0.58, -0.2)),
            ((0, -0.6), (0.8, 0.55), (-0.8, 0.55)),
            ((-0.18, 0.5), (0.18, 0.5), (0.18, 1.0), (-0.18, 1.0)),
        ),
        dark=(((-0.18, 0.55), (0.18, 0.55), (0.18, 1.0), (-0.18, 1.0)),),
    ),
    "fish": _Shape(
        (_ellipse(0.16, 0, 0.84, 0.56), ((-0.5, 0), (-1.0, -0.62), (-0.84, 0), (-1.0, 0.62))),
        dark=(_ellipse(0.58, -0.14, 0.1),),
        light=(_ellipse(0.58, -0.14, 0.19),),
    ),
    "boat": _Shape(
        (
            ((-1.0, 0.38), (1.0, 0.38), (0.62, 0.92), (-0.62, 0.92)),
            ((-0.1, -1.0), (-0.1, 0.22), (-0.85, 0.22)),
            ((0.08, -0.75), (0.75, 0.22), (0.08, 0.22)),
            ((-0.1, -1.0), (0.08, -1.0), (0.08, 0.5), (-0.1, 0.5)),
        ),
        dark=(((-0.1, -1.0), (0.08, -1.0), (0.08, 0.38), (-0.1, 0.38)),),
    ),
    "flower": _Shape(_petals(), light=(_ellipse(0, 0, 0.34),)),
}


# --- drawing ------------------------------------------------------------------------------------------------------


def draw_into(pixels: UInt8[np.ndarray, "image 3 height width"], scenes: Sequence[Scene]) -> Iterator[int]:
    """Draw the scenes one after another and yield how many are done."""
    size = pixels.shape[-1]
    for index, scene in enumerate(scenes):
        pixels[index] = _draw(scene, size)
        yield index + 1


def _draw(scene: Scene, size: int) -> UInt8[np.ndarray, "3 size size"]:
    """Draw several times too large, then shrink: edges come out smooth."""
    side = size * (4 if size <= 128 else 2)
    canvas = _backdrop(scene.backdrop, scene.variant, side).copy()
    for thing in scene.things:
        sprite = _sprite(thing.shape, round(thing.radius * side), thing.tilt, round(0.02 * side))
        half = sprite.body.width / 2
        corner = (round(thing.x * side - half), round(thing.y * side - half))
        colour = _COLOURS[thing.colour]
        canvas.paste((20, 20, 40), (corner[0] + side // 80, corner[1] + side // 50), sprite.shadow)
        canvas.paste((255, 255, 255), corner, sprite.border)
        canvas.paste(colour, corner, sprite.body)
        canvas.paste(_mixed(colour, (0, 0, 0), 0.45), corner, sprite.shade)
        canvas.paste(_mixed(colour, (255, 255, 255), 0.8), corner, sprite.light)
        canvas.paste(_mixed(colour, (0, 0, 0), 0.6), corner, sprite.dark)
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX)).transpose(2, 0, 1)


@dataclass(frozen=True)
class _Sprite:
    """Masks of one shape at one size and tilt; colours are filled in while pasting."""

    shadow: Image.Image
    border: Image.Image
    body: Image.Image
    shade: Image.Image
    light: Image.Image
    dark: Image.Image


@cache
def _sprite(shape: str, radius: int, tilt: int, border: int) -> _Sprite:
    parts = _SHAPES[shape]
    side = 2 * (radius + 3 * border)
    fill = partial(_filled, side=side, radius=radius, tilt=tilt)
    body = ImageChops.subtract(fill(parts.body), fill(parts.holes))
    grown = body.filter(ImageFilter.GaussianBlur(border)).point([255 if level > 24 else 0 for level in range(256)])
    shadow = grown.filter(ImageFilter.GaussianBlur(border)).point([level * 2 // 5 for level in range(256)])
    downwards = Image.linear_gradient("L").resize((side, side)).point([max(0, level - 110) for level in range(256)])
    shade = ImageChops.multiply(body, downwards)
    return _Sprite(shadow, grown, body, shade, fill(parts.light), fill(parts.dark))


def _filled(polygons: Sequence[_Polygon], side: int, radius: int, tilt: int) -> Image.Image:
    mask = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(mask)
    cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    for polygon in polygons:
        turned = [(x * cos - y * sin, x * sin + y * cos) for x, y in polygon]
        pen.polygon([(side / 2 + radius * x, side / 2 + radius * y) for x, y in turned], fill=255)
    return mask


def _mixed(a: Sequence[float], b: Sequence[float], share: float) -> tuple[int, int, int]:
    red, green, blue = (round((1 - share) * u + share * v) for u, v in zip(a, b, strict=True))
    return red, green, blue


# --- backdrops ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Backdrop:
    """A sky that runs from one colour to another, and up to two bands of ground with a wavy upper edge."""

    sky: tuple[tuple[int, int, int], tuple[int, int, int]]
    far: tuple[int, int, int]
    near: tuple[int, int, int]
    waves: float
    """Waves of the ground's edge across the image."""
    height: float
    """Height of these waves, as a part of the side."""
    dots: tuple[int, int, int] | None = None
    """Colour of small dots in the sky: stars or snowflakes."""


_BACKDROPS = {
    "meadow": _Backdrop(((150, 205, 250), (225, 242, 255)), (150, 205, 120), (112, 184, 92), 1.0, 0.05),
    "sea": _Backdrop(((190, 225, 245), (240, 248, 250)), (88, 170, 205), (60, 140, 190), 5.0, 0.012),
    "desert": _Backdrop(((250, 220, 170), (255, 240, 215)), (236, 196, 130), (222, 172, 100), 1.3, 0.06),
    "night": _Backdrop(((18, 22, 58), (50, 54, 110)), (34, 44, 70), (24, 32, 52), 1.2, 0.05, (240, 240, 210)),
    "snow": _Backdrop(((170, 182, 200), (205, 214, 226)), (226, 233, 242), (244, 248, 252), 1.1, 0.05, (250, 252, 255)),
    "sunset": _Backdrop(((120, 70, 140), (255, 165, 105)), (130, 70, 95), (88, 48, 78), 1.4, 0.05),
}


@cache
def _backdrop(name: str, variant: int, side: int) -> Image.Image:
    look = _BACKDROPS[name]
    random = np.random.default_rng(np.random.SeedSequence([list(_BACKDROPS).index(name), variant]))
    down = np.linspace(0, 1, side)[:, None, None]
    sky = (1 - down) * np.array(look.sky[0]) + down * np.array(look.sky[1])
    canvas = Image.fromarray(np.broadcast_to(sky, (side, side, 3)).round().astype(np.uint8))
    pen = ImageDraw.Draw(canvas)
    if look.dots:
        for x, y in random.uniform(0, side, size=(26, 2)):
            radius = side * random.uniform(0.006, 0.013)
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=look.dots)
    for colour, level in ((look.far, 0.60), (look.near, 0.78)):
        phase, tilt = random.uniform(0, 2 * math.pi), random.uniform(-0.03, 0.03)
        xs = np.linspace(0, 1, 65)
        ys = level + tilt * (xs - 0.5) + look.height * np.sin(2 * math.pi * look.waves * xs + phase)
        edge = [(side * x, side * y) for x, y in zip(xs.tolist(), ys.tolist(), strict=True)]
        pen.polygon([*edge, (side, side), (0, side)], fill=colour)
    return canvas
