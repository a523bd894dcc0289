"""Published recalls, shown in a separate table because they were measured and chosen differently."""

from collections.abc import Sequence
from importlib.resources import files
from statistics import fmean

import yaml
from pydantic import BaseModel, ConfigDict, Field

from rayvldd.config.metrics import MEAN_RECALL
from rayvldd.records.form import Values
from rayvldd.records.json_values import JsonValue, list_at, text_at
from rayvldd.reports.table import Cell, Table, numbers, texts

_FILE = "published.yaml"


class PublishedRow(Values):
    """One row of a published table; recalls in percent, R@1, R@5 and R@10 of each direction if published."""

    dataset: str
    pool: str
    """Size of the test pool."""
    source: str
    link: str | None
    protocol: str
    encoders: str | None
    """None: not given."""
    trained_on: str
    pairs: int | None
    """Number of pairs; None: all."""
    chosen_on: str
    """The split by which the best of several evaluations was chosen."""
    image_to_text: list[float] = Field(default_factory=list)
    text_to_image: list[float] = Field(default_factory=list)
    image_to_text_std: list[float] = Field(default_factory=list)
    text_to_image_std: list[float] = Field(default_factory=list)
    mean_recall: float | None
    """Mean of the six recalls, as published or computed from them; None if there are fewer."""

    @property
    def training_pairs(self) -> str:
        """Number and kind of the pairs that students were trained on."""
        if not self.pairs:
            return self.trained_on
        return f"{self.pairs} {self.trained_on.removeprefix('all ').removesuffix(' pairs')} pairs"


class _Source(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str
    link: str | None = None
    protocol: str
    encoders: str | None = None


class _File(BaseModel):
    """The data file; its rows are completed by the entries of their source and dataset."""

    pools: dict[str, str]
    sources: dict[str, _Source]
    rows: list[dict[str, JsonValue]]


def published_rows() -> list[PublishedRow]:
    """Return all rows of the data file, with the entries of their sources and pools."""
    text = files("rayvldd.reports").joinpath(_FILE).read_text(encoding="utf-8")
    file = _File.model_validate(yaml.safe_load(text))
    rows = []
    for row in file.rows:
        source = file.sources[text_at(row, "source")]
        recalls = [*list_at(row, "image_to_text"), *list_at(row, "text_to_image")]
        known = [value for value in recalls if isinstance(value, int | float)]
        about = {"source": source.name, "link": source.link, "protocol": source.protocol, "encoders": source.encoders}
        computed = {
            MEAN_RECALL.name: fmean(known) if len(known) == 6 else None,
            "pool": file.pools[text_at(row, "dataset")],
        }
        rows.append(PublishedRow.model_validate({**computed, **row, **about}))
    return rows


def published_table(rows: Sequence[PublishedRow]) -> Table:
    """The rows as published; none of them was measured here."""
    pools = {row.dataset: row.pool for row in rows}
    caption = "Published, not measured here (%): " + "; ".join(f"{name}: {pool}" for name, pool in pools.items())
    shown: list[list[Cell]] = [
        [
            row.dataset,
            row.source,
            row.protocol,
            row.trained_on,
            row.pairs or "all",
            _recalls(row.image_to_text, row.image_to_text_std),
            _recalls(row.text_to_image, row.text_to_image_std),
            row.mean_recall,
            row.chosen_on,
        ]
        for row in rows
    ]
    columns = [
        *texts("dataset", "source", "protocol", "trained on"),
        *numbers("pairs", "TR R@1/5/10", "IR R@1/5/10", "mean", "chosen on", number="{:.1f}"),
    ]
    distilled = frozenset(place for place, row in enumerate(rows) if row.trained_on == "distilled")
    return Table(columns, shown, caption, "published", bold=distilled)


def _recalls(values: Sequence[float], deviations: Sequence[float]) -> str | None:
    if not values:
        return None
    ends = [f"±{deviation:.1f}" for deviation in deviations] or [""] * len(values)
    return "/".join(f"{value:.1f}{end}" for value, end in zip(values, ends, strict=True))
