"""The declared tasks of the search benchmarks: their studies load, their tables exist, looks at test are counted."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.paths import BENCHMARKS

from rayvldd.config.loading import load_study

sys.path.insert(0, str(BENCHMARKS))

import record_responses
import search_tasks
from recorded_responses import DEFAULT_TABLE, Table
from search_tasks import SearchTask

TASKS = search_tasks.search_tasks()


def test_three_tasks_are_for_development_and_five_for_test() -> None:
    roles = [task.role for task in TASKS.values()]
    assert (roles.count("development"), roles.count("test")) == (3, 5)
    looks = json.loads(search_tasks.LOOKS.read_text())
    assert list(looks) == [name for name, task in TASKS.items() if task.role == "test"]


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_studies_load_and_their_points_are_valid(task: SearchTask, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("RAYVLDD_FLICKR8K", "RAYVLDD_IMAGE_WEIGHTS", "RAYVLDD_TEXT_ENCODER"):
        monkeypatch.setenv(variable, "somewhere")
    study = load_study(task.study)
    assert study.name == task.study.stem
    points = record_responses.spread_points(study, 20)
    assert len({study.space.key_of(point) for point in points}) == 20
    for point in points:
        at_point = study.at(point)
        assert at_point.expert_points()[0].experts == study.experts, "one expert set serves all runs"
    assert all("--set seed=" in command for command in task.commands())


def test_tables_have_the_stated_number_of_runs() -> None:
    recorded = {table: runs for task in TASKS.values() for table, runs in task.recorded.items()}
    assert recorded[DEFAULT_TABLE] == 160
    assert {table: len(Table.load(table).responses) for table in recorded} == recorded
    assert all(table.stat().st_size < 2e6 for table in recorded)


def test_tasks_with_conditional_settings_say_so() -> None:
    for task in TASKS.values():
        for table in task.recorded:
            assert task.conditional == any(domain.when for domain in Table.load(table).study.space.domains.values())


def test_looks_at_test_tasks_are_counted(tmp_path: Path) -> None:
    looks = tmp_path / "looks.json"
    looks.write_text('{"flickr8k_25": 0, "flickr8k_100": 3}')
    recorded = {DEFAULT_TABLE: 160}
    development, test = (replace(TASKS[name], recorded=recorded) for name in ("flickr8k_50", "flickr8k_100"))
    assert [len(table.responses) for table in search_tasks.tables_of(development, looks)] == [160]
    assert json.loads(looks.read_text()) == {"flickr8k_25": 0, "flickr8k_100": 3}
    search_tasks.tables_of(test, looks)
    assert json.loads(looks.read_text()) == {"flickr8k_25": 0, "flickr8k_100": 4}
    search_tasks.tables_of(replace(TASKS["flickr8k_25"], recorded={}), looks)
    assert json.loads(looks.read_text())["flickr8k_25"] == 0, "nothing is recorded that could be replayed"
