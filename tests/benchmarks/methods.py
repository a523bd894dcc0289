"""What methods of distillation cost and reach.

    python tests/benchmarks/methods.py                       all figures
    python tests/benchmarks/methods.py --only NAME,NAME      some of them
    python tests/benchmarks/methods.py --json                one JSON object on standard output, the table aside

``shortcut_bytes``, a second: bytes of an expert that stores just the ends of a shortcut trajectory, in float16, as part
of those of a ten-epoch expert in float32, with their records.

A further figure is a function from ``Conditions`` to rows, and its name in ``FIGURES``.
"""

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from figures import Row, as_json, figures_parser, measured, named, print_rows
from torch import Tensor

from rayvldd.config.settings import ModelSettings
from rayvldd.experts.movement import Layouts
from rayvldd.experts.recipe import ExpertRecipe
from rayvldd.experts.store.expert_store import ExpertStore, MadeExpert
from rayvldd.experts.trajectory import Trajectory
from rayvldd.models.parameters import Parameters
from rayvldd.models.retrieval_model import RetrievalModel
from rayvldd.storage.folder import FolderStorage

EPOCHS = 10
"""Epochs of the expert that is compared with."""
SHORTCUT_TO = 5
"""End of the shortcut; that of PTM-ST."""


@dataclass(frozen=True)
class Conditions:
    """Size of what is measured."""

    tiny: bool


def shortcut_bytes(conditions: Conditions) -> Iterator[Row]:
    """An expert of ``heads_only``, whose two sides both start at numbers of its own: the most that can be to store."""
    width = 16 if conditions.tiny else 256
    model = _heads(width)
    layouts = Layouts(model.image_layout, model.text_layout)
    expert = _drawn_expert(model)
    with tempfile.TemporaryDirectory() as room:
        store = ExpertStore(FolderStorage(Path(room)))
        whole = _stored_bytes(store, "float32", expert, layouts)
        ends = Trajectory({epoch: expert[epoch] for epoch in (0, SHORTCUT_TO)}, expert.movements(SHORTCUT_TO, layouts))
        part = _stored_bytes(store, "float16", ends, layouts)
    yield Row("shortcut_bytes", f"ends in float16 / {EPOCHS} epochs in float32, heads {width} wide", part / whole, 0.11)


def _heads(width: int) -> RetrievalModel:
    encoder = {"name": "convnet_d3", "pretrained": False, "options": {"img_size": 32}}
    settings = {"protocol": "heads_only", "image_encoder": encoder, "width": width}
    texts = {"text_encoder": {"pooling": "hashed_ngrams"}}
    return RetrievalModel(ModelSettings.model_validate({**settings, **texts}), image_size=32, text_width=384)


def _drawn_expert(model: RetrievalModel) -> Trajectory:
    generator, walk = torch.Generator().manual_seed(0), [model.initial_parameters(0)]

    def moved(side: Tensor) -> Tensor:
        return side + 1e-3 * torch.randn(len(side), generator=generator)

    for _ in range(EPOCHS):
        walk.append(Parameters(*(moved(side) for side in walk[-1])))
    return Trajectory.of_every_epoch(walk)


def _stored_bytes(store: ExpertStore, storage: str, expert: Trajectory, layouts: Layouts) -> int:
    """Return the bytes of the set's folder without its manifest, which all experts of a set share."""
    recipe = ExpertRecipe({"benchmark": "methods", "experts": {"storage": storage}})
    store.save(recipe, 0, MadeExpert(expert, [], *layouts))
    names = [name for name in store.storage.names(recipe.key) if not name.endswith("manifest.json")]
    return sum(store.storage.size(name) or 0 for name in names)


FIGURES = named(shortcut_bytes)


def main() -> None:
    """Measure the figures that the command line names."""
    options = figures_parser(__doc__, FIGURES).parse_args()
    torch.set_num_threads(1)
    rows = print_rows(
        measured(FIGURES, options.only, Conditions(options.tiny)), sys.stderr if options.json else sys.stdout
    )
    if options.json:
        print(as_json(rows, "cpu"))


if __name__ == "__main__":
    main()
