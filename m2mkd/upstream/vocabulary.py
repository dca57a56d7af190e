"""Reader of released configurations: checks known keys, drops keys without effect on inference, refuses others by name."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from m2mkd.config.base import Config


class Vocabulary(Config):
    """Keys of one section of a released configuration."""

    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset()
    """Keys that are accepted but change nothing at inference: initial values, noise and rates of training, paths."""

    @model_validator(mode="before")
    @classmethod
    def _drop_keys_without_effect(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        return {key: value for key, value in content.items() if key not in cls.WITHOUT_EFFECT}


def _side(value: Any) -> Any:
    """Side of a square that is given by its two sides."""
    if isinstance(value, list | tuple):
        if len(value) != 2 or value[0] != value[1]:
            raise ValueError("a square is needed, as one number or two equal ones")
        return value[0]
    return value


def _not_too_deep(depths: tuple[int, ...]) -> tuple[int, ...]:
    if sum(depths) > MOST_LAYERS:
        raise ValueError(f"more than {MOST_LAYERS} blocks in total")
    return depths


# A network is built before its tensors are compared with those of the file, so untrusted or mistyped values here determine time and
# memory. The limits are ten times the largest published values.
MOST_LAYERS = 512
Layers = Annotated[int, Field(gt=0, le=MOST_LAYERS)]
"""Maximum number of parts that take memory even without weights: blocks, experts, propagators."""
Depths = Annotated[tuple[Layers, ...], AfterValidator(_not_too_deep)]
"""Maximum number of blocks in each stage."""
Width = Annotated[int, Field(gt=0, le=2**20)]
"""Maximum size of a tensor along one axis."""
Ratio = Annotated[float, Field(gt=0, le=1024)]
"""Maximum ratio of two widths."""
SquareSide = Annotated[Width, BeforeValidator(_side)]
"""Side of a square, written as a number or as a pair."""
