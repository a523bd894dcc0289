"""States from which interrupted work continues: named tensors and a JSON object, each with a checksum.

A damaged state would be continued with other numbers and without a word, so it is recognised when it is read.
"""

import json
from collections.abc import Mapping

import xxhash
from pydantic import JsonValue
from torch import Tensor

from rayvldd.storage.json_files import parsed
from rayvldd.storage.tensor_source import DamagedFileError, checksum

_STATE, _CHECKSUMS = "state", "checksums"


def state_metadata(tensors: Mapping[str, Tensor], state: object) -> dict[str, str]:
    """Metadata of a file of tensors: the state, a mapping, as JSON, with checksums of it and of each tensor."""
    text = json.dumps(state)
    return {_STATE: text, _CHECKSUMS: json.dumps(_checksums(tensors, text))}


def verified_state(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, JsonValue]:
    """The state in a file's metadata, after a comparison with the checksums.

    Raises:
        DamagedFileError: if a checksum is missing, as in files of earlier releases, or differs.
    """
    text = metadata.get(_STATE, "")
    state = parsed(text.encode(errors="backslashreplace"))
    if state is None or _checksums(tensors, text) != parsed(metadata.get(_CHECKSUMS, "").encode(errors="replace")):
        raise DamagedFileError("its state or a tensor is missing or differs from its checksum")
    return state


def _checksums(tensors: Mapping[str, Tensor], text: str) -> dict[str, str]:
    of_tensors = {name: checksum(value) for name, value in tensors.items()}
    return {**of_tensors, _STATE: xxhash.xxh3_128_hexdigest(text.encode(errors="backslashreplace"))}
