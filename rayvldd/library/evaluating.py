"""Evaluation of distilled sets with new students and baselines; the scores are saved in the workspace."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rayvldd.config.loading import load_study
from rayvldd.errors import Fault, InputError, next_after
from rayvldd.library.foreign_sets import refuse_untrusted
from rayvldd.library.further import TEMPLATE, FurtherEvaluations, errors_of_further
from rayvldd.library.scoring import Chosen, Split, summary_of_students
from rayvldd.library.set_groups import (
    GroupScores,
    SetGroup,
    TextConversion,
    group_sets,
    load_sets,
    score_group,
    settings_of_students,
    shared_settings,
    words_of_text_encoder,
)
from rayvldd.library.sets_in_order import read_order
from rayvldd.records.full_data import ChosenRecipe
from rayvldd.records.json_values import text_at
from rayvldd.records.set_scores import (
    ALL_PAIRS,
    Breakdown,
    CoresetScores,
    EvaluatedBound,
    EvaluatedCoreset,
    EvaluatedSet,
    FurtherScores,
    ScoredBound,
    ScoredCoreset,
    SetDifference,
    SetInOrder,
    SetScores,
    keep_scores,
)
from rayvldd.user_paths import user_path
from rayvldd.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from rayvldd.config.settings import TextEncoderSettings
    from rayvldd.config.study import Study
    from rayvldd.console import ProgressDisplay
    from rayvldd.evaluation.recall import RetrievalMetrics
    from rayvldd.models.retrieval_task import RetrievalTask
    from rayvldd.reports.table import Table


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation."""

    students: int | None = None
    """Students for each set; default: ``evaluation.num_test_students``."""
    split: Split = "val"
    full_data: bool = True
    """Whether up to three models are also trained on all pairs, as the full-data bound."""
    coresets: Sequence[str] = ()
    """Coreset methods to evaluate as baselines, with the same numbers of pairs."""
    lr_student: tuple[float, float] | None = None
    """Learning rates of students for image and text side, in place of the learned step sizes of the sets."""
    further: FurtherEvaluations = field(default_factory=FurtherEvaluations)
    """Evaluations of the same students on other inputs than the split."""


@dataclass(frozen=True)
class EvaluatedSets:
    """Result of an evaluation."""

    scores: SetScores
    file: Path
    """File with the saved scores."""
    by_group: Mapping[SetGroup, GroupScores] = field(default_factory=dict)
    """The ranks of every student, by group of sets with the same data and model."""

    @property
    def frame(self) -> "pd.DataFrame":
        """One row for each set and coreset, with recalls in percent."""
        import pandas as pd

        rows = [{"set": row.distilled_set, "num_pairs": row.num_pairs, **row.mean} for row in self.scores.sets]
        rows += [{"set": row.coreset, "num_pairs": row.num_pairs, **row.mean} for row in self.scores.coresets]
        rows += [{"set": ALL_PAIRS, "num_pairs": None, **row.mean} for row in self.scores.full_data]
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        """The tables, for notebooks."""
        from rayvldd.reports.differences import differences_table
        from rayvldd.reports.renderers import as_html
        from rayvldd.reports.tables import further_table

        tables = [table_of_group(group, scores.recalls, self.scores.split) for group, scores in self.by_group.items()]
        if self.scores.differences:
            title = f"Mean recall on the same {self.scores.split} images, set minus real pairs (points)"
            tables.append(differences_table(self.scores.differences, title))
        tables += [further_table(found, full_data=ALL_PAIRS) for found in self.scores.further]
        return "".join(map(as_html, tables))


def table_of_group(group: SetGroup, recalls: "Mapping[str, Sequence[RetrievalMetrics]]", split: str) -> "Table":
    """The recalls of a group of sets and their baselines, with the model and the split in the caption."""
    from rayvldd.reports.tables import recalls_table

    model = group.study.model
    title = f"{model.image_encoder.name}, {model.protocol}: recall on {split} (%)"
    return recalls_table(recalls, title, full_data=ALL_PAIRS)


