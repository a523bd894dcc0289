"""YAML within bounds: a text of any content is read, or refused as YAML that cannot be used, in about a second.

PyYAML follows aliases without a limit, recurses at every level, and raises errors of Python where a scalar does not
match its tag.
"""

from typing import Any

import yaml
from pydantic import JsonValue

MOST_CHARACTERS = 100_000
"""Characters of a file; the longest of the shipped studies and cluster files has a seventh of them."""
MOST_LEVELS = 50
"""Levels of mappings and lists inside each other."""
MOST_VALUES = 100_000
"""Values, those that aliases repeat among them."""
_MOST_DIGITS = 100
_LARGEST_INTEGER = 2**63 - 1

Loader = type[yaml.SafeLoader]


class BoundedLoader(yaml.SafeLoader):
    """Loader that raises its own errors alone, whatever a scalar holds."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        """Build a value; one that does not match its tag is refused with its line."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, TypeError, AttributeError, KeyError, IndexError, OverflowError) as error:
            kind = str(node.tag).rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                problem=f"a value that is no {kind} ({type(error).__name__})", problem_mark=node.start_mark
            ) from None

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Build an integer of 64 bits, or a float."""
        is_integer = str(node.tag).endswith(":int")
        if len(node.value) <= _MOST_DIGITS:
            number = self.construct_yaml_int(node) if is_integer else self.construct_yaml_float(node)
            if not isinstance(number, int) or -_LARGEST_INTEGER - 1 <= number <= _LARGEST_INTEGER:
                return float(number) if not is_integer else int(number)
        raise yaml.constructor.ConstructorError(
            problem=f"a number of {len(node.value)} characters; allowed: integers of 64 bits, and floats of at most "
            f"{_MOST_DIGITS} characters",
            problem_mark=node.start_mark,
        )


BoundedLoader.add_constructor("tag:yaml.org,2002:int", BoundedLoader.construct_number)
BoundedLoader.add_constructor("tag:yaml.org,2002:float", BoundedLoader.construct_number)


def parsed_documents(text: str, loader: Loader = BoundedLoader) -> list[JsonValue]:
    """Parse all documents of a text.

    Raises:
        yaml.YAMLError: if the text is not valid YAML, or exceeds the bounds of this module.
    """
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"{len(text)} characters; allowed: at most {MOST_CHARACTERS}")
    _check_events(text, loader)
    return list(yaml.load_all(text, Loader=loader))


def _check_events(text: str, loader: Loader) -> None:
    """Count levels and values before anything is built.

    Raises:
        yaml.MarkedYAMLError: where there are too many, or an alias is inside the value that it names.
    """
    sizes: dict[str | None, int] = {}
    open_values: list[tuple[str | None, int]] = []  # anchor, and the number of values before it
    count = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.DocumentStartEvent):
            sizes.clear()
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_values):
                raise _refusal(f"the alias *{event.anchor} is inside the value that it names", event)
            count += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_values.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_values.pop()
            if anchor:
                sizes[anchor] = count - before
        if len(open_values) > MOST_LEVELS:
            raise _refusal(f"more than {MOST_LEVELS} levels of mappings and lists", event)
        if count > MOST_VALUES:
            raise _refusal(f"more than {MOST_VALUES} values, with those that aliases repeat", event)


def _refusal(problem: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    mark: Any = event.start_mark  # PyYAML's two parsers have a type each
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
