"""A local Ray: what is shown while it starts and ends, and its death under the driver that started it."""

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
import ray
from rich.console import Console

from rayvldd.config.study import Study
from rayvldd.console import ProgressDisplay
from rayvldd.runtime import cluster

_DRIVER = """
import sys
from pathlib import Path

import psutil

from rayvldd.config.study import Study
from rayvldd.runtime.actor_pool import ResourceRequest, run_work
from rayvldd.runtime.cluster import start_ray


class Item:
    title = "item"

    def do(self, task, note):
        return 0


def kill_raylet(done, running):
    for process in psutil.Process().children(recursive=True):
        if process.name() == "raylet":
            process.kill()


with start_ray(None, 1):
    study = Study.model_validate_json(sys.argv[1])
    run_work([Item()], study, Path(sys.argv[2]), ResourceRequest(1, 0, "resources.cpus_per_expert"), kill_raylet)
"""


@pytest.mark.timeout(300)  # Ray notices the death after some seconds, and ends slowly on a busy machine
def test_a_driver_whose_raylet_dies_before_an_actor_starts_does_not_wait_for_ever(
    tiny_study: Study, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _DRIVER, tiny_study.model_dump_json(), str(tmp_path)]
    environment = {**os.environ, "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    driver = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert driver.returncode == 1
    assert "the raylet, has died" in driver.stderr and "Next: the same command" in driver.stderr, driver.stderr


def test_start_and_end_of_ray_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(cluster, "_init", lambda options: None)
    out = StringIO()
    with (
        ProgressDisplay(Console(file=out, force_terminal=True, width=80)) as display,
        cluster.start_ray(None, 1, display),
    ):
        at_start = out.getvalue()
    assert "starting Ray" in at_start and "ending Ray" not in at_start and "ending Ray" in out.getvalue()
