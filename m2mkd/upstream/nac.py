"""Names of the released NAC, and of its distilled modules, as the names of this package (specification nac.md 12, 15)."""

import re
from collections.abc import Mapping

from torch import Tensor

RENAMES = (
    (r"^latent_graphs\.0\.", ""),
    (r"_latents\.(codes|signatures)_$", r"_latents.\1"),
    (r"positional_grid\.grid$", "positional_grid"),
    (r"backbone\.downsample_layers\.0\.", "backbone.stem."),
    (r"backbone\.downsample_layers\.(\d+)\.", r"backbone.stages.\1.downsample."),
    (r"backbone\.stages\.(\d+)\.(\d+)\.", r"backbone.stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"^(latent_attention|ffn)\.", r"layer.\1."),
)


def nac_name(name: str) -> str:
    """Name here of a tensor of the released circuit, or of one of its released modules."""
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def nac_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of a released circuit or module, under the names of :class:`~m2mkd.models.nac.circuit.NAC` or its modules.

    A released module holds no code and no state (the released code loses them), which only matters where the module is
    used alone.
    """
    return {nac_name(name): tensor for name, tensor in state.items()}
