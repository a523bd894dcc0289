"""Tables of the content of an expert store."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from rayvldd.config.metrics import VAL_MEAN_RECALL
from rayvldd.experts.store.inspection import Damage, ExpertInTraining, SetSummary
from rayvldd.experts.store.pruning import Leftover
from rayvldd.records.json_values import value_at
from rayvldd.reports.tables import plain_table


def sets_table(sets: Sequence[SetSummary], uri: str) -> Table:
    """One row per set."""
    table = plain_table(f"Expert sets in {uri}")
    for column in ("key", "protocol", "encoder"):
        table.add_column(column, overflow="fold")
    for column in ("epochs", "complete", "bytes"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("storage")
    table.add_column("val mean recall", justify="right")
    table.add_column("in training", overflow="fold")
    for known in sets:
        values = values_of_set(known)
        recall = values[VAL_MEAN_RECALL]
        complete = f"{values['complete']}" + (f" ({len(known.incomplete)} damaged)" if known.incomplete else "")
        cells = [values["protocol"], values["encoder"], values["epochs"]]
        row = [
            known.key,
            *("–" if cell is None else str(cell) for cell in cells),
            complete,
            size_as_text(known.num_bytes),
        ]
        row += [values["storage"] or "–", "–" if recall is None else f"{recall:.1f}"]
        row.append(known.fault or ", ".join(map(training_as_text, known.in_training)))
        table.add_row(*map(Text, row), style="red" if known.fault else None)
    return table


def values_of_set(known: SetSummary) -> dict[str, Any]:
    """The values of the table for ``--json``."""
    settings = known.recipe.settings
    recalls = [record["metrics"][-1][VAL_MEAN_RECALL] for record in known.records.values() if record["metrics"]]
    finite = [recall for recall in recalls if recall is not None and math.isfinite(recall)]
    return {
        "key": known.key,
        "protocol": value_at(settings, "model", "protocol"),
        "encoder": value_at(settings, "model", "image_encoder", "name"),
        "epochs": value_at(settings, "experts", "epochs"),
        "imported": value_at(settings, "experts", "imported"),
        "complete": len(known.records),
        "damaged": known.incomplete,
        "in_training": [
            {"expert": found.index, "epoch": found.epoch, "holder": found.holder and _holder_as_text(found)}
            for found in known.in_training
        ],
        "bytes": known.num_bytes,
        "storage": known.recipe.storage if settings else None,
        VAL_MEAN_RECALL: sum(finite) / len(finite) if finite else None,
        "fault": known.fault,
    }


def training_as_text(found: ExpertInTraining) -> str:
    """Format an expert in training: index, epoch and process."""
    return f"#{found.index} epoch {found.epoch}, {_holder_as_text(found) if found.holder else 'not leased'}"


def _holder_as_text(found: ExpertInTraining) -> str:
    assert found.holder
    return f"process {found.holder.process} on {found.holder.machine.partition(' ')[0]}"


def experts_table(known: SetSummary) -> Table:
    """One row per expert of a set."""
    table = plain_table("Experts")
    for column in ("expert", "epochs kept", "bytes", "seconds", "val mean recall, last epoch"):
        table.add_column(column, justify="right")
    table.add_column("made by rayvldd")
    for index, record in known.records.items():
        recall = record["metrics"][-1][VAL_MEAN_RECALL] if record["metrics"] else None
        table.add_row(
            str(index),
            epochs_as_text(record["epochs"]),
            size_as_text(record["bytes"]),
            f"{record['seconds']:.0f}" if record["metrics"] else "not known",
            f"{recall:.2f}" if recall is not None else "not known",
            str(record["rayvldd_version"]) + (f", from {record['origin']}" if record.get("origin") else ""),
        )
    return table


def epochs_table(known: SetSummary) -> Table:
    """Mean and range of the experts' metrics by epoch."""
    table = plain_table("By epoch: mean (least to most) over experts")
    for column in ("epoch", "experts", "train loss", "val mean recall (%)"):
        table.add_column(column, justify="right")
    rows: dict[int, list[dict[str, Any]]] = {}
    for record in known.records.values():
        for metrics in record["metrics"]:
            rows.setdefault(int(metrics["epoch"]), []).append(metrics)
    for epoch, found in sorted(rows.items()):
        figures = [[metrics[name] for metrics in found] for name in ("train_loss", VAL_MEAN_RECALL)]
        table.add_row(str(epoch), str(len(found)), *(_mean_and_range(values) for values in figures))
    return table


def checksums_table(known: SetSummary) -> Table:
    """The checksums of all tensors of a set."""
    table = plain_table("Checksums (xxh3, 128 bits)")
    for column in ("file", "tensor", "checksum"):
        table.add_column(column, overflow="fold")
    for index, record in known.records.items():
        for tensor, digest in record["checksums"].items():
            table.add_row(f"expert_{index:03d}.safetensors", tensor, digest)
        if record["start"]:
            for tensor, digest in record["start"]["checksums"].items():
                table.add_row(record["start"]["name"].partition("/")[2], tensor, digest)
    return table


def damages_table(damages: Iterable[Damage]) -> Table:
    """Damaged files, with the reasons."""
    table = plain_table("Damaged")
    for column in ("file", "why"):
        table.add_column(column, overflow="fold")
    for damage in damages:
        table.add_row(Text(damage.name), Text(damage.why))
    return table


def leftovers_table(leftovers: Iterable[Leftover]) -> Table:
    """Files that can be deleted."""
    table = plain_table("Left over")
    table.add_column("set")
    table.add_column("what", overflow="fold")
    for column in ("files", "bytes"):
        table.add_column(column, justify="right")
    for found in leftovers:
        table.add_row(found.key or "–", Text(found.what), str(len(found.names)), size_as_text(found.num_bytes))
    return table


def size_as_text(num_bytes: int) -> str:
    """Format a number of bytes: 912 B, 14.2 MiB, 1.6 GiB."""
    size, unit = float(num_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def epochs_as_text(epochs: Sequence[int]) -> str:
    """Format epochs, with consecutive ones as ranges: 0–3, 7."""
    runs: list[list[int]] = []
    for epoch in epochs:
        if runs and epoch == runs[-1][1] + 1:
            runs[-1][1] = epoch
        else:
            runs.append([epoch, epoch])
    return ", ".join(f"{first}–{last}" if last > first else str(first) for first, last in runs)


def _mean_and_range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.2f} ({min(known):.2f} to {max(known):.2f})" if known else "–"
