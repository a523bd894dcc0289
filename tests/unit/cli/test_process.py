"""A process of the command line ends with its code and all of its output, and frees nothing on the way."""

import subprocess
import sys
import textwrap

import pytest

_PROCESS = """
import atexit, sys
import click
from rayvldd.cli import process

class Kept:
    def __del__(self):
        print("freed")

kept = Kept()

@click.command()
def main():
    atexit.register(lambda: print("registered"))
    print("written", end=" ")
    {ending}

process.main = main
process.run()
"""


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("", 0),
        ("raise SystemExit(3)", 3),
        ("sys.exit()", 0),
        ("sys.exit('in words')", 1),
        ("click.get_current_context().exit(2)", 2),
        ("raise ValueError('unexpected')", 1),
    ],
)
def test_the_code_and_the_output_are_whole(ending: str, code: int) -> None:
    script = textwrap.dedent(_PROCESS).format(ending=ending)
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (code, "written registered\n")
    assert ("unexpected" in ended.stderr) == ("unexpected" in ending)
    assert ("in words" in ended.stderr) == ("in words" in ending)


def test_a_reader_that_is_gone_changes_nothing() -> None:
    script = f"{sys.executable} -m rayvldd --help | head -n 1; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert ended.returncode in (0, 1) and ended.stderr == ""
