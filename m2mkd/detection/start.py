"""Initialisation of a detector from a V-MoE: the tensors that it provides, and those that keep their initial values (detection.md 4)."""

from collections.abc import Mapping

from torch import Tensor

from m2mkd.detection.detector import Detector
from m2mkd.errors import InputError

BACKBONE = "backbone."
LEFT_IN_THE_V_MOE = ("stages.0.cls_token", "stages.{last}.norm.weight", "stages.{last}.norm.bias")
"""Tensors of a V-MoE that a detector does not use, apart from the head."""
HEAD = ("stages.{last}.head.weight", "stages.{last}.head.bias")
"""Tensors of a V-MoE with a classifier that a detector does not use."""
OWN_TABLES = ("rel_pos_h", "rel_pos_w")
"""Tensors that the backbone has and a V-MoE does not have."""


def start_from(detector: Detector, state: Mapping[str, Tensor], what: str = "V-MoE") -> frozenset[str]:
    """Load the weights of a V-MoE into the backbone of a detector.

    Parameters
    ----------
    detector
        Detector, changed in place.
    state
        State dict of a whole `~m2mkd.models.vmoe.VMoE` without stitch layers, by this package's names.
    what
        Name of the state in errors.

    Returns
    -------
    frozenset of str
        Names of the tensors that keep their initial values: all of pyramid and heads, and the tables of relative positions.

    Raises
    ------
    InputError
        If ``detection_init`` says to start from nothing, or a tensor is missing, left over or of another shape.
    """
    if detector.switches.detection_init == "none":
        raise InputError("detection_init none: this detector does not load V-MoE weights, like the release; set detection_init: student")
    own = detector.state_dict()
    left = frozenset(name for name in own if not name.startswith(BACKBONE) or name.endswith(OWN_TABLES))
    wanted = {name.removeprefix(BACKBONE): name for name in own if name not in left}
    last = detector.config.backbone.modules - 1
    needless = {name.format(last=last) for name in LEFT_IN_THE_V_MOE}
    head = {name.format(last=last) for name in HEAD}
    if missing := [name for name in (*wanted, *sorted(needless)) if name not in state]:
        raise InputError(f"{what} lacks {missing[0]}{_more(missing)}; give the state dict of a whole V-MoE of the detector's backbone")
    if surplus := [name for name in state if name not in wanted and name not in needless and name not in head]:
        raise InputError(f"{what} has {surplus[0]}{_more(surplus)}, not in the detector's backbone; correct the detector's backbone")
    for name, mine in wanted.items():
        found, expected = tuple(state[name].shape), tuple(own[mine].shape)
        if found != expected:
            setting = "pretrain_size" if name.endswith("pos_embed") else "backbone"
            raise InputError(f"{what}: {name} has shape {found}, expected {expected}; correct the detector's {setting}")
    without, unknown = detector.load_state_dict({mine: state[name] for name, mine in wanted.items()}, strict=False)
    assert set(without) == left and not unknown
    return left


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
