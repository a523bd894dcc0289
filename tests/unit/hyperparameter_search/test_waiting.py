"""A search on a cluster says what it waits for, now and then, and only while no trial runs."""

from rayvldd.hyperparameter_search.waiting import AGAIN_S, FIRST_S, WaitingForRoom
from rayvldd.runtime.actor_pool import ResourceRequest


def test_a_line_comes_after_a_minute_and_then_every_five() -> None:
    said: list[tuple[float, str]] = []
    now = 1000.0
    cluster = ""
    needs = ResourceRequest(2, 0.5, "resources.cpus_per_trial")
    waiting = WaitingForRoom(needs, lambda text: said.append((now, text)), lambda: cluster)
    while now < 1000 + FIRST_S + 2 * AGAIN_S + 1:
        waiting.look(False, now)
        now += 1
        cluster = "2 machines, 8 CPUs" if len(said) == 1 else cluster
    assert [at - 1000 for at, _ in said] == [FIRST_S, FIRST_S + AGAIN_S, FIRST_S + 2 * AGAIN_S]
    assert said[0][1] == "no trial has run for 60 s: one needs 2 CPUs and 0.5 GPUs, and the cluster has none yet"
    assert (
        said[1][1]
        == "no trial has run for 6 min: one needs 2 CPUs and 0.5 GPUs, and the cluster has 2 machines, 8 CPUs"
    )


def test_a_running_trial_begins_the_time_anew() -> None:
    said: list[str] = []
    waiting = WaitingForRoom(ResourceRequest(1, 0, "resources.cpus_per_trial"), said.append, lambda: "1 CPU")
    for second in range(200):
        waiting.look(runs=second % 50 == 0, now=float(second))
    assert not said
    for second in range(200, 300):
        waiting.look(runs=False, now=float(second))
    assert said == ["no trial has run for 60 s: one needs 1 CPU, and the cluster has 1 CPU"]
