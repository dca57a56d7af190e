"""Defects of the released code as named switches (``config/compat.yaml``), and the two profiles that set them."""

from typing import Literal

from m2mkd.config.base import Config

Profile = Literal["released", "corrected"]
Value = str | float


class Switch(Config):
    """Defect of the released code."""

    about: str
    """Behaviour of the released code, in one sentence."""
    source: str
    """File and line in the released code (kamanphoebe/m2mKD at 067fa1f)."""
    released: Value
    """Value that reproduces the released behaviour."""
    corrected: Value
    """Value that corrects it."""
    applies: tuple[str, ...]
    """Phases whose result it can change, as ``phase`` or ``phase/family``."""
    distilled: bool = False
    """True if it matters only when the loss uses a teacher."""
    data_sets: tuple[str, ...] = ()
    """Data sets of the experiments that it concerns; none: all of them."""


def switches_for(registry: dict[str, Switch], profile: Profile, phase: str, family: str, data: str, distilled: bool) -> dict[str, Value]:
    """Values of the switches that can change the result of one run, so that no other switch enters its key.

    Parameters
    ----------
    registry
        All switches by name.
    profile
        Profile whose value is taken.
    phase, family
        Phase of the run and family of the model that it trains or measures.
    data
        Name of the data set in the experiment, not of its substitute at this scale.
    distilled
        True if the loss of the run has a soft distillation term.
    """
    return {
        name: getattr(switch, profile)
        for name, switch in sorted(registry.items())
        if {phase, f"{phase}/{family}"} & set(switch.applies)
        and (distilled or not switch.distilled)
        and (not switch.data_sets or data in switch.data_sets)
    }
