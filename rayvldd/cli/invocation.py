"""Common parts of all commands: options, output and error messages."""

import contextlib
import json
import re
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

import click
from click.core import ParameterSource

from rayvldd.cli import completion
from rayvldd.cli.interrupts import exit_code_of, interruptible
from rayvldd.cli.output import ErrorOutput, InterruptionOutput
from rayvldd.errors import InputError, RayvlddError
from rayvldd.printable import COMMAND, fitted, printable, without_passwords
from rayvldd.records.form import Values
from rayvldd.user_paths import exists, user_path

if TYPE_CHECKING:
    from rayvldd.console import ProgressDisplay
    from rayvldd.reports.table import Table

DEFAULT_WORKSPACE = Path("rayvldd_workspace")
"""The workspace of commands without ``--workspace``, unless the environment names another."""

_WITHOUT_WORKSPACE = ("init", "schema", "spaces")
"""Verbs that use no workspace."""
_OF_A_STUDY = ("check", "sweep", "distill", "experts", "prepare", "scaling", "coreset")
"""Verbs with a study file and ``--set``."""
_OPTIONS = {
    "--store": ("check", "sweep", "distill", "experts", "prepare", "scaling"),
    "--tracking-uri": ("sweep", "distill", "experts", "scaling"),
}
"""Further options of a command on a study that the next one repeats, and the verbs that have them."""
_PLACEHOLDER = "STUDY.yaml"
"""The study file in messages of code that does not know it."""

F = TypeVar("F", bound=Callable[..., object])
"""The function of a command, which options decorate."""

EXIT_FOUND = 1
"""Exit code of ``experts verify`` if a file is damaged, and of ``experts copy`` if a set could not be copied whole."""
EXIT_USER_ERROR = 2
"""Exit code for invalid input, as in click for invalid options."""

EXIT_UNSENT = 3
"""Exit code if the work is done and its result is printed, but the tracker lacks records of it."""

_WIDTH_OF_FILES = 200
"""Width of a table that is written to a file or pipe, for which rich would assume 80 columns."""


