"""What it takes to evaluate a synthetic set, beside the released procedure, and how far cheaper ways agree with it.

    python tests/benchmarks/evaluation.py                       all figures, about ten minutes on one core
    python tests/benchmarks/evaluation.py --only NAME,NAME      some of them
    python tests/benchmarks/evaluation.py --json                one JSON object on standard output, the rest aside

Seconds are those of the process on its core, so other work on the machine enters little. ``evaluation_time`` and
``recall_time`` work on drawn data: what the pictures show does not change what they cost. ``proxy_rank_correlation``
reads the recorded responses (``--table``). Peak memory is read from /proc, on Linux only.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests/helpers

import numpy as np
import torch
import torch.nn.functional as F
from figures import Row, figures_parser, measured, named, print_figures
from peak_memory import peak_bytes, peak_in_fresh_process
from recorded_responses import DEFAULT_TABLE, Table
from released_evaluation import released_recall, released_students
from scipy.stats import spearmanr
from torch import Tensor
from unroll_measuring import fastest, seconds

from rayvldd.config.study import Study
from rayvldd.data.array_cache import ArrayCache
from rayvldd.evaluation.recall import retrieval_recall
from rayvldd.evaluation.students import Pairs, evaluate_pairs
from rayvldd.models.retrieval_task import RetrievalTask, load_task
from rayvldd.randomness import student_seeds

SCRIPT = Path(__file__).resolve()
DIM = 256
CAPTIONS_PER_IMAGE = 5
PROXY = "1x30"
"""One student and ``proxy_epochs: 30``."""


@dataclass(frozen=True)
class Conditions:
    """How large, and how carefully figures are measured."""

    rounds: int
    tiny: bool
    table: Path

    @property
    def pool(self) -> int:
        """Images that recall is counted for; those of COCO's 5k split."""
        return 200 if self.tiny else 5000


def evaluation_time(conditions: Conditions) -> Iterator[Row]:
    """Features of validation are there, as for every evaluation of a study but the first."""
    with tempfile.TemporaryDirectory() as cache:
        study = _heads_only(conditions.tiny)
        task = load_task(study.data, study.model, ArrayCache(Path(cache)), device="cpu")
        pairs = _real_pairs(task, 8 if conditions.tiny else 50)
        seeds = student_seeds(study.seed, 2 if conditions.tiny else 5)
        recalls: dict[str, list[float]] = {}

        def ours() -> None:
            recalls["ours"] = [
                each.mean_recall for each in evaluate_pairs(task, pairs, task.val, study.evaluation, seeds)
            ]

        def released() -> None:
            recalls["released"] = released_students(task, pairs, task.val, study.evaluation, seeds)

        ours_s = fastest({"ours": ours}, conditions.rounds, "cpu")["ours"]
        released_s = seconds(released, "cpu")
    yield Row("evaluation_s", f"seconds to evaluate one heads_only set with {len(seeds)} students", ours_s)
    yield Row("evaluation_released_s", "the same with the backbone in every pass and every row sorted", released_s)
    difference = max(abs(a - b) for a, b in zip(recalls["ours"], recalls["released"], strict=True))
    yield Row("evaluation_difference", "largest difference of a student's mean recall between the two", difference)
    yield Row("evaluation_time", "the first ÷ the second", ours_s / released_s, 1 / 10)


def _heads_only(tiny: bool) -> Study:
    """The model of the recorded runs with weights drawn at random, and as many validation pairs."""
    encoder = {"name": "mobilenetv1_100", "pretrained": False, "mean": [0.5] * 3, "std": [0.5] * 3}
    if tiny:
        encoder = {"name": "convnet_d3", "pretrained": False, "options": {"img_size": 16, "width": 8}}
    pictures, size = (20, 16) if tiny else (500, 64)
    text_encoder = {"pooling": "hashed_ngrams", "width": 384}
    return Study.model_validate(
        {
            "name": "evaluation",
            "data": {"source": "toy_scenes", "image_size": size, "num_train": 60, "num_val": pictures, "num_test": 2},
            "model": {"protocol": "heads_only", "image_encoder": encoder, "text_encoder": text_encoder, "width": DIM},
            "evaluation": {"epochs": 3 if tiny else 100},
        }
    )


def _real_pairs(task: RetrievalTask, number: int) -> Pairs:
    """The first training images, each with its first caption: a set costs the same whatever it shows."""
    captions = np.array([task.train.captions_of(image)[0] for image in range(number)])
    return Pairs(task.pixels(task.train, np.arange(number)), task.texts(task.train, captions), 0.1, 0.1)


