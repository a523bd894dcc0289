"""The transfer matrix: sets distilled with one image encoder, students trained with another."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rayvldd.records.set_scores import ALL_PAIRS, EvaluatedBound, EvaluatedCoreset, EvaluatedSet, SetScores
from rayvldd.reports.page.baselines import names_of_sets
from rayvldd.reports.table import Estimate

Row = EvaluatedSet | EvaluatedCoreset | EvaluatedBound


@dataclass
class TransferMatrix:
    """Estimates by training set of the students, then by encoder."""

    measured_on: tuple[str, ...]
    """What all cells have in common."""
    encoders: list[str] = field(default_factory=list)
    made_with: dict[str, str] = field(default_factory=dict)
    """The encoder of each row that is a distilled set."""
    rows: dict[str, dict[str, Estimate]] = field(default_factory=dict)

    def add(self, row: Row, name: str) -> None:
        """Add a row of an evaluation under a name."""
        if row.trained_with not in self.encoders:
            self.encoders.append(row.trained_with)
        is_own = isinstance(row, EvaluatedSet) and not row.is_transferred
        cell = Estimate(row.mean_recall, row.mean_interval, row.share_of_full_data, is_own)
        self.rows.setdefault(name, {})[row.trained_with] = cell
        if isinstance(row, EvaluatedSet):
            self.made_with[name] = row.made_with

    def drop_single_encoder_rows(self) -> None:
        """Remove rows with a single encoder, unless it is another encoder than that of the set."""
        for name, cells in list(self.rows.items()):
            met_another = name in self.made_with and not all(cell.is_own for cell in cells.values())
            if len(cells) < 2 and name != ALL_PAIRS and not met_another:
                del self.rows[name]
                self.made_with.pop(name, None)


def matrices_of(evaluations: Sequence[SetScores]) -> list[TransferMatrix]:
    """One matrix for all rows that differ only in encoder and set, if a set was evaluated on another encoder."""
    names = names_of_sets(evaluations)
    bases = {row.base for found in evaluations for row in found.sets if row.is_transferred}
    rows: list[tuple[Row, str]] = [(row, names[row.distilled_set]) for found in evaluations for row in found.sets]
    rows += [(row, f"{row.num_pairs} pairs, {row.method}") for found in evaluations for row in found.coresets]
    rows += [(row, ALL_PAIRS) for found in evaluations for row in found.full_data]
    matrices: dict[str, TransferMatrix] = {}
    for row, name in rows:
        if row.base in bases:
            common = tuple(word for word in row.measured_on if word != row.image_encoder)
            matrices.setdefault(row.base, TransferMatrix(common)).add(row, name)
    for matrix in matrices.values():
        matrix.drop_single_encoder_rows()
    return list(matrices.values())
