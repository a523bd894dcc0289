"""The command that a check hands on is of the same study, settings, workspace and store."""

import sys
from pathlib import Path

import pytest

from rayvldd.cli.check import _next_command
from rayvldd.cli.invocation import DEFAULT_WORKSPACE, Invocation


def invocation(workspace: Path, *overrides: str) -> Invocation:
    return Invocation("rayvldd check x.yaml", overrides, workspace, False, False, False, sys.stdout)


@pytest.mark.parametrize(
    ("overrides", "workspace", "store", "options"),
    [
        ((), DEFAULT_WORKSPACE, None, ""),
        (("name=other", "search.num_trials=3"), DEFAULT_WORKSPACE, None, " --set name=other --set search.num_trials=3"),
        (("data.root=/a b",), DEFAULT_WORKSPACE, None, " --set 'data.root=/a b'"),
        ((), Path("/w"), "s3://b/p", " --workspace /w --store s3://b/p"),
    ],
)
def test_every_option_of_the_check_is_repeated(
    overrides: tuple[str, ...], workspace: Path, store: str | None, options: str
) -> None:
    given = invocation(workspace, *overrides)
    assert _next_command("sweep", given, Path("x.yaml"), store) == f"rayvldd sweep x.yaml{options}"
