"""Toy dataset without download: generated scenes of coloured things, each with five true captions.

A scene shows two or three things in front of a backdrop. Each thing has a shape, a colour, a size and a place. The
captions describe different parts of a scene, so retrieval needs shapes, colours bound to shapes, and relations.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
from jaxtyping import UInt8
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from rayvldd.config.settings import ToyScenesData
from rayvldd.data.annotations import SPLITS
from rayvldd.data.array_cache import fingerprint

_T = TypeVar("_T")

CAPTIONS_PER_SCENE = 5
LONGEST_CAPTION = 128
"""Maximum length of a caption, in ASCII characters."""


@cache
def drawing_fingerprint() -> str:
    """Hash of this file and its libraries: pixels and captions of another version are never read from a cache."""
    # Another release of numpy may give other random numbers, and therefore other scenes.
    return fingerprint([Path(__file__).read_text(encoding="utf-8"), PIL.__version__, np.__version__])


@dataclass(frozen=True)
class Thing:
    """One thing in a scene."""

    shape: str
    """Key of ``_SHAPES``."""
    colour: str
    """Key of ``_COLOURS``."""
    is_large: bool
    x: float
    """Centre, 0 at the left edge and 1 at the right."""
    y: float
    """Centre, 0 at the top and 1 at the bottom."""
    tilt: int
    """Rotation in degrees, clockwise."""

    @property
    def radius(self) -> float:
        """Half the extent, as a fraction of the image's side."""
        return _LARGE if self.is_large else _SMALL


@dataclass(frozen=True)
class Scene:
    """A backdrop, the things in front of it, and their captions."""

    backdrop: str
    """Key of ``_BACKDROPS``."""
    variant: int
    """Number of the backdrop's variant."""
    things: tuple[Thing, ...]
    """Two or three things; no two of the same shape."""
    captions: tuple[str, ...]
    """Five different true captions."""


_LARGE, _SMALL = 0.22, 0.15
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


# --- contents of a scene ------------------------------------------------------------------------------------------


def draw_split(
    settings: ToyScenesData, split: str
) -> tuple[UInt8[np.ndarray, "image 3 height width"], list[tuple[str, ...]]]:
    """Draw all scenes of a split; return the pixels and the captions of each image."""
    scenes = scenes_of(settings, split)
    pixels = np.empty((len(scenes), 3, settings.image_size, settings.image_size), dtype=np.uint8)
    for _ in draw_into(pixels, scenes):
        pass
    return pixels, [scene.captions for scene in scenes]


def scenes_of(settings: ToyScenesData, split: str) -> list[Scene]:
    """Generate the scenes of a split; a larger split begins with the same scenes."""
    return list(iterate_scenes(settings, split))


def iterate_scenes(settings: ToyScenesData, split: str) -> Iterator[Scene]:
    """Generate the scenes of a split one by one."""
    return scenes_from(scene_generator(settings, split), num_scenes(settings, split))


def num_scenes(settings: ToyScenesData, split: str) -> int:
    """Number of scenes of a split."""
    return {"train": settings.num_train, "val": settings.num_val, "test": settings.num_test}[split]


def scene_generator(settings: ToyScenesData, split: str) -> np.random.Generator:
    """Random generator of a split's scenes, in its initial state."""
    return np.random.default_rng(np.random.SeedSequence([settings.seed, SPLITS.index(split)]))


def scenes_from(random: np.random.Generator, count: int) -> Iterator[Scene]:
    """Generate the next ``count`` scenes from the generator's state."""
    for _ in range(count):
        yield _make_scene(random)


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
    """Draw sizes and places until no two things overlap."""
    shapes = random.permutation(list(_SHAPES))[:count].tolist()
    while True:
        are_large = random.random(count) < 0.5
        radii = np.where(are_large, _LARGE, _SMALL)
        margins = (radii + 0.03)[:, None]
        centres = (margins + (1 - 2 * margins) * random.random((32, count, 2))).round(3)  # 32 tries at a time
        distances = np.linalg.norm(centres[:, :, None] - centres[:, None], axis=-1)
        apart = (distances > radii[:, None] + radii + 0.02) | np.eye(count, dtype=bool)
        tries = np.flatnonzero(apart.all(axis=(1, 2)))
        if len(tries):
            break
    places = zip(shapes, are_large.tolist(), centres[tries[0]].tolist(), strict=True)
    return tuple(
        Thing(shape, _pick(random, list(_COLOURS)), is_large, x, y, _pick(random, _TILTS))
        for shape, is_large, (x, y) in places
    )


