"""The entry point ``rayvldd`` and its commands, each loaded when it is asked for."""

from importlib import import_module

import click

import rayvldd
from rayvldd.errors import did_you_mean

COMMANDS = (
    "init",
    "spaces",
    "check",
    "prepare",
    "experts",
    "distill",
    "sweep",
    "status",
    "logs",
    "stop",
    "evaluate",
    "coreset",
    "compare",
    "export",
    "schema",
)
"""Names of the commands, in the order of ``--help``; each is the ``command`` of the module of its name."""


class LazyGroup(click.Group):
    """Imports a command's module on first use, so that one command never pays for another's imports."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, in the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, or None."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"rayvldd.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or fail with the nearest name and all that exist."""
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


@click.group(name="rayvldd", cls=LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(rayvldd.__version__, prog_name="rayvldd")
def main() -> None:
    """Search the hyperparameters of vision-language dataset distillation, side by side with Ray.

    A dataset of image-caption pairs goes in; a handful of synthetic pairs comes out, on which a two-tower model
    trains to nearly the same retrieval. Every command reads one YAML file, the study.
    """
