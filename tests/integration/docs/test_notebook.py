"""The notebook of the Python guide: its cells run, one after the other, on a study of tiny size."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.paths import ROOT
from helpers.studies import ONE_AT_A_TIME, TINY_STUDY

NOTEBOOK = ROOT / "docs" / "guides" / "quickstart.ipynb"


def test_cells_run(local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = {"distillation.lr_image": {"type": "float", "low": 5.0, "high": 50.0, "log": True}}
    search = {"space": space, "num_trials": 4, "num_finalists": 0}
    (tmp_path / "search_spaces").mkdir()
    study = {**TINY_STUDY, "name": "quickstart", "search": search, "resources": ONE_AT_A_TIME}
    (tmp_path / "search_spaces" / "quickstart.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    names: dict[str, Any] = {}
    for number, cell in enumerate(json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            source = "".join(cell["source"]).replace('"quickstart"', '"search_spaces/quickstart.yaml"')
            exec(compile(source, f"cell {number}", "exec"), names)
    assert len(names["result"].trials) == 2, "as the notebook overrides it"
    assert names["image"].shape == (3, 16, 16), "the tiny study in place of the shipped one"


def test_its_study_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook runs in its own folder, not at the root of the clone."""
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    first = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    names: dict[str, Any] = {}
    exec(compile(first, "the first cell", "exec"), names)
    assert names["study"].name == "quickstart" and names["study"].distillation.num_pairs == 100


def test_it_is_stored_without_outputs() -> None:
    """Outputs of a run at another size would contradict the text, and make every change of it unreadable."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert notebook["nbformat"] == 4 and len(cells) >= 6
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)
