"""Declaration of a distillation method, with which a study is loaded, checked and planned without importing torch."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from rayvldd.config.base import Settings
from rayvldd.config.domains import SettingValue
from rayvldd.config.settings import ImageEncoderSettings

if TYPE_CHECKING:
    from rayvldd.config.study import Study

ValuesOf = Callable[[str], Sequence[int]]
"""Returns all possible values of an integer setting of the method's section, over the search space."""


class MethodSettings(Settings):
    """Base class of the settings of a method, in the section of its name below ``distillation``."""

    method: ClassVar[str]
    """Name of the method and of its section."""

    @property
    def further_image_encoders(self) -> Mapping[str, ImageEncoderSettings]:
        """Frozen image encoders that the method reads beside the model's, by their keys in the section."""
        return {}


def no_sentences(study: "Study") -> list[str]:
    """Return nothing to say about the settings of a study."""
    return []


_READ_BY_FROZEN_FEATURES = frozenset({"micro_batch", "autocast"})
_READ_BY_ALL = frozenset({"tf32"})


def faults_of_engine(study: "Study") -> list[str]:
    """Refuse changed settings of the engine that a method without student steps does not read.

    Such a method reads ``tf32``, and ``micro_batch`` and ``autocast`` if the image encoder is frozen, and no others.
    """
    engine, method, protocol = study.distillation.engine, study.distillation.method, study.model.protocol
    faults = []
    for name, described in type(engine).model_fields.items():
        value = getattr(engine, name)
        if name in _READ_BY_ALL or value == described.default:
            continue
        if name not in _READ_BY_FROZEN_FEATURES:
            reason = f"distillation.method {method}, which has no student steps"
        elif protocol != "heads_only":
            reason = (
                f"distillation.method {method} with model.protocol {protocol}: it concerns only a frozen image encoder "
                f"(heads_only)"
            )
        else:
            continue
        faults.append(
            f"distillation.engine.{name} has no effect under {reason}, got {json.dumps(value)}: use "
            f"{json.dumps(described.default)}"
        )
    return faults


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
    without_experts: Mapping[str, SettingValue] = field(default_factory=dict)
    """Settings of the section with which the method uses no experts after all; empty: it always uses them."""
    for_probe: Mapping[str, SettingValue] = field(default_factory=dict)
    """Settings of the section for measuring the cost of an outer step: it then reads only expert epochs 0 and 1 and
    barely changes the set, at the usual cost."""
    decides_divergence: tuple[str, ...] = ()
    """Settings of the section to check first if a run has diverged."""
    completed: Callable[["Study"], MethodSettings] | None = None
    """Returns the section with the values that it takes from other sections of the study; None: it takes none."""
    faults: Callable[["Study"], list[str]] = no_sentences
    """Returns contradictions between the settings of a study at one point, one sentence each."""
    notes: Callable[["Study"], list[str]] = no_sentences
    """Returns what users should know of the settings of a study at one point before it runs, one sentence each."""

    @property
    def name(self) -> str:
        """Name of the method in studies."""
        return self.settings.method
