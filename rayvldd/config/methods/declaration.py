"""What a distillation method declares: enough to load, check and plan a study without importing torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from rayvldd.config.base import Settings
from rayvldd.config.domains import Scalar

if TYPE_CHECKING:
    from rayvldd.config.study import Study

ValuesOf = Callable[[str], Sequence[int]]
"""Every value that a whole-numbered setting of the method's section can take at some point of a search space."""


class MethodSettings(Settings):
    """Base of the settings of one method, the section of its name below ``distillation``."""

    method: ClassVar[str]
    """Name of the method and of its section."""


def no_faults(study: "Study") -> list[str]:
    """Any combination of settings is valid."""
    return []


@dataclass(frozen=True)
class MethodDeclaration:
    """A distillation method, by name.

    Third parties publish an object of this class as an entry point of the group ``rayvldd.distillation_methods``. Its
    module is imported whenever a study is loaded, so it imports no torch.
    """

    settings: type[MethodSettings]
    """The method's own section."""
    implementation: str
    """``module:Class`` of the :class:`rayvldd.distillation.method.DistillationMethod`; imported when a run begins."""
    reached_epochs: Callable[[ValuesOf], frozenset[int]] | None = None
    """The expert epochs that the method reads, over all values of its settings; None: it uses no experts."""
    for_probe: Mapping[str, Scalar] = field(default_factory=dict)
    """Settings of the section under which an outer step reads expert epochs 0 and 1 alone and moves next to nothing;
    its cost is that of any step."""
    decides_divergence: tuple[str, ...] = ()
    """Numbers of the section that a person looks at first when a run has diverged."""
    faults: Callable[["Study"], list[str]] = no_faults
    """What contradicts itself in the settings of a study at one point, each fault a sentence."""

    @property
    def name(self) -> str:
        """How studies name the method."""
        return self.settings.method

    @property
    def requires_experts(self) -> bool:
        """Whether a study with this method trains experts."""
        return self.reached_epochs is not None
