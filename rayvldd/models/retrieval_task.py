"""A retrieval task: a model, and the real pairs in the form that its trained part takes.

Whatever frozen parts compute is computed once and kept in the cache: caption embeddings always, image features when
the image encoder is frozen. The keys hold the fingerprint of the data, of the weights and of the preprocessing, so
nothing stale is read; the arrays are memory-mapped, so every process of a machine shares one copy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rayvldd.config.settings import DataSettings, ModelSettings, TextEncoderSettings
from rayvldd.data.array_cache import ArrayCache, ArrayDescription, fingerprint
from rayvldd.data.dataset import Dataset, Split, load_dataset
from rayvldd.errors import Fault, ModelError
from rayvldd.models.image_encoder import faults_of_image_encoder
from rayvldd.models.retrieval_model import RetrievalModel
from rayvldd.models.text_encoder import (
    TextEncoder,
    build_text_encoder,
    faults_of_embedding,
    faults_of_text_encoder,
)

OnProgress = Callable[[str, int, int], None]
"""Told (what is being done, items done, items in all)."""

_BATCH = 128
"""Images that go through a frozen encoder at a time."""

CAPTIONS_AT_A_TIME = 4096
"""Captions that an encoder is handed at a time; which ones share a batch can change the last bit of an embedding."""


@dataclass(frozen=True)
class SplitInputs:
    """One split as arrays: images on one side, captions on the other, and which belongs to which."""

    split: Split
    images: np.ndarray
    """float32 features [image, dim] where the encoder is frozen, else uint8 pixels [image, 3, height, width]."""
    captions: np.ndarray
    """float32 caption embeddings [caption, text_dim]."""

    @property
    def num_images(self) -> int:
        """Images in the split."""
        return len(self.images)

    def captions_of(self, image: int) -> np.ndarray:
        """Indexes of the captions of one image."""
        return np.flatnonzero(self.split.caption_image == image)


@dataclass(frozen=True)
class RetrievalTask:
    """Model and data; what experts, distillation and evaluation work on."""

    model: RetrievalModel
    train: SplitInputs
    val: SplitInputs
    test: SplitInputs
    fingerprints: dict[str, str]
    """What the data and both encoders are, by content."""
    device: torch.device

    @property
    def image_size(self) -> int:
        """Side of the square images, in pixels."""
        return int(self.train.split.pixels.shape[-1])

    def frozen_outputs(self, inputs: SplitInputs, index: np.ndarray) -> Float[Tensor, "image ..."]:
        """The chosen images as the trained image part takes them, on the device."""
        rows = torch.from_numpy(np.ascontiguousarray(inputs.images[index])).to(self.device)
        return rows if self.model.encoder_is_frozen else self.model.normalise(rows.float() / 255)

    def pixels(self, inputs: SplitInputs, index: np.ndarray) -> Float[Tensor, "image 3 height width"]:
        """The chosen images themselves on the encoder's normalised scale, on the device."""
        rows = torch.from_numpy(np.ascontiguousarray(inputs.split.pixels[index])).to(self.device)
        return self.model.normalise(rows.float() / 255)

    def texts(self, inputs: SplitInputs, index: np.ndarray) -> Float[Tensor, "caption text_dim"]:
        """The chosen caption embeddings, on the device."""
        return torch.from_numpy(np.ascontiguousarray(inputs.captions[index])).to(self.device)


