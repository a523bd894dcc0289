"""Ray-distributed hyperparameter search for vision-language dataset distillation.

``import rayvldd as rv`` gives the library: :func:`load_study`, :class:`Study`, :func:`distill`, :func:`search`,
:func:`evaluate`, :func:`compare`, :class:`DistilledSet`, :func:`load_data` to score a model of one's own, and the
protocols and registries for plug-ins. All names are loaded on first access; the import itself does not load torch.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rayvldd.config.loading import load_study as load_study
    from rayvldd.config.methods.declaration import MethodDeclaration as MethodDeclaration
    from rayvldd.config.methods.declaration import MethodSettings as MethodSettings
    from rayvldd.config.methods.registry import register_method as register_method
    from rayvldd.config.metrics import MetricInfo as MetricInfo
    from rayvldd.config.study import Study as Study
    from rayvldd.distillation.distilled_set import DistilledSet as DistilledSet
    from rayvldd.distillation.method import DistillationMethod as DistillationMethod
    from rayvldd.errors import RayvlddError as RayvlddError
    from rayvldd.evaluation.metric import Metric as Metric
    from rayvldd.evaluation.metric import register_metric as register_metric
    from rayvldd.hyperparameter_search.strategy import SearchStrategy as SearchStrategy
    from rayvldd.library.comparing import compare as compare
    from rayvldd.library.distilling import distill as distill
    from rayvldd.library.evaluating import evaluate as evaluate
    from rayvldd.library.real_data import load_data as load_data
    from rayvldd.library.searching import StudyResult as StudyResult
    from rayvldd.library.searching import search as search
    from rayvldd.storage.storage import Storage as Storage
    from rayvldd.tracking.protocol import Tracker as Tracker

_WHERE = {
    "DistillationMethod": "rayvldd.distillation.method",
    "DistilledSet": "rayvldd.distillation.distilled_set",
    "MethodDeclaration": "rayvldd.config.methods.declaration",
    "MethodSettings": "rayvldd.config.methods.declaration",
    "Metric": "rayvldd.evaluation.metric",
    "MetricInfo": "rayvldd.config.metrics",
    "RayvlddError": "rayvldd.errors",
    "SearchStrategy": "rayvldd.hyperparameter_search.strategy",
    "Storage": "rayvldd.storage.storage",
    "Study": "rayvldd.config.study",
    "StudyResult": "rayvldd.library.searching",
    "Tracker": "rayvldd.tracking.protocol",
    "compare": "rayvldd.library.comparing",
    "distill": "rayvldd.library.distilling",
    "evaluate": "rayvldd.library.evaluating",
    "load_data": "rayvldd.library.real_data",
    "load_study": "rayvldd.config.loading",
    "register_method": "rayvldd.config.methods.registry",
    "register_metric": "rayvldd.evaluation.metric",
    "search": "rayvldd.library.searching",
}
"""Module of every public name."""

__all__ = ["__version__", *_WHERE]

try:
    __version__ = version("rayvldd")
except PackageNotFoundError:  # a checkout on sys.path that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> object:
    """Load a public name on first access."""
    if name not in _WHERE:
        raise AttributeError(f"module 'rayvldd' has no attribute {name!r}")
    found: object = getattr(import_module(_WHERE[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
