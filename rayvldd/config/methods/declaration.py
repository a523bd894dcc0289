"""Declaration of a distillation method, with which a study is loaded, checked and planned without importing torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from rayvldd.config.base import Settings
from rayvldd.config.domains import Scalar

if TYPE_CHECKING:
    from rayvldd.config.study import Study

ValuesOf = Callable[[str], Sequence[int]]
"""Returns all possible values of an integer setting of the method's section, over the search space."""


class MethodSettings(Settings):
    """Base class of the settings of a method, in the section of its name below ``distillation``."""

    method: ClassVar[str]
    """Name of the method and of its section."""


def no_faults(study: "Study") -> list[str]:
    """Accept every combination of settings."""
    return []


def faults_of_compile(study: "Study") -> list[str]:
    """Refuse ``engine.compile`` for a method without student steps, which alone are compiled."""
    if not study.distillation.engine.compile:
        return []
    return [
        f"distillation.engine.compile has no effect under distillation.method {study.distillation.method}, which has "
        f"no student steps to compile, got true: use false"
    ]


@dataclass(frozen=True)
class MethodDeclaration:
    """Declaration of a distillation method.

    Other packages publish an object of this class as an entry point of the group ``rayvldd.distillation_methods``. Its
    module is imported whenever a study is loaded, so it must not import torch.
    """

    settings: type[MethodSettings]
    """Class of the method's section."""
    implementation: str
    """``module:Class`` of the :class:`rayvldd.distillation.method.DistillationMethod`; imported when a run begins."""
    reached_epochs: Callable[[ValuesOf], frozenset[int]] | None = None
    """Returns the expert epochs that the method reads, over all values of its settings; None: it uses no experts."""
    without_experts: Mapping[str, Scalar] = field(default_factory=dict)
    """Settings of the section with which the method uses no experts after all; empty: it always uses them."""
    for_probe: Mapping[str, Scalar] = field(default_factory=dict)
    """Settings of the section for measuring the cost of an outer step: it then reads only expert epochs 0 and 1 and
    barely changes the set, at the usual cost."""
    decides_divergence: tuple[str, ...] = ()
    """Settings of the section to check first if a run has diverged."""
    completed: Callable[["Study"], MethodSettings] | None = None
    """Returns the section with the values that it takes from other sections of the study; None: it takes none."""
    faults: Callable[["Study"], list[str]] = no_faults
    """Returns contradictions between the settings of a study at one point, one sentence each."""

    @property
    def name(self) -> str:
        """Name of the method in studies."""
        return self.settings.method
