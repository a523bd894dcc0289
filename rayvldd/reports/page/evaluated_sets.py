"""The sets of evaluations, opened if they still exist."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.errors import RayvlddError, without_next_command
from rayvldd.records.set_scores import SetScores
from rayvldd.reports.page.baselines import names_of_sets
from rayvldd.reports.page.study_report import PairCaptions, StudyReport, captions_of


@dataclass
class EvaluatedSetReport:
    """An evaluated set."""

    name: str
    place: str
    """Location as given by the user."""
    num_pairs: int
    measured_on: tuple[str, ...]
    commands: list[str]
    """Commands that evaluated it."""
    distilled: DistilledSet | None = None
    fault: str = ""
    """The reason why it is not shown."""

    @property
    def captions(self) -> list[PairCaptions]:
        """One per pair; empty if the set has no file of captions."""
        return captions_of(self.distilled)


def evaluated_sets(
    evaluations: Sequence[SetScores], studies: Sequence[StudyReport], workspace: Path
) -> list[EvaluatedSetReport]:
    """Open every evaluated set once, except the chosen sets of the studies.

    Args:
        evaluations: Evaluations of the sets; their folders are relative to the working directory.
        studies: The studies of the page.
        workspace: Workspace whose database resolves URIs.
    """
    names = names_of_sets(evaluations)
    shown = {(report.root / "best").resolve() for report in studies if report.distilled is not None}
    reports: dict[str, EvaluatedSetReport] = {}
    for evaluation in evaluations:
        sizes = [(row, place, number) for row in evaluation.sets for place, number in row.set_sizes.items()]
        for row, place, num_pairs in sizes:
            if Path(place).resolve() in shown:
                continue
            if place not in reports:
                reports[place] = EvaluatedSetReport(names[place], place, num_pairs, row.measured_on, [])
            if evaluation.command not in reports[place].commands:
                reports[place].commands.append(evaluation.command)
    for report in reports.values():
        try:
            report.distilled = DistilledSet.load(report.place, workspace)
        except RayvlddError as error:
            report.fault = without_next_command(error)
    return list(reports.values())
