"""Validate a cluster file as Ray does: its schema, and the further checks of `ray up`."""

import copy
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import jsonschema

from rayvldd.errors import Fault, did_you_mean
from rayvldd.records.json_values import JsonObject, number_at, object_at


def with_defaults(config: JsonObject) -> JsonObject:
    """Return the file with Ray's defaults for its provider, as `ray up` uses it.

    Raises:
        Exception: of any type, from Ray, for an invalid file; call :func:`schema_faults` first for the reason.
    """
    from ray.autoscaler._private.util import prepare_config

    with redirect_stdout(StringIO()), _quiet(logging.getLogger("ray.autoscaler")):
        completed: JsonObject = prepare_config(copy.deepcopy(config))
    return completed


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Suppress log messages about defaults."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def schema_faults(config: JsonObject, file: str) -> list[Fault]:
    """Return all violations of Ray's schema; `ray up` itself reports only the first.

    Args:
        config: The file, or the file with Ray's defaults.
        file: Name of the file, for the faults.
    """
    import ray.autoscaler

    # A namespace package has no file, so its folder is used.
    schema = json.loads((Path(ray.autoscaler.__path__[0]) / "ray-schema.json").read_text(encoding="utf-8"))
    errors = sorted(
        jsonschema.Draft7Validator(schema).iter_errors(config), key=lambda error: list(map(str, error.path))
    )
    return [_fault(error, file) for error in errors]


def _fault(error: jsonschema.ValidationError, file: str) -> Fault:
    schema: Any = error.schema  # of Ray, and a mapping everywhere
    expected: Any = error.validator_value
    instance: Any = error.instance
    place = ".".join(str(part) for part in error.path)
    where = f"{file}: {place}" if place else file
    if error.validator == "additionalProperties":
        allowed_keys = list(schema.get("properties", {}))
        unknown = sorted(set(instance) - set(allowed_keys)) if isinstance(instance, dict) else []
        hints = ", ".join(f"{name!r}{did_you_mean(name, allowed_keys)}" for name in unknown)
        if place == "auth" and unknown == ["ssh_port"]:
            return Fault(where, "unknown key 'ssh_port'", "for another port, `Port` below the host in ~/.ssh/config")
        return Fault(where, f"unknown key {hints}", ", ".join(allowed_keys))
    if error.validator == "required":
        missing = [name for name in expected if name not in instance]
        return Fault(where, f"missing {', '.join(missing)}", "see Ray's reference of cluster files")
    if error.validator == "type":
        return Fault(where, f"got {instance!r}", f"a value of type {expected}")
    return Fault(where, error.message)


def consistency_faults(config: JsonObject, file: str) -> list[Fault]:
    """Return faults beyond the schema that `ray up` rejects: an unknown head node type, or min_workers too large.

    Args:
        config: The file with Ray's defaults, valid by the schema.
        file: Name of the file, for the faults.
    """
    if config.get("available_node_types") is None:
        return []
    node_types, max_workers = object_at(config, "available_node_types"), number_at(config, "max_workers")
    faults = []
    head = config.get("head_node_type")
    if head not in node_types:
        faults.append(Fault(f"{file}: head_node_type", f"got {head!r}", f"one of {', '.join(sorted(node_types))}"))
    total = sum(number_at(node_type, "min_workers") for node_type in node_types.values())
    if total > max_workers:
        faults.append(
            Fault(f"{file}: max_workers", f"got {max_workers:g}", f"at least {total:g}, the sum of min_workers")
        )
    for name, node_type in node_types.items():
        fewest = number_at(node_type, "min_workers")
        most = number_at(node_type, "max_workers", default=max_workers)
        if name != head and fewest > most:
            place = f"{file}: available_node_types.{name}.min_workers"
            faults.append(Fault(place, f"got {fewest:g}", f"at most {most:g}, its max_workers"))
    return faults
