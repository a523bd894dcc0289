"""The comparison of gradients on a tiny study: its choices, files and output."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import BENCHMARKS
from helpers.tasks import random_trajectory

from rayvldd.config.loading import dump_study
from rayvldd.config.study import Study
from rayvldd.experts.recipe import expert_recipe
from rayvldd.experts.store.expert_store import ExpertStore, MadeExpert
from rayvldd.models.retrieval_task import load_task
from rayvldd.storage.folder import FolderStorage

sys.path.insert(0, str(BENCHMARKS))

import gradients

from rayvldd.data.array_cache import ArrayCache


def test_gradients_are_compared_at_their_own_rates_and_runs_are_kept(
    tiny_study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tiny_study.at(
        {"distillation.lr_text": 0.1, "distillation.trajectory_matching.lr_lr": 1e-5, "distillation.max_drift": 1e6}
    )
    (tmp_path / "study.yaml").write_text(dump_study(study))
    task = load_task(study.data, study.model, ArrayCache(tmp_path / "cache"), device="cpu")
    store = ExpertStore(FolderStorage(tmp_path / "experts"))
    for index in range(2):
        layouts = task.model.image_layout, task.model.text_layout
        store.save(
            expert_recipe(study, task.fingerprints),
            index,
            MadeExpert(random_trajectory(task.model, index), [], *layouts),
        )

    def compare(*more: str) -> dict[str, dict[str, Any]]:
        command = ["gradients.py", str(tmp_path / "study.yaml"), "--workspace", str(tmp_path), "--json"]
        command += ["--results", str(tmp_path / "runs.jsonl"), "--syn-steps", "1", "3", "--factors", "0.5", "1"]
        command += ["--seeds", "1", "2", "--outer-steps", "2", "--students", "1", "--path", "0.1", *more]
        monkeypatch.setattr(sys, "argv", command)
        gradients.main()
        rows = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
        return {f"{row['gradient']} {row['syn_steps']}": row for row in rows}

    rows = compare()
    assert list(rows) == ["exact 1", "tesla 1", "exact 3", "tesla 3"]
    runs = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    by_key = {run["key"]: run for run in runs}
    for row in rows.values():
        name = f"{row['gradient']} {row['syn_steps']}"
        searched = {factor: by_key[f"{name} x{factor:g} seed 100"]["recall_at_seconds"] for factor in (0.5, 1.0)}
        assert searched[row["factor"]] == max(searched.values())
        seeds = [by_key[f"{name} x{row['factor']:g} seed {seed}"] for seed in (1, 2)]
        assert row["at_steps"]["mean"] == pytest.approx(sum(run["recall_at_steps"] for run in seeds) / 2)
        assert all(run["outer_steps_in_seconds"] >= 2 for run in seeds) and row["diverged"] == 0
    if rows["exact 1"]["factor"] == rows["tesla 1"]["factor"]:  # one step: no difference between the two
        assert rows["exact 1"]["at_steps"] == rows["tesla 1"]["at_steps"]
    again = compare()
    assert again == rows
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == len(runs)
