"""Simulated searches without Ray: two workers, and trials that are stopped, fail or are interrupted."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rayvldd.config.domains import SettingValue, as_number
from rayvldd.config.study import Study
from rayvldd.records.trial import Evaluation

SPACE: dict[str, Any] = {
    "distillation.lr_image": {"type": "float", "low": 1.0, "high": 1000.0, "log": True},
    "distillation.lr_text": {"type": "float", "low": 1.0, "high": 100.0, "log": True},
    "distillation.num_pairs": {"type": "int", "low": 2, "high": 40},
}
CONDITIONAL: dict[str, Any] = {
    **SPACE,
    "distillation.similarity": {"type": "choice", "values": ["identity", "low_rank"]},
    "distillation.sim_rank": {"type": "int", "low": 1, "high": 2, "when": {"distillation.similarity": "low_rank"}},
    "distillation.student_loss": {
        "type": "fixed",
        "value": "weighted_bce",
        "when": {"distillation.similarity": "low_rank"},
    },
}
FIRST = ({"distillation.lr_image": 30, "distillation.lr_text": 10.0}, {"distillation.num_pairs": 10})
SEARCH: dict[str, Any] = {"space": SPACE, "num_trials": 14, "initial_points": FIRST, "reduction_factor": 2.0}

LAST_STEP, EVERY = 16, 2
CUT_AFTER = 30
"""Number of events after which the first session ends."""

CASES: dict[str, dict[str, Any]] = {
    **{sampler: {"sampler": sampler} for sampler in ("tpe", "cmaes", "qmc", "random")},
    "gp": {"sampler": "gp", "num_trials": 5},
    **{f"tpe_{rule}": {"sampler": "tpe", "scheduler": rule} for rule in ("hyperband", "median", "none")},
    "tpe_conditional": {"sampler": "tpe", "space": CONDITIONAL, "num_trials": 24},
    "tpe_own_starts": {"sampler": "tpe", "num_start_trials": 2, "initial_points": ()},
    **{
        f"{sampler}_front": {
            "sampler": sampler,
            "scheduler": "none",
            "objectives": ("val_mean_recall", "num_pairs", "seconds"),
            "num_trials": 4 if sampler == "gp" else 14,
        }
        for sampler in ("tpe", "gp", "random")
    },
}
"""Settings of ``search`` by name of the case."""


def study_of(base: Mapping[str, Any], case: str, seed: int = 3) -> Study:
    """The study of a case.

    Args:
        base: Settings of a small study.
        case: One of :data:`CASES`.
        seed: The study's seed.
    """
    distillation = {**base["distillation"], "outer_steps": LAST_STEP, "evaluate_every": EVERY}
    values = {**base, "seed": seed, "distillation": distillation, "search": {**SEARCH, **CASES[case]}}
    return Study.model_validate(values)


class Session(Protocol):
    """The search of one process."""

    def propose(self) -> tuple[str, dict[str, SettingValue]]:
        """Start the next trial; return its name and point."""
        ...

    def report(self, trial_id: str, evaluation: Evaluation) -> bool:
        """Record an evaluation and return whether the trial must stop."""
        ...

    def end(self, trial_id: str, state: str) -> None:
        """Record the end of a trial."""
        ...


class Sessions(Protocol):
    """Starts a session with the records of earlier sessions."""

    def __call__(self) -> Session: ...


@dataclass
class _Running:
    trial_id: str
    rows: Iterator[Evaluation | None]


def run(sessions: Sessions, cut_after: int, proposals: int) -> list[list[Any]]:
    """All proposals and decisions of a search in order, with two alternating workers.

    Args:
        sessions: Starts a session.
        cut_after: Number of events of the first session, which ends while its trials are running.
        proposals: Total number of proposals; resumed trials count twice.
    """
    log: list[list[Any]] = []
    for last in (cut_after, 10**6):
        session, running = sessions(), list[_Running]()
        for _ in range(last):
            if len(running) < 2 and sum(entry[0] == "propose" for entry in log) < proposals:
                trial_id, point = session.propose()
                log.append(["propose", trial_id, point])
                running.append(_Running(trial_id, rows_of(trial_id, point)))
            elif running:
                one = running.pop(0)
                row = next(one.rows, None)
                if row is None:
                    state = "failed" if _fails(one.trial_id) else "finished"
                elif not session.report(one.trial_id, row):
                    running.append(one)
                    continue
                else:
                    state = "stopped"
                log.append([state, one.trial_id, row.outer_step if row else None])
                session.end(one.trial_id, state)
            else:
                break
    return log


def _fails(trial_id: str) -> bool:
    return int(trial_id[-3:]) % 5 == 3


def rows_of(trial_id: str, point: Mapping[str, SettingValue]) -> Iterator[Evaluation | None]:
    """The evaluations of a trial, determined by its name and point; some trials fail."""
    number, rate = int(trial_id[-3:]), float(as_number(point["distillation.lr_image"]))
    height = 20 - abs(math.log(rate / 40)) - abs(math.log(as_number(point["distillation.lr_text"]) / 20))
    height += 2.0 * ("distillation.sim_rank" in point) + 0.05 * as_number(point["distillation.num_pairs"])
    best = 0.0
    for step in range(0, LAST_STEP + 1, EVERY):
        if _fails(trial_id) and step > 4:
            return
        wave = math.sin(1.7 * step + number)
        recall = 8 + (height - 10) * (1 - math.exp(-step / 5)) + 0.4 * wave
        best = max(best, recall)
        metrics = {"val_mean_recall": recall, "best_val_mean_recall": best}
        yield Evaluation(step, {**metrics, "seconds_matching": 0.5 * step, "seconds_evaluating": 1.0})
