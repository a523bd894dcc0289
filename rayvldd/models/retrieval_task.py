"""A retrieval task: a model, and the real pairs as inputs of its trained part.

Outputs of frozen parts are computed once and cached: caption embeddings always, image features if the image encoder is
frozen. The cache keys include fingerprints of data, weights and preprocessing, so stale arrays are never read. The
arrays are memory-mapped and shared by all processes of a machine.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rayvldd.background import Take, reading
from rayvldd.config.settings import (
    DataSettings,
    ImageEncoderSettings,
    ModelSettings,
    TextEncoderSettings,
    ToyScenesData,
)
from rayvldd.data.array_cache import ArrayCache, ArrayDescription, fingerprint
from rayvldd.data.dataset import Dataset, Split, load_dataset
from rayvldd.errors import DataError, Fault, ModelError
from rayvldd.models.device_arrays import DeviceArrays
from rayvldd.models.device_options import DEFAULT_OPTIONS, DeviceOptions
from rayvldd.models.gpus import compute_in_float32
from rayvldd.models.image_encoder import faults_of_image_encoder
from rayvldd.models.pair_filter import (
    FEWEST_IMAGES,
    PAIR_FIT_VERSION,
    kept_captions,
    left_out_file,
    list_left_out,
    pair_fit,
)
from rayvldd.models.retrieval_model import RetrievalModel
from rayvldd.models.side_stream import Rows, SideStream
from rayvldd.models.text_encoder import (
    TextEncoder,
    build_text_encoder,
    faults_of_embedding,
    faults_of_text_encoder,
)
from rayvldd.records.json_values import JsonValue

OnProgress = Callable[[str, int, int], None]
"""Called with the current activity, the number of finished items and their total."""

_BATCH = 128
"""Batch size of a frozen image encoder."""

CAPTIONS_AT_A_TIME = 4096
"""Batch size of a text encoder; the composition of a batch can change the last bit of an embedding."""


@dataclass(frozen=True)
class SplitInputs:
    """One split as arrays: images, caption embeddings, and their assignment."""

    split: Split
    images: np.ndarray
    """float32 features ``[image, dim]`` if the encoder is frozen, else uint8 pixels ``[image, 3, height, width]``."""
    caption_embeddings: np.ndarray
    """float32 ``[caption, text_dim]``."""

    @property
    def num_images(self) -> int:
        """Number of images in the split."""
        return len(self.images)

    def captions_of(self, image: int) -> np.ndarray:
        """Indices of the captions of one image."""
        return np.flatnonzero(self.split.caption_image == image)


@dataclass(frozen=True)
class EncodedImages:
    """The training images as features of one frozen image encoder."""

    model: RetrievalModel
    """Model with the encoder as its frozen part; its heads have no use."""
    inputs: SplitInputs
    """The training split with the encoder's features."""


