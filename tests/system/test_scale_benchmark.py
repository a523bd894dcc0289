"""The benchmark of scale: its ideal times, and the script on a small cluster."""

import json
import subprocess
import sys

import pytest
from helpers.paths import BENCHMARKS

sys.path.insert(0, str(BENCHMARKS))

from scale_cluster import Scaling, Spell

SCRIPT = BENCHMARKS / "scale.py"


def figures(*names: str) -> dict[str, float]:
    command = [sys.executable, str(SCRIPT), "--tiny", "--json", "--only", ",".join(names)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    printed = json.loads(finished.stdout)
    assert list(printed) == ["machine", "figures"]
    measured: dict[str, float] = printed["figures"]
    return measured


def scaling(num_nodes: int, *spells: tuple[str, float, float]) -> Scaling:
    """Pieces of ten seconds by node, begin and end; the driver took twelve seconds of CPU from 0 to the last end."""
    done = [Spell(node, began, ended, 10.0) for node, began, ended in spells]
    return Scaling(num_nodes, done, 0.0, max(spell.ended for spell in done), 12.0, 0.5, 1.0)


def test_ideal_hands_out_whole_pieces_from_when_each_node_was_ready() -> None:
    # Three pieces on two nodes, which are ready at 4 and 6: the ideal ends at 24, with the second one idle from 16 on.
    ideal = scaling(2, ("a", 4, 14), ("b", 6, 16), ("a", 14, 24))
    assert ideal.efficiency == pytest.approx(1.0)
    assert ideal.throughput == pytest.approx(30 / (20 + 18))
    assert ideal.all_in == pytest.approx(20 / 24)
    assert ideal.worker_start_s == 5 and ideal.driver_cpu == pytest.approx(0.5)
    assert ideal.an_hour == pytest.approx(3600 * 3 / 20)


def test_late_or_idle_work_reduces_the_efficiency() -> None:
    late = scaling(2, ("a", 4, 15), ("b", 6, 17), ("a", 17, 29))
    assert late.efficiency == pytest.approx(20 / 25)
    left_idle = scaling(2, ("a", 4, 14), ("b", 6, 16), ("a", 14, 24), ("a", 24, 34))  # b could have done the fourth
    assert left_idle.efficiency == pytest.approx(22 / 30)
    one_node_only = scaling(2, ("a", 4, 14), ("a", 14, 24), ("a", 24, 34), ("a", 34, 44))
    assert one_node_only.efficiency == one_node_only.throughput == pytest.approx(20 / 40)
    assert one_node_only.all_in == pytest.approx(20 / 44)


@pytest.mark.long
@pytest.mark.timeout(300)  # a cluster of three nodes starts, on a machine that may be busy
@pytest.mark.skipif(sys.platform != "linux", reason="Ray has clusters of several nodes on Linux alone")
def test_experts_are_made_on_every_node() -> None:
    found = figures("experts_efficiency_8")
    for size in (1, 2):
        assert 0 < found[f"experts_efficiency_{size}"] <= 1
        assert 0 < found[f"experts_efficiency_all_in_{size}"] < found[f"experts_efficiency_{size}"]
        assert found[f"experts_an_hour_{size}"] > 0 and found[f"experts_driver_s_{size}"] > 0


def test_costs_of_the_driver_are_measured() -> None:
    found = figures("driver_costs")
    names = ("report_ms_2", "report_ms_4", "suggest_ms_10", "suggest_ms_20", "mlflow_trial_s", "pictures_s")
    assert set(found) == {*names, "claim_beat_ms"}
    assert all(value > 0 for value in found.values())
