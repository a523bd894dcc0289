"""Damaged or foreign JSON, for tests with hypothesis."""

import json
from typing import Any

from hypothesis import strategies as st

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def places_in(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside a value, beginning with its own."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, one in inner for place in places_in(one, (*at, key)))]


@st.composite
def mutated(draw: st.DrawFn, value: Any) -> bytes:
    """JSON of a value with one entry removed or replaced; or truncated or random text."""
    if draw(st.integers(0, 4)) == 0:
        text = json.dumps(value).encode()
        return draw(st.binary(max_size=12)) if draw(st.booleans()) else text[: draw(st.integers(0, len(text) - 1))]
    copy = json.loads(json.dumps(value))
    *above, last = draw(st.sampled_from([place for place in places_in(copy) if place] or [("",)]))
    holder = copy
    for key in above:
        holder = holder[key]
    if draw(st.booleans()) and isinstance(holder, dict):
        del holder[last]
    else:
        holder[last] = draw(anything)
    return json.dumps(copy).encode()
