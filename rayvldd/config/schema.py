"""The JSON Schema of study files, with which editors complete and check them."""

from typing import cast

from pydantic import BaseModel, JsonValue
from pydantic.json_schema import models_json_schema

from rayvldd.config.methods.registry import declaration_of, method_names
from rayvldd.config.study import Study
from rayvldd.config.study_files import EXTENDS

TITLE = "A study of rayvldd"
"""Title of the schema."""


def study_schema() -> dict[str, JsonValue]:
    """The schema of a study file, with the sections of all registered methods.

    A section may lack keys, as the file that it extends can have them; ``rayvldd check`` looks at the whole study.
    """
    methods = [declaration_of(name).settings for name in method_names()]
    classes: list[type[BaseModel]] = [Study, *methods]
    models, schema = models_json_schema([(model, "validation") for model in classes])
    definitions = schema["$defs"]
    for definition in definitions.values():
        definition.pop("required", None)
    sections = {model.method: models[model, "validation"] for model in methods}
    definitions["DistillationSettings"]["properties"] |= sections
    definitions["DistillationSettings"]["additionalProperties"] = False
    # ``null`` as a domain ends the search of a setting of the file that is extended.
    domains = definitions["SearchSettings"]["properties"]["space"]
    domains["additionalProperties"] = {"anyOf": [domains["additionalProperties"], {"type": "null"}]}
    study = definitions.pop("Study")
    # Without ``source``, which the other file may state, a section fits several forms.
    data = study["properties"]["data"]
    data["anyOf"] = data.pop("oneOf")
    study["properties"]["resources"] = {"anyOf": [{"const": "auto"}, study["properties"]["resources"]]}
    other = {
        "type": "string",
        "description": "A study file, relative to this one, or a shipped study, from which this one differs.",
    }
    study["properties"] = {EXTENDS: other, **study["properties"]}
    return cast(dict[str, JsonValue], {**study, "title": TITLE, "$defs": definitions})
