"""Further evaluations of the students of an evaluation, on other inputs than the split that they are scored on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rayvldd.config.metrics import MEAN_RECALL

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from rayvldd.console import ProgressDisplay
    from rayvldd.data.array_cache import ArrayCache
    from rayvldd.evaluation.probes import Probe
    from rayvldd.models.retrieval_task import RetrievalTask
    from rayvldd.records.set_scores import Conditions, FurtherScores, ProbeScore
    from rayvldd.runtime.evaluation import StudentScores

AS_IS = "as it is"
"""Column of the recall on the split itself."""


@dataclass(frozen=True)
class PreparedEvaluation:
    """One further evaluation with its inputs."""

    name: str
    """Name of its option."""
    title: str
    """Title of its table."""
    probes: Sequence["Probe"]
    about: Mapping[str, str | int | float] = field(default_factory=dict)
    """Properties of the inputs."""
    beside_split: bool = False
    """Whether the table also has the mean recall on the split itself."""
    references: Sequence["ProbeScore"] = ()
    """Rows of values without students, e.g. chance."""
    notes: Sequence[str] = ()

    def scores(self, conditions: "Conditions", students: Mapping[str, Sequence["StudentScores"]]) -> "FurtherScores":
        """Collect the numbers of all students.

        Args:
            conditions: Conditions of the measurement.
            students: The students of each training set.
        """
        from rayvldd.records.set_scores import FurtherScores

        found = []
        for name, of_row in students.items():
            if self.beside_split:
                recalls = [scores.ranks.recalls().mean_recall for scores in of_row]
                found.append(_score_of(name, AS_IS, MEAN_RECALL.name, recalls))
            for probe in self.probes:
                for info in probe.infos:
                    values = [scores.probed[probe.name][info.name] for scores in of_row]
                    found.append(_score_of(name, probe.name, info.name, values))
        return FurtherScores(
            **dict(conditions),
            evaluation=self.name,
            title=self.title,
            about=dict(self.about),
            scores=[*found, *self.references],
            notes=list(self.notes),
        )


@dataclass(frozen=True)
class FurtherEvaluations:
    """Options of further evaluations."""

    robustness: bool = False
    """Recall on distorted images, and of students of each set as it is exported, with 8 bits per channel."""

    @property
    def any(self) -> bool:
        """Whether there is at least one."""
        return self.robustness

    def prepared(
        self, task: "RetrievalTask", split: str, cache: "ArrayCache", display: "ProgressDisplay"
    ) -> list[PreparedEvaluation]:
        """Compute the inputs of all evaluations before students are trained.

        Args:
            task: Model and data of the students.
            split: The split that they are scored on.
            cache: Cache of features.
            display: Shows the progress.
        """
        found = []
        if self.robustness:
            from rayvldd.evaluation.robustness import robustness_probes

            probes = robustness_probes(task, getattr(task, split), cache, display.progress)
            title = f"Mean recall on distorted images of {split} (%)"
            found.append(PreparedEvaluation("robustness", title, probes, {"split": split}, beside_split=True))
        display.done()
        return found


def stored_name(name: str) -> str:
    """Name of the row of a set whose images have 8 bits per channel."""
    return f"{name}, stored as 8-bit PNG"


def stored_images(
    images: "Float[Tensor, 'pair 3 height width']", task: "RetrievalTask"
) -> "Float[Tensor, 'pair 3 height width']":
    """The images of a set as ``rayvldd export`` stores them, on the encoder's normalised scale."""
    import torch

    from rayvldd.distillation.exports import eight_bit

    stored = torch.stack([torch.from_numpy(eight_bit(image)).permute(2, 0, 1) for image in images])
    return task.model.normalise(stored.to(task.device).float() / 255)


def _score_of(trained_on: str, probe: str, metric: str, values: Sequence[float]) -> "ProbeScore":
    from statistics import fmean

    from rayvldd.config.metrics import METRICS
    from rayvldd.evaluation.intervals import interval_if_enough
    from rayvldd.records.set_scores import ProbeScore

    scale = 1 if METRICS[metric].unit == "%" else 100
    interval = interval_if_enough([scale * value for value in values])
    return ProbeScore(
        trained_on=trained_on,
        probe=probe,
        metric=metric,
        num_students=len(values),
        mean=fmean(values),
        interval=interval and (interval[0] / scale, interval[1] / scale),
    )