def evaluate(
    *sets: str | Path,
    workspace: str | Path = "rayvldd_workspace",
    students: int | None = None,
    split: Split = "val",
    full_data: bool = True,
    coresets: Sequence[str] = (),
    robustness: bool = False,
    on: "Study | str | Path | None" = None,
    zero_shot: str | Path | None = None,
    template: str = TEMPLATE,
    privacy: bool = False,
    text_encoder: "TextEncoderSettings | None" = None,
    texts: TextConversion = "auto",
    trust: bool = False,
    in_order: bool = False,
    later_rate: float = 1.0,
) -> EvaluatedSets:
    """Train new students on distilled sets and score them.

    Args:
        sets: Folders, or ``models:/STUDY@best`` and ``runs:/…`` of MLflow.
        workspace: Folder of caches and scores.
        students: Students for each set; default: the number in the sets' cards.
        split: Split for scoring. Make choices on ``val``; evaluations on ``test`` are counted.
        full_data: Also train models on all pairs, for the bound.
        coresets: Coreset methods to evaluate as baselines, e.g. ``("random", "k_means")``.
        robustness: Also measure recall on distorted images, and of students of the sets as they are exported.
        on: Also measure recall on the data of this study, whose images have the same size.
        zero_shot: Also classify the images of this folder of class folders, or of a saved Hugging Face data set.
        template: Prompt of a class for ``zero_shot``, with the placeholder ``{class}``.
        privacy: Also compare the images with real ones, and infer which real pairs a set started from.
        text_encoder: Train students with this text encoder instead of the sets' own.
        texts: How caption embeddings are converted for it: ``as_is``, by the ``nearest`` real captions, or by a
            ``ridge`` map; ``auto`` is ``as_is`` for embeddings of the same width, else ``ridge``.
        trust: Whether sets from outside the workspace may load the files and encoders that their cards name.
        in_order: Train each student on all sets one after another, with one row for all of them.
        later_rate: With ``in_order``, factor on the learning rates of all sets but the first; 0.1 in the released
            evaluation of PTM-ST.

    Raises:
        StoreError: if a set cannot be read.
        ConfigError: if the study of ``on`` has faults.
        DataError: if the folder of ``zero_shot`` has no classes, or files that are no images.
        InputError: if models or data are not compatible, students cannot be trained on the sets in order, or a set from
            elsewhere would load files or encoders.
    """
    from rayvldd.console import ProgressDisplay
    from rayvldd.data.class_images import read_class_images
    from rayvldd.runtime.actor_pool import keeping_actors
    from rayvldd.runtime.cluster import start_ray

    order, wrong = read_order([str(name) for name in sets], in_order, later_rate, {"privacy": privacy})
    if wrong:
        raise InputError(list(map(_in_python, wrong)), next_command="rv.evaluate(…), after correcting them")
    place = Workspace(workspace)
    place.check_writable()
    loaded = load_sets([str(name) for name in sets], place.root)
    if not trust:
        refuse_untrusted(loaded, place.root, next_command="rv.evaluate(…, trust=True)")
    others = (
        {}
        if text_encoder is None
        else {words_of_text_encoder({"text_encoder": text_encoder.model_dump()}): text_encoder}
    )
    groups = group_sets(loaded, {}, next_command="rv.evaluate(…)", text_encoders=others, conversion=texts, order=order)
    other = load_study(on) if isinstance(on, str | Path) else on
    images = read_class_images(user_path(zero_shot)) if zero_shot is not None else None
    further = FurtherEvaluations(robustness, other, images, template, privacy)
    studies = {name: group.study for group in groups for name in group.sets}
    if errors := errors_of_further(further, studies):
        faults = [fault for error in errors for fault in error.faults]
        raise InputError(faults, next_command=next_after(errors, "rv.evaluate(…)"))
    options = EvaluationOptions(students, split, full_data, coresets, further=further)
    scored: dict[SetGroup, GroupScores] = {}
    with ProgressDisplay() as display, start_ray(None, None, display), keeping_actors():
        for number, group in enumerate(groups, start=1):
            if len(groups) > 1:
                display.begin_phase(number, len(groups))
            _, scored[group] = evaluate_group(group, place, options, display, "rv.evaluate")
    return keep_evaluation(scored, options, place, "rv.evaluate")


def _in_python(fault: Fault) -> Fault:
    """A fault whose options have the names of arguments."""
    texts = (fault.where, fault.problem, fault.allowed)
    return Fault(*(re.sub(r"--([a-z-]+)", lambda option: option[1].replace("-", "_"), text) for text in texts))


def evaluate_group(
    group: SetGroup, workspace: Workspace, options: EvaluationOptions, display: "ProgressDisplay", command: str
) -> tuple["RetrievalTask", GroupScores]:
    """Evaluate the sets of a group; a test evaluation is recorded before results are shown."""
    rules = (options.students, options.split, options.full_data, options.coresets, options.lr_student, options.further)
    task, scores = score_group(group, workspace, *rules, display, command)
    if options.split == "test":
        counts = {row: len(scores.ranks[row]) for row in group.rows}
        _count_test_evaluations(group, workspace, counts, command)
    return task, scores


def keep_evaluation(
    scored: Mapping[SetGroup, GroupScores],
    options: EvaluationOptions,
    workspace: Workspace,
    command: str,
    breakdown: Sequence[Breakdown] = (),
    more: Sequence[FurtherScores] = (),
) -> EvaluatedSets:
    """Collect the scores of all groups and save them in the workspace."""
    sets, coresets, full_data = _rows(scored, options.lr_student)
    scores = SetScores(
        command=command,
        split=options.split,
        sets=sets,
        coresets=coresets,
        full_data=full_data,
        differences=[found for group, scores in scored.items() for found in differences_of(group, scores)],
        breakdown=list(breakdown),
        further=[*(found for scores in scored.values() for found in scores.further), *more],
    )
    return EvaluatedSets(scores, keep_scores(scores, workspace.scores), scored)


