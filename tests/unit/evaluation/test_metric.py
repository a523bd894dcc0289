"""Metrics: declared once, found by name, and computed on the students of an evaluation."""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import ROOT
from helpers.tasks import load, random_trajectory

from rayvldd.config.metrics import MEAN_RECALL, OBJECTIVES, RECALLS, MetricInfo
from rayvldd.config.study import Study
from rayvldd.distillation.loop import distill
from rayvldd.errors import ConfigError
from rayvldd.evaluation import metric
from rayvldd.evaluation.recall import RetrievalMetrics

NAMES = {info.name for info in (*RECALLS, MEAN_RECALL)}
DECLARED = ROOT / "rayvldd" / "config" / "metrics.py"


def test_recalls_are_the_declared_ones() -> None:
    values = RetrievalMetrics(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    assert values.as_dict("val_") == {
        **{info.on("val"): i for i, info in enumerate(RECALLS, 1)},
        "val_mean_recall": 3.5,
    }
    assert (MEAN_RECALL.on("test"), MEAN_RECALL.best_on("val")) == ("test_mean_recall", "best_val_mean_recall")
    assert {name: info.direction for name, info in OBJECTIVES.items()} == {
        "val_mean_recall": "max",
        "num_pairs": "min",
        "seconds": "min",
    }


def strings_of(file: Path) -> Iterator[tuple[int, str]]:
    """Every text in the code of a file; docstrings are prose."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


def test_names_of_recalls_occur_only_in_their_declaration() -> None:
    files = [file for file in sorted((ROOT / "rayvldd").rglob("*.py")) if file != DECLARED]
    assert len(files) > 100
    suffixes = tuple(NAMES)
    found = [f"{file}:{line}: {text!r}" for file in files for line, text in strings_of(file) if text.endswith(suffixes)]
    assert not found, "take the name from config/metrics.py:\n" + "\n".join(found)


class Constant:
    """A metric with a known answer."""

    infos: Sequence[MetricInfo] = (MetricInfo("constant", "a constant", "%", "max"),)

    def __call__(self, *_: Any, **__: Any) -> dict[str, float]:
        return {"constant": 7.0}


def test_a_further_metric_is_computed_beside_the_recalls(tiny_study: Study, tiny_cache: Path) -> None:
    plain = load(tiny_study, tiny_cache)
    metric.register_metric("constant", Constant())
    task = load(tiny_study, tiny_cache, **{"evaluation.further_metrics": ["constant", "recall"]})
    experts = [random_trajectory(task.model, seed=1)]
    rows = [next(distill(each.study, each, experts, 0)).metrics for each in (plain, task)]
    seconds = {"seconds_matching", "seconds_evaluating"}
    assert rows[1]["val_constant"] == 7.0
    assert {k: v for k, v in rows[1].items() if k not in {"val_constant", *seconds}} == {
        k: v for k, v in rows[0].items() if k not in seconds
    }


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown 'recal' \(did you mean 'recall'\?\); allowed: recall"):
        metric.metrics_by_name(["recal"])
