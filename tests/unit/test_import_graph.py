"""The rooms of the package and the arrows between them, read from the import statements of every file.

A new method is written and debugged on a laptop with no cluster, tracker or cloud account: the tensor rooms import
none of them, at whatever place of a file.
"""

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from helpers.imports_of_files import imports_of
from helpers.paths import ROOT

PACKAGE = ROOT / "rayvldd"

ROWS = (
    ("cli",),
    ("library", "testing"),
    ("reports",),
    ("hyperparameter_search",),
    ("runtime",),
    ("tracking", "clusters"),
    ("distillation",),
    ("experts", "coresets"),
    ("evaluation",),
    ("training",),
    ("models",),
    ("data",),
    ("records",),
    ("storage", "workspace"),
    ("config",),
    ("console", "randomness", "background"),
    ("errors", "printable", "user_paths"),
)
"""Arrows point down these rows, or along one."""
TENSOR_ROOMS = ("distillation", "experts", "evaluation", "coresets", "training", "models", "data")
KEPT_OUT = ("ray", "optuna", "mlflow", "boto3")

HEIGHT = {room: -row for row, rooms in enumerate(ROWS) for room in rooms}


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if room_of(file) not in ("__init__", "__main__")]


def arrows_of(file: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of each other room that a file imports from."""
    for found in imports_of(file):
        assert not found.module.startswith("."), f"{file}:{found.line}: a relative import hides the room it points to"
        package, inside, *_ = [*found.full_name.split("."), ""]
        if package == "rayvldd" and inside in HEIGHT and inside != room_of(file):
            yield found.line, inside


def test_every_room_has_its_row() -> None:
    assert len(FILES) > 30
    unknown = {room_of(file) for file in FILES} - set(HEIGHT)
    assert not unknown, f"give {sorted(unknown)} a row in this test, so that its arrows are checked"


def test_arrows_point_down() -> None:
    upward = [
        f"{file}:{line} imports {other}, which is above {room_of(file)}"
        for file in FILES
        for line, other in arrows_of(file)
        if HEIGHT[other] > HEIGHT[room_of(file)]
    ]
    assert not upward, "\n".join(upward)


@pytest.mark.parametrize("room", TENSOR_ROOMS)
def test_tensor_rooms_know_no_cluster_tracker_or_cloud(room: str) -> None:
    files = [file for file in FILES if room_of(file) == room]
    assert files
    found = [
        f"{file}:{found.line} imports {found.full_name}"
        for file in files
        for found in imports_of(file)
        if found.module.split(".")[0] in KEPT_OUT
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("room", TENSOR_ROOMS)
def test_tensor_rooms_keep_annotations_alive(room: str) -> None:
    """Shapes in signatures are checked while testing, which annotations kept as text would silently switch off."""
    names = {one.full_name: file for file in FILES if room_of(file) == room for one in imports_of(file)}
    assert "__future__.annotations" not in names, names["__future__.annotations"]


def test_no_cycle_between_rooms() -> None:
    graph: dict[str, set[str]] = {}
    for file in FILES:
        graph.setdefault(room_of(file), set()).update(other for _, other in arrows_of(file))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"rooms import each other: {' -> '.join(error.args[1])}")


def test_no_cycle_between_modules_of_distillation() -> None:
    files = {
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts): file
        for file in FILES
        if room_of(file) == "distillation"
    }
    graph = {
        name: {module for one in imports_of(file) for module in (one.full_name, one.module)} & files.keys()
        for name, file in files.items()
    }
    assert "rayvldd.distillation.exports" in graph["rayvldd.distillation.distilled_set"]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(error.args[1])}")


def test_the_reader_of_imports_sees_all_of_them(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("import ray.tune\ndef f():\n    from mlflow import log\n    import os, boto3\n")
    assert [found.full_name for found in imports_of(file)] == ["ray.tune", "mlflow.log", "os", "boto3"]
