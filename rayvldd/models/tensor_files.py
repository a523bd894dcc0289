"""Tensors as safetensors files, written whole or not at all, readable by whoever may read the folder."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write ``tensors`` to ``path``; whatever dies in the middle, the path holds the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, temporary, metadata)
        # safetensors makes files for their owner alone; experts on a shared folder are for the team
        os.umask(mask := os.umask(0))
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
