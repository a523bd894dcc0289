"""Privacy of a set: likeness of its images to real ones, and membership inference on its start pairs.

Membership inference by a threshold on the loss (Yeom et al., "Privacy Risk in Machine Learning", arXiv 1709.01604): a
real pair with a low loss of the student is guessed to be one of those that the set started from. The area under the ROC
curve (AUC) is that of all thresholds: 0.5 is a guess, 1 is certainty.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from scipy import special  # not scipy.stats, whose import takes a second of CPU in each process
from torch import Tensor

from rayvldd.config.metrics import MEMBERSHIP_HELD_OUT, MEMBERSHIP_TRAIN, MetricInfo
from rayvldd.data.array_cache import fingerprint
from rayvldd.data.dataset import Split
from rayvldd.evaluation.probes import Probe
from rayvldd.evaluation.scoring import embeddings
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import RetrievalTask, SplitInputs
from rayvldd.randomness import Stream, generator_of

_MOST_OTHERS = 1000
"""Maximum number of pairs of each kind that are compared with the start pairs."""
_CHUNK = 256
"""Real images compared at a time."""
PRIVACY = "privacy"
"""Name of the probe."""
ERROR = "_error"
"""Suffix of the name of a standard error of a number."""


@dataclass(frozen=True, eq=False)
class RealPairs:
    """Real training pairs by their indexes."""

    image_index: Int64[np.ndarray, " real"]
    caption_index: Int64[np.ndarray, " real"]

    def __len__(self) -> int:
        return len(self.image_index)


def start_pairs(
    task: RetrievalTask, images: Float[Tensor, "pair 3 height width"], captions: Sequence[str]
) -> tuple[RealPairs, Int64[np.ndarray, " found"]]:
    """Find the real pairs that a set started from, by its start captions and images.

    Args:
        task: Model and data.
        images: The start images, from 0 to 1.
        captions: The start captions; an empty one is of a text that started from noise.

    Returns:
        The real pairs, and their places in the set; pairs whose image or text started from noise are not among them.
    """
    split = task.train.split
    by_text: dict[str, list[int]] = {}
    for index, caption in enumerate(split.captions):
        by_text.setdefault(caption, []).append(index)
    found = []
    for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
        for index in by_text.get(caption, []):
            pixels = torch.tensor(split.pixels[split.caption_image[index]]).float() / 255
            if float((pixels - image.cpu()).abs().max()) < 1 / 255:
                found.append((place, int(split.caption_image[index]), index))
                break
    places, image_index, caption_index = np.array(found, dtype=np.int64).reshape(-1, 3).T
    return RealPairs(image_index, caption_index), places


@dataclass(eq=False)  # not frozen: a metric's infos can be set
class MembershipInference:
    """AUC of the loss of a student on start pairs against other training pairs, and against unseen pairs.

    The captions of the inputs are those of the images, one each: reference pairs, start pairs, other training pairs,
    pairs held out. The loss of a pair is its contrastive loss among the reference pairs, in both directions.
    """

    num_reference: int
    num_members: int
    num_others: int
    infos: Sequence[MetricInfo] = (MEMBERSHIP_TRAIN, MEMBERSHIP_HELD_OUT)

    def __call__(self, task: RetrievalTask, parameters: Parameters, inputs: SplitInputs) -> dict[str, float]:
        """Return both AUCs with their standard errors."""
        losses = pair_losses(*embeddings(task, parameters, inputs), self.num_reference, task.model.settings.temperature)
        ends = np.cumsum([self.num_members, self.num_others])
        members, others, held_out = np.split(losses, ends)
        numbers = {}
        for info, group in zip(self.infos, (others, held_out), strict=True):
            numbers[info.name], numbers[f"{info.name}{ERROR}"] = auc_of_losses(members, group)
        return numbers


def pair_losses(
    images: Float[Tensor, "pair dim"], texts: Float[Tensor, "pair dim"], num_reference: int, temperature: float
) -> Float[np.ndarray, " candidate"]:
    """Return the contrastive loss of each pair after the first ``num_reference`` ones, with these as negatives."""
    reference_images, reference_texts = images[:num_reference], texts[:num_reference]
    images, texts = images[num_reference:], texts[num_reference:]
    own = (images * texts).sum(1, keepdim=True)
    losses = [
        torch.logsumexp(torch.cat([own, items @ reference.T], dim=1) / temperature, dim=1) - own[:, 0] / temperature
        for items, reference in ((images, reference_texts), (texts, reference_images))
    ]
    mean: np.ndarray = (sum(losses) / 2).double().cpu().numpy()  # type: ignore[union-attr]  # two tensors
    return mean


def auc_of_losses(members: Float[np.ndarray, " member"], others: Float[np.ndarray, " other"]) -> tuple[float, float]:
    """Return the AUC of low losses as a sign of membership, and its standard error (DeLong et al., 1988).

    A tie counts one half.
    """
    lower = (members[:, None] < others).astype(float) + 0.5 * (members[:, None] == others)
    by_member, by_other = lower.mean(1), lower.mean(0)
    variance = sum(float(np.var(part, ddof=1)) / len(part) for part in (by_member, by_other) if len(part) > 1)
    return float(lower.mean()), variance**0.5


def auc_interval(values: Sequence[float], errors: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean AUC of several students, within 0 and 1.

    The students share their pairs, so the error that is due to the pairs does not fall with their number; the variance
    of the students is added.
    """
    students = float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else 0.0
    half = float(special.ndtri(0.975)) * (float(np.mean(np.square(errors))) + students) ** 0.5
    mean = float(np.mean(values))
    return max(0.0, mean - half), min(1.0, mean + half)