def _pick(random: np.random.Generator, values: Sequence[_T]) -> _T:
    return values[int(random.random() * len(values))]


# --- captions -----------------------------------------------------------------------------------------------------

_PLACES = {
    "meadow": ("in a meadow", "on the grass"),
    "sea": ("by the sea", "over the waves"),
    "desert": ("in the desert", "among the dunes"),
    "night": ("at night", "in the dark of night"),
    "snow": ("in the snow", "on a winter day"),
    "sunset": ("at sunset", "in the evening"),
}
_DIAGONAL = "diagonally across from"
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
    """Position of ``a`` relative to ``b`` in words: the dominant direction, or diagonal."""
    dx, dy = a.x - b.x, a.y - b.y
    if abs(dx) > 1.4 * abs(dy):
        return "to the left of" if dx < 0 else "to the right of"
    if abs(dy) > 1.4 * abs(dx):
        return "above" if dy < 0 else "below"
    return _DIAGONAL


def _pair(random: np.random.Generator, things: Sequence[Thing]) -> tuple[Thing, Thing, str]:
    """Pick two things, in either order, with a clear relation where the scene has one."""
    pairs = [(a, b, _relation(a, b)) for a in things for b in things if a is not b]
    return _pick(random, [pair for pair in pairs if pair[2] != _DIAGONAL] or pairs)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _all_things(random: np.random.Generator, things: Sequence[Thing], backdrop: str) -> str:
    names = [_coloured(things[i]) for i in random.permutation(len(things))]
    listed = " and ".join([", ".join(names[:-1]), names[-1]])
    place = _pick(random, _PLACES[backdrop])
    return _sentence(_pick(random, [f"{listed} {place}", f"{place}, {listed}", f"{place}, you can see {listed}"]))


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


def _referred_and_described(random: np.random.Generator, things: Sequence[Thing], backdrop: str) -> str:
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
    _referred_and_described,
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
    angles = [2 * math.pi * (i / 5 - 0.25) for i in range(5)]
    return tuple(_ellipse(0.6 * math.cos(t), 0.6 * math.sin(t), 0.4) for t in angles)