def recall_time(conditions: Conditions) -> Iterator[Row]:
    """From embeddings to the six recalls."""
    pool = drawn_pool(conditions.pool)
    found = [retrieval_recall(*pool), released_recall(*pool)]
    runs = {"ours": lambda: retrieval_recall(*pool), "released": lambda: released_recall(*pool)}
    times = fastest(runs, conditions.rounds, "cpu")
    size = f"{conditions.pool} images x {CAPTIONS_PER_IMAGE * conditions.pool} captions"
    yield Row("recall_s", f"seconds to count the recall of {size}", times["ours"])
    yield Row("recall_released_s", "the same by sorting every row", times["released"])
    difference = max(abs(a - b) for a, b in zip(*(each.as_dict().values() for each in found), strict=True))
    yield Row("recall_difference", "largest difference of a recall between the two", difference, 0.0)
    yield Row("recall_time", "the first ÷ the second", times["ours"] / times["released"], 1 / 3)


def recall_memory(conditions: Conditions) -> Iterator[Row]:
    """Each in a process of its own, which has counted a small pool before."""
    whole = 4 * CAPTIONS_PER_IMAGE * conditions.pool**2
    peaks = {name: peak_in_fresh_process(SCRIPT, f"{name} {conditions.pool}") for name in ("ours", "released")}
    yield Row("recall_mib", "peak MiB above the embeddings", peaks["ours"] / 2**20)
    yield Row("recall_released_mib", "the same of the released procedure", peaks["released"] / 2**20)
    to_reach = None if conditions.tiny else 0.25
    yield Row("recall_memory", "peak ÷ the matrix of all scores", peaks["ours"] / whole, to_reach)


def _measure_memory(name: str, images: int) -> int:
    recall = {"ours": retrieval_recall, "released": released_recall}[name]
    recall(*drawn_pool(50))  # what torch loads for it
    pool = drawn_pool(images)
    return peak_bytes(lambda: recall(*pool), "cpu")


def drawn_pool(images: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """Embeddings of length 1 of which about every second query finds its answer among the first ten."""
    generator = torch.Generator().manual_seed(0)
    owners = np.repeat(np.arange(images), CAPTIONS_PER_IMAGE)
    image_side = F.normalize(torch.randn(images, DIM, generator=generator), dim=1)
    noise = F.normalize(torch.randn(len(owners), DIM, generator=generator), dim=1)
    return image_side, F.normalize(image_side[owners] + 5 * noise, dim=1), owners


def proxy_rank_correlation(conditions: Conditions) -> Iterator[Row]:
    """Spearman's, over sets of recorded runs at one outer step; "own" is what the run itself was steered by."""
    table = Table.load(conditions.table)
    sets = [compared for response in table.responses for compared in response.compared]
    proxies = [name for name in sets[0] if f"{name}_seconds" in sets[0] and name != "full"]
    for outer_step in sorted({each["outer_step"] for each in sets}):
        at_step = [each for each in sets if each["outer_step"] == outer_step]
        full = [each["full"] for each in at_step]
        for name in ("own", *proxies):
            correlation = float(spearmanr([each[name] for each in at_step], full).statistic)
            what = f"rank correlation with {table.head['full']} over {len(at_step)} sets at outer step {outer_step:g}"
            yield Row(f"proxy_rank_correlation_{name}_{outer_step:g}", f"{name}: {what}", correlation)
    for name in proxies:
        cost = np.mean([each[f"{name}_seconds"] for each in sets]) / np.mean([each["full_seconds"] for each in sets])
        yield Row(f"proxy_time_{name}", f"{name}: seconds ÷ those of the full evaluation", float(cost))
    first_rung = min(each["outer_step"] for each in sets)
    correlation = spearmanr(*([e[n] for e in sets if e["outer_step"] == first_rung] for n in (PROXY, "full"))).statistic
    what = f"{PROXY} at the first rung, outer step {first_rung:g}"
    yield Row("proxy_rank_correlation", what, float(correlation), 0.8, at_least=True)


FIGURES = named(evaluation_time, recall_time, recall_memory, proxy_rank_correlation)


def _arguments() -> argparse.Namespace:
    parser = figures_parser(__doc__, FIGURES)
    parser.add_argument("--table", type=Path, default=DEFAULT_TABLE, help="recorded responses")
    parser.add_argument("--rounds", type=int, default=3, help="times that each side is timed")
    parser.add_argument("--measure-memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    needs_table = "proxy_rank_correlation" in arguments.only and not arguments.measure_memory
    if needs_table and not arguments.table.is_file():
        parser.error(f"--table {arguments.table}: no such file; allowed: what record_responses.py has written")
    return arguments


def main() -> None:
    """Measure, print."""
    arguments = _arguments()
    torch.set_num_threads(1)
    if arguments.measure_memory:
        name, images = arguments.measure_memory.split()
        print(_measure_memory(name, int(images)))
        return
    conditions = Conditions(1 if arguments.tiny else arguments.rounds, arguments.tiny, arguments.table)
    print_figures(measured(FIGURES, arguments.only, conditions), as_object=arguments.json)


if __name__ == "__main__":
    main()