def membership_probe(task: RetrievalTask, members: RealPairs) -> Probe:
    """Return the probe of membership inference on some training pairs; both splits have at least two images.

    Half of the validation pairs are the reference, the others are held out. Test is not used.
    """
    generator = generator_of(0, Stream.MEMBERSHIP)
    validation = _one_caption_each(task.val, np.arange(task.val.num_images), generator)
    reference, held_out = _part(validation, slice(0, None, 2)), _part(validation, slice(1, None, 2))
    rest = np.setdiff1d(np.arange(task.train.num_images), members.image_index)
    others = _one_caption_each(task.train, generator.permutation(rest)[:_MOST_OTHERS], generator)
    groups = [
        (task.val, _part(reference, slice(_MOST_OTHERS))),
        (task.train, members),
        (task.train, others),
        (task.val, _part(held_out, slice(_MOST_OTHERS))),
    ]
    images = np.concatenate([inputs.images[pairs.image_index] for inputs, pairs in groups])
    texts = np.concatenate([inputs.caption_embeddings[pairs.caption_index] for inputs, pairs in groups])
    captions = [inputs.split.captions[index] for inputs, pairs in groups for index in pairs.caption_index]
    names = [inputs.split.image_names[index] for inputs, pairs in groups for index in pairs.image_index]
    pixels = np.zeros((0, *task.train.split.pixels.shape[1:]), dtype=np.uint8)
    split = Split("membership", names, pixels, captions, np.arange(len(captions)))
    metric = MembershipInference(len(groups[0][1]), len(members), len(others))
    identity = fingerprint({"members": members.caption_index.tolist(), "images": members.image_index.tolist()})
    return Probe(PRIVACY, metric, SplitInputs(split, images, texts), identity)


def _one_caption_each(
    inputs: SplitInputs, images: Int64[np.ndarray, " image"], generator: np.random.Generator
) -> RealPairs:
    captions = [int(generator.choice(inputs.captions_of(int(image)))) for image in images]
    return RealPairs(images, np.array(captions, dtype=np.int64))


def _part(pairs: RealPairs, part: slice) -> RealPairs:
    return RealPairs(pairs.image_index[part], pairs.caption_index[part])


@dataclass(frozen=True)
class Likeness:
    """Likeness of the images of a set to the nearest real training images."""

    start: float
    """Mean cosine of the start images to the nearest real image; 1 if they are real."""
    distilled: float
    """Mean cosine of the distilled images."""
    recovered: float
    """Share of distilled images whose nearest real image is that of their start image, from 0 to 1."""


@torch.no_grad()
def likeness(
    task: RetrievalTask, start: Float[Tensor, "pair 3 height width"], distilled: Float[Tensor, "pair 3 height width"]
) -> Likeness:
    """Compare the images of a set, before and after distillation, with all real training images.

    Under ``heads_only`` the outputs of the frozen encoder are compared, otherwise the pixels, both by cosines.

    Args:
        task: Model and data.
        start: Start images on the encoder's normalised scale.
        distilled: Distilled images on the same scale.
    """
    before, first = _nearest(task, start)
    after, last = _nearest(task, distilled)
    return Likeness(float(before.mean()), float(after.mean()), float((first == last).float().mean()))


def _nearest(task: RetrievalTask, images: Float[Tensor, "pair 3 height width"]) -> tuple[Tensor, Tensor]:
    """Cosine and index of the nearest real training image of each image."""
    unit = F.normalize(task.model.frozen_part(images.to(task.device)).flatten(1), dim=1)
    best = torch.full((len(unit),), -torch.inf, device=task.device)
    index = torch.zeros(len(unit), dtype=torch.int64, device=task.device)
    for start in range(0, task.train.num_images, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, task.train.num_images))
        real = F.normalize(task.frozen_outputs(task.train, rows).flatten(1), dim=1)
        cosine, place = (unit @ real.T).max(dim=1)
        nearer = cosine > best
        best[nearer], index[nearer] = cosine[nearer], start + place[nearer]
    return best, index
