"""``rayvldd evaluate --breakdown``: recall and subjects by group of captions, as tables and for ``--json``."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rayvldd.cli.invocation import Invocation
from rayvldd.records.set_scores import ALL_PAIRS

if TYPE_CHECKING:
    from rayvldd.distillation.distilled_set import DistilledSet
    from rayvldd.evaluation.breakdown import SubjectShare
    from rayvldd.evaluation.recall import RetrievalRanks
    from rayvldd.models.retrieval_task import RetrievalTask
    from rayvldd.records.set_scores import Breakdown, Conditions


def show_breakdown(
    invocation: Invocation,
    task: "RetrievalTask",
    sets: Mapping[str, "DistilledSet"],
    ranks: Mapping[str, Sequence["RetrievalRanks"]],
    split: str,
    conditions: "Conditions",
) -> "Breakdown":
    """Print recall by caption length, gender and noun, and the subjects that each set keeps; return both.

    Args:
        invocation: Prints the tables.
        task: Model and data of the sets.
        sets: The sets by their names in ``ranks``.
        ranks: Ranks of each student, by training set.
        split: The split that students were scored on.
        conditions: Conditions of the measurement.
    """
    from rayvldd.evaluation.breakdown import groups_by_gender, groups_by_length, groups_by_noun
    from rayvldd.records.set_scores import Breakdown, GroupRecall, SubjectKept, short_names
    from rayvldd.reports.tables import breakdown_table, subjects_table

    captions = getattr(task, split).split.captions
    kinds = {"length": groups_by_length, "gender": groups_by_gender, "noun": groups_by_noun}
    rows = [
        GroupRecall(
            by=kind,
            group=group.name,
            num_captions=group.num_captions,
            recall={name: group.recall(students) for name, students in ranks.items()},
        )
        for kind, groups in kinds.items()
        for group in groups(captions)
        if group.num_captions
    ]
    title = f"Text to image on {split}, mean of R@1, R@5, R@10 (%) of the captions in each group, pool whole"
    invocation.show(breakdown_table(rows, title, names=short_names([*sets]), full_data=ALL_PAIRS))
    kept = {name: _subjects(task, distilled) for name, distilled in sets.items()}
    for name, shares in kept.items():
        invocation.show(subjects_table(shares, f"{name}: captions that name a subject (%)"))
    subjects = {
        name: [SubjectKept(**asdict(share), differs=share.differs) for share in shares] for name, shares in kept.items()
    }
    return Breakdown(**dict(conditions), recalls=rows, subjects=subjects)


def _subjects(task: "RetrievalTask", distilled: "DistilledSet") -> list["SubjectShare"]:
    from rayvldd.evaluation.breakdown import subject_shares
    from rayvldd.reports.nearest import nearest_captions

    nearest = [near.caption for near in nearest_captions(distilled.texts.numpy(), task.train)]
    return subject_shares(task.train.split.captions, distilled.start_captions, nearest)
