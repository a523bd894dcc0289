"""Tables of the content of an expert store."""

import math
from collections.abc import Iterable, Sequence

from pydantic import JsonValue

from rayvldd.config.metrics import VAL_MEAN_RECALL
from rayvldd.experts.store.inspection import Damage, ExpertInTraining, SetSummary
from rayvldd.experts.store.pruning import Leftover
from rayvldd.records.form import Values
from rayvldd.records.json_values import text_at, value_at
from rayvldd.reports.table import Cell, Table, numbers, texts


def sets_table(sets: Sequence[SetSummary], uri: str) -> Table:
    """One row per set."""
    columns = [
        *texts("key", "protocol", "encoder"),
        *numbers("epochs", "complete", "bytes"),
        *texts("storage"),
        *numbers("val mean recall", number="{:.1f}"),
        *texts("in training"),
    ]
    faulty = frozenset(place for place, known in enumerate(sets) if known.fault)
    return Table(columns, [_set_row(known) for known in sets], f"Expert sets in {uri}", "expert_sets", faulty=faulty)


def _set_row(known: SetSummary) -> list[Cell]:
    values = values_of_set(known)
    return [
        known.key,
        values.protocol,
        values.encoder,
        values.epochs,
        f"{values.complete}" + (f" ({len(known.incomplete)} damaged)" if known.incomplete else ""),
        size_as_text(known.num_bytes),
        values.storage or None,
        values.val_mean_recall,
        known.fault or ", ".join(map(training_as_text, known.in_training)),
    ]


class TrainingValues(Values):
    """An expert in training, for ``--json``."""

    expert: int
    epoch: int
    holder: str | None


class SetValues(Values):
    """A set of experts, for ``--json`` and its table."""

    key: str
    protocol: str | None
    encoder: str | None
    epochs: int | None
    imported: JsonValue
    complete: int
    damaged: list[int]
    in_training: list[TrainingValues]
    bytes: int
    storage: str | None
    val_mean_recall: float | None
    """Mean over the experts at their last epoch, in percent."""
    fault: str


class ListedSets(Values):
    """The sets of a store, for ``--json``."""

    store: str
    sets: list[SetValues]


class ShownSet(SetValues):
    """A set with the content of its files, for ``--json``."""

    store: str
    manifest: dict[str, JsonValue] | None
    records: dict[str, dict[str, JsonValue]]
    """By expert."""


def values_of_set(known: SetSummary) -> SetValues:
    """The values of the table, also for ``--json``."""
    settings = known.recipe.settings
    epochs = value_at(settings, "experts", "epochs")
    recalls = [record["metrics"][-1][VAL_MEAN_RECALL] for record in known.records.values() if record["metrics"]]
    finite = [recall for recall in recalls if recall is not None and math.isfinite(recall)]
    return SetValues(
        key=known.key,
        protocol=text_at(settings, "model", "protocol") or None,
        encoder=text_at(settings, "model", "image_encoder", "name") or None,
        epochs=epochs if isinstance(epochs, int) else None,
        imported=value_at(settings, "experts", "imported"),
        complete=len(known.records),
        damaged=known.incomplete,
        in_training=[
            TrainingValues(
                expert=found.index, epoch=found.epoch, holder=_holder_as_text(found) if found.holder else None
            )
            for found in known.in_training
        ],
        bytes=known.num_bytes,
        storage=known.recipe.storage if settings else None,
        val_mean_recall=sum(finite) / len(finite) if finite else None,
        fault=known.fault,
    )


def training_as_text(found: ExpertInTraining) -> str:
    """Format an expert in training: index, epoch and process."""
    return f"#{found.index} epoch {found.epoch}, {_holder_as_text(found) if found.holder else 'not leased'}"


def _holder_as_text(found: ExpertInTraining) -> str:
    assert found.holder
    return f"process {found.holder.process} on {found.holder.machine.partition(' ')[0]}"


def experts_table(known: SetSummary) -> Table:
    """One row per expert of a set."""
    rows: list[list[Cell]] = []
    for index, record in known.records.items():
        recall = record["metrics"][-1][VAL_MEAN_RECALL] if record["metrics"] else None
        origin = f", from {record['origin']}" if record.get("origin") else ""
        row: list[Cell] = [index, epochs_as_text(record["epochs"]), size_as_text(record["bytes"])]
        row.append(f"{record['seconds']:.0f}" if record["metrics"] else "not known")
        row.append(f"{recall:.2f}" if recall is not None else "not known")
        rows.append([*row, f"{record['rayvldd_version']}{origin}"])
    columns = [
        *numbers("expert", "epochs kept", "bytes", "seconds", "val mean recall, last epoch"),
        *texts("made by rayvldd"),
    ]
    return Table(columns, rows, "Experts", "experts")


def epochs_table(known: SetSummary) -> Table:
    """Mean and range of the experts' metrics by epoch."""
    losses: dict[int, list[float | None]] = {}
    recalls: dict[int, list[float | None]] = {}
    for record in known.records.values():
        for metrics in record["metrics"]:
            losses.setdefault(int(metrics["epoch"]), []).append(metrics["train_loss"])
            recalls.setdefault(int(metrics["epoch"]), []).append(metrics[VAL_MEAN_RECALL])
    rows = [
        (epoch, len(losses[epoch]), _mean_and_range(losses[epoch]), _mean_and_range(recalls[epoch]))
        for epoch in sorted(losses)
    ]
    columns = numbers("epoch", "experts", "train loss", "val mean recall (%)")
    return Table(columns, rows, "By epoch: mean (least to most) over experts", "epochs")


def checksums_table(known: SetSummary) -> Table:
    """The checksums of all tensors of a set."""
    rows: list[list[Cell]] = []
    for index, record in known.records.items():
        rows += [[f"expert_{index:03d}.safetensors", *entry] for entry in record["checksums"].items()]
        if record["start"]:
            name = record["start"]["name"].partition("/")[2]
            rows += [[name, *entry] for entry in record["start"]["checksums"].items()]
    return Table(texts("file", "tensor", "checksum"), rows, "Checksums (xxh3, 128 bits)", "checksums")


def damages_table(damages: Iterable[Damage]) -> Table:
    """Damaged files, with the reasons."""
    return Table(texts("file", "why"), [(damage.name, damage.why) for damage in damages], "Damaged", "damaged")


def leftovers_table(leftovers: Iterable[Leftover]) -> Table:
    """Files that can be deleted."""
    rows = [(found.key or None, found.what, len(found.names), size_as_text(found.num_bytes)) for found in leftovers]
    return Table([*texts("set", "what"), *numbers("files", "bytes")], rows, "Left over", "left_over")


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
