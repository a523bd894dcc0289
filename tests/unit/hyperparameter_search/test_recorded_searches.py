"""Points and stops of small searches are those that were recorded when the search was first written.

Each search has two sessions: the first is cut off while two trials run.
"""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.simulated_search import CASES, CUT_AFTER, run, study_of

from rayvldd.config.domains import SettingValue
from rayvldd.config.study import Study
from rayvldd.hyperparameter_search.ledger import Ledger
from rayvldd.hyperparameter_search.strategy import Decision, make_strategy
from rayvldd.records.trial import Evaluation

RECORDED: dict[str, list[list[Any]]] = json.loads(
    Path(__file__).with_name("recorded_searches.json").read_text(encoding="utf-8")
)


class Session:
    """A strategy on a ledger, without processes."""

    def __init__(self, study: Study, folder: Path, clock: "itertools.count[int]") -> None:
        self.ledger, self.clock = Ledger(folder), clock
        self.history = self.ledger.trials.values()
        self.strategy = make_strategy(study, self.history)

    def propose(self) -> tuple[str, dict[str, SettingValue]]:
        proposal = self.strategy.propose(self.history)
        self.ledger.start(proposal.number, 1, proposal.point)
        return proposal.trial_id, proposal.point

    def report(self, trial_id: str, evaluation: Evaluation) -> bool:
        self.ledger.add_evaluation(trial_id, replace(evaluation, search_seconds=float(next(self.clock))))
        return self.strategy.decide(self.ledger.trials[trial_id], self.history) is Decision.STOP

    def end(self, trial_id: str, state: Any) -> None:
        self.ledger.end(trial_id, state, "diverged" if state == "failed" else "")


def approximately(point: dict[str, SettingValue]) -> dict[str, Any]:
    """A point whose rates may be rounded otherwise, as by another release of scipy."""
    return {key: pytest.approx(value, rel=1e-6) if isinstance(value, float) else value for key, value in point.items()}


@pytest.mark.parametrize("case", CASES)
def test_a_search_proposes_and_stops_as_recorded(case: str, tmp_path: Path) -> None:
    from helpers.studies import TINY_STUDY

    study, clock = study_of(TINY_STUDY, case), itertools.count()
    proposals = study.search.num_trials + 2
    log = run(lambda: Session(study, tmp_path, clock), CUT_AFTER, proposals)
    recorded = RECORDED[case]
    assert [entry[:2] for entry in log] == [entry[:2] for entry in recorded]
    for entry, (_, _, value) in zip(log, recorded, strict=True):
        assert entry[2] == (approximately(value) if isinstance(value, dict) else value)
