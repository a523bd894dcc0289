"""States from which work continues: damage of any part is recognised."""

import pytest
import torch

from rayvldd.storage.saved_state import state_metadata, verified_state
from rayvldd.storage.tensor_source import DamagedFileError

TENSORS = {"image": torch.arange(3.0), "text": torch.zeros(2, 2)}
STATE = {"outer_step": 7, "generator": {"inc": 2**100}, "loss": float("inf")}


def test_a_state_is_read_as_it_was_saved() -> None:
    assert verified_state(TENSORS, state_metadata(TENSORS, STATE)) == STATE


@pytest.mark.parametrize(
    "changes",
    [
        {"state": '{"outer_step": 8}'},
        {"state": "{"},
        {"state": "[" * 100_000},
        {"state": "\ud800"},
        {"checksums": "{}"},
        {"checksums": ""},
        {"checksums": "\ud800"},
    ],
    ids=lambda changes: str(changes)[:30].encode("ascii", "backslashreplace").decode(),
)
def test_other_metadata_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(DamagedFileError):
        verified_state(TENSORS, {**state_metadata(TENSORS, STATE), **changes})


def test_metadata_without_state_or_checksums_is_refused() -> None:
    for missing in ("state", "checksums"):
        metadata = state_metadata(TENSORS, STATE)
        del metadata[missing]
        with pytest.raises(DamagedFileError):
            verified_state(TENSORS, metadata)


@pytest.mark.parametrize(
    "tensors",
    [{"image": TENSORS["image"]}, {**TENSORS, "text": torch.ones(2, 2)}, {**TENSORS, "more": torch.zeros(1)}],
    ids=["missing", "changed", "added"],
)
def test_other_tensors_are_refused(tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(DamagedFileError):
        verified_state(tensors, state_metadata(TENSORS, STATE))
