"""The entry point ``rayvldd`` and its commands, which are imported on demand."""

from importlib import import_module

import click

import rayvldd
from rayvldd.cli.invocation import options_of_progress
from rayvldd.errors import did_you_mean

COMMANDS = (
    "init",
    "spaces",
    "check",
    "prepare",
    "experts",
    "distill",
    "sweep",
    "propose",
    "pause",
    "status",
    "logs",
    "stop",
    "evaluate",
    "coreset",
    "scaling",
    "compare",
    "ui",
    "export",
    "convert",
    "schema",
)
"""Names of the commands, in the order of ``--help``; each is the function ``command`` of the module with its name."""


class LazyGroup(click.Group):
    """Imports the module of a command on first use, so that other commands' imports cost no time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, in the order of their typical use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command with this name, or None."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"rayvldd.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or fail with the most similar name and a list of all commands."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            hint = did_you_mean(args[0], COMMANDS)
            ctx.fail(f"No such command {args[0]!r}{hint}. Commands: {', '.join(COMMANDS)}.")
        return super().resolve_command(ctx, args)


_EPILOG = """\b
Examples:
  rayvldd check search_spaces/quickstart.yaml
  rayvldd sweep search_spaces/quickstart.yaml
  rayvldd sweep --help
"""


@click.group(
    name="rayvldd",
    cls=LazyGroup,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    params=options_of_progress(),
)
@click.version_option(rayvldd.__version__, prog_name="rayvldd")
def main() -> None:
    """Distributed hyperparameter search for vision-language dataset distillation, with Ray.

    From a dataset of image-caption pairs, a few synthetic pairs are distilled, on which a two-tower model can be
    trained for retrieval. A YAML file, the study, describes a search.
    """
