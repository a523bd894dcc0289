"""Names of the files of expert sets in a storage; :mod:`rayvldd.experts.store.expert_store` says what they hold."""

import re
from collections.abc import Iterable

MANIFEST = "manifest.json"

_KEY = re.compile(r"[0-9a-f]{16}")
_OF_A_SET = re.compile(
    r"manifest\.json|expert_\d{3,}\.(json|safetensors)|start_[0-9a-f]{16}\.safetensors"
    r"|leases/expert_\d{3,}\.json|epochs/expert_\d{3,}/epoch_\d{4,}\.safetensors"
)


def manifest_file(key: str) -> str:
    """What made the set."""
    return f"{key}/{MANIFEST}"


def data_file(key: str, index: int) -> str:
    """The trajectory of an expert."""
    return f"{key}/expert_{index:03d}.safetensors"


def record_file(key: str, index: int) -> str:
    """What makes an expert count."""
    return f"{key}/expert_{index:03d}.json"


def start_file(key: str, digest: str) -> str:
    """The image side of a start that experts share."""
    return f"{key}/start_{digest[:16]}.safetensors"


def lease_file(key: str, index: int) -> str:
    """Who makes an expert."""
    return f"{key}/leases/expert_{index:03d}.json"


def epochs_folder(key: str, index: int) -> str:
    """The finished epochs of an expert in training."""
    return f"{key}/epochs/expert_{index:03d}"


def epoch_file(key: str, index: int, epoch: int) -> str:
    """One of them."""
    return f"{epochs_folder(key, index)}/epoch_{epoch:04d}.safetensors"


def is_record(name: str) -> bool:
    """Whether a name is that of a record."""
    _, _, file = name.rpartition("/")
    return name.count("/") == 1 and file.startswith("expert_") and file.endswith(".json") and file[7:-5].isdecimal()


def is_data(name: str) -> bool:
    """Whether a name is that of a trajectory."""
    return is_record(name.removesuffix(".safetensors") + ".json") and name.endswith(".safetensors")


def is_start(name: str) -> bool:
    """Whether a name is that of a shared start."""
    return name.count("/") == 1 and name.partition("/")[2].startswith("start_")


def is_lease(name: str) -> bool:
    """Whether a name is that of a lease."""
    return name.partition("/")[2].startswith("leases/")


def is_epoch(name: str) -> bool:
    """Whether a name is that of an epoch of an expert in training."""
    return name.partition("/")[2].startswith("epochs/")


def index_of(name: str) -> int:
    """The number of the expert that a record, a trajectory, a lease or an epoch belongs to."""
    found = re.search(r"/expert_(\d+)", name)
    assert found, name
    return int(found[1])


def epoch_of(name: str) -> int:
    """The epoch of an expert in training."""
    return int(name.rpartition("_")[2].removesuffix(".safetensors"))


def by_key(names: Iterable[str]) -> dict[str, list[str]]:
    """The files of each set by its key. Nothing else that may lie in the storage is among them."""
    found: dict[str, list[str]] = {}
    for name in names:
        key, _, file = name.partition("/")
        if _KEY.fullmatch(key) and _OF_A_SET.fullmatch(file):
            found.setdefault(key, []).append(name)
    return found
