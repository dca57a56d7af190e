"""The common base of every configuration model."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Immutable, without unknown keys, every field documented: a typo in a file is an error, never a silent default.

    Numbers are finite, for infinity and NaN have no canonical JSON, and so no key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
