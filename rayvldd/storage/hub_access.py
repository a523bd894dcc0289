"""The hub of encoders and data sets, without waiting for one that does not answer."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rayvldd.user_paths import user_path

_ANSWER_S = 5.0
"""Seconds for the hub's first answer. Its library repeats every request five times, for minutes in all."""


class HubAwayError(Exception):
    """The hub does not answer, and its cache on this machine lacks what was requested."""


@contextmanager
def hub_or_cache() -> Iterator[None]:
    """If the hub does not answer, take files in the block from its cache on this machine alone.

    Raises:
        HubAwayError: if the hub does not answer and the block fails.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or _answers():
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    except Exception as error:  # of timm, transformers or the hub's library, about a missing file
        raise HubAwayError(
            f"{constants.ENDPOINT} does not answer, and its cache on this machine, {constants.HF_HUB_CACHE}, "
            "does not have all of its files"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = False


def cached_files() -> Iterator[Path]:
    """All files of models in this machine's caches of the hubs: Hugging Face's, and that of torch for timm's others.

    Which of them an encoder is read from is known to timm and transformers alone, whose imports take seconds.
    """
    from huggingface_hub import constants

    of_torch = os.environ.get("TORCH_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/torch"
    for folder, pattern in (
        (user_path(constants.HF_HUB_CACHE), "models--*/refs/**/*"),
        (user_path(constants.HF_HUB_CACHE), "models--*/snapshots/**/*"),
        (user_path(of_torch), "hub/checkpoints/*"),
    ):
        yield from (file for file in sorted(folder.glob(pattern)) if file.is_file())


def _answers() -> bool:
    """Whether the hub answers one request, through the proxy that is set; any status is an answer."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_ANSWER_S)
    except Exception:  # of the HTTP client, which differs between versions
        return False
    return True
