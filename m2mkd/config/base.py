"""The common base of every configuration model."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
"""Pattern of names that become part of paths, rules and shell lines."""
Name = Annotated[str, Field(pattern=f"^{NAME}$")]


class Config(BaseModel):
    """Immutable, with no unknown keys and every field documented: a typo in a file is an error, never a silent default.

    Numbers are finite, because infinity and NaN have no canonical JSON, and so no key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