def check_models(model: ModelSettings, image_size: int, captions: Sequence[str] = ()) -> None:
    """Build both encoders once and embed some captions, to fail before any work starts.

    Args:
        model: What is built.
        image_size: Side of the images, in pixels.
        captions: Those of the data; their shortest and longest are embedded.

    Raises:
        ModelError: naming every setting that does not fit.
    """
    faults = faults_of_image_encoder(model.image_encoder)
    faults = faults or _faults_in_building(lambda: RetrievalModel(model, image_size, text_width=1))  # any width will do
    faults_of_text = faults_of_text_encoder(model.text_encoder)
    faults += faults_of_text or _faults_of_text_tower(model.text_encoder, captions)
    if faults:
        raise ModelError(faults, next_command="rayvldd check STUDY.yaml after mending them")


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
    on_progress: OnProgress | None = None,
) -> RetrievalTask:
    """Load data and models, and compute whatever of them is not in the cache yet.

    Args:
        data: The real pairs.
        model: The two-tower model and its protocol.
        cache: Where decoded images, caption embeddings and features are kept.
        device: ``cpu``, ``cuda``, …, or ``auto``: the GPU if this process has one.
        on_progress: Told of long work.

    Raises:
        ModelError: when an encoder cannot be built.
        DataError: when the dataset has faults.
    """
    chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    dataset = load_dataset(data, cache, on_progress)
    text_encoder = build_text_encoder(model.text_encoder)
    towers = RetrievalModel(model, data.image_size, text_encoder.width).to(chosen)
    fingerprints = {
        "data": dataset.fingerprint,
        "image_encoder": towers.fingerprint,
        "text_encoder": text_encoder.fingerprint,
    }
    train, val, test = (
        _inputs(split, dataset, towers, text_encoder, cache, chosen, on_progress)
        for split in (dataset.train, dataset.val, dataset.test)
    )
    return RetrievalTask(towers, train, val, test, fingerprints, chosen)


def _inputs(
    split: Split,
    dataset: Dataset,
    model: RetrievalModel,
    text_encoder: TextEncoder,
    cache: ArrayCache,
    device: torch.device,
    on_progress: OnProgress | None,
) -> SplitInputs:
    def embed(out: np.ndarray) -> None:
        for start in range(0, len(out), CAPTIONS_AT_A_TIME):
            part = slice(start, start + CAPTIONS_AT_A_TIME)
            out[part] = text_encoder.embed(split.captions[part]).numpy()
            if on_progress:
                on_progress(f"embedding {split.name} captions", min(part.stop, len(out)), len(out))

    def tell(done: int) -> None:
        if on_progress:
            on_progress(f"fetching {split.name} caption embeddings", done, len(split.captions))

    array = captions_array(fingerprint(split.captions), len(split.captions), text_encoder)
    captions = cache.get_or_make(array.kind, array.key, array.shape, array.dtype, embed, tell)
    images = split.pixels
    if model.encoder_is_frozen:
        images = _features(split, dataset, model, cache, device, on_progress)
    return SplitInputs(split, images, captions)


def captions_array(captions: str, num_captions: int, text_encoder: TextEncoder) -> ArrayDescription:
    """The embeddings of captions, which are named by the fingerprint of their list.

    By the captions alone: another image size or image encoder needs no new embeddings.
    """
    key = {"captions": captions, "text_encoder": text_encoder.fingerprint}
    return ArrayDescription("captions", key, (num_captions, text_encoder.width), "float32")


def _features(
    split: Split,
    dataset: Dataset,
    model: RetrievalModel,
    cache: ArrayCache,
    device: torch.device,
    on_progress: OnProgress | None,
) -> np.ndarray:
    @torch.no_grad()
    def compute(out: np.ndarray) -> None:
        for start in range(0, len(out), _BATCH):
            part = slice(start, start + _BATCH)
            pixels = torch.from_numpy(np.array(split.pixels[part])).to(device)  # a copy: torch wants writable memory
            out[part] = model.frozen_part(model.normalise(pixels.float() / 255)).cpu().numpy()
            if on_progress:
                on_progress(f"encoding {split.name} images", min(start + _BATCH, len(out)), len(out))

    key = {
        "data": dataset.fingerprint,
        "split": split.name,
        "image_encoder": model.fingerprint,
        "options": model.settings.image_encoder.options,
        "mean": model.mean.flatten().tolist(),  # type: ignore[operator]  # a buffer is a tensor
        "std": model.std.flatten().tolist(),  # type: ignore[operator]
    }
    return cache.get_or_make("features", key, (len(split.pixels), model.encoder_width), np.float32, compute)