@dataclass(frozen=True)
class Invocation:
    """The common options of a command, and methods for its output."""

    line: str
    """The command line of the user, without passwords."""
    overrides: tuple[str, ...]
    """``KEY=VALUE`` of every ``--set``."""
    workspace_folder: Path
    """Folder of experts, studies, caches and tracking."""
    dry_run: bool
    """Print the plan, and do nothing."""
    as_json: bool
    """End with one JSON object on stdout; everything else goes to stderr."""
    debug: bool
    """Show the traceback of an error before its message."""
    stdout: TextIO = field(repr=False)
    """The original standard output, which ``as_json`` reserves for the object."""
    quiet: bool = False
    """Show results, warnings and errors only."""
    log_time: bool = False
    """Begin each line of progress with date and time."""
    study_file: Path | None = None
    """The study file of the command."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Those of :data:`_OPTIONS` that were given, with their values."""
    _waits: list[str] = field(default_factory=list, repr=False)
    """What a terminal was told to wait for."""

    def display(self) -> "ProgressDisplay":
        """A new display of progress, as the options of the command line have it."""
        from rayvldd.console import ProgressDisplay

        return ProgressDisplay(quiet=self.quiet, log_time=self.log_time)

    def say_loading(self, then: str = "checking models and data") -> None:
        """Tell a terminal once why nothing happens for the next seconds, before the first import that takes long.

        Args:
            then: What follows.
        """
        if not self._waits:
            self.say_waiting(f"loading PyTorch, then {then}")

    def say_waiting(self, text: str) -> None:
        """Tell a terminal what it waits for."""
        if not self.quiet and sys.stderr.isatty():
            self._waits.append(text)
            self.say_progress(text)

    def say_progress(self, text: str) -> None:
        """Print on stderr what a command waits for, unless it is quiet."""
        if not self.quiet:
            _echo(without_passwords(text), err=True)

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show what happens during the block, e.g. that libraries are loaded, with its time."""
        with self.display() as display, display.during(what):
            yield

    def say(self, text: str = "") -> None:
        """Print a line of text."""
        _echo(without_passwords(text))

    def say_error(self, text: str) -> None:
        """Print on stderr what is wrong with a result that is printed all the same."""
        _echo(without_passwords(text), err=True)

    def say_next(self, *lines: str) -> None:
        """Print the next commands, in this workspace, unless the command is quiet."""
        if self.quiet:
            return
        for number, line in enumerate(lines):
            self.say(("Next: " if number == 0 else "      ") + self.in_this_workspace(line))

    def in_this_workspace(self, text: str) -> str:
        """Add ``--workspace`` to the commands in a sentence that are without it, unless this is the default one.

        A command on the study of this one also gets its file for a placeholder, and its settings and store. Every next
        command goes through this method, because most of them come from code without the command line.
        """
        option = shlex.join(["--workspace", str(self.workspace_folder)])

        def completed(found: re.Match[str]) -> str:
            command = self._of_same_study(found[1], found[0])
            is_complete = found[1] in _WITHOUT_WORKSPACE or re.search(" --(workspace|help)\\b", found[0])
            return command if is_complete or self.workspace_folder == DEFAULT_WORKSPACE else f"{command} {option}"

        return COMMAND.sub(completed, text)

    def _of_same_study(self, verb: str, command: str) -> str:
        """Add the settings and options of this command to one on the same study; another one is returned as it is."""
        if self.study_file is None or verb not in _OF_A_STUDY:
            return command
        file = shlex.quote(str(self.study_file))
        named = command.replace(_PLACEHOLDER, file, 1)
        start = re.match(rf"rayvldd {verb}( import)? {re.escape(file)}(?!\S)", named)
        if start is None:
            return command
        given = (
            one for one in self.overrides if not re.search(rf"--set[ =]'?{re.escape(one.partition('=')[0])}=", command)
        )
        added = [word for one in given for word in ("--set", one)]
        for name, value in self.options.items():
            has_option = name == "--store" if start[1] else verb in _OPTIONS[name]
            added += [name, value] if has_option and f" {name}" not in command else []
        return named + (f" {shlex.join(added)}" if added else "")

    def show(self, table: "Table") -> None:
        """Print a table; if the output is not a terminal, with unlimited width."""
        from rich.console import Console

        from rayvldd.reports.renderers import as_terminal

        console = Console()
        if not console.is_terminal:
            console = Console(width=_WIDTH_OF_FILES)
        console.print(as_terminal(table))
        console.print()

    def finish(self, result: Values) -> None:
        """Print the result as JSON object if ``--json`` is given."""
        if self.as_json:
            sys.stderr.flush()
            print(without_passwords(json.dumps(result.as_json())), file=self.stdout, flush=True)


class RunCommand(click.Command):
    """A command with the common options and examples, which prints errors without a traceback.

    Args:
        examples: Command lines for the end of ``--help``; tests parse them.
        kept: Results that are kept after an interruption, to complete the sentence "Kept: ...".
        takes_settings: Whether the command has ``--set``.
        only_reads: Whether the command changes nothing, so that it needs no ``--dry-run``.
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
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        """Parse the arguments, and store the original command line, which is shown and recorded: without passwords."""
        line = without_passwords(shlex.join(["rayvldd", *str(info_name).split(), *args]))
        try:
            context = super().make_context(info_name, list(args), parent, **extra)
        except click.UsageError as error:
            if "--json" in args:
                print(json.dumps(_output_of_usage_error(error, str(info_name)).as_json()))
            raise
        context.meta["rayvldd.line"] = line
        return context

    def invoke(self, ctx: click.Context) -> object:
        """Run the command with an :class:`Invocation` as the context's object."""
        invocation = _invocation(ctx)
        ctx.obj = invocation
        redirect = contextlib.redirect_stdout(sys.stderr) if invocation.as_json else contextlib.nullcontext()
        with redirect, _leaving_no_empty_folder(user_path(invocation.workspace_folder)):
            try:
                with interruptible():
                    return super().invoke(ctx)
            except click.UsageError as error:
                invocation.finish(_output_of_usage_error(error, str(ctx.info_name)))
                raise
            except (RayvlddError, KeyboardInterrupt) as error:
                if invocation.debug:
                    traceback.print_exc()
                if isinstance(error, RayvlddError):
                    _exit_with(error, invocation)
                _exit_interrupted(error, self.kept, invocation)


