"""The captions of a distilled set as a table of MLflow's pages."""

import json
from pathlib import Path

from rayvldd.records.json_values import JsonObject, JsonValue
from rayvldd.storage.json_files import parsed

CAPTIONS_TABLE = "captions.json"
"""Artifact with the table."""
TABLES_TAG = "mlflow.loggedArtifacts"
"""Tag by which MLflow's pages find the tables of a run."""
TABLES = json.dumps([{"path": CAPTIONS_TABLE, "type": "table"}])
"""Its value."""
_NEAREST = "nearest_captions.jsonl"
_COLUMNS = ("pair", "start", "nearest", "similarity")


def captions_table(artifacts: Path) -> JsonObject | None:
    """The captions of the pairs before and after distillation, in MLflow's form of a table; None if there are none."""
    file = next(iter(sorted(artifacts.rglob(_NEAREST))), None)
    if file is None:
        return None
    lines = [parsed(line.encode()) for line in file.read_text(encoding="utf-8").split("\n") if line]
    rows: list[JsonValue] = [[row.get(name) for name in _COLUMNS] for row in lines if row is not None]
    return {"columns": list(_COLUMNS), "data": rows} if rows else None
