"""Read distilled sets that the released codes of other papers save.

The codes of LoRS (arXiv 2406.03793), RepBlend (arXiv 2505.14705) and PTM-ST save a dictionary, ``distilled_STEP.pt``:
``image`` [pair, 3, height, width] on the normalised scale of their loaders, ``text`` [pair, dim], ``similarity_mat``
[pair, pair], and the step sizes ``syn_lr_img`` and ``syn_lr_txt``. In the code of Wu et al. (arXiv 2308.07545) the
lines that save are commented out; they write images and embeddings as two tensors, ``images_*.pt`` and
``labels_*.pt``, without step sizes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rayvldd.config.domains import SettingValue
from rayvldd.config.study import Study
from rayvldd.distillation.distilled_set import DistilledSet, card_of
from rayvldd.distillation.similarity import SimilarityParameters
from rayvldd.errors import Fault, InputError
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.records.set_card import OriginCard, ReleasedCard, ReleasedOrigin
from rayvldd.storage.tensor_files import load_tensors_only

SCALES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and deviation that the stored images are normalised with, by name; ``clip`` is that of the released loaders."""


@dataclass(frozen=True)
class ReleasedSet:
    """The tensors of a set, as its program saved them."""

    images: Float[Tensor, "pair 3 height width"]
    texts: Float[Tensor, "pair text_dim"]
    similarity: Float[Tensor, "pair pair"] | None
    rates: tuple[float, float] | None
    """Learned step sizes of image and text side; None if the files have none."""
    files: tuple[str, ...]
    """Names of the files."""


def read_released(file: Path, texts: Path | None = None) -> ReleasedSet:
    """Read the tensors of a set.

    Args:
        file: A dictionary of all tensors, or the images alone.
        texts: The caption embeddings, if ``file`` has the images alone.

    Raises:
        InputError: listing what the files lack, or what does not fit together.
    """
    faults: list[Fault] = []
    content = _content(file, faults)
    embeddings = _content(texts, faults) if texts is not None else None
    if not faults and isinstance(content, Mapping) and texts is not None:
        faults.append(Fault("--texts", f"{file} has the caption embeddings too", "no second file"))
    elif not faults and isinstance(content, Tensor) and texts is None:
        faults.append(Fault(str(file), "has the images alone", "--texts with the file of the caption embeddings"))
    if not faults:
        named = content if isinstance(content, Mapping) else {"image": content, "text": embeddings}
        values = {str(name): value for name, value in named.items() if isinstance(value, Tensor | float | int)}
        found = _released(values, str(file), tuple(one.name for one in (file, texts) if one is not None), faults)
        if found is not None:
            return found
    raise InputError(faults, next_command="rayvldd convert --help")


def _content(file: Path, faults: list[Fault]) -> object:
    try:
        return load_tensors_only(file)
    except ValueError as error:
        faults.append(Fault(str(file), str(error), "tensors, as the released code saves them with torch.save"))
        return None


def _released(
    values: Mapping[str, Tensor | float], file: str, names: tuple[str, ...], faults: list[Fault]
) -> ReleasedSet | None:
    """Check shapes and values; None after adding faults."""
    images, texts = (_tensor(values, key, dimensions, file, faults) for key, dimensions in (("image", 4), ("text", 2)))
    similarity = None
    if "similarity_mat" in values:
        similarity = _tensor(values, "similarity_mat", 2, file, faults)
    if not faults:
        pairs = len(images)
        if images.shape[1] != 3 or images.shape[2] != images.shape[3]:
            faults.append(Fault(f"{file}: image", f"has the shape {list(images.shape)}", "square images of 3 channels"))
        if len(texts) != pairs:
            faults.append(Fault(f"{file}: text", f"has {len(texts)} rows for {pairs} images", "one for each image"))
        if similarity is not None and tuple(similarity.shape) != (pairs, pairs):
            problem = f"has the shape {list(similarity.shape)} for {pairs} images"
            faults.append(Fault(f"{file}: similarity_mat", problem, "a row and a column for each image"))
        if pairs < 2:
            faults.append(Fault(file, f"has {pairs} pairs", "at least 2"))
    if faults:
        return None
    rates = [values.get(key) for key in ("syn_lr_img", "syn_lr_txt")]
    known = [float(rate) for rate in rates if rate is not None]
    return ReleasedSet(images, texts, similarity, (known[0], known[1]) if len(known) == 2 else None, names)


