"""What a number of pairs can hold under ``heads_only``: the recall that is lost by their number alone.

    python tests/benchmarks/held_by_pairs.py --workspace FOLDER          with the variables of flickr8k_cpu.yaml
    python tests/benchmarks/held_by_pairs.py --workspace FOLDER --json   one JSON object, the table aside

``rank``: the first layer of a head changes in the span of the pairs that it is trained on. Of models of all pairs, the
change of both first layers is truncated to its best directions, as many as there are pairs. The share is of the mean
of R@1/5/10 both ways of the whole models, on validation.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean

import torch
from figures import Row, figures_parser, measured, named, print_figures
from method_runs import first_point
from torch import Tensor

from rayvldd.config.study import Study
from rayvldd.data.array_cache import ArrayCache
from rayvldd.evaluation.full_data import train_on_all
from rayvldd.evaluation.scoring import score
from rayvldd.models.parameters import ParameterLayout, Parameters
from rayvldd.models.retrieval_task import RetrievalTask, SplitInputs, load_task
from rayvldd.randomness import SEED_END, Stream, generator_of
from rayvldd.records.full_data import FullDataRecipe
from rayvldd.testing.toy import toy_study
from rayvldd.workspace import Workspace

RECIPE = FullDataRecipe(
    learning_rate=0.1,
    momentum=0.9,
    weight_decay=5e-4,
    decay="cosine",
    batch_size=512,
    epochs=10,
    captions_per_image="one",
)
"""Of the default recipes the best one on validation of Flickr8k."""


@dataclass(frozen=True)
class Conditions:
    """Size of the measured case."""

    tiny: bool
    workspace: Path
    """Folder of cached features."""
    pairs: Sequence[int] = (100,)
    """Numbers of pairs."""
    models: int = 3
    """Models of all pairs."""

    @cached_property
    def study(self) -> Study:
        """The study whose data, model and students are measured."""
        return toy_study() if self.tiny else first_point("flickr8k_cpu", {})

    @cached_property
    def task(self) -> RetrievalTask:
        """Model and features."""
        return load_task(self.study.data, self.study.model, ArrayCache(Workspace(self.workspace).cache), device="cpu")

    @cached_property
    def models_of_all(self) -> list[tuple[Parameters, Parameters]]:
        """Models of all pairs, each as it began and as it ended."""
        made = []
        for seed in range(self.models):
            drawn = generator_of(self.study.seed, Stream.FULL_DATA, seed)  # as train_on_all draws the start
            start = self.task.model.initial_parameters(int(drawn.integers(SEED_END)))
            made.append((start, train_on_all(self.task, RECIPE, self.study.seed, seed)))
        return made

    def bound(self, inputs: SplitInputs) -> float:
        """Mean recall of the models of all pairs."""
        return fmean(score(self.task, end, inputs).mean_recall for _, end in self.models_of_all)


def rank(conditions: Conditions) -> Iterator[Row]:
    """Recall of models of all pairs whose first layers changed in as many directions as there are pairs."""
    task, bound = conditions.task, conditions.bound(conditions.task.val)
    for pairs in conditions.pairs:
        kept = fmean(
            score(task, truncated(task, start, end, pairs), task.val).mean_recall
            for start, end in conditions.models_of_all
        )
        what = f"{conditions.models} models of all pairs: {bound:.2f} on validation, {kept:.2f} with rank {pairs}"
        yield Row(f"rank_share_{pairs}", what, kept / bound)


def truncated(task: RetrievalTask, start: Parameters, end: Parameters, directions: int) -> Parameters:
    """Keep the largest singular values of the change of both first layers."""

    def side(layout: ParameterLayout, begun: Tensor, ended: Tensor) -> Tensor:
        first, named_end = layout.unflatten(begun)["projection.weight"], dict(layout.unflatten(ended))
        left, values, right = torch.linalg.svd(named_end["projection.weight"] - first, full_matrices=False)
        named_end["projection.weight"] = first + (left[:, :directions] * values[:directions]) @ right[:directions]
        return torch.cat([named_end[name].flatten() for name in layout.unflatten(ended)])

    model = task.model
    return Parameters(side(model.image_layout, start.image, end.image), side(model.text_layout, start.text, end.text))


FIGURES = named(rank)


def main() -> None:
    """Measure the figures that the command line names."""
    parser = figures_parser(__doc__, FIGURES)
    parser.add_argument("--workspace", type=Path, help="folder of cached features")
    parser.add_argument("--pairs", type=_numbers, default=(100,), help="numbers of pairs, with commas between")
    parser.add_argument("--models", type=int, default=3, help="models of all pairs")
    options = parser.parse_args()
    if options.workspace is None and not options.tiny:
        parser.error("--workspace FOLDER is missing")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as room:
        conditions = Conditions(options.tiny, options.workspace or Path(room), options.pairs, options.models)
        print_figures(measured(FIGURES, options.only, conditions), as_object=options.json)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    main()
