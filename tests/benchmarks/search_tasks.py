"""The tasks of the search benchmarks, declared in ``search_tasks.yaml``: three for development, five for test.

    python tests/benchmarks/search_tasks.py      the tasks, what is recorded of each, and the commands that record them

A test task can be replayed only through :func:`tables_of`, which counts the replay in ``search_looks.json``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from recorded_responses import Table

FOLDER = Path(__file__).parent
TASKS = FOLDER / "search_tasks.yaml"
LOOKS = FOLDER / "search_looks.json"
"""Replays of each test task so far."""

Role = Literal["development", "test"]


@dataclass(frozen=True)
class SearchTask:
    """A study whose responses are recorded, to replay searches on them."""

    name: str
    role: Role
    study: Path
    seeds: tuple[int, ...]
    runs: int
    """Runs to record for each seed."""
    recorded: Mapping[Path, int]
    """Number of runs in each table that exists."""
    conditional: bool
    """Whether points lack settings that others have, so that samplers cannot rank its runs."""

    @classmethod
    def of(cls, name: str, values: Mapping[str, Any]) -> Self:
        """An entry of ``search_tasks.yaml``."""
        recorded = {FOLDER / table: int(runs) for table, runs in values["recorded"].items()}
        seeds = tuple(map(int, values["seeds"]))
        conditional = bool(values.get("conditional", False))
        return cls(name, values["role"], FOLDER / values["study"], seeds, int(values["runs"]), recorded, conditional)

    @property
    def is_recorded(self) -> bool:
        """Whether there is a table to replay; it may have fewer runs than are planned."""
        return bool(self.recorded)

    @property
    def state(self) -> str:
        """What is recorded, in words."""
        runs = sum(self.recorded.values())
        return f"{runs} of {self.runs * len(self.seeds)} runs recorded" if runs else "not recorded yet"

    def commands(self) -> list[str]:
        """The commands that record the task, one for each seed."""
        study = self.study.relative_to(FOLDER.parents[1])
        return [
            f"python tests/benchmarks/record_responses.py {study} --workspace WORKSPACE --out {self.name}_{seed}.jsonl "
            f"--runs {self.runs} --set seed={seed}"
            for seed in self.seeds
        ]


def search_tasks(file: Path = TASKS) -> dict[str, SearchTask]:
    """All tasks by name."""
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {name: SearchTask.of(name, entry) for name, entry in values.items()}


def recorded_tasks(role: Role) -> list[SearchTask]:
    """The tasks of a role that can be replayed."""
    return [task for task in search_tasks().values() if task.role == role and task.is_recorded]


def tables_of(task: SearchTask, looks: Path = LOOKS) -> list[Table]:
    """Load the tables of a task for a replay; of a test task this is counted."""
    tables = [Table.load(file) for file in task.recorded]
    if task.role == "test" and tables:
        counts = json.loads(looks.read_text(encoding="utf-8"))
        counts[task.name] += 1
        looks.write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    return tables


def main() -> None:
    """Print the tasks."""
    for task in search_tasks().values():
        print(f"{task.name} ({task.role}): {task.state}")
        for command in task.commands():
            print(f"  {command}")


if __name__ == "__main__":
    main()
