"""Turn the synthetic set into inputs of students, and their gradient into that of the set's values."""

from rayvldd.config.distillation import DistillationSettings
from rayvldd.distillation.frozen_features import FrozenFeatures
from rayvldd.distillation.synthetic_set import SIMILARITY, SyntheticSet, Tensors
from rayvldd.distillation.unroll.batches import StudentInputs
from rayvldd.models.retrieval_model import RetrievalModel
from rayvldd.training.gradients import vector_jacobian_products


class SetInputs:
    """Inputs of the students of one outer step, and the backward pass from them to the set."""

    def __init__(
        self, model: RetrievalModel, settings: DistillationSettings, synthetic_set: SyntheticSet, seed: int
    ) -> None:
        """Pass the images through the frozen part; ``seed`` determines their augmentation before a frozen encoder."""
        self._features = FrozenFeatures(model, settings, synthetic_set.images, seed)
        self._similarity = synthetic_set.similarity_leaves()
        self._matrix = self._similarity.matrix()
        self.inputs = StudentInputs(
            self._features.output,
            synthetic_set.texts,
            synthetic_set.step_sizes["lr_image"],
            synthetic_set.step_sizes["lr_text"],
            None if self._matrix is None else self._matrix.detach(),
        )

    def back(self, by_inputs: StudentInputs, *, images: bool = True, texts: bool = True) -> Tensors:
        """Return the gradient by name of the set's values and step sizes.

        Args:
            by_inputs: Gradient with respect to ``inputs``.
            images: Whether the pixels get a gradient.
            texts: Whether the caption embeddings get a gradient.
        """
        gradients: Tensors = {"lr_image": by_inputs.lr_image, "lr_text": by_inputs.lr_text}
        if images:
            gradients["images"] = self._features.back(by_inputs.frozen_output)
        if texts:
            gradients["texts"] = by_inputs.texts
        if self._matrix is not None:
            assert by_inputs.similarity is not None, "the student used the matrix"
            values = self._similarity.values
            found = vector_jacobian_products([self._matrix], [*values.values()], [by_inputs.similarity])
            gradients |= {SIMILARITY + name: part for name, part in zip(values, found, strict=True)}
        return gradients
