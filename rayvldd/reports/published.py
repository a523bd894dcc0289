"""Published recalls, shown in a separate table because they were measured and chosen differently."""

from collections.abc import Sequence
from importlib.resources import files
from statistics import fmean
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from rayvldd.config.metrics import MEAN_RECALL
from rayvldd.reports.tables import plain_table

_FILE = "published.yaml"


def published_rows() -> list[dict[str, Any]]:
    """Return all rows of the data file, with the defaults of their tables.

    Returns:
        ``dataset``, ``pool``, ``source``, ``link``, ``protocol``, ``encoders`` (None: not given here), ``trained_on``,
        ``pairs`` (None: all), ``chosen_on``; ``image_to_text`` and ``text_to_image``: R@1, R@5, R@10 in percent if
        published, with ``…_std``; ``mean_recall``: mean of the six, as published or computed from them, else None.
    """
    file = yaml.safe_load(files("rayvldd.reports").joinpath(_FILE).read_text(encoding="utf-8"))
    rows = []
    for row in file["rows"]:
        source = file["sources"][row["source"]]
        recalls = [*row.get("image_to_text", []), *row.get("text_to_image", [])]
        computed = fmean(recalls) if len(recalls) == 6 else None
        about = {"source": source["name"], **{key: source.get(key) for key in ("link", "protocol", "encoders")}}
        rows.append(
            {
                **row,
                **about,
                "pool": file["pools"][row["dataset"]],
                MEAN_RECALL.name: row.get(MEAN_RECALL.name, computed),
            }
        )
    return rows


def published_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows as published; none of them was measured here."""
    pools = {row["dataset"]: row["pool"] for row in rows}
    title = "Published, not measured here (%): " + "; ".join(f"{name}: {pool}" for name, pool in pools.items())
    table = plain_table(title)
    for column in ("dataset", "source", "protocol", "trained on"):
        table.add_column(column, overflow="fold")
    for column in ("pairs", "TR R@1/5/10", "IR R@1/5/10", "mean", "chosen on"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        cells = [row["dataset"], row["source"], row["protocol"], row["trained_on"], str(row["pairs"] or "all")]
        cells += [_recalls(row, way) for way in ("image_to_text", "text_to_image")]
        cells += ["–" if row[MEAN_RECALL.name] is None else f"{row[MEAN_RECALL.name]:.1f}", row["chosen_on"]]
        table.add_row(*map(Text, cells), style="bold" if row["trained_on"] == "distilled" else None)
    return table


def _recalls(row: dict[str, Any], way: str) -> str:
    values = row.get(way)
    if values is None:
        return "–"
    deviations = row.get(f"{way}_std") or [None] * len(values)
    return "/".join(
        f"{value:.1f}" + (f"±{deviation:.1f}" if deviation is not None else "")
        for value, deviation in zip(values, deviations, strict=True)
    )
