"""Hooks of mkdocs: reference pages from the code, and links to files outside ``docs``.

A page contains ``<!-- generated: NAME -->`` where a function of ``GENERATED`` writes a part. Links to files of the
repository outside ``docs`` work on a code host as they are; on the site, these files are copied beside the pages.
"""

import ast
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT))  # the code of this checkout, also if another one is installed

PAGES_OF_FILES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Documents at the root of the repository, and the pages that replace or contain them."""

_MARK = re.compile(r"<!-- generated: ([a-z_]+) -->")
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)((?:#[^)\s]*)?)(?=\))")
_ROLE = re.compile(r":[a-z]+:`~?([^`]+)`")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill the generated parts of a page, and redirect its links to files outside ``docs``."""
    folder = Path(page.file.abs_src_path or "").parent
    whole_files = {"contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md"}

    def filled(match: re.Match[str]) -> str:
        if match[1] in whole_files:
            text = (ROOT / whole_files[match[1]]).read_text(encoding="utf-8")
            return _redirected(text, ROOT, page, config, files)
        return GENERATED[match[1]]()

    return _MARK.sub(filled, _redirected(markdown, folder, page, config, files))


def _redirected(markdown: str, folder: Path, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a text that is in ``folder``; linked files of the repository become files of the site."""
    here = Path(page.file.src_uri).parent

    def redirect(match: re.Match[str]) -> str:
        target = (folder / match[1]).resolve()
        if not target.is_relative_to(ROOT):
            return match[0]
        if target.is_relative_to(DOCS):
            uri = target.relative_to(DOCS).as_posix()
        else:
            name = target.relative_to(ROOT).as_posix()
            uri = PAGES_OF_FILES.get(name) or f"repository/{name}"
            if uri.startswith("repository/") and target.is_file() and files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(target)))
        return f"{os.path.relpath(uri, here)}{match[2]}"

    return _LINK.sub(redirect, markdown)


# --- the command line ---------------------------------------------------------------------------------------------


def _cli() -> str:
    from rayvldd.cli.main import COMMANDS, main

    commands: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        commands[name] = command
        commands |= {f"{name} {word}": below for word, below in _subcommands(name, command).items()}
    often = ["--set", "--workspace", "--dry-run", "--json", "--quiet", "--log-time", "--debug"]
    common = {key: text for command in commands.values() for key, text in _options(command).items() if key in often}
    parts = ["## Common options", "", *_option_table({key: common[key] for key in often})]
    for name, command in commands.items():
        own = {key: text for key, text in _options(command).items() if key not in often}
        has = [f"`{key}`" for key in _options(command) if key in often]
        parts += ["", f"## rayvldd {name}", "", f"```text\n{_usage(name, command)}\n```", "", _help(command), ""]
        parts += [*_option_table(own), ""] if own else []
        parts += [f"Common options: {', '.join(has)}.", ""]
        examples = "\n".join(getattr(command, "examples", ()))
        parts += [f"```bash\n{examples}\n```"] if examples else []
    return "\n".join(parts)


def _subcommands(name: str, command: click.Command) -> Mapping[str, click.Command]:
    """The commands below a command; those of ``experts`` replace its argument."""
    if name == "experts":
        from rayvldd.cli.experts import SUBCOMMANDS

        return SUBCOMMANDS
    return command.commands if isinstance(command, click.Group) else {}


def _usage(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=f"rayvldd {name}")
    return " ".join([context.command_path, *command.collect_usage_pieces(context)])


def _help(command: click.Command) -> str:
    """The help text with each paragraph on one line."""
    paragraphs = (command.help or "").replace("\b\n", "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _options(command: click.Command) -> dict[str, tuple[str, str]]:
    """The options of a command with their help, by long name."""
    context = click.Context(command)
    records = {
        max(param.opts, key=len): param.get_help_record(context)
        for param in command.params
        if isinstance(param, click.Option)
    }
    return {key: record for key, record in records.items() if record}


def _option_table(options: Mapping[str, tuple[str, str]]) -> Iterator[str]:
    yield from ("| option | meaning |", "|---|---|")
    for names, text in options.values():
        yield f"| {_code(' '.join(names.split()))} | {_cell(text)} |"


# --- settings -----------------------------------------------------------------------------------------------------


def _settings() -> str:
    from rayvldd.config.methods.registry import declaration_of, method_names
    from rayvldd.config.setting import sections_in
    from rayvldd.config.study import Study

    parts = []
    for name, field in Study.model_fields.items():
        sections = sections_in(field.annotation)
        if not sections:
            continue
        parts += ["", f"## {name}", "", _prose(field.description)]
        for section in sections:
            heading = [] if len(sections) == 1 else ["", f"### {name}: source {_source_of(section)}", ""]
            parts += [*heading, *_section(section, f"{name}.", 3)]
        if name == "distillation":
            for method in method_names():
                key, below = f"distillation.{method}", declaration_of(method).settings
                parts += ["", f"### {key}", "", *_section(below, f"{key}.", 4)]
    plain = {name: field for name, field in Study.model_fields.items() if not sections_in(field.annotation)}
    return "\n".join(["## The study", "", *_table(plain, Study, ""), *parts])


def _source_of(section: Any) -> str:
    return str(section.model_fields["source"].annotation.__args__[0])


def _section(section: Any, prefix: str, level: int) -> Iterator[str]:
    """A table of the plain settings of a section, followed by its subsections."""
    from rayvldd.config.setting import sections_in

    below = {name: sections_in(field.annotation) for name, field in section.model_fields.items()}
    plain = {name: field for name, field in section.model_fields.items() if not _is_section(below[name], name)}
    yield from ("", _prose(section.__doc__), "")
    yield from _table(plain, section, prefix)
    for name, found in below.items():
        if _is_section(found, name):
            yield from ("", f"{'#' * level} {prefix}{name}")
            yield from _section(found[0], f"{prefix}{name}.", level + 1)


def _is_section(found: list[Any], name: str) -> bool:
    return bool(found) and name != "space"


def _table(fields: Mapping[str, Any], section: Any, prefix: str) -> Iterator[str]:
    from rayvldd.config.setting import SettingInfo
    from rayvldd.config.study import about

    properties = section.model_json_schema()["properties"]
    yield from ("| setting | values | default | meaning |", "|---|---|---|---|")
    for name, field in fields.items():
        info = about(f"{prefix}{name}") or SettingInfo()
        values = ", ".join(filter(None, [_values(properties.get(name, {})), info.unit]))
        default = "required" if field.is_required() else _code(_yaml(field.get_default(call_default_factory=True)))
        notes = [
            *([f"Source: {info.source}."] if info.source else []),
            *(["Can be searched."] if info.searchable else []),
            *([f"May change: {info.may_change.value}."] if info.may_change.value != "never" else []),
        ]
        meaning = " ".join([_prose(field.description), *notes])
        yield f"| {_code(prefix + name)} | {_cell(values)} | {default} | {_cell(meaning)} |"


def _values(schema: Mapping[str, Any]) -> str:
    """The allowed values of a property of a JSON Schema, in words."""
    if "anyOf" in schema:
        return " or ".join(filter(None, map(_values, schema["anyOf"])))
    if "const" in schema:
        return _code(schema["const"])
    if "enum" in schema:
        return ", ".join(map(_code, schema["enum"]))
    if "$ref" in schema:
        return "mapping"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = " and ".join(f"{sign} {schema[key]}" for key, sign in bounds.items() if key in schema)
    kinds = {"array": "list", "object": "mapping", "boolean": "true or false", "string": "text", "number": "number"}
    kind = schema.get("type", "")
    items = _values(schema["items"]) if isinstance(schema.get("items"), Mapping) else ""
    return " ".join(filter(None, [kinds.get(kind, kind), f"of {items}" if items else "", limits]))


def _yaml(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_yaml, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


# --- exit codes ---------------------------------------------------------------------------------------------------


def _exit_codes() -> str:
    """The constants ``EXIT_…`` of the command line, with the strings below them, and the codes of signals."""
    from rayvldd.cli import invocation
    from rayvldd.cli.interrupts import Terminated, exit_code_of

    body = ast.parse(Path(invocation.__file__).read_text(encoding="utf-8")).body
    rows = ["| code | meaning |", "|---|---|", "| 0 | The command has done its work. |"]
    for node, after in pairwise(body):
        name = node.targets[0].id if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) else ""
        if name.startswith("EXIT_") and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            rows.append(f"| {getattr(invocation, name)} | {_cell(str(after.value.value))} |")
    rows.append(
        f"| {exit_code_of(KeyboardInterrupt())} | The command was ended by Ctrl-C; the same command continues. |"
    )
    rows.append(f"| {exit_code_of(Terminated())} | The same after SIGTERM, which batch systems send. |")
    return "\n".join(rows)


# --- the README ---------------------------------------------------------------------------------------------------


def _readme_example() -> str:
    """The Python block of the README, which is no page of the site."""
    (block,) = re.findall(r"^```python\n.*?^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    return str(block)


# --- the notebook -------------------------------------------------------------------------------------------------


def _notebook() -> str:
    """The cells of the notebook of the Python guide, which is stored without outputs."""
    notebook = json.loads((DOCS / "guides" / "quickstart.ipynb").read_text(encoding="utf-8"))
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]
    return "\n\n".join(source if kind == "markdown" else f"```python\n{source}\n```" for kind, source in cells)


# --- text ---------------------------------------------------------------------------------------------------------


def _prose(text: str | None) -> str:
    """A docstring as one paragraph, without roles of reStructuredText."""
    return " ".join(_ROLE.sub(r"`\1`", text or "").split()).replace("``", "`")


def _code(text: object) -> str:
    return f"`{text}`".replace("|", "\\|")


def _cell(text: str) -> str:
    """Text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


GENERATED: dict[str, Callable[[], str]] = {
    "cli": _cli,
    "settings": _settings,
    "exit_codes": _exit_codes,
    "readme_example": _readme_example,
    "notebook": _notebook,
}
"""The generated parts of pages, by the name in their mark."""
