"""What every command shares: its common options, where its output goes, and how its errors are told."""

import contextlib
import json
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click

from rayvldd.errors import InputError, RayvlddError

if TYPE_CHECKING:
    from rich.console import RenderableType

DEFAULT_WORKSPACE = Path("rayvldd_workspace")
"""The workspace of commands without ``--workspace``."""

EXIT_USER_ERROR = 2
"""Exit code of input that cannot be used; the same as click's own for a wrong option."""
EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells give it: 128 + SIGINT."""

_WIDTH_OF_FILES = 200
"""Columns of a table that goes into a file or pipe, where rich would assume 80."""


@dataclass(frozen=True)
class Invocation:
    """The common options of one command line, and the way out for its results."""

    line: str
    """The command as it was typed, to repeat it."""
    overrides: tuple[str, ...]
    """``KEY=VALUE`` of every ``--set``."""
    workspace_folder: Path
    """Folder of experts, studies, caches and tracking."""
    dry_run: bool
    """Print what would be done, and do nothing."""
    as_json: bool
    """End with one JSON object on stdout; everything else goes to stderr."""
    debug: bool
    """Show the traceback of an error before its message."""
    stdout: TextIO = field(repr=False)
    """The real standard output, which ``as_json`` keeps for the object alone."""

    def say(self, text: str = "") -> None:
        """Print a line for people."""
        click.echo(text)

    def show(self, table: "RenderableType") -> None:
        """Print a table; where nobody watches, as wide as it wants to be."""
        from rich.console import Console

        console = Console()
        if not console.is_terminal:
            console = Console(width=_WIDTH_OF_FILES)
        console.print(table)
        console.print()

    def finish(self, result: Mapping[str, Any]) -> None:
        """Hand the command's result to programs: the object of ``--json``, without which nothing is printed."""
        if self.as_json:
            sys.stderr.flush()
            print(json.dumps(result, default=str), file=self.stdout, flush=True)


class RunCommand(click.Command):
    """A command with the common options and runnable examples, whose errors are told without a traceback.

    Args:
        examples: Command lines for the end of ``--help``; tests parse them.
        kept: What is still usable after Ctrl-C, to complete the sentence "Kept: ...".
        takes_settings: Whether there are settings that ``--set`` could override.
        only_reads: Whether it is done by looking, so that ``--dry-run`` would say nothing.
    """

    def __init__(
        self,
        *args: Any,
        examples: Sequence[str],
        kept: str = "",
        takes_settings: bool = True,
        only_reads: bool = False,
        **kwargs: Any,
    ) -> None:
        lines = "\n".join(f"  {example}" for example in examples)
        super().__init__(*args, **kwargs)
        self.epilog = f"\b\nExamples:\n{lines}"
        self.examples = tuple(examples)
        self.kept = kept
        self.params += _common_options(takes_settings, only_reads)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse the arguments, and remember them as they were typed."""
        line = shlex.join(["rayvldd", *str(info_name).split(), *args])
        context = super().make_context(info_name, args, parent, **extra)
        context.meta["rayvldd.line"] = line
        return context

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command with an :class:`Invocation` as its context's object."""
        invocation = _invocation(ctx)
        ctx.obj = invocation
        redirect = contextlib.redirect_stdout(sys.stderr) if invocation.as_json else contextlib.nullcontext()
        with redirect:
            try:
                return super().invoke(ctx)
            except (RayvlddError, KeyboardInterrupt) as error:
                if invocation.debug:
                    traceback.print_exc()
                if isinstance(error, RayvlddError):
                    _tell(error, invocation)
                _tell_interrupted(self.kept, invocation)


def _common_options(takes_settings: bool, only_reads: bool) -> list[click.Parameter]:
    override = click.Option(
        ["--set", "overrides"],
        multiple=True,
        metavar="KEY=VALUE",
        help="Override one setting of the study, e.g. --set search.num_trials=4. May be repeated.",
    )
    workspace = click.Option(
        ["--workspace", "workspace_folder"],
        type=click.Path(path_type=Path),
        default=DEFAULT_WORKSPACE,
        envvar="RAYVLDD_WORKSPACE",
        show_default=True,
        show_envvar=True,
        metavar="DIR",
        help="Folder for caches, experts, studies and tracking.",
    )
    dry_run_help = "Check everything, print the settings and the plan, and do nothing."
    return [
        *([override] if takes_settings else []),
        workspace,
        *([] if only_reads else [click.Option(["--dry-run"], is_flag=True, help=dry_run_help)]),
        click.Option(["--json", "as_json"], is_flag=True, help="End stdout with one JSON object; the rest to stderr."),
        click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."),
    ]


def _invocation(ctx: click.Context) -> Invocation:
    """Take the common options out of the context's parameters, which go to the command's function."""
    take = ctx.params.pop
    return Invocation(
        line=ctx.meta["rayvldd.line"],
        overrides=take("overrides", ()),
        workspace_folder=take("workspace_folder"),
        dry_run=take("dry_run", False),
        as_json=take("as_json"),
        debug=take("debug"),
        stdout=sys.stdout,
    )


def _tell(error: RayvlddError, invocation: Invocation) -> NoReturn:
    click.echo(f"Error: {error}", err=True)
    faults = error.faults if isinstance(error, InputError) else []
    invocation.finish(
        {
            "error": type(error).__name__,
            "message": str(error),
            "faults": [{"where": f.where, "problem": f.problem, "allowed": f.allowed} for f in faults],
            "next_command": error.next_command,
        }
    )
    raise SystemExit(EXIT_USER_ERROR)


def _tell_interrupted(kept: str, invocation: Invocation) -> NoReturn:
    click.echo("\nInterrupted." + (f" Kept: {kept}." if kept else " Nothing was changed."), err=True)
    click.echo(f"The same command continues: {invocation.line}", err=True)
    invocation.finish({"error": "Interrupted", "kept": kept, "next_command": invocation.line})
    raise SystemExit(EXIT_INTERRUPTED)