@dataclass(frozen=True)
class RetrievalTask:
    """Model and data for experts, distillation and evaluation."""

    model: RetrievalModel
    train: SplitInputs
    val: SplitInputs
    test: SplitInputs
    fingerprints: dict[str, str]
    """Fingerprints of the data and both encoders."""
    device: torch.device
    further_devices: tuple[torch.device, ...] = ()
    """Devices that share the images of a student's step with ``device``."""
    device_cache_gb: float | None = None
    """Memory for real data that stays on a GPU; None: a quarter of the free memory."""
    cache: ArrayCache | None = None
    """Cache of the features of other encoders; without one they are computed for each task."""
    options: DeviceOptions = DEFAULT_OPTIONS
    """How the device is used."""

    @property
    def image_size(self) -> int:
        """Side of the square images, in pixels."""
        return int(self.train.split.pixels.shape[-1])

    @property
    def has_step_graphs(self) -> bool:
        """Whether training steps are replayed as CUDA graphs."""
        return self.options.cuda_graphs and self.device.type == "cuda" and not self.model.settings.dropout

    def frozen_outputs(self, inputs: SplitInputs, index: np.ndarray) -> Float[Tensor, "image ..."]:
        """Inputs of the trained image part for the images ``index``, on the device."""
        rows = self._arrays.rows(inputs.images, index)
        return rows if self.model.encoder_is_frozen else self.model.normalise(self.model.laid_out(rows).float() / 255)

    def pixels(self, inputs: SplitInputs, index: np.ndarray) -> Float[Tensor, "image 3 height width"]:
        """Pixels of the images ``index`` on the encoder's normalised scale, on the device."""
        # With a frozen encoder pixels are read once, for a few images; all of them would take the place of features.
        read = self._arrays.gathered if self.model.encoder_is_frozen else self._arrays.rows
        return self.model.normalise(self.model.laid_out(read(inputs.split.pixels, index)).float() / 255)

    def texts(self, inputs: SplitInputs, index: np.ndarray) -> Float[Tensor, "caption text_dim"]:
        """The caption embeddings ``index``, on the device."""
        return self._arrays.rows(inputs.caption_embeddings, index)

    @contextmanager
    def reading(self, inputs: SplitInputs) -> Generator[Callable[[Take[Rows]], Take[Rows]]]:
        """Read rows of a split in the background in this block, where they are copied from the host to the device.

        Yields a function that begins a read and returns how to take its rows. On a CPU, and for arrays that stay on the
        device, rows are read when they are taken. The numbers are the same.
        """
        stay = [self._arrays.stays(array) for array in (inputs.images, inputs.caption_embeddings)]  # copies both here
        if all(stay) or not self.options.prefetch:
            yield lambda read: read
            return
        self._side_stream.follow()
        with reading("rayvldd batches") as begin:
            yield partial(self._side_stream.begun, begin)

    @cached_property
    def _side_stream(self) -> SideStream:
        """One for all reads: a GPU keeps the freed memory of each stream for this stream alone."""
        return SideStream(self.device)

    def encoded_by(self, encoder: ImageEncoderSettings, on_progress: OnProgress | None = None) -> EncodedImages:
        """Return the training images as features of an image encoder; this model has to have a frozen one itself.

        The same encoder is built once, and the task's own is not built again.

        Args:
            encoder: The encoder.
            on_progress: Called while images are encoded.

        Raises:
            ModelError: if the encoder cannot be built, or does not accept images of this size.
        """
        key = encoder.model_dump_json()
        if key not in self._encoded:
            self._encoded[key] = self._build_encoded(encoder, on_progress)
        return self._encoded[key]

    def _build_encoded(self, encoder: ImageEncoderSettings, on_progress: OnProgress | None) -> EncodedImages:
        if encoder == self.model.settings.image_encoder:
            return EncodedImages(self.model, self.train)
        model = with_image_encoder(self.model.settings, encoder, self.image_size).to(self.device)
        split = self.train.split

        def report(done: int) -> None:
            if on_progress:
                on_progress(f"encoding {split.name} images by {encoder.name}", done, len(split.pixels))

        of = {"data": self.fingerprints.get("data", ""), "split": split.name}
        pixels = split.pixels
        found = image_features(lambda part: pixels[part], len(pixels), of, model, self.cache, self.device, report)
        return EncodedImages(model, replace(self.train, images=found))

    @cached_property
    def _encoded(self) -> dict[str, EncodedImages]:
        return {}

    @cached_property
    def _arrays(self) -> DeviceArrays:
        return DeviceArrays(self.device, self.device_cache_gb)


def check_models(model: ModelSettings, image_size: int, captions: Sequence[str] = ()) -> None:
    """Build both encoders once and embed two captions, so that errors are found before any work.

    Args:
        model: Settings of the model.
        image_size: Side of the images, in pixels.
        captions: Captions of the data; the shortest and the longest are embedded.

    Raises:
        ModelError: naming every setting with a fault.
    """
    faults = faults_of_image_encoder(model.image_encoder)
    faults = faults or _faults_in_building(lambda: RetrievalModel(model, image_size, text_width=1))  # any width will do
    faults_of_text = faults_of_text_encoder(model.text_encoder)
    faults += faults_of_text or _faults_of_text_tower(model.text_encoder, captions)
    if faults:
        raise ModelError(faults, next_command="rayvldd check STUDY.yaml, after correcting them")


def with_image_encoder(model: ModelSettings, encoder: ImageEncoderSettings, image_size: int) -> RetrievalModel:
    """Build a model with another image encoder. Its text head is a placeholder.

    Args:
        model: Settings of the model.
        encoder: The image encoder in place of the model's own.
        image_size: Side of the images, in pixels.

    Raises:
        ModelError: if the encoder cannot be built, or does not accept images of this size.
    """
    return RetrievalModel(model.model_copy(update={"image_encoder": encoder}), image_size, text_width=1)


def faults_of_further_encoder(
    model: ModelSettings, encoder: ImageEncoderSettings, image_size: int, key: str
) -> list[Fault]:
    """Build another image encoder once, and return its faults.

    Args:
        model: Settings of the model.
        encoder: The image encoder in place of the model's own.
        image_size: Side of the images, in pixels.
        key: Dotted key of the encoder, which replaces ``model.image_encoder`` in the faults.
    """
    faults = faults_of_image_encoder(encoder)
    faults = faults or _faults_in_building(lambda: with_image_encoder(model, encoder, image_size))
    return [replace(fault, where=fault.where.replace("model.image_encoder", key)) for fault in faults]


