"""Robustness of students: recall on images of the split with JPEG compression, 4 bits per channel, or noise.

The images are distorted at the size on which the model is trained, and have 8 bits per channel again afterwards.
"""

import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import PIL
from jaxtyping import UInt8
from PIL import Image

from rayvldd.data.array_cache import ArrayCache, fingerprint
from rayvldd.evaluation.metric import RetrievalRecall
from rayvldd.evaluation.probes import Probe, in_memory
from rayvldd.models.retrieval_task import OnProgress, RetrievalTask, SplitInputs, image_features
from rayvldd.randomness import Stream, generator_of
from rayvldd.records.json_values import JsonValue

_VERSION = 1
"""Incremented when a distortion computes other pixels."""
_JPEG_QUALITY = 75
_LEVELS = 16
_NOISE = 0.01
"""Standard deviation of the noise, on a scale from 0 to 1."""

Distortion = Callable[[UInt8[np.ndarray, "3 height width"], np.random.Generator], UInt8[np.ndarray, "3 height width"]]
"""Distorts an image; random numbers come from the generator, for one image after the other."""


def jpeg(image: UInt8[np.ndarray, "3 height width"], _: np.random.Generator) -> UInt8[np.ndarray, "3 height width"]:
    """Compress an image as JPEG of quality 75 and decode it."""
    written = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(written, "JPEG", quality=_JPEG_QUALITY)
    return np.asarray(Image.open(written).convert("RGB")).transpose(2, 0, 1)


def four_bit(image: UInt8[np.ndarray, "3 height width"], _: np.random.Generator) -> UInt8[np.ndarray, "3 height width"]:
    """Round every channel to 16 levels from black to white."""
    step = 255 / (_LEVELS - 1)
    return (np.round(image / step) * step).round().astype(np.uint8)


def noisy(
    image: UInt8[np.ndarray, "3 height width"], generator: np.random.Generator
) -> UInt8[np.ndarray, "3 height width"]:
    """Add independent normal noise to every value; values beyond black and white are clipped."""
    noise = 255 * _NOISE * generator.standard_normal(image.shape)
    return (image + noise).round().clip(0, 255).astype(np.uint8)


DISTORTIONS: dict[str, Distortion] = {"JPEG 75": jpeg, "4 bits": four_bit, "noise 0.01": noisy}
"""By their names in tables."""


def robustness_probes(
    task: RetrievalTask, inputs: SplitInputs, cache: ArrayCache, on_progress: OnProgress | None = None
) -> list[Probe]:
    """Return one probe of recall for each distortion of the images of a split.

    Args:
        task: Model and data.
        inputs: The split.
        cache: Cache of the features of distorted images.
        on_progress: Called during the work.
    """
    return [
        Probe(
            name,
            RetrievalRecall(),
            in_memory(_distorted(task, inputs, name, cache, on_progress)),
            fingerprint({**_identity(name), "split": inputs.split.name}),
        )
        for name in DISTORTIONS
    ]


def _distorted(
    task: RetrievalTask, inputs: SplitInputs, name: str, cache: ArrayCache, on_progress: OnProgress | None
) -> SplitInputs:
    """Inputs with the images distorted; features are computed if the encoder is frozen."""
    pixels, generator = inputs.split.pixels, generator_of(0, Stream.NOISE)

    def part_of(part: slice) -> UInt8[np.ndarray, "image 3 height width"]:
        return np.stack([DISTORTIONS[name](np.asarray(image), generator) for image in pixels[part]])

    def report(done: int) -> None:
        if on_progress:
            on_progress(f"encoding images, {name}", done, len(pixels))

    if not task.model.encoder_is_frozen:
        return replace(inputs, images=part_of(slice(None)))
    of: dict[str, JsonValue] = {"data": task.fingerprints["data"], "split": inputs.split.name, **_identity(name)}
    features = image_features(part_of, len(pixels), of, task.model, cache, task.device, report)
    return replace(inputs, images=features)


def _identity(name: str) -> dict[str, JsonValue]:
    return {"distortion": name, "version": _VERSION, "pillow": PIL.__version__, "numpy": np.__version__}
