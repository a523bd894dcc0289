"""A student that is kept after its evaluation, and embeds other images and captions.

Its folder has the trained weights and a card. Frozen encoders are not copied: they are built again from the settings,
and refused if they are others.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rayvldd.config.settings import ModelSettings
from rayvldd.data.dataset import decode_opened
from rayvldd.errors import DataError, Fault, StoreError, message_of
from rayvldd.models.gpus import compute_in_float32
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_model import RetrievalModel
from rayvldd.models.retrieval_task import RetrievalTask
from rayvldd.models.text_encoder import build_text_encoder
from rayvldd.records.form import words_of
from rayvldd.records.student_card import STUDENT_CARD, StudentCard
from rayvldd.storage.tensor_files import save_tensors
from rayvldd.storage.tensor_source import checksum
from rayvldd.user_paths import is_file, is_folder, user_path

STUDENT_TENSORS = "student.safetensors"
_BATCH = 128
"""Images decoded and embedded at once."""


def save_student(folder: Path, task: RetrievalTask, parameters: Parameters, seed: int) -> None:
    """Write the trained weights of a student, and its card last; a folder without a card is not a student.

    Args:
        folder: Created if missing; an earlier student in it is replaced.
        task: The model and data that the student was trained with.
        parameters: The student.
        seed: Its seed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    card, file = folder / STUDENT_CARD, folder / STUDENT_TENSORS
    card.unlink(missing_ok=True)  # an earlier card must not describe the new weights
    save_tensors(file, parameters._asdict())
    StudentCard(
        seed=seed,
        model=_with_absolute_paths(task.model.settings).model_dump(mode="json"),
        image_size=task.image_size,
        text_width=task.train.caption_embeddings.shape[1],
        fingerprints={name: task.fingerprints[name] for name in ("image_encoder", "text_encoder")},
        checksums={side: checksum(value) for side, value in parameters._asdict().items()},
    ).write(card)


class KeptStudent:
    """A student of a folder, with both encoders."""

    def __init__(self, folder: Path) -> None:
        """Read the weights, and build the encoders on a GPU if there is one.

        Raises:
            StoreError: if the folder is no student or is damaged, or an encoder is not the one of the student.
            ModelError: if an encoder cannot be built.
        """
        self.card = StudentCard.read(folder / STUDENT_CARD)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        compute_in_float32()
        try:
            settings = ModelSettings.model_validate(self.card.model)
        except ValidationError as error:
            raise _damaged(folder, words_of(error)) from None
        self._text_encoder = build_text_encoder(settings.text_encoder)
        self._model = RetrievalModel(settings, self.card.image_size, self.card.text_width).to(self._device)
        self._refuse_other_encoders(folder)
        try:
            read = load_file(folder / STUDENT_TENSORS)
            unequal = [side for side, value in self.card.checksums.items() if checksum(read[side]) != value]
            self._parameters = Parameters(read["image"].to(self._device), read["text"].to(self._device))
        except (OSError, SafetensorError, KeyError) as error:
            raise _damaged(folder, message_of(error)) from None
        sizes = tuple(map(len, self._parameters))
        expected = self._model.image_layout.size, self._model.text_layout.size
        if sizes != expected:
            raise _damaged(folder, f"its sides have {sizes} weights, those of the model {expected}")
        if unequal:
            raise _damaged(folder, f"the weights of the {' and '.join(unequal)} side differ from their checksum")

    @torch.no_grad()
    def embed_images(self, images: Sequence[bytes]) -> Float[Tensor, "image dim"]:
        """Embed encoded images, such as the content of JPEG or PNG files, which are decoded as those of the data.

        Returns:
            float32 embeddings of length 1, on the CPU.

        Raises:
            DataError: naming every image that cannot be decoded.
        """
        faults: list[Fault] = []
        embedded = []
        for start in range(0, len(images), _BATCH):
            pixels = [self._decoded(start + number, one, faults) for number, one in enumerate(images[start:][:_BATCH])]
            if not faults:
                batch = torch.from_numpy(np.stack(pixels)).to(self._device).float() / 255
                frozen_output = self._model.frozen_part(self._model.normalise(batch))
                embedded.append(self._model.embed_images(frozen_output, self._parameters.image).cpu())
        if faults:
            raise DataError(faults, next_command="the same request without these images")
        return torch.cat(embedded) if embedded else torch.empty(0, self._width)

    @torch.no_grad()
    def embed_captions(self, captions: Sequence[str]) -> Float[Tensor, "caption dim"]:
        """Embed captions; returns float32 embeddings of length 1, on the CPU."""
        if not captions:
            return torch.empty(0, self._width)
        texts = self._text_encoder.embed(list(captions)).to(self._device)
        return self._model.embed_texts(texts, self._parameters.text).cpu()

    @property
    def _width(self) -> int:
        settings = self._model.settings
        return settings.width if settings.has_image_head else self._model.encoder_width

    def _decoded(self, number: int, content: bytes, faults: list[Fault]) -> np.ndarray:
        size = self.card.image_size
        try:
            with Image.open(BytesIO(content)) as opened:
                return decode_opened(opened, size)
        except Exception as error:  # Pillow's decoders raise errors of many types
            faults.append(Fault(f"image {number}", message_of(error), "the content of an image file that Pillow reads"))
            return np.zeros((3, size, size), dtype=np.uint8)

    def _refuse_other_encoders(self, folder: Path) -> None:
        now = {"image_encoder": self._model.fingerprint, "text_encoder": self._text_encoder.fingerprint}
        others = [name for name, value in now.items() if self.card.fingerprints.get(name) != value]
        if others:
            raise StoreError(
                f"{folder}: the student was trained with other weights of "
                + ", ".join(f"{name} ({self.card.fingerprints.get(name)}, here {now[name]})" for name in others),
                next_command="the same command where these encoders have the weights of the study",
            )


def _damaged(folder: Path, problem: str) -> StoreError:
    return StoreError(
        f"{folder}: not readable as a student: {problem}", next_command=StudentCard.remedy.format(folder=folder)
    )


def _with_absolute_paths(settings: ModelSettings) -> ModelSettings:
    """The settings for another working folder."""
    image, text = settings.image_encoder, settings.text_encoder
    if image.weights and is_file(image.weights):
        image = image.model_copy(update={"weights": str(user_path(image.weights).absolute())})
    if is_folder(text.name):
        text = text.model_copy(update={"name": str(user_path(text.name).absolute())})
    return settings.model_copy(update={"image_encoder": image, "text_encoder": text})