@contextlib.contextmanager
def _leaving_no_empty_folder(folder: Path) -> Iterator[None]:
    """Remove the folder after the block if the block has created it and left it empty, as a check does."""
    existed = exists(folder)
    try:
        yield
    finally:
        if not existed:
            with contextlib.suppress(OSError):  # it has a content, or was not created
                folder.rmdir()


def _common_options(takes_settings: bool, only_reads: bool) -> list[click.Parameter]:
    override = click.Option(
        ["--set", "overrides"],
        multiple=True,
        metavar="KEY=VALUE",
        shell_complete=completion.settings,
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
        click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object to stdout, the rest to stderr."),
        click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."),
        *options_of_progress(),
    ]


def options_of_progress() -> list[click.Parameter]:
    """``--quiet`` and ``--log-time``, before or after the name of a command."""
    return [
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            expose_value=False,
            callback=_noted,
            help="Show results, warnings and errors only.",
        ),
        click.Option(
            ["--log-time"],
            is_flag=True,
            expose_value=False,
            callback=_noted,
            help="Begin each line of progress with date and time.",
        ),
    ]


def _noted(ctx: click.Context, option: click.Parameter, is_given: bool) -> None:
    """Note an option for the command, whose context shares its notes with that of ``rayvldd``."""
    if is_given:
        ctx.meta[f"rayvldd.{option.name}"] = True


def _invocation(ctx: click.Context) -> Invocation:
    """Remove the common options from the context's parameters, which are passed to the command's function."""
    take = ctx.params.pop
    given = {
        option: str(ctx.params[name])
        for option, name in (("--store", "store_uri"), ("--tracking-uri", "tracking_uri"))
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE  # the next command has the same environment
    }
    return Invocation(
        line=ctx.meta["rayvldd.line"],
        overrides=take("overrides", ()),
        workspace_folder=take("workspace_folder"),
        dry_run=take("dry_run", False),
        as_json=take("as_json"),
        debug=take("debug"),
        stdout=sys.stdout,
        quiet=ctx.meta.get("rayvldd.quiet", False),
        log_time=ctx.meta.get("rayvldd.log_time", False),
        study_file=ctx.params.get("study_file"),
        options=given,
    )


def _echo(text: str, err: bool = False) -> None:
    """Print text on one of the standard streams, with lines that fit if that is a terminal."""
    text = printable(text)
    if (sys.stderr if err else sys.stdout).isatty():
        text = fitted(text, shutil.get_terminal_size().columns)
    click.echo(text, err=err)


def _output_of_usage_error(error: click.UsageError, name: str) -> ErrorOutput:
    """The object of an error in the words of a command line; click prints the message."""
    return ErrorOutput(
        error="UsageError", message=error.format_message(), faults=[], next_command=f"rayvldd {name} --help"
    )


def _exit_with(error: RayvlddError, invocation: Invocation) -> NoReturn:
    next_command = invocation.in_this_workspace(error.next_command)
    message = str(error).removesuffix(error.next_command) + next_command
    _echo(without_passwords(f"Error: {message}"), err=True)
    faults = error.faults if isinstance(error, InputError) else []
    invocation.finish(
        ErrorOutput(
            error=type(error).__name__,
            message=message,
            faults=faults,
            next_command=next_command,
        )
    )
    raise SystemExit(EXIT_USER_ERROR)


def _exit_interrupted(error: KeyboardInterrupt, kept: str, invocation: Invocation) -> NoReturn:
    _echo("\nInterrupted." + (f" Kept: {kept}." if kept else " Nothing was changed."), err=True)
    _echo(f"The same command continues: {invocation.line}", err=True)
    invocation.finish(InterruptionOutput(kept=kept, next_command=invocation.line))
    raise SystemExit(exit_code_of(error))
