"""Zero-shot classification: the class of an image is the one whose prompt has the most similar embedding.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (arXiv 2103.00020),
section 3.1. A prompt is one sentence with the name of the class; it passes the frozen text encoder and the text head of
the student. Deviation: one prompt for each class, no average over many.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64

from rayvldd.config.metrics import ZERO_SHOT_TOP1, ZERO_SHOT_TOP5, MetricInfo
from rayvldd.data.array_cache import ArrayCache, fingerprint
from rayvldd.data.class_images import ClassImages
from rayvldd.data.dataset import Split
from rayvldd.evaluation.probes import Probe, in_memory
from rayvldd.evaluation.scoring import embeddings
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_task import OnProgress, RetrievalTask, SplitInputs, image_features
from rayvldd.models.text_encoder import build_text_encoder
from rayvldd.records.json_values import JsonValue


@dataclass(eq=False)  # not frozen: a metric's infos can be set
class ZeroShotAccuracy:
    """Top-1 and top-5 accuracy, in percent; the captions of the inputs are the prompts of the classes.

    A class of the same similarity as the correct one counts against the student, as in recall.
    """

    labels: Int64[np.ndarray, " image"]
    """Index of each image's class, which is that of its prompt."""
    infos: Sequence[MetricInfo] = (ZERO_SHOT_TOP1, ZERO_SHOT_TOP5)

    def __call__(self, task: RetrievalTask, parameters: Parameters, inputs: SplitInputs) -> dict[str, float]:
        """Return the accuracies of a student."""
        images, prompts = embeddings(task, parameters, inputs)
        scores = (images @ prompts.T).cpu()
        right = scores.gather(1, torch.from_numpy(self.labels.copy())[:, None])
        rank = scores.shape[1] - (scores < right).sum(1)
        shares = {ZERO_SHOT_TOP1: rank <= 1, ZERO_SHOT_TOP5: rank <= 5}
        return {info.name: 100 * float(shares[info].float().mean()) for info in self.infos}


def infos_for(num_classes: int) -> tuple[MetricInfo, ...]:
    """The accuracies to report: with five classes or fewer, every class is among the first five."""
    return (ZERO_SHOT_TOP1, ZERO_SHOT_TOP5) if num_classes > 5 else (ZERO_SHOT_TOP1,)


def chance(num_classes: int) -> dict[str, float]:
    """Accuracies of a guess, in percent."""
    first = {ZERO_SHOT_TOP1: 1, ZERO_SHOT_TOP5: 5}
    return {info.name: 100 * first[info] / num_classes for info in infos_for(num_classes)}


def prompts_of(classes: Sequence[str], template: str) -> list[str]:
    """Return the prompt of each class: the template with its name."""
    return [template.replace("{class}", name) for name in classes]


def zero_shot_probe(
    task: RetrievalTask,
    images: ClassImages,
    template: str,
    cache: ArrayCache,
    on_progress: OnProgress | None = None,
) -> Probe:
    """Return the probe of the accuracy on labelled images.

    Args:
        task: Model and data.
        images: The images with their classes.
        template: Prompt of a class, with the placeholder ``{class}``.
        cache: Cache of pixels and features.
        on_progress: Called during the work.

    Raises:
        DataError: if an image cannot be decoded.
    """

    def report(activity: str) -> Callable[[int], None]:
        return lambda done: on_progress(activity, done, len(images.names)) if on_progress else None

    pixels = images.pixels(task.image_size, cache, report("decoding images of classes"))
    prompts = prompts_of(images.classes, template)
    of: dict[str, JsonValue] = {"classes": fingerprint(images.identity), "size": task.image_size}
    features = pixels
    if task.model.encoder_is_frozen:
        activity = report("encoding images of classes")
        features = image_features(lambda part: pixels[part], len(pixels), of, task.model, cache, task.device, activity)
    embedded = build_text_encoder(task.model.settings.text_encoder).embed(prompts).numpy()
    # A prompt is no caption of an image: the metric has the labels, and there is one prompt for each class.
    split = Split("zero_shot", [*images.names], pixels, prompts, np.arange(len(prompts)))
    metric = ZeroShotAccuracy(images.labels, infos_for(len(prompts)))
    identity = fingerprint({"zero_shot": of, "prompts": prompts, "labels": images.labels.tolist()})
    return Probe("zero-shot", metric, in_memory(SplitInputs(split, features, embedded)), identity)