def _tensor(
    values: Mapping[str, Tensor | float], key: str, dimensions: int, file: str, faults: list[Fault]
) -> Float[Tensor, "..."]:
    found = values.get(key)
    if not isinstance(found, Tensor):
        have = ", ".join(map(str, values)) or "nothing"
        faults.append(
            Fault(f"{file}: {key}", "is missing" if found is None else "is no tensor", f"a tensor; has: {have}")
        )
    elif found.dim() != dimensions or not found.is_floating_point():
        problem = f"is of {found.dtype} with the shape {list(found.shape)}"
        faults.append(Fault(f"{file}: {key}", problem, f"floating point numbers with {dimensions} dimensions"))
    elif not bool(found.isfinite().all()):
        faults.append(Fault(f"{file}: {key}", "has values that are not finite", "finite numbers"))
    else:
        return found.detach().to(torch.float32).clone()
    return torch.zeros((0,) * dimensions)


def declared_study(study: Study, released: ReleasedSet) -> Study:
    """The study at the point that describes the students of a set.

    Students read a similarity by the weighted loss of LoRS, unless the study names another loss that reads one.
    """
    similar = released.similarity is not None
    loss = study.distillation.student_loss
    values: dict[str, SettingValue] = {
        "distillation.num_pairs": len(released.images),
        "distillation.trajectory_matching.batch_size": None,
        "distillation.similarity": "full" if similar else "identity",
        "distillation.student_loss": "weighted_bce"
        if similar and loss == "info_nce"
        else loss
        if similar
        else "info_nce",
    }
    return study.at(values)


def faults_of_released(released: ReleasedSet, task: RetrievalTask, rates: tuple[float, float] | None) -> list[Fault]:
    """What of a set does not fit the model that the user declared."""
    faults = []
    size, width = released.images.shape[-1], released.texts.shape[1]
    expected = task.train.caption_embeddings.shape[1]
    if size != task.image_size:
        faults.append(Fault("data.image_size", f"is {task.image_size}, the images of the set have {size}", str(size)))
    if width != expected:
        problem = f"has embeddings {expected} wide, the set has {width}"
        faults.append(Fault("model.text_encoder", problem, "the text encoder that the set was distilled with"))
    if released.rates is None and rates is None:
        faults.append(Fault("--lr-student", "is not given, and the files have no step sizes", "IMAGE,TEXT: 0.1,0.1"))
    return faults


def converted(
    released: ReleasedSet,
    study: Study,
    task: RetrievalTask,
    pixels: str = "clip",
    rates: tuple[float, float] | None = None,
) -> DistilledSet:
    """The set in our form. Its start pairs are unknown: their images are the distilled ones, their captions empty.

    Args:
        released: The tensors.
        study: The study of :func:`declared_study`.
        task: Its model and data.
        pixels: Scale of the stored images, a name in ``SCALES``.
        rates: Learning rates of students in place of the stored ones.
    """
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in SCALES[pixels])
    images = released.images * std + mean
    known = rates or released.rates
    assert known is not None
    card = card_of(study, task, seed=0)
    origin = ReleasedOrigin(files=list(released.files), pixels=pixels)
    similarity = {} if released.similarity is None else {"matrix": released.similarity}
    return DistilledSet(
        images=images,
        texts=released.texts,
        start_images=images.clone(),
        start_texts=released.texts.clone(),
        start_captions=[""] * len(images),
        lr_student_image=known[0],
        lr_student_text=known[1],
        similarity=SimilarityParameters(similarity),
        card=ReleasedCard(released=origin, **{name: getattr(card, name) for name in OriginCard.model_fields}),
    )
