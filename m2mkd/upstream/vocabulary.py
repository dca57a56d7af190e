"""How a released configuration is read: known keys checked, keys without effect on inference dropped, others refused by name."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, PositiveInt, model_validator

from m2mkd.config.base import Config


class Vocabulary(Config):
    """Keys of one section of a released configuration."""

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset()
    """Keys that are taken and change nothing at inference: initial values, noise and rates of training, paths."""

    @model_validator(mode="before")
    @classmethod
    def _drop_keys_without_effect(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        return {key: value for key, value in content.items() if key not in cls.WITHOUT_EFFECT}


def _side(value: Any) -> Any:
    """One number for a square given by its two sides."""
    if isinstance(value, list | tuple):
        if len(value) != 2 or value[0] != value[1]:
            raise ValueError("a square is needed, as one number or two equal ones")
        return value[0]
    return value


SquareSide = Annotated[PositiveInt, BeforeValidator(_side)]
"""Side of a square, written as a number or as a pair."""
