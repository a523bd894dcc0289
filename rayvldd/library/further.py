"""Further evaluations of the students of an evaluation, on other inputs than the split that they are scored on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rayvldd.config.metrics import MEAN_RECALL
from rayvldd.errors import DataError, Fault, InputError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int64
    from torch import Tensor

    from rayvldd.config.metrics import MetricInfo
    from rayvldd.config.study import Study
    from rayvldd.console import ProgressDisplay
    from rayvldd.data.array_cache import ArrayCache
    from rayvldd.data.class_images import ClassImages
    from rayvldd.distillation.distilled_set import DistilledSet
    from rayvldd.evaluation.probes import Probe
    from rayvldd.models.retrieval_task import RetrievalTask
    from rayvldd.records.set_scores import Conditions, FurtherScores, ProbeScore
    from rayvldd.runtime.evaluation import StudentScores, StudentSpec

CLASS = "{class}"
"""Placeholder of the name of a class in a template."""
TEMPLATE = f"A photo of a {CLASS}"
"""Default template of prompts."""

About = dict[str, str | int | float]
"""Properties of the inputs of an evaluation."""

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
    """Whether the table is of mean recalls alone, with that on the split itself."""
    references: Sequence["ProbeScore"] = ()
    """Rows of values without students, e.g. chance."""
    notes: Sequence[str] = ()
    further_columns: Sequence[tuple[str, "MetricInfo"]] = ()
    """Names of probe and metric that only some training sets have."""

    def scores(self, conditions: "Conditions", students: Mapping[str, Sequence["StudentScores"]]) -> "FurtherScores":
        """Collect the numbers of all students.

        Args:
            conditions: Conditions of the measurement.
            students: The students of each training set.
        """
        from rayvldd.records.set_scores import FurtherScores

        columns = [
            (probe.name, info)
            for probe in self.probes
            for info in probe.infos
            if info == MEAN_RECALL or not self.beside_split
        ]
        columns += self.further_columns
        found = []
        for name, of_row in students.items():
            if self.beside_split:
                recalls = [scores.ranks.recalls().as_dict() for scores in of_row]
                found.append(_score_of(name, AS_IS, MEAN_RECALL.name, recalls))
            for probe, info in columns:
                if all(probe in scores.probed for scores in of_row):
                    found.append(_score_of(name, probe, info.name, [scores.probed[probe] for scores in of_row]))
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
    on: "Study | None" = None
    """A study with other data, for recall on its images and captions."""
    zero_shot: "ClassImages | None" = None
    """Images for zero-shot classification."""
    template: str = TEMPLATE
    """Prompt of a class."""
    privacy: bool = False
    """Likeness of the images of each set to real ones, and membership inference on its start pairs."""

    @property
    def any(self) -> bool:
        """Whether there is at least one."""
        return self.robustness or self.on is not None or self.zero_shot is not None or self.privacy

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
        if self.on:
            found.append(_on_other_data(self.on, task, split, cache, display))
        if self.zero_shot:
            found.append(_zero_shot(self.zero_shot, self.template, task, cache, display))
        display.done()
        return found


def errors_of_further(further: FurtherEvaluations, studies: Mapping[str, "Study"]) -> list[InputError]:
    """The errors that can be found before any work.

    Args:
        further: The evaluations.
        studies: Settings of the students, by the name of a set.
    """
    faults: list[Fault] = []
    errors: list[InputError] = []
    if further.on:
        from rayvldd.data.annotations import read_records

        for name, study in studies.items():
            own, other = study.data.image_size, further.on.data.image_size
            if own != other:
                problem = f"its images have {other} px, those of {name} have {own} px"
                faults.append(Fault(f"on {further.on.name}: data.image_size", problem, f"a study with {own} px"))
        if further.on.data.source != "toy_scenes":
            try:
                read_records(further.on.data)
            except DataError as error:
                errors.append(error.below("on "))
    if CLASS not in further.template:
        faults.append(Fault("template", f"got {further.template!r}", f"a sentence with {CLASS}"))
    return [InputError(faults), *errors] if faults else errors


def _on_other_data(
    other: "Study", task: "RetrievalTask", split: str, cache: "ArrayCache", display: "ProgressDisplay"
) -> PreparedEvaluation:
    from rayvldd.data.array_cache import fingerprint
    from rayvldd.evaluation.metric import RetrievalRecall
    from rayvldd.evaluation.probes import Probe, in_memory
    from rayvldd.models.retrieval_task import load_task

    found = load_task(other.data, task.model.settings, cache, device=task.device.type, on_progress=display.progress)
    inputs, data = getattr(found, split), found.fingerprints["data"]
    probe = Probe("other data", RetrievalRecall(), in_memory(inputs), fingerprint({"data": data, "split": split}))
    about: About = {
        "study": other.name,
        "data": data,
        "split": split,
        "images": inputs.num_images,
    }
    title = f"Recall on the {inputs.num_images} {split} images of {other.name} (%)"
    return PreparedEvaluation("on", title, [probe], about)


def _zero_shot(
    images: "ClassImages", template: str, task: "RetrievalTask", cache: "ArrayCache", display: "ProgressDisplay"
) -> PreparedEvaluation:
    from rayvldd.evaluation.zero_shot import chance, zero_shot_probe
    from rayvldd.records.set_scores import ProbeScore

    probe = zero_shot_probe(task, images, template, cache, display.progress)
    references = [
        ProbeScore(trained_on="chance", probe=probe.name, metric=name, num_students=0, mean=value)
        for name, value in chance(len(images.classes)).items()
    ]
    count, classes = len(images.names), len(images.classes)
    about: About = {
        "folder": str(images.folder),
        "images": count,
        "classes": classes,
        "template": template,
    }
    title = f"Zero-shot classification of {count} images of {classes} classes in {images.folder} (%)"
    return PreparedEvaluation("zero_shot", title, [probe], about, references=references)


def prepared_privacy(
    task: "RetrievalTask", sets: Mapping[str, "DistilledSet"], jobs: Mapping[str, Sequence["StudentSpec"]]
) -> tuple[PreparedEvaluation, dict[str, list["Probe"]]]:
    """Return the evaluation of privacy, and a probe for each student of the sets and coresets.

    Args:
        task: Model and data of the students.
        sets: The sets by their names in ``jobs``.
        jobs: The students of each training set.

    Raises:
        InputError: if the validation split has no pairs to hold out.
    """
    from rayvldd.config.metrics import MEMBERSHIP_HELD_OUT, MEMBERSHIP_TRAIN
    from rayvldd.coresets.selection import Coreset
    from rayvldd.evaluation.privacy import PRIVACY, RealPairs, membership_probe, start_pairs

    if task.val.num_images < 2:
        fault = Fault("--privacy", f"the validation split has {task.val.num_images} image", "at least two")
        raise InputError([fault], next_command="the same command without --privacy")
    probes: dict[str, list[Probe]] = {}
    references: list[ProbeScore] = []
    notes = []
    for name, specs in jobs.items():
        if name in sets:
            members, places = start_pairs(task, sets[name].start_images, sets[name].start_captions)
            notes.append(f"{name}: {len(members)} of {len(sets[name])} start pairs are pairs of the training split")
            if len(members):
                probes[name] = [membership_probe(task, members)] * len(specs)
                references += _likeness_of(task, name, sets[name], places)
        elif all(isinstance(spec.pairs, Coreset) for spec in specs):
            real = [RealPairs(spec.pairs.image_index, spec.pairs.caption_index) for spec in specs]  # type: ignore[union-attr]
            probes[name] = [membership_probe(task, members) for members in real]
    columns = [(PRIVACY, info) for info in (MEMBERSHIP_TRAIN, MEMBERSHIP_HELD_OUT)]
    about = {"compared": "features" if task.model.encoder_is_frozen else "pixels"}
    title = f"Likeness to real images (cosine of {about['compared']}), and membership inference of start pairs"
    evaluation = PreparedEvaluation(
        PRIVACY, title, [], about, references=references, notes=notes, further_columns=columns
    )
    return evaluation, probes


def _likeness_of(
    task: "RetrievalTask", name: str, distilled: "DistilledSet", places: "Int64[np.ndarray, ' pair']"
) -> list["ProbeScore"]:
    """The likeness of the images of a set that started from real ones, as cells of its row."""
    from rayvldd.config.metrics import NEAREST_DISTILLED, NEAREST_START, START_RECOVERED
    from rayvldd.evaluation.privacy import PRIVACY, likeness
    from rayvldd.records.set_scores import ProbeScore

    before, after = (
        task.model.normalise(images[places].to(task.device)) for images in (distilled.start_images, distilled.images)
    )
    found = likeness(task, before, after)
    values = {NEAREST_START: found.start, NEAREST_DISTILLED: found.distilled, START_RECOVERED: 100 * found.recovered}
    return [
        ProbeScore(trained_on=name, probe=PRIVACY, metric=info.name, num_students=0, mean=value)
        for info, value in values.items()
    ]


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


def _score_of(trained_on: str, probe: str, metric: str, students: Sequence[Mapping[str, float]]) -> "ProbeScore":
    """The mean of a number over students with its interval."""
    from statistics import fmean

    from rayvldd.evaluation.intervals import interval_if_enough
    from rayvldd.evaluation.privacy import ERROR, auc_interval
    from rayvldd.records.set_scores import ProbeScore

    values = [numbers[metric] for numbers in students]
    interval = interval_if_enough(values)
    if f"{metric}{ERROR}" in students[0]:
        interval = auc_interval(values, [numbers[f"{metric}{ERROR}"] for numbers in students])
    return ProbeScore(
        trained_on=trained_on,
        probe=probe,
        metric=metric,
        num_students=len(values),
        mean=fmean(values),
        interval=interval,
    )
