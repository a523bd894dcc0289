"""Experts of full size that the benchmark of trajectories measures on, and the same in the released format.

Their numbers are drawn, their counts are those of real models, and they move as experts do: by 1e-3 to 5e-2 of their
size an epoch, fast at first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from unroll_cases import SIZES

from rayvldd.config.settings import ModelSettings
from rayvldd.experts.recipe import ExpertRecipe
from rayvldd.experts.store.expert_store import ExpertStore, MadeExpert
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.parameters import ParameterLayout, Parameters
from rayvldd.models.retrieval_model import RetrievalModel

EPOCHS = 10
"""Of an expert of the paper; 11 snapshots."""

REACHED = (0, 1, 2)
"""What segments of the paper's README setting reach: a start below 2 and a target one epoch ahead."""

SHARING_EXPERTS = 20
"""Experts of the paper, which share a pretrained image encoder to start from."""

BYTES_OF_FLOAT32 = 4


@dataclass(frozen=True)
class Layouts:
    """Names and shapes of both sides of a model."""

    image: ParameterLayout
    text: ParameterLayout

    @property
    def snapshot_bytes(self) -> int:
        """A snapshot in float32."""
        return BYTES_OF_FLOAT32 * (self.image.size + self.text.size)


def layouts_of(size_name: str) -> Layouts:
    """Those of a real model; it is built and forgotten.

    Args:
        size_name: A name in ``unroll_cases.SIZES``.
    """
    size = SIZES[size_name]
    settings = ModelSettings.model_validate({**size.model, "text_encoder": {"pooling": "hashed_ngrams"}})
    model = RetrievalModel(settings, size.image_size, size.text_width)
    return Layouts(model.image_layout, model.text_layout)


def drawn_expert(layouts: Layouts, index: int, epochs: tuple[int, ...] = tuple(range(EPOCHS + 1))) -> Trajectory:
    """An expert whose image side starts where those of all other indexes do."""
    own = torch.Generator().manual_seed(1 + index)
    image = torch.randn(layouts.image.size, generator=torch.Generator().manual_seed(0)) * 0.02
    text = torch.randn(layouts.text.size, generator=own) * 0.02
    snapshots = {0: Parameters(image, text)}
    for epoch in range(1, max(epochs) + 1):
        relative_move = 5e-2 * (1e-3 / 5e-2) ** ((epoch - 1) / (EPOCHS - 1))
        image, text = (_moved(side, relative_move, own) for side in (image, text))
        snapshots[epoch] = Parameters(image, text)
    return Trajectory({epoch: snapshots[epoch] for epoch in epochs})


def _moved(values: Tensor, relative_move: float, generator: torch.Generator) -> Tensor:
    # One draw for many numbers would repeat itself in compression; nothing here compresses.
    return values + torch.randn(len(values), generator=generator) * (0.02 * relative_move)


def drawn_recipe(storage: str = "float32") -> ExpertRecipe:
    """A recipe that no study has."""
    return ExpertRecipe({"version": 1, "benchmark": "trajectories", "experts": {"storage": storage}})


def save_expert(store: ExpertStore, recipe: ExpertRecipe, index: int, expert: Trajectory, layouts: Layouts) -> None:
    """Keep an expert as the fleet does."""
    store.save(recipe, index, MadeExpert(expert, [], layouts.image, layouts.text))


def save_released(paths: tuple[Path, Path], expert: Trajectory, layouts: Layouts) -> int:
    """Write image and text buffer of one expert as the released ``buffer.py`` does; return their bytes.

    A list of experts, each a list of epochs, each a list of tensors in the order of the parameters.
    """
    for path, side, layout in zip(paths, ("image", "text"), (layouts.image, layouts.text), strict=True):
        epochs = [_tensors(getattr(expert[epoch], side), layout) for epoch in expert.epochs]
        torch.save([epochs], path)
    return sum(path.stat().st_size for path in paths)


def _tensors(flat: Tensor, layout: ParameterLayout) -> list[Tensor]:
    """Tensors of their own: a view would be saved with all that it is a view of."""
    return [value.clone() for value in layout.unflatten(flat).values()]


def files_below(folder: Path) -> Iterator[Path]:
    """All files of a store in a folder."""
    return (path for path in folder.rglob("*") if path.is_file())
