"""Assembly of the page's content: a section for each study, and comparisons of all studies."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import yaml

from rayvldd.config.domains import SettingValue
from rayvldd.config.loading import dump_study
from rayvldd.config.space import Space
from rayvldd.distillation.distilled_set import DistilledSet
from rayvldd.hyperparameter_search.optuna_trials import FEWEST_TRIALS, importance_among_good, importance_of_settings
from rayvldd.records.set_card import OriginCard
from rayvldd.records.set_scores import ALL_PAIRS, CoresetScores, FurtherScores, SetScores
from rayvldd.records.study_outcome import StudyOutcome
from rayvldd.reports.diagnostics import words_of_diagnostics
from rayvldd.reports.gain import words_without_gain
from rayvldd.reports.page.baselines import ComparableSets, comparable_sets, names_of_sets, verdict_over_sizes, verdicts
from rayvldd.reports.page.data_tables import (
    front_of,
    published_table,
    recalls_table,
    sets_table,
    studies_table,
    transfer_table,
)
from rayvldd.reports.page.drawings import Drawing
from rayvldd.reports.page.evaluated_sets import EvaluatedSetReport
from rayvldd.reports.page.further_scores import conditions, joined
from rayvldd.reports.page.gallery import GalleryPair, gallery_of
from rayvldd.reports.page.marginals import expected_recalls
from rayvldd.reports.page.overview import Overview, overview_of, settings_that_differ
from rayvldd.reports.page.search_drawings import (
    calibration,
    convergence,
    history,
    importance,
    marginals,
    parallel_coordinates,
    pareto_front,
    progress_of_studies,
)
from rayvldd.reports.page.set_drawings import (
    further_inputs,
    likeness,
    recall_by_group,
    recall_by_pairs,
    similarity,
    subjects_kept,
    transfer,
)
from rayvldd.reports.page.study_report import StudyReport
from rayvldd.reports.page.transfer import TransferMatrix, matrices_of
from rayvldd.reports.published import PublishedRow
from rayvldd.reports.table import Table
from rayvldd.reports.tables import further_table, trials_table

MOST_PAIRS = 300
"""Maximum number of pairs in all galleries of a page: about 3 MB at 96 pixels."""


@dataclass
class StudySection:
    """Content of the page for one study."""

    report: StudyReport
    recalls: Table | None
    front: Table | None
    """The members of the Pareto front of several objectives."""
    trials: Table
    drawings: list[Drawing]
    left_out: list[str]
    """Why a drawing is missing."""
    warning: str
    """That distillation has not improved the set; else empty."""
    diagnostics: str
    """Diagnostics of the chosen set in words; empty if there are none."""
    gallery: list[GalleryPair]
    settings: str
    """The settings as YAML; the content of the file if it is not valid for this release."""


@dataclass
class SetSection:
    """Content of the page for an evaluated set that is not the chosen set of a study."""

    report: EvaluatedSetReport
    diagnostics: str
    """Diagnostics of the set in words; empty if there are none."""
    drawings: list[Drawing]
    gallery: list[GalleryPair]
    settings: str


@dataclass
class Group:
    """Studies and sets that can be compared."""

    measured_on: str
    drawing: Drawing
    sets: Table
    verdict: str
    """Verdict over all sizes; empty if there is only one."""
    verdicts: list[str]
    """Verdict of each distilled set."""

    @property
    def sentences(self) -> list[str]:
        """The verdict of each set, then the verdict over all sizes."""
        return [*self.verdicts, *([self.verdict] if self.verdict else [])]


@dataclass
class Transfer:
    """A transfer matrix."""

    measured_on: str
    table: Table
    drawing: Drawing


@dataclass
class Loss:
    """Recall by groups of captions, and subjects of the captions."""

    measured_on: str
    drawings: list[Drawing]


@dataclass
class Further:
    """Scores on other inputs than the split, of all sets that were measured under the same conditions."""

    measured_on: str
    drawings: list[Drawing]
    tables: list[tuple[Table, list[str]]]
    """Each with the sentences below it."""


@dataclass
class Comparison:
    """Content of the whole page."""

    studies: Table | None
    groups: list[Group]
    sections: list[StudySection]
    transfers: list[Transfer] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    further: list[Further] = field(default_factory=list)
    set_sections: list[SetSection] = field(default_factory=list)
    published: Table | None = None
    overview: Overview | None = None
    """The result of the best finished study."""
    differences: Table | None = None
    """Settings in which the studies differ."""
    progress: Drawing | None = None
    """Best recall so far of all studies, if there are several."""

    @property
    def is_long(self) -> bool:
        """Whether the sections of studies and sets are closed at first."""
        return len(self.sections) + len(self.set_sections) >= _MANY_SECTIONS


_MANY_SECTIONS = 4


def compare(
    reports: Sequence[StudyReport],
    coresets: Sequence[CoresetScores] = (),
    evaluations: Sequence[SetScores] = (),
    sets: Sequence[EvaluatedSetReport] = (),
    published: Sequence[PublishedRow] = (),
) -> Comparison:
    """Assemble the content of the page.

    Args:
        reports: The studies.
        coresets: Scores of coresets for the sets of the studies.
        evaluations: Scores of sets, of coresets, and on other encoders.
        sets: The evaluated sets to show.
        published: Published results, shown separately.
    """
    shown = sum(report.distilled is not None for report in reports) + sum(one.distilled is not None for one in sets)
    most = max(12, MOST_PAIRS // max(1, shown))
    ranked = _ranked(reports)
    return Comparison(
        studies_table(ranked) if ranked else None,
        [_group(n, group) for n, group in enumerate(comparable_sets(reports, coresets, evaluations), start=1)],
        [_section(report, most) for report in ranked],
        [_transfer(number, matrix) for number, matrix in enumerate(matrices_of(evaluations), start=1)],
        _losses(evaluations),
        list(_further(evaluations)),
        [_set_section(report, most) for report in sets],
        published_table(published) if published else None,
        overview_of(ranked),
        settings_that_differ(ranked),
        _progress(ranked),
    )


def _progress(reports: Sequence[StudyReport]) -> Drawing | None:
    trials = {report.name: report.trials for report in reports if any(trial.best for trial in report.trials)}
    return progress_of_studies(trials) if len(trials) > 1 else None


def _ranked(reports: Sequence[StudyReport]) -> list[StudyReport]:
    """Finished studies by test recall, then the others by name."""

    def place(report: StudyReport) -> tuple[float, str]:
        return (-report.result.test.mean_recall if report.result else 1.0), report.name

    return sorted(reports, key=place)


def _group(number: int, group: ComparableSets) -> Group:
    return Group(
        ", ".join(group.measured_on),
        recall_by_pairs(group.points, group.bound, f"recall_by_pairs_{number}"),
        sets_table(group, f"sets_{number}"),
        verdict_over_sizes(group.points),
        verdicts(group.points),
    )


def _transfer(number: int, matrix: TransferMatrix) -> Transfer:
    name = f"transfer_{number}"
    return Transfer(", ".join(matrix.measured_on), transfer_table(matrix, name), transfer(matrix, name))


def _losses(evaluations: Sequence[SetScores]) -> list[Loss]:
    names = names_of_sets(evaluations)
    losses: list[Loss] = []
    for found in (breakdown for evaluation in evaluations for breakdown in evaluation.breakdown):
        number = len(losses) + 1
        kinds = dict.fromkeys(row.by for row in found.recalls)
        drawings = [
            recall_by_group([row for row in found.recalls if row.by == by], by, names, f"recall_by_{by}_{number}")
            for by in kinds
        ]
        drawings += [
            subjects_kept(shares, names[place], f"subjects_{number}_{place_number}")
            for place_number, (place, shares) in enumerate(found.subjects.items(), start=1)
            if place in names and shares
        ]
        losses.append(Loss(", ".join(found.measured_on), drawings))
    return losses


def _further(evaluations: Sequence[SetScores]) -> Iterator[Further]:
    names = names_of_sets(evaluations)
    by_conditions: dict[tuple[str, ...], list[FurtherScores]] = {}
    for found in joined([found for evaluation in evaluations for found in evaluation.further]):
        by_conditions.setdefault(conditions(found), []).append(found)
    for number, of_group in enumerate(by_conditions.values(), start=1):
        tables = [
            (
                replace(
                    further_table(found, names=names, full_data=ALL_PAIRS), name=f"{found.evaluation}_{number}_{place}"
                ),
                found.notes,
            )
            for place, found in enumerate(of_group, start=1)
        ]
        drawings = [
            further_inputs(of_group, names, f"further_inputs_{number}"),
            likeness(of_group, names, f"likeness_{number}"),
        ]
        yield Further(", ".join(of_group[0].measured_on), [one for one in drawings if one], tables)


def _set_section(report: EvaluatedSetReport, most: int) -> SetSection:
    if report.distilled is None:
        return SetSection(report, "", [], [], "")
    drawings = list(_learned_similarity(report.distilled, [row.nearest for row in report.captions]))
    card = report.distilled.card
    settings = yaml.safe_dump(card.study, sort_keys=False, allow_unicode=True) if isinstance(card, OriginCard) else ""
    pairs = list(gallery_of(report.distilled, report.captions, most))
    return SetSection(report, _diagnostics(report.distilled), drawings, pairs, settings)


def _section(report: StudyReport, most: int) -> StudySection:
    drawings, left_out = _drawings(report)
    settings = dump_study(report.study) if report.study else "\n".join(f"{k}: {v}" for k, v in report.settings.items())
    return StudySection(
        report,
        recalls_table(report),
        front_of(report),
        trials_table(report.trials, report.best_trial.trial_id if report.best_trial else ""),
        drawings,
        left_out,
        _warning(report.result) if report.result else "",
        _diagnostics(report.distilled) if report.distilled else "",
        list(gallery_of(report.distilled, report.captions, most)) if report.distilled else [],
        settings,
    )


def _warning(result: StudyOutcome) -> str:
    return words_without_gain(result.best.outer_step, result.num_pairs, result.rates_to_try)


def _diagnostics(distilled: DistilledSet) -> str:
    return words_of_diagnostics(distilled.card.metrics) if isinstance(distilled.card, OriginCard) else ""


def _drawings(report: StudyReport) -> tuple[list[Drawing], list[str]]:
    drawings: list[Drawing] = []
    left_out: list[str] = []
    best_id = report.best_trial.trial_id if report.best_trial else ""
    if any(trial.evaluations for trial in report.trials):
        drawings += [
            convergence(report.trials, best_id),
            history(report.trials, best_id),
            pareto_front(report.trials, best_id),
        ]
    else:
        left_out.append("No trial has been evaluated, so there is nothing to draw of the search.")
    if any(trial.prediction and trial.evaluations and trial.state != "failed" for trial in report.trials):
        drawings.append(calibration(report.trials, best_id))
    space = report.study.space if report.study else Space({}, {})
    known = [trial for trial in report.trials if trial.best and _is_in(trial.point, space)]
    if "distillation.num_pairs" in space.drawn and known:
        drawings.append(pareto_front(known, best_id, "num_pairs"))
    if space.drawn and known:
        drawings += [
            parallel_coordinates(known, space.drawn, best_id),
            marginals(known, space.drawn, best_id, expected_recalls(known, space.unconditional)),
        ]
        shares = importance_of_settings(known, space.domains)
        if shares:
            drawings.append(importance(shares, importance_among_good(known, space.domains), len(known)))
        else:
            left_out.append(
                f"Importances need {FEWEST_TRIALS} trials with different recalls; this study has {len(known)}."
            )
    elif not space.drawn and report.study:
        left_out.append("This study searched no settings.")
    if report.distilled is not None:
        drawings += _learned_similarity(report.distilled, [row.nearest for row in report.captions])
    return drawings, left_out


def _learned_similarity(distilled: DistilledSet, nearest: Sequence[str]) -> Iterable[Drawing]:
    """The heat map of the learned similarity, if the set has one."""
    matrix = distilled.similarity.matrix()
    if matrix is not None:
        captions = nearest if len(nearest) == len(matrix) else distilled.start_captions
        yield similarity(np.nan_to_num(matrix.numpy()), captions)


def _is_in(point: Mapping[str, SettingValue], space: Space) -> bool:
    """Whether a point has all unconditional settings of the space, and only settings of the space."""
    domains = space.domains
    return space.unconditional.keys() <= point.keys() <= domains.keys() and all(
        value in domains[key] for key, value in point.items()
    )
