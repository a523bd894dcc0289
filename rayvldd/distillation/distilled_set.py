"""Distilled set: synthetic pairs, learned step sizes, and a card that describes their origin.

A set is a folder: ``distilled_set.safetensors`` holds the tensors, ``card.json`` the settings, fingerprints and
metrics. Training on it needs no other file of the workspace.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import Dataset

import rayvldd
from rayvldd.config.settings import RATE_COURSES
from rayvldd.config.study import Study
from rayvldd.distillation.exports import NearestCaption, export, has_hub_files, values_for_hub
from rayvldd.distillation.set_sources import local_folder
from rayvldd.distillation.similarity import SimilarityParameters
from rayvldd.errors import StoreError
from rayvldd.evaluation.students import Pairs
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.records.form import words_of
from rayvldd.records.json_values import JsonObject, JsonValue, text_at
from rayvldd.records.set_card import (
    CARD,
    SET_CARD,
    BareCard,
    Card,
    CoresetCard,
    DistilledCard,
    Normalisation,
    OriginCard,
    ParameterCounts,
    ReleasedCard,
    SetCard,
)
from rayvldd.storage.atomic import part_beside, sync_folder, write_text_whole
from rayvldd.storage.json_files import json_values
from rayvldd.storage.tensor_files import save_tensors
from rayvldd.storage.tensor_source import checksum

if TYPE_CHECKING:
    import matplotlib.figure

TENSORS = "distilled_set.safetensors"
NEAREST = "nearest_captions.jsonl"
"""Optional file with one line per pair: the real caption nearest to its embedding."""


@dataclass(repr=False, eq=False)
class DistilledSet(Dataset[tuple[Tensor, Tensor]]):
    """Synthetic image-caption pairs that a retrieval model is trained on instead of the real data.

    As a torch ``Dataset`` it yields (image, caption embedding), the image on the scale that the encoder named by
    :meth:`describe` expects.
    """

    images: Float[Tensor, "pair 3 height width"]
    """RGB on a 0 to 1 scale, float32, not clamped: distilled pixels may lie outside."""
    texts: Float[Tensor, "pair text_dim"]
    """Embeddings in the space of the card's text encoder."""
    start_images: Float[Tensor, "pair 3 height width"]
    """Images before distillation."""
    start_texts: Float[Tensor, "pair text_dim"]
    """Embeddings before distillation."""
    start_captions: list[str]
    """Captions of the initial real pairs; empty strings if the texts started from noise."""
    lr_student_image: float
    """Learned step size for the image side of a student."""
    lr_student_text: float
    """Learned step size for the text side of a student."""
    card: Card = field(default_factory=BareCard)
    """Origin of the set: settings, fingerprints, outer step, metrics, version; a class for each kind of origin."""
    similarity: SimilarityParameters = field(default_factory=lambda: SimilarityParameters({}))
    """Learned similarity of image i and text j."""
    nearest_captions: list[NearestCaption] = field(default_factory=list)
    """For each pair its number (``pair``), the real training caption ``nearest`` to its embedding, their cosine
    (``similarity``) and the caption at the ``start``; empty if not computed."""

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        known = isinstance(self.card, OriginCard)
        study, size = (text_at(self.origin.study, "name") if known else "no study"), self.images.shape[-1]
        return f"DistilledSet({study!r}, {len(self)} pairs, {size} px, embeddings {self.texts.shape[1]} wide)"

    def __eq__(self, other: object) -> bool:
        """Whether all tensors, step sizes and the card are equal."""
        if not isinstance(other, DistilledSet):
            return NotImplemented
        return self._has_tensors_of(other) and self.card_values() == other.card_values()

    __hash__ = None  # type: ignore[assignment]  # it can be changed, as other mutable values

    def plot(self, pairs: int = 8) -> "matplotlib.figure.Figure":
        """Draw the first pairs, before and after distillation, with the captions they started from.

        Args:
            pairs: How many.
        """
        from matplotlib.figure import Figure

        count = min(pairs, len(self))
        figure = Figure(figsize=(1.6 * count, 3.6), layout="constrained")
        axes = figure.subplots(2, count, squeeze=False)
        for column in range(count):
            rows = (("start", self.start_images[column]), ("distilled", self.images[column]))
            for row, (name, image) in enumerate(rows):
                axes[row][column].imshow(image.clamp(0, 1).permute(1, 2, 0).numpy())
                axes[row][column].set_axis_off()
                if not column:
                    axes[row][column].set_title(name, loc="left", fontsize="small")
            axes[1][column].text(
                0.5,
                -0.05,
                self.start_captions[column],
                ha="center",
                va="top",
                wrap=True,
                fontsize=6,
                transform=axes[1][column].transAxes,
            )
        return figure

    def _has_tensors_of(self, other: "DistilledSet") -> bool:
        ours, theirs = self._tensors(), other._tensors()
        return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors by the names under which they are saved."""
        tensors: dict[str, Tensor] = {name: getattr(self, name) for name in _TENSOR_FIELDS}
        return tensors | {f"{_SIMILARITY}{name}": value for name, value in self.similarity.values.items()}

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        scale = self.origin.normalisation
        return (self.images[index] - self._scale(scale.mean)) / self._scale(scale.std), self.texts[index]

    def _scale(self, values: list[float]) -> Float[Tensor, "3 1 1"]:
        return torch.tensor(values).view(3, 1, 1)

    @property
    def origin(self) -> DistilledCard | CoresetCard | ReleasedCard:
        """The card of a set whose origin is known.

        Raises:
            StoreError: if it is not.
        """
        if isinstance(self.card, OriginCard):
            return self.card
        raise StoreError("the card of the set has no entries about its origin", next_command=SET_CARD.remedy)

    def pairs(self, task: RetrievalTask, texts: Float[Tensor, "pair other_dim"] | None = None) -> Pairs:
        """Return the set in the form in which students of ``task`` train on it.

        Args:
            task: The model and data of the students.
            texts: Caption embeddings for its text encoder, converted from those of the set; default: the set's own.

        Raises:
            StoreError: when the set's embeddings belong to another text encoder, or its images have another size.
        """
        made, now = self.origin.fingerprints["text_encoder"], task.fingerprints["text_encoder"]
        size = task.image_size
        if texts is None and made != now:
            raise StoreError(
                f"the set's caption embeddings come from another text encoder (fingerprint {made}, this one has {now})",
                next_command="rayvldd evaluate SET --set model.text_encoder.name=THE ONE OF THE CARD; or "
                "--text-encoder ENC, which converts them",
            )
        if self.images.shape[-1] != size:
            raise StoreError(
                f"the set's images are {self.images.shape[-1]} px, data.image_size is {size}",
                next_command=f"rayvldd evaluate SET --set data.image_size={self.images.shape[-1]}",
            )
        images = task.model.normalise(self.images.to(task.device))
        own = (self.texts if texts is None else texts).to(task.device)
        return Pairs(
            images, own, self.lr_student_image, self.lr_student_text, self.similarity.matrix(), self.student_loss
        )

    @property
    def student_loss(self) -> str:
        """Loss of students on the set, a name in ``PAIR_LOSSES``."""
        return text_at(self.origin.study, "distillation", "student_loss") or "info_nce"

    def save(self, folder: str | Path) -> None:
        """Write the set; the card is written last, and a folder without a card is not a set."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = self._tensors()
        new_tensors, new_card = part_beside(folder / TENSORS), part_beside(folder / CARD)
        # Both are on the disk before the earlier set goes: between the two there is none.
        save_tensors(new_tensors, tensors)
        card = self._whole_card({name: checksum(value) for name, value in tensors.items()})
        write_text_whole(new_card, json.dumps(card.as_json(), indent=2, ensure_ascii=False))
        (folder / CARD).unlink(missing_ok=True)  # an earlier card must not describe the new tensors
        (folder / NEAREST).unlink(missing_ok=True)
        if self.nearest_captions:
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in self.nearest_captions]
            write_text_whole(folder / NEAREST, "".join(lines))
        new_tensors.replace(folder / TENSORS)
        new_card.replace(folder / CARD)
        sync_folder(folder)

    def card_values(self) -> JsonObject:
        """Return the content of ``card.json`` without checksums: the card and all values that are not tensors."""
        values = self._whole_card({}).as_json()
        del values["checksums"]
        return values

    def _whole_card(self, checksums: dict[str, str]) -> SetCard:
        return SetCard(
            origin=self.card,
            lr_student_image=self.lr_student_image,
            lr_student_text=self.lr_student_text,
            start_captions=self.start_captions,
            similarity_scale=self.similarity.scale,
            checksums=checksums,
        )

    def export(self, folder: str | Path, form: str = "png") -> Path:
        """Write the set for other programs, as ``rayvldd export`` does; see :func:`.exports.export` for errors.

        Args:
            folder: A folder that does not exist yet or is empty.
            form: ``png`` with JSON lines, ``datasets`` for ``datasets.load_from_disk``, or ``hub``: a dataset
                repository for the hub of Hugging Face, with a dataset card.
        """
        return export(self, folder, form)

    def is_exported(self, folder: Path) -> bool:
        """Whether a folder holds this set in the form ``hub``, e.g. of a command that was killed before its upload."""
        if not has_hub_files(folder):
            return False
        try:
            found = DistilledSet.load(folder)
        except StoreError:
            return False
        same_pairs = self._has_tensors_of(found) and self.nearest_captions == found.nearest_captions
        return same_pairs and found.card_values() == values_for_hub(self.card_values())

    @classmethod
    def load(cls, place: str | Path, workspace: str | Path | None = None) -> "DistilledSet":
        """Read a set from its folder, from MLflow, or from the hub of Hugging Face.

        Args:
            place: A folder; or ``models:/STUDY@best``, ``models:/STUDY/VERSION`` or ``runs:/RUN_ID/PATH`` of the
                server or database in ``MLFLOW_TRACKING_URI``, by default that of the workspace; or
                ``hf://USER/NAME`` or ``hf://USER/NAME@REVISION``, as ``rayvldd export --format hub --push`` writes it.
            workspace: Its folder; by default that in ``RAYVLDD_WORKSPACE``, or ``rayvldd_workspace``.

        Raises:
            StoreError: when the set does not exist, the server does not answer, or files cannot be read.
        """
        with local_folder(place, workspace) as folder:
            return cls._read(folder, str(place))

    @classmethod
    def _read(cls, folder: Path, place: str) -> "DistilledSet":
        for name in (CARD, TENSORS):
            if not (folder / name).is_file():
                raise StoreError(
                    f"{place} is not a distilled set: it has no {name}",
                    next_command="rayvldd compare, which lists the studies and their sets",
                )
        try:
            card = SET_CARD.parse((folder / CARD).read_bytes(), Path(place, CARD))
            tensors = load_file(folder / TENSORS)
            _check_tensors(tensors, card.checksums)
            _check_shapes(tensors, len(card.start_captions))
            learned = {
                name.removeprefix(_SIMILARITY): tensors[name] for name in tensors if name.startswith(_SIMILARITY)
            }
            return cls(
                images=tensors["images"],
                texts=tensors["texts"],
                start_images=tensors["start_images"],
                start_texts=tensors["start_texts"],
                start_captions=card.start_captions,
                lr_student_image=card.lr_student_image,
                lr_student_text=card.lr_student_text,
                similarity=SimilarityParameters(learned, card.similarity_scale),
                nearest_captions=_nearest_captions(folder / NEAREST, len(tensors["images"])),
                card=card.origin,
            )
        except (ValueError, TypeError, AttributeError, KeyError, OSError, SafetensorError) as error:
            raise StoreError(
                f"{place} is damaged: {type(error).__name__}: {error}",
                next_command=SET_CARD.remedy,
            ) from None

    def describe(self) -> str:
        """Describe in a few lines the set and the model to train on it.

        Raises:
            StoreError: if the card has no settings of this release.
        """
        card, study = self.origin, self._study()
        model, evaluation, weights, matched = study.model, study.evaluation, card.fingerprints, card.matched_parameters
        image, text, lora = model.image_encoder, model.text_encoder, model.lora
        protocol: str = model.protocol
        if protocol == "lora":
            protocol += f" of rank {lora.rank}, alpha {lora.alpha:g} on layers {', '.join(lora.targets)}"
        has_image_head = model.protocol == "heads_only" if model.image_head is None else model.image_head
        head = f"a projection head {model.width} wide on each side" if has_image_head else "a text head"
        return "\n".join(
            [
                f"{len(self)} pairs, {self.images.shape[-1]} px images, caption embeddings {self.texts.shape[1]} wide",
                f"image encoder: timm {image.name} (weights {weights['image_encoder']}), {head}",
                f"text encoder: {' '.join([text.pooling, Path(text.name).name]).strip()} "
                f"(frozen, fingerprint {weights['text_encoder']})",
                f"protocol: {protocol}; {matched.image:,} image and {matched.text:,} text parameters matched",
                f"loss: {self.student_loss} at temperature {model.temperature}"
                + (" with the learned similarity of the set" if self.similarity.values else ""),
                f"SGD, momentum {evaluation.momentum}, {evaluation.epochs} epochs, "
                f"rates {self.lr_student_image:.4g} (image) and {self.lr_student_text:.4g} (text), each "
                f"{RATE_COURSES[evaluation.learning_rate_decay]}",
            ]
        )

    def _study(self) -> Study:
        """The settings that the set was made with, if they fit this release."""
        try:
            return Study.model_validate(self.origin.study)
        except ValidationError as error:
            raise StoreError(
                f"the settings in the card of the set do not fit this release: {words_of(error)}",
                next_command=SET_CARD.remedy,
            ) from None


