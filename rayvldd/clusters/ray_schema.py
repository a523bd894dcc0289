"""Validate a cluster file as Ray does: its schema, and the further checks of `ray up`."""

import copy
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator

from rayvldd.errors import Fault, did_you_mean


def with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """Return the file with Ray's defaults for its provider, as `ray up` uses it.

    Raises:
        Exception: of any type, from Ray, for an invalid file; call :func:`schema_faults` first for the reason.
    """
    from ray.autoscaler._private.util import prepare_config

    with redirect_stdout(StringIO()), _quiet(logging.getLogger("ray.autoscaler")):
        return prepare_config(copy.deepcopy(config))


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Suppress log messages about defaults."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def schema_faults(config: dict[str, Any], file: str) -> list[Fault]:
    """Return all violations of Ray's schema; `ray up` itself reports only the first.

    Args:
        config: The file, or the file with Ray's defaults.
        file: Name of the file, for the faults.
    """
    import ray.autoscaler

    # A namespace package has no file, so its folder is used.
    schema = json.loads((Path(ray.autoscaler.__path__[0]) / "ray-schema.json").read_text(encoding="utf-8"))
    errors = sorted(Draft7Validator(schema).iter_errors(config), key=lambda error: list(map(str, error.path)))
    return [_fault(error, file) for error in errors]


def _fault(error: Any, file: str) -> Fault:
    place = ".".join(str(part) for part in error.path)
    where = f"{file}: {place}" if place else file
    if error.validator == "additionalProperties":
        allowed_keys = list(error.schema.get("properties", {}))
        unknown = sorted(set(error.instance) - set(allowed_keys)) if isinstance(error.instance, dict) else []
        hints = ", ".join(f"{name!r}{did_you_mean(name, allowed_keys)}" for name in unknown)
        return Fault(where, f"unknown key {hints}", ", ".join(allowed_keys))
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return Fault(where, f"missing {', '.join(missing)}", "see Ray's reference of cluster files")
    if error.validator == "type":
        return Fault(where, f"got {error.instance!r}", f"a value of type {error.validator_value}")
    return Fault(where, error.message)


def consistency_faults(config: dict[str, Any], file: str) -> list[Fault]:
    """Return faults beyond the schema that `ray up` rejects: an unknown head node type, or min_workers too large.

    Args:
        config: The file with Ray's defaults, valid by the schema.
        file: Name of the file, for the faults.
    """
    node_types = config.get("available_node_types")
    if node_types is None:
        return []
    faults = []
    head = config.get("head_node_type")
    if head not in node_types:
        faults.append(Fault(f"{file}: head_node_type", f"got {head!r}", f"one of {', '.join(sorted(node_types))}"))
    total = sum(node_type.get("min_workers", 0) for node_type in node_types.values())
    if total > config["max_workers"]:
        faults.append(
            Fault(f"{file}: max_workers", f"got {config['max_workers']}", f"at least {total}, the sum of min_workers")
        )
    for name, node_type in node_types.items():
        fewest, most = node_type.get("min_workers", 0), node_type.get("max_workers", config["max_workers"])
        if name != head and fewest > most:
            place = f"{file}: available_node_types.{name}.min_workers"
            faults.append(Fault(place, f"got {fewest}", f"at most {most}, its max_workers"))
    return faults
