"""Ray-distributed hyperparameter search for vision-language dataset distillation."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ["DistilledSet", "__version__"]

try:
    __version__ = version("rayvldd")
except PackageNotFoundError:  # a checkout on sys.path that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """Load ``DistilledSet`` on first use: it needs torch, and ``rayvldd --help`` must not."""
    if name == "DistilledSet":
        from rayvldd.distillation.distilled_set import DistilledSet

        return DistilledSet
    raise AttributeError(f"module 'rayvldd' has no attribute {name!r}")