def _faults_of_text_tower(settings: TextEncoderSettings, captions: Sequence[str]) -> list[Fault]:
    try:
        return faults_of_embedding(build_text_encoder(settings), captions)
    except ModelError as error:
        return error.faults


def _faults_in_building(build: Callable[[], object]) -> list[Fault]:
    try:
        build()
    except ModelError as error:
        return error.faults
    return []


def load_task(
    data: DataSettings,
    model: ModelSettings,
    cache: ArrayCache,
    *,
    device: str = "auto",
    further_devices: Sequence[str] = (),
    device_cache_gb: float | None = None,
    options: DeviceOptions = DEFAULT_OPTIONS,
    on_progress: OnProgress | None = None,
) -> RetrievalTask:
    """Load data and models, and compute missing arrays of the cache.

    Args:
        data: The real pairs.
        model: The two-tower model and its protocol.
        cache: Cache of decoded images, caption embeddings and features.
        device: ``cpu``, ``cuda``, …, or ``auto``: the GPU if this process has one.
        further_devices: Devices that share the images of a student's step with it.
        device_cache_gb: Memory for real data that stays on a GPU; None: a quarter of the free memory.
        options: How the device is used.
        on_progress: Called during long activities.

    Raises:
        ModelError: if an encoder cannot be built.
        DataError: if the dataset has faults.
    """
    chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    compute_in_float32()
    dataset = load_dataset(data, cache, on_progress)
    text_encoder = build_text_encoder(model.text_encoder)
    towers = RetrievalModel(model, data.image_size, text_encoder.width).to(chosen)
    if options.channels_last:
        towers.with_channels_last()
    fingerprints = {
        "data": dataset.fingerprint,
        "image_encoder": towers.fingerprint,
        "text_encoder": text_encoder.fingerprint,
    }
    train, val, test = (
        _inputs(split, dataset, towers, text_encoder, cache, chosen, on_progress)
        for split in (dataset.train, dataset.val, dataset.test)
    )
    share = 0.0 if isinstance(data, ToyScenesData) else data.drop_pairs
    if share:
        train, fingerprints["data"] = without_poor_pairs(train, share, fingerprints, cache)
    further = tuple(map(torch.device, further_devices))
    return RetrievalTask(towers, train, val, test, fingerprints, chosen, further, device_cache_gb, cache, options)


def _inputs(
    split: Split,
    dataset: Dataset,
    model: RetrievalModel,
    text_encoder: TextEncoder,
    cache: ArrayCache,
    device: torch.device,
    on_progress: OnProgress | None,
) -> SplitInputs:
    captions = caption_embeddings(split, text_encoder, cache, on_progress)
    images = split.pixels
    if model.encoder_is_frozen:
        images = _features(split, dataset, model, cache, device, on_progress)
    return SplitInputs(split, images, captions)


def without_poor_pairs(
    train: SplitInputs, share: float, fingerprints: Mapping[str, str], cache: ArrayCache
) -> tuple[SplitInputs, str]:
    """Leave out the training pairs whose caption fits its image least; also return the new fingerprint of the data.

    An image without a caption that stays is left out too. The arrays of the rest are cached, beside a list of what is
    left out.

    Args:
        train: The training split, with features of a frozen encoder.
        share: Share of the pairs.
        fingerprints: Those of the whole data and of both encoders, which determine what is left out.
        cache: Cache of the arrays.

    Raises:
        DataError: if there are too few images.
    """
    split = train.split
    fitted_to: dict[str, JsonValue] = {**fingerprints, "version": PAIR_FIT_VERSION}
    key: dict[str, JsonValue] = {**fitted_to, "share": share}
    if train.num_images < FEWEST_IMAGES:
        fault = Fault("data.drop_pairs", f"of {train.num_images} training images", f"at least {FEWEST_IMAGES} images")
        raise DataError([fault], next_command="the same command with --set data.drop_pairs=0")

    def fill(out: np.ndarray) -> None:
        out[:] = pair_fit(train.images, train.caption_embeddings, split.caption_image)

    fit = cache.get_or_make("pair-fit", fitted_to, (len(split.captions),), "float32", fill)
    stays = kept_captions(fit, share)
    list_left_out(left_out_file(cache.shared_folder, fingerprint(key)), split, fit, stays)
    kept = np.flatnonzero(stays)
    images, caption_image = np.unique(split.caption_image[kept], return_inverse=True)

    def taken(kind: str, array: np.ndarray, rows: np.ndarray) -> np.ndarray:
        def take(out: np.ndarray) -> None:
            for start in range(0, len(rows), CAPTIONS_AT_A_TIME):
                part = slice(start, start + CAPTIONS_AT_A_TIME)
                out[part] = array[rows[part]]

        return cache.get_or_make(f"{kind}-kept", key, (len(rows), *array.shape[1:]), array.dtype.name, take)

    names = [split.image_names[image] for image in images]
    texts = [split.captions[caption] for caption in kept]
    pixels = taken("pixels", split.pixels, images)
    rest = Split(split.name, names, pixels, texts, caption_image.astype(np.int64), split.left_out)
    inputs = SplitInputs(
        rest, taken("features", train.images, images), taken("captions", train.caption_embeddings, kept)
    )
    return inputs, fingerprint(key)


