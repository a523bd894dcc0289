"""How a task uses its device; nothing here changes the numbers by more than the order of sums."""

from dataclasses import dataclass

from rayvldd.config.settings import ResourceSettings


@dataclass(frozen=True)
class DeviceOptions:
    """The settings of ``resources`` that concern the device of an actor or trial, see :class:`ResourceSettings`."""

    cuda_graphs: bool = False
    channels_last: bool = False
    prefetch: bool = True

    @classmethod
    def of(cls, resources: ResourceSettings) -> "DeviceOptions":
        """Return the options that a study states."""
        return cls(resources.cuda_graphs, resources.channels_last, resources.prefetch)


DEFAULT_OPTIONS = DeviceOptions()
