"""``rayvldd schema``: the JSON Schema of study files, for editors."""

import json

import click
from pydantic import JsonValue

from rayvldd.cli.invocation import Invocation, RunCommand
from rayvldd.cli.output import Output
from rayvldd.records.json_values import JsonObject


class _Schema(Output):
    content: dict[str, JsonValue]

    def as_json(self) -> JsonObject:
        """The schema itself."""
        return self.content


@click.command(
    "schema",
    cls=RunCommand,
    short_help="Print the JSON Schema of study files.",
    takes_settings=False,
    only_reads=True,
    examples=["rayvldd schema"],
)
@click.pass_obj
def command(invocation: Invocation) -> None:
    """Print the JSON Schema of study files: every setting with meaning, bounds and default.

    An editor with a YAML language server completes and checks a study that begins with the line
    `# yaml-language-server: $schema=study.schema.json`. `rayvldd init` and `rayvldd spaces copy` write this line, and
    the schema beside the study; `rayvldd schema > study.schema.json` writes it for other studies, or after an update.
    """
    from rayvldd.config.schema import study_schema

    schema = study_schema()
    if not invocation.as_json:
        invocation.say(json.dumps(schema, indent=2))
    invocation.finish(_Schema(content=schema))
