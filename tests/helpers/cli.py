"""The command line, in this process or in one of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner, Result

from rayvldd.cli.main import main

HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "peft",
    "ray",
    "mlflow",
    "optuna",
    "pandas",
    "matplotlib",
    "sklearn",
}
"""Libraries whose imports take long."""

_PROGRAM = f"""
import json, sys
from rayvldd.cli.main import main
code = 0
try:
    main(sys.argv[1:], prog_name="rayvldd")
except SystemExit as end:
    code = end.code
finally:
    print(json.dumps(sorted(set({sorted(HEAVY)!r}) & set(sys.modules))))
sys.exit(code)
"""


def run(*arguments: str | Path) -> Result:
    """Run ``rayvldd`` in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="rayvldd")


def last_object(result: Result) -> dict[str, Any]:
    """The object that ``--json`` ends standard output with."""
    values: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return values


class Ended(NamedTuple):
    """A command that has ended."""

    code: int
    output: str
    errors: str
    libraries: set[str]
    """Those of :data:`HEAVY` that it has imported."""


def run_alone(*arguments: str | Path) -> Ended:
    """Run ``rayvldd`` in a new process."""
    # A variable that hides GPUs would be a reason to ask torch for them.
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    line = [sys.executable, "-c", _PROGRAM, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=200, env=environment)
    *output, libraries = done.stdout.splitlines()
    return Ended(done.returncode, "\n".join(output), done.stderr, set(json.loads(libraries)))
