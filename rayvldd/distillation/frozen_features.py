"""Pass the synthetic images through the frozen part of the model, forward and backward once per outer step.

Under ``heads_only`` the frozen part is the whole encoder. Its features of the synthetic images are the same in every
student step, so its cost does not grow with ``syn_steps``. Under the other protocols it is the identity.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from rayvldd.config.distillation import DistillationSettings
from rayvldd.distillation.augmentation import augment, draw_augmentation
from rayvldd.models.retrieval_model import RetrievalModel
from rayvldd.training.gradients import vector_jacobian_products


class ScaledPixels:
    """Pixels on the scale that another encoder expects, and their backward pass."""

    def __init__(
        self, own: RetrievalModel, other: RetrievalModel, images: Float[Tensor, "pair 3 height width"]
    ) -> None:
        """Convert the pixels from the scale of one model to that of another; the same model leaves them as they are."""
        self._own, self._other = own, other
        self.output = images if own is other else other.normalise(own.denormalise(images))

    def back(self, by_output: Float[Tensor, "pair 3 height width"]) -> Float[Tensor, "pair 3 height width"]:
        """Return the gradient with respect to the pixels on their own scale."""
        if self._own is self._other:
            return by_output
        return by_output * (self._own.get_buffer("std") / self._other.get_buffer("std"))


class FrozenFeatures:
    """Features of the images, and their backward pass to the pixels.

    With micro-batches the features are computed without a graph, and the backward pass recomputes them part by part.
    Augmentation is drawn once here; under the other protocols it is drawn in every student step.
    """

    def __init__(
        self,
        model: RetrievalModel,
        settings: DistillationSettings,
        images: Float[Tensor, "pair 3 height width"],
        seed: int,
    ) -> None:
        self._model, self._settings, self._seed = model, settings, seed
        self._images = images.detach()
        self._through = model.encoder_is_frozen
        self._graphs: list[tuple[Tensor, Tensor]] = []
        self.output = self._forward() if self._through else self._images

    @property
    def _size(self) -> int:
        """Images in a part."""
        return self._settings.engine.micro_batch or len(self._images)

    def back(self, by_output: Float[Tensor, "pair ..."]) -> Float[Tensor, "pair 3 height width"]:
        """Return the gradient with respect to the pixels."""
        if not self._through:
            return by_output
        if len(self._graphs) == 1:
            ((pixels, output),) = self._graphs
            return vector_jacobian_products([output], [pixels], [by_output])[0]
        parts = []
        for part, by_part in zip(self._images.split(self._size), by_output.split(self._size), strict=True):
            pixels, output = self._graph(part)
            parts.append(vector_jacobian_products([output], [pixels], [by_part])[0])
        return torch.cat(parts)

    def _forward(self) -> Tensor:
        if self._size >= len(self._images):
            self._graphs = [self._graph(self._images)]
            return self._graphs[0][1].detach()
        with torch.no_grad():
            return torch.cat([self._graph(part)[1] for part in self._images.split(self._size)])

    def _graph(self, part: Tensor) -> tuple[Tensor, Tensor]:
        pixels = part.detach().requires_grad_()
        seen = pixels
        if self._settings.augmentation:
            seen = augment(pixels, draw_augmentation(self._seed, self._settings.augmentation))
        with torch.autocast(part.device.type, dtype=torch.bfloat16, enabled=self._settings.engine.autocast):
            output: Tensor = self._model.frozen_part(seen)
        return pixels, output.to(part.dtype)
