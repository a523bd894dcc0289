"""The base of all settings."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Values that are validated where they are made and do not change: an unknown key is a fault."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @classmethod
    def further_sections(cls) -> dict[str, type["Settings"]]:
        """Sections that are no fields: those that plug-ins add, by key."""
        return {}
