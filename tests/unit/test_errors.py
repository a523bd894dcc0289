"""Messages of other libraries, as they are quoted in ours."""

import pytest
import torch

from rayvldd.errors import Fault, InputError, RayvlddError, message_of, without_next_command
from rayvldd.hyperparameter_search.trial import reason_of


def test_the_lines_below_the_first_are_kept() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.nn.Linear(2, 2).load_state_dict({"weight": torch.zeros(3, 2), "module.bias": torch.zeros(2)})
    message = message_of(caught.value)
    for part in ("Error(s) in loading", 'Missing key(s) in state_dict: "bias"', '"module.bias"', "size mismatch"):
        assert part in message
    assert message.splitlines()[1].startswith("      ")


def test_a_long_message_keeps_its_beginning_and_its_last_line() -> None:
    message = message_of(ValueError("\n".join(["first", *(["middle " * 1000] * 50), "last"])))
    lines = message.splitlines()
    assert lines[0] == "first" and lines[-1].strip() == "last"
    assert len(lines) == 12 and len(message) < 12 * 420
    assert "(41 more lines)" in lines[-2]


@pytest.mark.parametrize(
    ("raised", "shown"),
    [
        ("", "ValueError"),
        ("  \n\n", "ValueError"),
        ("red \x1b[31m", "red \\x1b[31m"),
        ("half an emoji \ud83d", "half an emoji \\ud83d"),
        ("Grüße, 猫", "Grüße, 猫"),
        ("API request to https://me:secret@host/api failed", "API request to https://me:***@host/api failed"),
    ],
)
def test_every_message_can_be_printed(raised: str, shown: str) -> None:
    assert message_of(ValueError(raised)) == shown
    shown.encode()


def test_a_trial_that_failed_of_an_error_of_ours_names_its_faults_and_no_command() -> None:
    assert reason_of(RayvlddError("a: b", next_command="rayvldd check")) == "a: b"
    assert "model: wrong" in reason_of(InputError([Fault("model", "wrong")]))
    assert reason_of(RuntimeError("head:\n  the reason")) == "RuntimeError: head:\n        the reason"
    assert reason_of(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_a_reason_has_all_lines_of_a_message_but_not_its_next_command() -> None:
    error = RayvlddError("a store:\n  one fault\n  another", next_command="do this")
    assert without_next_command(error) == "a store:\n  one fault\n  another"
    assert without_next_command(ValueError("first\nsecond")) == message_of(ValueError("first\nsecond"))


def test_every_error_can_be_printed_in_a_few_lines() -> None:
    error = InputError([Fault("half an emoji \ud83d", "a" * 5000 + "the end")], next_command="\ud83d")
    assert "half an emoji \\ud83d" in str(error) and str(error).endswith("Next: \\ud83d")
    assert "more characters" in str(error) and "the end" in str(error)
    assert len(str(error).encode()) < 2500
