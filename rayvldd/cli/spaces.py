"""``rayvldd spaces``: the studies that are shipped with the package."""

import shlex
from pathlib import Path

import click

from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.output import Output
from rayvldd.errors import ConfigError, Fault, did_you_mean


class _Spaces(Output):
    spaces: dict[str, str]
    """File by name."""


class _Space(Output):
    name: str
    file: str
    text: str | None = None


@click.command(
    "spaces",
    cls=RunCommand,
    short_help="List, print or copy the shipped studies.",
    takes_settings=False,
    only_reads=True,
    examples=["rayvldd spaces", "rayvldd spaces quickstart", "rayvldd spaces flickr8k_cpu --copy my_study.yaml"],
)
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--copy", "target", type=click.Path(path_type=Path), metavar="FILE", help="Write the study to FILE.")
@click.pass_obj
def command(invocation: Invocation, name: str | None, target: Path | None) -> None:
    """List the shipped studies; with NAME, print one or copy it.

    Every command that takes a STUDY takes these names too: `rayvldd sweep quickstart`.
    """
    from rayvldd.config.shipped_spaces import purpose_of, shipped_spaces

    spaces = shipped_spaces()
    if name is None:
        if target is not None:
            raise click.UsageError("--copy needs the NAME of a study.")
        from rayvldd.reports.table import Table, texts

        rows = [(known, purpose_of(file)) for known, file in spaces.items()]
        invocation.show(Table(texts("study", "purpose"), rows, "Shipped studies", "spaces"))
        return invocation.finish(_Spaces(spaces={known: str(file) for known, file in spaces.items()}))
    if name not in spaces:
        fault = Fault("NAME", f"no shipped study {name!r}{did_you_mean(name, spaces)}", ", ".join(spaces))
        raise ConfigError([fault], next_command="rayvldd spaces")
    text = spaces[name].read_text(encoding="utf-8")
    if target is None:
        invocation.say(text)
        return invocation.finish(_Space(name=name, file=str(spaces[name]), text=text))
    if target.exists():
        fault = Fault("--copy", f"{target} is there already", "a file that does not exist")
        raise ConfigError([fault], next_command="rayvldd spaces NAME --copy ANOTHER.yaml")

    from rayvldd.storage.atomic import write_text_whole

    write_text_whole(target, text)
    invocation.say(f"{target}: a copy of {name}")
    invocation.say_next(shlex.join(["rayvldd", "check", str(target)]))
    invocation.finish(_Space(name=name, file=str(target)))
