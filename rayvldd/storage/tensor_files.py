"""Files of tensors: safetensors, written atomically, and files of ``torch.save``, read safely.

:mod:`rayvldd.storage.tensor_source` reads safetensors files.
"""

import os
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rayvldd.errors import message_of
from rayvldd.storage.atomic import file_written_whole

_LONGEST_TEXT = 10_000
"""Most characters of a text in a file of ``torch.save``: names, and in old files the source of a class."""
_PICKLES_OF_OLD_FILES = 5
"""Pickles one after the other at the start of files before torch 1.6, which are no zip files; then come raw numbers."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write ``tensors`` to ``path`` atomically; after a crash the path holds the old file or the new one."""
    with file_written_whole(path) as part:
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, part, metadata)
        # safetensors creates files that only their owner can read; experts in a shared folder are for the team
        os.umask(mask := os.umask(0))
        part.chmod(0o666 & ~mask)


def load_tensors_only(path: Path) -> object:
    """The content of a file of ``torch.save``: tensors, and lists and dictionaries of them.

    Such a file is a pickle, which may contain arbitrary code: other content is refused without unpickling it.

    Raises:
        ValueError: with the reason, if the file has other content or cannot be read.
    """
    try:
        _refuse_long_texts(path)
        with warnings.catch_warnings():
            # Other pickle protocols are acceptable: torch refuses opcodes that it does not support.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            # Files of torch.save are zip files since torch 1.6; only those can be mapped.
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        # Only this part of torch's message is shown: the rest suggests disabling the protection.
        found = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        reason = f" ({found[1]} is in it)" if found else ""
        raise ValueError(f"holds more than tensors, or is damaged, and was not read{reason}") from None
    except Exception as error:  # of a damaged file, torch's reader raises errors of many types
        reason = getattr(error, "strerror", None) or message_of(error)
        raise ValueError(f"cannot be read, it may be incomplete: {reason}") from None


def _refuse_long_texts(path: Path) -> None:
    """Look for texts in the pickles of a file that are longer than any name or source of a class.

    torch searches its message on a name that it refuses with patterns whose time grows with the square of the length:
    two seconds for 15,000 characters, hours for a million.

    Raises:
        UnpicklingError: if there is one.
    """
    with ExitStack() as files:
        if zipfile.is_zipfile(path):
            archive = files.enter_context(zipfile.ZipFile(path))
            pickles = [files.enter_context(archive.open(name)) for name in archive.namelist() if name.endswith(".pkl")]
        else:
            pickles = [files.enter_context(path.open("rb"))] * _PICKLES_OF_OLD_FILES
        for file in pickles:
            with suppress(ValueError):  # what is no pickle, torch refuses itself
                for _, argument, _ in pickletools.genops(file):
                    if isinstance(argument, str) and len(argument) > _LONGEST_TEXT:
                        raise pickle.UnpicklingError(f"a text of {len(argument)} characters")
