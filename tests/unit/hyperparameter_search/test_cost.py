"""What a sweep would take: every kind of work is timed, and the sums are those that are shown."""

from pathlib import Path
from typing import Any

import pytest
from helpers.searches import with_search

from rayvldd.config.study import Study
from rayvldd.experts.store.expert_store import open_store
from rayvldd.hyperparameter_search.cost import describe_cost, estimate, probe
from rayvldd.hyperparameter_search.plan import plan
from rayvldd.records.study_plan import AtATime, PhaseSeconds, PlannedExperts, Probe
from rayvldd.workspace import Workspace


def test_a_probe_times_every_kind_of_work_and_keeps_nothing_but_the_cache(tiny_study: Study, tmp_path: Path) -> None:
    probed = probe(with_search(tiny_study), tmp_path / "cache")
    assert min(probed.prepare, probed.expert_epoch, *probed.outer_step, probed.student) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_probe_scales_no_rates(tiny_study: Study, tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scaled(*_: object) -> dict[str, float]:
        raise AssertionError("the gradients of eight segments take longer than the steps that are timed")

    monkeypatch.setattr("rayvldd.distillation.loop.factors_of", scaled)
    assert min(probe(tiny_study.at({"distillation.outer_optimiser": "scaled_sgd"}), tiny_cache).outer_step) > 0


def test_the_epoch_of_a_part_is_scaled_to_all_images(
    tiny_study: Study, tiny_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = {"epoch": 1.0, "train_loss": 1.0, "val_mean_recall": 1.0, "seconds": 3.0}
    image_counts = []

    def train(task: Any, training: Any, index: int) -> Any:
        from helpers.tasks import random_trajectory

        image_counts.append(training.settings.num_train_images)
        return random_trajectory(task.model), [epochs, epochs]

    monkeypatch.setattr("rayvldd.hyperparameter_search.cost.train_expert", train)
    monkeypatch.setattr("rayvldd.hyperparameter_search.cost._EPOCH_IMAGES", 10)
    probed = probe(tiny_study, tiny_cache)
    assert image_counts == [10] and probed.expert_epoch == pytest.approx(3.0 * 40 / 10)
    assert probed.outer_step[0] == probed.outer_step[1], "one point alone where nothing is searched"


def test_the_arithmetic(tiny_study: Study, tmp_path: Path) -> None:
    study = with_search(tiny_study, max_concurrent=4)
    probed = Probe(prepare=9.0, expert_epoch=30.0, outer_step=(2.0, 5.0), student=10.0, full_data_epoch=40.0)
    whole = plan(study, Workspace(tmp_path), open_store(None, Workspace(tmp_path)))
    experts = PlannedExperts(point={}, experts=6, existing=2, epochs=5)
    sets = [experts, experts.model_copy(update={"existing": 6})]
    trials = whole.trials.model_copy(update={"total": 12, "ended": 2})
    cost = estimate(study, whole.model_copy(update={"expert_sets": sets, "trials": trials}), probed, num_cpus=2)
    assert cost.at_a_time == AtATime(experts=2, trials=2)
    assert cost.seconds == PhaseSeconds(
        experts=4 * 5 * 30.0 / 2,
        a_trial=[4 * 2.0 + 3 * 10.0, 4 * 5.0 + 3 * 10.0],
        search=[10 * 38.0 / 2, 10 * 50.0 / 2],
        test=(2 * 2 * 10.0 + (2 + 2) * 1 * 40.0) / 2,  # two recipes, and two models by the best one
    )
    shown = describe_cost(cost)
    assert "experts: 20 epochs x 30 s / 2 at a time = 5 min" in shown
    assert "a trial: 4 outer steps x 2 to 5 s + 3 evaluations x 1 students x 10 s = 38 s to 50 s" in shown
    assert "in all:  10 min to 11 min" in shown