def card_of(study: Study, task: RetrievalTask, seed: int) -> DistilledCard:
    """The card of a set before any outer step.

    Args:
        study: The study at the point of the set.
        task: Its model and data.
        seed: Seed of the distillation.
    """
    model = task.model
    splits = (task.train.split, task.val.split, task.test.split)
    left_out = {split.name: [*split.left_out] for split in splits if split.left_out}
    card = DistilledCard(
        study=study.model_dump(mode="json"),
        fingerprints={**task.fingerprints},
        normalisation=Normalisation(**{name: getattr(model, name).flatten().tolist() for name in ("mean", "std")}),
        matched_parameters=ParameterCounts(image=model.image_layout.size, text=model.text_layout.size),
        seed=seed,
        rayvldd_version=rayvldd.__version__,
        outer_step=0,
        rollbacks=0,
        metrics={},
    )
    return card.model_copy(update={"images_left_out": left_out}) if left_out else card


def _check_tensors(tensors: Mapping[str, Tensor], checksums: Mapping[str, str]) -> None:
    """Compare tensors with the checksums of the card; a name may be missing on neither side."""
    for name in sorted(tensors.keys() | checksums.keys()):
        found = checksum(tensors[name]) if name in tensors else "missing"
        if found != checksums.get(name):
            raise ValueError(f"the checksum of {name} is {found}, in the card {checksums.get(name, 'missing')}")


