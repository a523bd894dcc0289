"""File names of expert sets in a storage; :mod:`rayvldd.experts.store.expert_store` describes their content."""

import re
from collections.abc import Iterable

MANIFEST = "manifest.json"

_KEY = re.compile(r"[0-9a-f]{16}")
_OF_A_SET = re.compile(
    r"manifest\.json|expert_\d{3,}\.(json|safetensors)|start_[0-9a-f]{16}\.safetensors"
    r"|leases/expert_\d{3,}\.json|epochs/expert_\d{3,}/epoch_\d{4,}\.safetensors"
)


def manifest_file(key: str) -> str:
    """Return the name of the manifest of a set."""
    return f"{key}/{MANIFEST}"


def data_file(key: str, index: int) -> str:
    """Return the name of the trajectory file of an expert."""
    return f"{key}/expert_{index:03d}.safetensors"


def record_file(key: str, index: int) -> str:
    """Return the name of the record of an expert."""
    return f"{key}/expert_{index:03d}.json"


def start_file(key: str, digest: str) -> str:
    """Return the name of the file with the image side of a shared initial state."""
    return f"{key}/start_{digest[:16]}.safetensors"


def lease_file(key: str, index: int) -> str:
    """Return the name of the lease of an expert."""
    return f"{key}/leases/expert_{index:03d}.json"


def epochs_folder(key: str, index: int) -> str:
    """Return the folder of the finished epochs of an expert in training."""
    return f"{key}/epochs/expert_{index:03d}"


def epoch_file(key: str, index: int, epoch: int) -> str:
    """Return the name of the file of one epoch."""
    return f"{epochs_folder(key, index)}/epoch_{epoch:04d}.safetensors"


def is_record(name: str) -> bool:
    """Whether a name denotes a record."""
    _, _, file = name.rpartition("/")
    return name.count("/") == 1 and file.startswith("expert_") and file.endswith(".json") and file[7:-5].isdecimal()


def is_data(name: str) -> bool:
    """Whether a name denotes a trajectory file."""
    return is_record(name.removesuffix(".safetensors") + ".json") and name.endswith(".safetensors")


def is_start(name: str) -> bool:
    """Whether a name denotes a shared initial state."""
    return name.count("/") == 1 and name.partition("/")[2].startswith("start_")


def is_lease(name: str) -> bool:
    """Whether a name denotes a lease."""
    return name.partition("/")[2].startswith("leases/")


def is_epoch(name: str) -> bool:
    """Whether a name denotes an epoch of an expert in training."""
    return name.partition("/")[2].startswith("epochs/")


def index_of(name: str) -> int:
    """Return the expert number in the name of a record, trajectory, lease or epoch."""
    found = re.search(r"/expert_(\d+)", name)
    assert found, name
    return int(found[1])


def epoch_of(name: str) -> int:
    """Return the epoch number in the name of an epoch file."""
    return int(name.rpartition("_")[2].removesuffix(".safetensors"))


def by_key(names: Iterable[str]) -> dict[str, list[str]]:
    """Group file names by set key; other files in the storage are ignored."""
    found: dict[str, list[str]] = {}
    for name in names:
        key, _, file = name.partition("/")
        if _KEY.fullmatch(key) and _OF_A_SET.fullmatch(file):
            found.setdefault(key, []).append(name)
    return found