def keep_coresets(
    study: "Study",
    split: Split,
    chosen: Sequence[Chosen],
    scores: Mapping[str, Sequence["RetrievalMetrics"]],
    recipe: ChosenRecipe | None,
    workspace: Workspace,
) -> CoresetScores:
    """Collect the scores of coresets and save them in the workspace; ``recipe`` is that of the models of all pairs."""
    from rayvldd.data.array_cache import fingerprint

    bound = scores.get(ALL_PAIRS)
    rows = [
        ScoredCoreset(
            method=c.method,
            num_pairs=c.num_pairs,
            rate=c.rate,
            **dict(summary_of_students(scores[c.name], bound)),
        )
        for c in chosen
    ]
    full = ScoredBound(recipe=recipe, **dict(summary_of_students(bound, bound))) if bound else None
    base = fingerprint(shared_settings(study))
    settings = settings_of_students(study)
    kept = CoresetScores(study=study.name, split=split, base=base, settings=settings, coresets=rows, full_data=full)
    keep_scores(kept, workspace.scores)
    return kept


def _rows(
    scored: Mapping[SetGroup, GroupScores], rates: tuple[float, float] | None
) -> tuple[list[EvaluatedSet], list[EvaluatedCoreset], list[EvaluatedBound]]:
    """The rows of sets, coresets and bounds; they are comparable if ``measured_on`` and ``base`` are equal."""
    sets: list[EvaluatedSet] = []
    coresets: list[EvaluatedCoreset] = []
    bounds: list[EvaluatedBound] = []
    for group, scores in scored.items():
        model, rows = group.study.model, scores.recalls
        about = {"image_encoder": model.image_encoder.name, "protocol": model.protocol, **dict(group.measured_on)}
        about["fingerprints"] = dict(scores.fingerprints)
        own: dict[str, object]
        for name, found in rows.items():
            values = {**about, **dict(summary_of_students(found, rows.get(ALL_PAIRS)))}
            if name in group.rows:
                own = {"distilled_set": name, "num_pairs": group.num_pairs(name), "made_with": group.made_with[name]}
                own["text_conversion"] = _text_conversion(group, name, scores)
                if group.order:
                    own |= {"in_order": _sets_in_order(group, rates), "later_rate": group.order.later_rate}
                else:
                    lr_image, lr_text = group.rates(name, rates)
                    own |= {"lr_student_image": lr_image, "lr_student_text": lr_text, "changed": group.changed(name)}
                sets.append(EvaluatedSet.model_validate({**values, **own}))
            elif name in scores.coresets:
                coreset = scores.coresets[name]
                own = {"coreset": name, "method": coreset.method, "num_pairs": coreset.num_pairs}
                own["rate"] = coreset.rate
                coresets.append(EvaluatedCoreset.model_validate({**values, **own}))
            else:
                own = {"sets": list(group.rows), "recipe": scores.recipe}
                bounds.append(EvaluatedBound.model_validate({**values, **own}))
    return sets, coresets, bounds


def _sets_in_order(group: SetGroup, rates: tuple[float, float] | None) -> list[SetInOrder]:
    """The sets of a group in the order of training."""
    found = []
    for place, distilled in group.sets.items():
        image, text = group.rates(place, rates)
        about = SetInOrder(distilled_set=place, num_pairs=len(distilled), lr_student_image=image, lr_student_text=text)
        found.append(about)
    return found


def _text_conversion(group: SetGroup, row: str, scores: GroupScores) -> str | None:
    """How the caption embeddings of the sets of a row were converted; None if they were not."""
    known = [scores.conversions[place] for place in group.rows[row] if place in scores.conversions]
    return "; ".join(dict.fromkeys(known)) or None


def differences_of(group: SetGroup, scores: GroupScores) -> list[SetDifference]:
    """Every set minus every coreset of its size, in mean recall on the same images."""
    from rayvldd.evaluation.paired_difference import paired_difference

    found = []
    for name in group.rows:
        for coreset, chosen in scores.coresets.items():
            if chosen.num_pairs == group.num_pairs(name):
                others = [[student] for student in scores.ranks[coreset]]  # each student has its own coreset
                value = paired_difference([scores.ranks[name]], others, scores.caption_image)
                of_pair = {"distilled_set": name, "coreset": coreset, "trained_with": group.encoder}
                found.append(SetDifference(**of_pair, mean=value.mean, interval=value.interval))
    return found


def _count_test_evaluations(group: SetGroup, workspace: Workspace, students: Mapping[str, int], command: str) -> None:
    """Record a test evaluation of rows in the folders of the studies that their sets belong to."""
    from rayvldd.hyperparameter_search.study_folder import StudyFolder, study_of_set

    rows_by_study: dict[Path, list[str]] = {}
    for row, places in group.rows.items():
        names = {place: text_at(group.sets[place].origin.study, "name") for place in places}
        roots = [study_of_set(place, name, workspace.studies) for place, name in names.items()]
        for root in dict.fromkeys(root for root in roots if root is not None):
            rows_by_study.setdefault(root, []).append(row)
    for root, rows in rows_by_study.items():
        StudyFolder(root).add_test_evaluation(command, len(rows), sum(students[row] for row in rows))
