"""The top of the page: the result of the best study in numbers, with pairs of its set and its recall curve."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rayvldd.config.setting import flat_settings
from rayvldd.console import time_as_text
from rayvldd.printable import value_as_text
from rayvldd.records.json_values import JsonValue
from rayvldd.reports.gain import short_words_without_gain
from rayvldd.reports.page.drawings import Drawing
from rayvldd.reports.page.gallery import GalleryPair, gallery_of
from rayvldd.reports.page.search_drawings import recall_curve
from rayvldd.reports.page.study_report import StudyReport
from rayvldd.reports.table import Cell, Column, Table, texts
from rayvldd.reports.tables import TOO_FEW

FIRST_PAIRS = 6
"""Pairs that are shown before anything else."""
_SPACE = "search.space."


@dataclass
class Overview:
    """The result of a study at one look."""

    study: str
    headline: str
    """Mean recall on test."""
    interval: str
    warning: str
    """That the set is its starting pairs, so that the recall is not one of distillation; else empty."""
    facts: list[tuple[str, str]]
    """Name and value, in the order of the page."""
    pairs: list[GalleryPair]
    drawing: Drawing | None
    """Validation recall of the chosen trial by outer step."""


def overview_of(reports: Sequence[StudyReport]) -> Overview | None:
    """The overview of the first finished study; None if there is none."""
    report = next((one for one in reports if one.result is not None), None)
    if report is None or report.result is None:
        return None
    tested = report.result.test
    ends = tested.interval
    best = report.best_trial
    return Overview(
        report.name,
        f"{tested.mean_recall:.1f} %",
        f"95 % interval {ends[0]:.1f} to {ends[1]:.1f}" if ends else f"95 % interval: {TOO_FEW}",
        short_words_without_gain(report.result.best.outer_step),
        list(_facts(report)),
        list(gallery_of(report.distilled, report.captions, FIRST_PAIRS)) if report.distilled else [],
        recall_curve(best) if best and best.evaluations else None,
    )


def _facts(report: StudyReport) -> Iterator[tuple[str, str]]:
    assert report.result is not None
    tested, result = report.result.test, report.result
    if tested.full_data_mean_recall > 0:
        share = f"{100 * tested.share_of_full_data:.0f} % of {tested.full_data_mean_recall:.1f}"
        yield "share of the full data", share
    yield "as many random pairs", f"{tested.random_mean_recall:.1f} %"
    if tested.over_random:
        yield "over random pairs", tested.over_random.words
    total = result.num_train_images or report.setting("data", "num_train")  # a setting of drawn scenes alone
    yield "pairs", f"{result.num_pairs}" + (f" of {total:,}" if isinstance(total, int) else "")
    others = [f"{count} {state}" for state in ("stopped", "failed") if (count := result.trials.get(state, 0))]
    count = sum(result.trials.values())
    yield "trials", f"{count}" + (f" ({', '.join(others)})" if others else "")
    if result.words_of_failed:
        yield "distillations with new seeds", result.words_of_failed
    if "total" in result.seconds:
        yield "time", time_as_text(result.seconds["total"])
    if made := result.made:
        yield from (
            (name, text) for name, text in (("machine", made.machine), ("date", made.date), ("code", made.code)) if text
        )


def settings_that_differ(reports: Sequence[StudyReport]) -> Table | None:
    """The settings in which studies differ, one row for each; None if there is nothing to compare."""
    flat = {report.name: _flat(report.settings) for report in reports if report.settings}
    if len(flat) < 2:
        return None
    keys = dict.fromkeys(key for settings in flat.values() for key in settings if key != "name")
    rows: list[list[Cell]] = []
    for key in keys:
        values: list[Cell] = [settings.get(key) for settings in flat.values()]
        if len(set(map(str, values))) > 1:
            rows.append([key, *values])
    columns = [*texts("setting"), *(Column(name) for name in flat)]
    return Table(columns, rows, "What differs: settings that are not the same in all studies", "differences")


def _flat(settings: Mapping[str, JsonValue]) -> dict[str, str]:
    """Dotted key -> value as text; the domain of a searched setting is one value."""
    found: dict[str, str] = {}
    search = settings.get("search")
    space = search.get("space") if isinstance(search, dict) else None
    for key, value in flat_settings(dict(settings)).items():
        if value is not None and not key.startswith(_SPACE):
            found[key] = value_as_text(value if isinstance(value, str | int | float) else str(value))
    for key, domain in space.items() if isinstance(space, dict) else ():
        found[_SPACE + key] = _domain(domain)
    return found


def _domain(domain: JsonValue) -> str:
    """A domain in words: ``1 to 100, log`` or ``a, b``."""
    if not isinstance(domain, dict):
        return str(domain)
    if "values" in domain:
        values = domain["values"]
        return ", ".join(map(str, values)) if isinstance(values, list) else str(values)
    return f"{domain.get('low')} to {domain.get('high')}" + (", log" if domain.get("log") else "")
