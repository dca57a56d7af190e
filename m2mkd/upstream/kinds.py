"""Kinds of released checkpoints."""

from typing import Literal, get_args

ReleasedKind = Literal["nac", "nac_readin", "nac_mediator", "nac_readout", "vit", "vmoe", "vmoe_module", "vmoe_detector"]
KINDS: tuple[ReleasedKind, ...] = get_args(ReleasedKind)