_SHAPES = {
    "ball": _Shape((_ellipse(0.0, 0.0, 0.92),), light=(_ellipse(-0.32, -0.36, 0.24, 0.18),)),
    "ring": _Shape((_ellipse(0.0, 0.0, 0.95),), holes=(_ellipse(0.0, 0.0, 0.52),)),
    "star": _Shape((_star(),)),
    "heart": _Shape((_heart(),), light=(_ellipse(-0.45, -0.45, 0.17, 0.14),)),
    "moon": _Shape((_ellipse(-0.05, 0.0, 0.95),), holes=(_ellipse(0.42, -0.18, 0.78),)),
    "house": _Shape(
        (
            ((-0.72, -0.1), (0.72, -0.1), (0.72, 0.92), (-0.72, 0.92)),
            ((0.0, -0.98), (1.0, -0.02), (-1.0, -0.02)),
        ),
        dark=(((-0.2, 0.35), (0.2, 0.35), (0.2, 0.92), (-0.2, 0.92)),),
        light=(_ellipse(0.0, -0.38, 0.2),),
    ),
    "tree": _Shape(
        (
            ((0.0, -1.0), (0.58, -0.2), (-0.58, -0.2)),
            ((0.0, -0.6), (0.8, 0.55), (-0.8, 0.55)),
            ((-0.18, 0.5), (0.18, 0.5), (0.18, 1.0), (-0.18, 1.0)),
        ),
        dark=(((-0.18, 0.55), (0.18, 0.55), (0.18, 1.0), (-0.18, 1.0)),),
    ),
    "fish": _Shape(
        (_ellipse(0.16, 0.0, 0.84, 0.56), ((-0.5, 0.0), (-1.0, -0.62), (-0.84, 0.0), (-1.0, 0.62))),
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
    "flower": _Shape(_petals(), dark=(_ellipse(0.0, 0.0, 0.3),)),
}


# --- drawing ------------------------------------------------------------------------------------------------------


def draw_into(pixels: UInt8[np.ndarray, "image 3 height width"], scenes: Iterable[Scene]) -> Iterator[int]:
    """Draw the scenes into ``pixels``, uint8 RGB; yield the number of finished scenes."""
    size = pixels.shape[-1]
    for index, scene in enumerate(scenes):
        pixels[index] = _draw(scene, size)
        yield index + 1


def _draw(scene: Scene, size: int) -> UInt8[np.ndarray, "3 size size"]:
    canvas = _backdrop(scene.backdrop, scene.variant, size).copy()
    for thing in scene.things:
        sprite = _sprite(thing.shape, thing.colour, thing.is_large, thing.tilt, size)
        half = sprite.width / 2
        canvas.paste(sprite, (round(thing.x * size - half), round(thing.y * size - half)), sprite)
    return np.asarray(canvas).transpose(2, 0, 1)


_SUPERSAMPLING = 4
"""Backdrops and sprites are drawn this many times larger and then downsampled, for smooth edges."""


@lru_cache(maxsize=1000)
def _sprite(shape: str, colour: str, is_large: bool, tilt: int, size: int) -> Image.Image:
    """One thing as a sprite with a white rim and a soft shadow, for contrast with every backdrop."""
    parts = _SHAPES[shape]
    rim = max(1, round(0.02 * size * _SUPERSAMPLING))
    radius = (_LARGE if is_large else _SMALL) * size * _SUPERSAMPLING
    side = 2 * _SUPERSAMPLING * round((radius + 3 * rim) / _SUPERSAMPLING)
    fill = partial(_filled, side=side, radius=radius, tilt=tilt)
    body = ImageChops.subtract(fill(parts.body), fill(parts.holes))
    grown = body.filter(ImageFilter.GaussianBlur(rim)).point([255 if level > 24 else 0 for level in range(256)])
    shadow = grown.filter(ImageFilter.GaussianBlur(rim)).point([level * 2 // 5 for level in range(256)])
    shade = Image.linear_gradient("L").resize((side, side)).point([max(0, level - 110) for level in range(256)])
    tint = _COLOURS[colour]
    sprite = Image.new("RGBA", (side, side), (20, 20, 40, 0))
    sprite.putalpha(ImageChops.offset(shadow, rim // 2, rim))
    layers = (
        ((255, 255, 255), grown),
        (tint, body),
        (_mixed(tint, (0, 0, 0), 0.45), ImageChops.multiply(body, shade)),
        (_mixed(tint, (255, 255, 255), 0.8), fill(parts.light)),
        (_mixed(tint, (0, 0, 0), 0.6), fill(parts.dark)),
    )
    for layer_colour, mask in layers:
        layer = Image.new("RGBA", (side, side), layer_colour)
        layer.putalpha(mask)
        sprite.alpha_composite(layer)
    return sprite.resize((side // _SUPERSAMPLING, side // _SUPERSAMPLING), Image.Resampling.BOX)


def _filled(polygons: Sequence[_Polygon], side: int, radius: float, tilt: int) -> Image.Image:
    mask = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(mask)
    cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    for polygon in polygons:
        turned = [(x * cos - y * sin, x * sin + y * cos) for x, y in polygon]
        pen.polygon([(side / 2 + radius * x, side / 2 + radius * y) for x, y in turned], fill=255)
    return mask


def _mixed(a: Sequence[int], b: Sequence[int], share: float) -> tuple[int, int, int]:
    red, green, blue = (round((1 - share) * u + share * v) for u, v in zip(a, b, strict=True))
    return red, green, blue


# --- backdrops ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Backdrop:
    """A sky with a colour gradient, and two bands of ground with a wavy upper edge."""

    sky: tuple[tuple[int, int, int], tuple[int, int, int]]
    far: tuple[int, int, int]
    near: tuple[int, int, int]
    waves: float
    """Number of waves of the ground's edge across the image."""
    height: float
    """Height of these waves, as a fraction of the side."""
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
def _backdrop(name: str, variant: int, size: int) -> Image.Image:
    side = size * _SUPERSAMPLING
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
    return canvas.resize((size, size), Image.Resampling.BOX)
