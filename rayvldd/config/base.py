"""Base class of all settings."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Immutable values that are validated at construction; unknown keys are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def further_sections(cls) -> dict[str, type["Settings"]]:
        """Sections that plug-ins add and that are not fields, by key."""
        return {}
