"""Names of the released NAC and of its distilled modules (specification nac.md 12, 15)."""

import re

from m2mkd.models.names.sources import Source

_CIRCUIT = ((r"^((input|mediator|output)_latents|latent_seeder|read_in|propagators|read_out)\.", r"latent_graphs.0.\1."),)
_COMMON = (
    (r"_latents\.(codes|signatures)$", r"_latents.\1_"),
    (r"positional_grid$", "positional_grid.grid"),
    (r"backbone\.stem\.", "backbone.downsample_layers.0."),
    (r"backbone\.stages\.(\d+)\.downsample\.", r"backbone.downsample_layers.\1."),
    (r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.", r"backbone.stages.\1.\2."),
    (r"\.conv_dw\.", ".dwconv."),
    (r"(backbone\..*)\.mlp\.fc([12])\.", r"\1.pwconv\2."),
    (r"^layer\.", ""),
)
MODULE_CONSTANTS = ("codes", "states")
"""Buffers of a module that the released files usually do not contain."""


def released_name(name: str, *, whole: bool) -> str:
    """Released name of a tensor of :class:`~m2mkd.models.nac.circuit.NAC`, or, unless ``whole``, of one of its modules."""
    for pattern, replacement in (*(_CIRCUIT if whole else ()), *_COMMON):
        name = re.sub(pattern, replacement, name)
    return name


def nac_sources(name: str, shape: tuple[int, ...], *, whole: bool) -> tuple[Source, ...]:
    """Sources in a released file for our tensor ``name``."""
    return (Source((released_name(name, whole=whole),), shape),)
