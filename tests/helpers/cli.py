"""The command line in this process."""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from rayvldd.cli.main import main


def run(*arguments: str | Path) -> Result:
    """Run ``rayvldd`` in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="rayvldd")


def last_object(result: Result) -> dict[str, Any]:
    """The object that ``--json`` ends standard output with."""
    values: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return values
