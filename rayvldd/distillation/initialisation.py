"""Initialise a synthetic set with real pairs, noise for images or texts, or the pairs of another distilled set.

Sources: random real pairs and noise, Wu et al.; pairs nearest k-means centres, MDM; prototypes, PDS. Deviation: the
released code draws noise at hard-coded means and deviations; here images are standard normal on the encoder's
normalised scale and texts have mean and deviation of the real embeddings, which differ between encoders.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rayvldd.config.distillation import DistillationSettings, InitialisationSettings
from rayvldd.config.study import INITIAL_SET, Study
from rayvldd.coresets.selection import choose_coreset
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.errors import Fault, StoreError, without_next_command
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.models.text_encoder import build_text_encoder


@dataclass(frozen=True)
class InitialSet:
    """Images and texts before the first outer step, on the task's device."""

    images: Float[Tensor, "pair 3 height width"]
    """Pixels on the encoder's normalised scale."""
    texts: Float[Tensor, "pair text_dim"]
    """Caption embeddings."""
    captions: list[str]
    """Captions of ``texts``; empty strings if the texts are noise."""
    step_sizes: tuple[float, float] | None = None
    """Image and text step size of the distilled set that the pairs come from; None: those of the settings."""


def initial_set(
    task: RetrievalTask, settings: DistillationSettings, num_pairs: int, generator: np.random.Generator
) -> InitialSet:
    """Create the initial pairs.

    Args:
        task: Task with the real pairs.
        settings: Selection of the pairs, and the distilled set to begin with.
        num_pairs: Number of pairs, after deducting the cost of a learned similarity.
        generator: Draws one seed for the coreset and one for the noise, independent of the settings.

    Raises:
        ConfigError: when there are fewer training images than pairs.
        StoreError: when the distilled set cannot be read, or its images or embeddings are not those of the task.
    """
    selected = _selected_pairs(task, settings.initialisation, num_pairs, generator)
    return selected if settings.initialise_from is None else _begun_with(task, settings.initialise_from, selected)


def _begun_with(task: RetrievalTask, place: str, selected: InitialSet) -> InitialSet:
    """Replace the first pairs with those of a distilled set."""
    before = DistilledSet.load(place)
    pairs, count = before.pairs(task), len(selected.images)
    return InitialSet(
        torch.cat([pairs.images, selected.images[len(before) :]])[:count],
        torch.cat([pairs.texts, selected.texts[len(before) :]])[:count],
        [*before.start_captions, *selected.captions[len(before) :]][:count],
        (before.lr_student_image, before.lr_student_text),
    )


def faults_of_initial_sets(study: Study) -> list[Fault]:
    """Find what prevents a study from starting with the distilled sets that it names, before any work starts."""
    faults, allowed = [], "a distilled set with the study's data.image_size and model.text_encoder"
    for place in study.initial_sets():
        try:
            made, size = _text_encoder_and_size(place)
        except StoreError as error:
            faults.append(Fault(INITIAL_SET, without_next_command(error), allowed))
            continue
        now = {point.model.text_encoder.model_dump_json(): point.model.text_encoder for point in study.expert_points()}
        encoders = {build_text_encoder(encoder).fingerprint for encoder in now.values()}
        if size != study.data.image_size:
            faults.append(Fault(INITIAL_SET, f"{place} has images of {size} px, not {study.data.image_size}", allowed))
        if encoders != {made}:
            faults.append(
                Fault(INITIAL_SET, f"{place} has embeddings of another text encoder (fingerprint {made})", allowed)
            )
    return faults


def _text_encoder_and_size(place: str) -> tuple[str, int]:
    """Fingerprint of the text encoder of a set, and the size of its images in pixels."""
    found = DistilledSet.load(place)
    return found.origin.fingerprints["text_encoder"], found.images.shape[-1]


def _selected_pairs(
    task: RetrievalTask, settings: InitialisationSettings, num_pairs: int, generator: np.random.Generator
) -> InitialSet:
    """Create pairs of the real data.

    Args:
        task: Task with the real pairs.
        settings: Selection of the pairs, and which side is noise.
        num_pairs: Number of pairs, after deducting the cost of a learned similarity.
        generator: Draws one seed for the coreset and one for the noise, independent of the settings.

    Raises:
        ConfigError: when there are fewer training images than pairs.
    """
    coreset = choose_coreset(task, settings.pairs, num_pairs, int(generator.integers(2**31)))
    images, texts = task.pixels(task.train, coreset.image_index), coreset.embeddings(task)
    captions = coreset.captions(task)
    noise = torch.Generator().manual_seed(int(generator.integers(2**31)))
    if settings.images == "noise":
        images = torch.randn(images.shape, generator=noise).to(images)
    if settings.texts == "noise":
        texts = torch.randn(texts.shape, generator=noise).to(texts) * texts.std() + texts.mean()
        captions = [""] * num_pairs
    return InitialSet(images, texts, captions)