def _check_shapes(tensors: Mapping[str, Tensor], num_captions: int) -> None:
    """Compare types and shapes with each other, and refuse values that are not finite."""
    images, texts = tensors["images"], tensors["texts"]
    expected = {"images": (num_captions, 3, *images.shape[2:4]), "texts": (num_captions, *texts.shape[1:2])}
    expected |= {f"start_{name}": shape for name, shape in expected.items()}
    dimensions = {"images": 4, "texts": 2}
    for name, shape in expected.items():
        tensor = tensors[name]
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}, allowed: float32")
        if tuple(tensor.shape) != shape or len(shape) != dimensions[name.removeprefix("start_")]:
            raise ValueError(f"{name} has the shape {list(tensor.shape)}, which does not fit {num_captions} captions")
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} has values that are not finite")


def _nearest_caption(row: JsonValue) -> NearestCaption:
    match row:
        case {"pair": int(pair), "nearest": str(nearest), "similarity": float(similarity), "start": str(start)}:
            return NearestCaption(pair=pair, nearest=nearest, similarity=similarity, start=start)
    raise ValueError(f"{NEAREST} has a line without a pair, its captions and their similarity")


def _nearest_captions(file: Path, num_pairs: int) -> list[NearestCaption]:
    """Read the nearest captions of a set; empty if there is no file."""
    if not file.is_file():
        return []
    rows = [_nearest_caption(row) for row in json_values(file.read_text(encoding="utf-8"))]
    if [row["pair"] for row in rows] != list(range(num_pairs)):
        raise ValueError(f"{file.name} has not one line for each of the {num_pairs} pairs")
    return rows


_SIMILARITY = "similarity."
_TENSOR_FIELDS = ("images", "texts", "start_images", "start_texts")
