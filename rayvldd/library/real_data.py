"""The real pairs of a study for models of one's own, which are scored on them as the students of the study are."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from rayvldd.config.loading import load_study
from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.data.dataset import Split, load_dataset
from rayvldd.data.prepared_arrays import open_cache
from rayvldd.errors import Fault, InputError
from rayvldd.evaluation.recall import RetrievalMetrics, retrieval_recall
from rayvldd.library import scoring
from rayvldd.models.image_encoder import build_image_encoder, normalisation
from rayvldd.models.retrieval_task import caption_embeddings
from rayvldd.models.text_encoder import build_text_encoder
from rayvldd.workspace import Workspace

_BATCH = 128
"""Images or captions embedded at once."""

EmbedImages = Callable[[Float[Tensor, "image 3 height width"]], Float[Tensor, "image dim"]]
"""The image side of a model, such as a module of torch; its input has the scale of the encoder's weights."""
EmbedTexts = Callable[[Float[Tensor, "caption text_dim"]], Float[Tensor, "caption dim"]]
"""The text side of a model; its input is embeddings of the study's frozen text encoder, as those of a set."""


@dataclass(frozen=True, eq=False)
class RealSplit:
    """One split of the real data, as inputs of a model."""

    split: Split
    texts: Float[np.ndarray, "caption text_dim"]
    """Embeddings of the captions by the study's text encoder, float32."""


@dataclass(frozen=True, eq=False)
class RealData:
    """The real pairs of validation and test, and the image encoder of the study."""

    image_encoder: nn.Module
    """With the weights of the study and without gradients; maps images to features. ``requires_grad_()`` trains it."""
    mean: tuple[float, ...]
    """RGB mean that the encoder's weights expect, on a scale from 0 to 1."""
    std: tuple[float, ...]
    """The same of the standard deviation."""
    val: RealSplit
    test: RealSplit

    @torch.no_grad()
    def recalls(
        self, embed_images: EmbedImages, embed_texts: EmbedTexts, split: scoring.Split = "val"
    ) -> RetrievalMetrics:
        """Recalls of a model on a split, in percent, by the scalar product of embeddings that are made length 1.

        Args:
            embed_images: Image side of the model, in evaluation mode. Its input is what a distilled set of the study
                yields as images: RGB on the scale of the encoder's weights, on the CPU, at most 128 at once. A model
                on a GPU is called as ``lambda images: model(images.cuda())``.
            embed_texts: Text side of the model, in evaluation mode, called likewise.
            split: ``val``, or ``test``, which is for a model that is chosen.

        Raises:
            InputError: if the split has another name, or the two sides have no common space.
        """
        if split not in ("val", "test"):
            raise _wrong("split", repr(split), "'val' or 'test'")
        real: RealSplit = getattr(self, split)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        pixels = (torch.from_numpy(np.array(part)).float() / 255 for part in _parts(real.split.pixels))
        images = torch.cat([embed_images((part - mean) / std).cpu() for part in pixels])
        texts = torch.cat([embed_texts(torch.from_numpy(np.array(part))).cpu() for part in _parts(real.texts)])
        expected = [(len(real.split.pixels), *images.shape[1:2]), (len(real.texts), *images.shape[1:2])]
        found = [tuple(images.shape), tuple(texts.shape)]
        if found != expected or images.ndim != 2:
            allowed = f"one row for each of {expected[0][0]} images and {expected[1][0]} captions, of one width"
            raise _wrong("embed_images, embed_texts", f"results of the shapes {found[0]} and {found[1]}", allowed)
        return retrieval_recall(normalize(images), normalize(texts), real.split.caption_image)


def load_data(study: Study | str | Path, workspace: str | Path = "rayvldd_workspace") -> RealData:
    """Load the real pairs of a study to score models of one's own, such as one that was trained on its distilled set.

    Images are decoded and captions embedded in the first call, as by the commands; afterwards they are in the cache.

    Args:
        study: The study or its file; only ``data`` and the encoders of ``model`` are read.
        workspace: Folder of the cache.

    Raises:
        ConfigError: listing every fault of the file.
        ModelError: if an encoder cannot be built.
        DataError: if the dataset has faults.
        StoreError: if the workspace cannot be written.
    """
    settings = load_study(study) if isinstance(study, str | Path) else study
    place = Workspace(workspace)
    place.check_writable()
    encoder = build_image_encoder(settings.model.image_encoder).eval().requires_grad_(False)
    text_encoder = build_text_encoder(settings.model.text_encoder)
    mean, std = normalisation(settings.model.image_encoder, encoder)
    cache = open_cache(place.cache)
    with ProgressDisplay() as display:
        dataset = load_dataset(settings.data, cache, display.progress)
        val, test = (
            RealSplit(split, caption_embeddings(split, text_encoder, cache, display.progress))
            for split in (dataset.val, dataset.test)
        )
    return RealData(encoder, mean, std, val, test)


def _parts(array: np.ndarray) -> list[np.ndarray]:
    return [array[start : start + _BATCH] for start in range(0, len(array), _BATCH)]


def _wrong(argument: str, problem: str, allowed: str) -> InputError:
    return InputError([Fault(argument, problem, allowed)], next_command="the same call, after correcting it")
