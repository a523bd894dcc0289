"""``rayvldd spaces``: the studies that are shipped with the package."""

import shlex
from collections.abc import Mapping
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from rayvldd.cli.completion import shipped_studies
from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.output import Output
from rayvldd.errors import ConfigError, Fault, did_you_mean

_LIST, _COPY = "list", "copy"
"""Words in place of the name of a study."""


class _Spaces(Output):
    spaces: dict[str, str]
    """File by name."""


class _Space(Output):
    name: str
    file: str
    text: str | None = None


def _completed(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    words = [] if ctx.params.get("words") else [CompletionItem(word) for word in (_LIST, _COPY)]
    return [*(item for item in words if item.value.startswith(incomplete)), *shipped_studies(incomplete)]


@click.command(
    "spaces",
    cls=RunCommand,
    short_help="List, print or copy the shipped studies.",
    takes_settings=False,
    only_reads=True,
    examples=["rayvldd spaces", "rayvldd spaces quickstart", "rayvldd spaces copy flickr8k_cpu my_study.yaml"],
)
@click.argument("words", metavar="[list | NAME | copy NAME [FILE]]", nargs=-1, shell_complete=_completed)
@click.option(
    "--copy", "target", type=click.Path(path_type=Path), metavar="FILE", help="Write the study to FILE, as copy does."
)
@click.pass_obj
def command(invocation: Invocation, words: tuple[str, ...], target: Path | None) -> None:
    """List the shipped studies; with NAME print one; `copy` writes one to FILE, NAME.yaml in this folder by default.

    Every command that takes a STUDY takes these names too: `rayvldd sweep quickstart`. An editor with a YAML language
    server completes and checks a copy by study.schema.json, which is written beside it.
    """
    from rayvldd.config.shipped_spaces import shipped_spaces

    spaces = shipped_spaces()
    name, file = _read_words(words, target)
    if name is None:
        return _list(invocation, spaces)
    if name not in spaces:
        fault = Fault("NAME", f"no shipped study {name!r}{did_you_mean(name, spaces)}", ", ".join(spaces))
        raise ConfigError([fault], next_command="rayvldd spaces")
    if file is not None:
        return _copy(invocation, name, spaces[name], file)
    text = spaces[name].read_text(encoding="utf-8")
    invocation.say(text)
    invocation.finish(_Space(name=name, file=str(spaces[name]), text=text))


def _read_words(words: tuple[str, ...], target: Path | None) -> tuple[str | None, Path | None]:
    """The name of a study, if there is one, and the file to which it is copied.

    Raises:
        click.UsageError: if the words are none of those of the command.
    """
    match words:
        case () | ("list",) if target is None:
            return None, None
        case ("copy", name) if target is None:
            return name, Path(f"{name}.yaml")
        case ("copy", name, file) if target is None:
            return name, Path(file)
        case (name,) if name not in (_LIST, _COPY):
            return name, target
    if target is not None:
        raise click.UsageError("--copy needs the NAME of a study: rayvldd spaces NAME --copy FILE")
    raise click.UsageError("allowed: rayvldd spaces [list], rayvldd spaces NAME, rayvldd spaces copy NAME [FILE]")


def _list(invocation: Invocation, spaces: Mapping[str, Path]) -> None:
    from rayvldd.config.shipped_spaces import purpose_of
    from rayvldd.reports.table import Table, texts

    rows = [(known, purpose_of(file)) for known, file in spaces.items()]
    invocation.show(Table(texts("study", "purpose"), rows, "Shipped studies", "spaces"))
    invocation.finish(_Spaces(spaces={known: str(file) for known, file in spaces.items()}))


def _copy(invocation: Invocation, name: str, shipped: Path, target: Path) -> None:
    if target.exists():
        fault = Fault("FILE", f"{target} is there already", "a file that does not exist")
        raise ConfigError([fault], next_command=f"rayvldd spaces copy {name} ANOTHER.yaml")

    from rayvldd.config.shipped_spaces import copied_text
    from rayvldd.library.schema_files import with_schema_line, write_schema_beside
    from rayvldd.storage.atomic import write_text_whole

    write_schema_beside(target)
    write_text_whole(target, with_schema_line(copied_text(shipped)))
    invocation.say(f"{target}: a copy of {name}")
    invocation.say_next(shlex.join(["rayvldd", "check", str(target)]))
    invocation.finish(_Space(name=name, file=str(target)))