def caption_embeddings(
    split: Split, text_encoder: TextEncoder, cache: ArrayCache, on_progress: OnProgress | None = None
) -> np.ndarray:
    """The cached embeddings of a split's captions, float32 ``[caption, text_dim]``.

    Args:
        split: The split.
        text_encoder: The frozen encoder.
        cache: Cache of the embeddings.
        on_progress: Called while captions are embedded or fetched.
    """

    def embed(out: np.ndarray) -> None:
        what = f"embedding {split.name} captions"
        if on_progress:
            on_progress(what, 0, len(out))  # the first batch may import the library of the encoder, for seconds
        for start in range(0, len(out), CAPTIONS_AT_A_TIME):
            part = slice(start, start + CAPTIONS_AT_A_TIME)
            out[part] = text_encoder.embed(split.captions[part]).numpy()
            if on_progress:
                on_progress(what, min(part.stop, len(out)), len(out))

    def report(done: int) -> None:
        if on_progress:
            on_progress(f"fetching {split.name} caption embeddings", done, len(split.captions))

    array = captions_array(fingerprint(split.captions), len(split.captions), text_encoder)
    return cache.get_or_make(array.kind, array.key, array.shape, array.dtype, embed, report)


def captions_array(fingerprint_of_captions: str, num_captions: int, text_encoder: TextEncoder) -> ArrayDescription:
    """Describe the cached array of the embeddings of captions.

    Its name depends only on the fingerprint of the captions and on the text encoder, so another image size or image
    encoder needs no new embeddings.
    """
    key = {"captions": fingerprint_of_captions, "text_encoder": text_encoder.fingerprint}
    return ArrayDescription("captions", key, (num_captions, text_encoder.width), "float32")


def _features(
    split: Split,
    dataset: Dataset,
    model: RetrievalModel,
    cache: ArrayCache,
    device: torch.device,
    on_progress: OnProgress | None,
) -> np.ndarray:
    def report(done: int) -> None:
        if on_progress:
            on_progress(f"encoding {split.name} images", done, len(split.pixels))

    of = {"data": dataset.fingerprint, "split": split.name}
    return image_features(lambda part: split.pixels[part], len(split.pixels), of, model, cache, device, report)


def image_features(
    pixels_of: Callable[[slice], np.ndarray],
    num_images: int,
    of: Mapping[str, JsonValue],
    model: RetrievalModel,
    cache: ArrayCache | None,
    device: torch.device,
    report: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Return the cached outputs of a frozen encoder for images, float32 ``[image, dim]``, or compute them.

    Args:
        pixels_of: Returns a part of the images, uint8 ``[image, 3, height, width]``; called for the parts in order.
        num_images: Number of images.
        of: Everything that determines the images.
        model: Model with a frozen encoder.
        cache: Cache of the features; None: they are kept in memory alone.
        device: Device of the model.
        report: Called with the number of encoded images.
    """

    @torch.no_grad()
    def compute(out: np.ndarray) -> None:
        for start in range(0, len(out), _BATCH):
            part = slice(start, start + _BATCH)
            pixels = torch.from_numpy(np.array(pixels_of(part))).to(device)  # a copy: torch needs writable memory
            out[part] = model.frozen_part(model.normalise(pixels.float() / 255)).cpu().numpy()
            if report:
                report(min(start + _BATCH, len(out)))

    if cache is None:
        found = np.empty((num_images, model.encoder_width), dtype=np.float32)
        compute(found)
        return found
    key = {
        **of,
        "image_encoder": model.fingerprint,
        "options": model.settings.image_encoder.options,
        "mean": model.mean.flatten().tolist(),  # type: ignore[operator]  # a buffer is a tensor
        "std": model.std.flatten().tolist(),  # type: ignore[operator]
    }
    return cache.get_or_make("features", key, (num_images, model.encoder_width), np.float32, compute)
