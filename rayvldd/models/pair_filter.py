"""Leave out the training pairs whose caption fits its image least, as in data from the web.

How well a caption fits is the cosine of its embedding and the one that a linear map predicts from the features of its
image. The map is fitted by ridge regression to the pairs of other images, so that no pair is judged by a map that has
seen it: the images are divided into five parts.
"""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from rayvldd.data.dataset import Split
from rayvldd.storage.atomic import write_text_whole

_PARTS = 5
_PENALTY = 1e-2
"""Ridge penalty in units of the mean variance of a feature."""
PAIR_FIT_VERSION = 1
"""Increased with every change of :func:`pair_fit`, so that cached values of earlier versions are not read."""
FEWEST_IMAGES = 20
"""Fewest training images of which pairs are left out."""


def pair_fit(
    features: Float[np.ndarray, "image dim"],
    texts: Float[np.ndarray, "caption text_dim"],
    caption_image: Int64[np.ndarray, " caption"],
) -> Float[np.ndarray, " caption"]:
    """How well each caption fits its image: a cosine, by a map that is fitted to other images.

    Args:
        features: Frozen features of the images.
        texts: Embeddings of the captions.
        caption_image: Index of each caption's image.
    """
    images = normalize(torch.from_numpy(np.array(features)).double(), dim=1)
    captions = normalize(torch.from_numpy(np.array(texts)).double(), dim=1)
    of_image = torch.from_numpy(np.array(caption_image))
    part = of_image % _PARTS
    fit = torch.empty(len(captions), dtype=torch.float64)
    for number in range(_PARTS):
        held_out = part == number
        predicted = _predicted(images[of_image[~held_out]], captions[~held_out], images[of_image[held_out]])
        fit[held_out] = (normalize(predicted, dim=1) * captions[held_out]).sum(1)
    return fit.float().numpy()


def _predicted(
    x: Float[Tensor, "pair dim"], y: Float[Tensor, "pair text_dim"], new: Float[Tensor, "other dim"]
) -> Float[Tensor, "other text_dim"]:
    """Ridge regression of y on x, at other features."""
    x_mean, y_mean = x.mean(0), y.mean(0)
    centred = x - x_mean
    gram = centred.T @ centred / len(x)
    penalty = _PENALTY * float(gram.diagonal().mean().clamp(min=1e-12))
    weights = torch.linalg.solve(
        gram + penalty * torch.eye(len(gram), dtype=gram.dtype), centred.T @ (y - y_mean) / len(x)
    )
    predicted: Tensor = (new - x_mean) @ weights + y_mean
    return predicted


def kept_captions(fit: Float[np.ndarray, " caption"], share: float) -> Bool[np.ndarray, " caption"]:
    """Which captions stay when a share of them, those that fit least, is left out; of equal ones the last go first."""
    kept = np.ones(len(fit), dtype=bool)
    kept[np.argsort(fit[::-1], kind="stable")[: round(share * len(fit))]] = False
    return kept[::-1].copy()


def left_out_file(folder: Path, fingerprint_of_rest: str) -> Path:
    """The file that lists the pairs left out of data whose rest has this fingerprint, in a folder of small files."""
    return folder / "left_out_pairs" / f"{fingerprint_of_rest}.jsonl"


def list_left_out(
    file: Path, split: Split, fit: Float[np.ndarray, " caption"], kept: Bool[np.ndarray, " caption"]
) -> None:
    """Write image, caption and fit of each pair that is left out, the worst first, unless the list is there.

    A list is for readers alone, so a folder that cannot be written has none.

    Args:
        file: Result of :func:`left_out_file`.
        split: The whole split.
        fit: Result of :func:`pair_fit`.
        kept: Result of :func:`kept_captions`.
    """
    if file.is_file():
        return
    worst_first = (index for index in np.argsort(fit, kind="stable") if not kept[index])
    rows = (
        {
            "image": split.image_names[split.caption_image[index]],
            "caption": split.captions[index],
            "fit": round(float(fit[index]), 4),
        }
        for index in worst_first
    )
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(file, "".join(json.dumps(row) + "\n" for row in rows))


def line_of_left_out(folder: Path, fingerprint_of_rest: str) -> str | None:
    """Line about the pairs that ``data.drop_pairs`` left out, with the file that lists them; None if there is no list.

    Args:
        folder: The cache's folder of small files.
        fingerprint_of_rest: Fingerprint of the data that a task has.
    """
    file = left_out_file(folder, fingerprint_of_rest)
    try:
        count = file.read_bytes().count(b"\n")
    except OSError:
        return None
    return f"data.drop_pairs left out {count} training pairs; they are listed in {file}"
