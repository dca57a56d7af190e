"""What a checkpoint of others holds, in this package's terms, before any tensor of it is touched. Nothing here needs torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from m2mkd.config.detection import DetectorConfig, DetectorSwitches
from m2mkd.config.models import NACConfig, ViTConfig, VMoEConfig
from m2mkd.errors import InputError

Kind = Literal["nac", "nac_readin", "nac_mediator", "nac_readout", "vit", "vmoe", "vmoe_module", "vmoe_detector"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DisabledNoise = Literal["seeder", "edge", "gumbel"]
Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each released tensor, by its released name."""


@dataclass(frozen=True)
class Description:
    """A network or module: everything but its weights."""

    kind: Kind
    architecture: ViTConfig | VMoEConfig | NACConfig | DetectorConfig
    """Of a module too: a V-MoE's has its blocks as its only stage, a NAC's has the smallest circuit around it."""
    image_size: int
    """Side of the images in pixels; of no meaning for a module between two others."""
    num_classes: int
    """Number of classes; of no meaning for a module that gives no logits."""
    config: dict[str, Any]
    """Released configuration from which the description follows again, complete, as plain JSON values."""
    stitch_width: int | None = None
    """Token width outside the stitch layers; none where there are none."""
    stage: int | None = None
    """The one stage of a ViT that the checkpoint holds, from 0; none: all of them."""
    first: bool = True
    """Whether it reads images."""
    last: bool = True
    """Whether it gives logits."""
    layer_heads: tuple[tuple[str, int, int], ...] = ()
    """Layers of a NAC (``read_in``, ``read_out``) with other heads than the circuit's: name, heads, width of a head."""
    disabled_noise: frozenset[DisabledNoise] = frozenset()
    """Noise of a NAC that its configuration switches off: of the seeder's codes, of the propagators' edges, of the pooling."""
    switches: DetectorSwitches | None = None
    """Defects that a detector has."""

    @property
    def whole(self) -> bool:
        """Whether it is a network from images to logits."""
        return self.kind in {"nac", "vmoe"} or (self.kind == "vit" and self.stage is None)


def describe(kind: str, config: Mapping[str, Any], shapes: Shapes, where: str = "config") -> Description:
    """Describe a checkpoint of others.

    Parameters
    ----------
    kind
        One of ``KINDS``.
    config
        For ``nac`` the model's keyword arguments in the released YAML, or the whole YAML; for ``nac_*`` the student
        configuration; for the others constructor arguments.
    shapes
        Shapes of the released tensors; they answer what the configuration leaves open (stages, stitch layers).
    where
        What errors call the configuration.

    Raises
    ------
    InputError
        If the kind is unknown, or a key is unknown, missing, or asks for what no released configuration uses.
    """
    from m2mkd.upstream import detector_config, nac_config, vit_config

    if kind not in KINDS:
        raise InputError(f"kind '{kind}' is unknown; use one of {', '.join(KINDS)}")
    if kind == "nac":
        return nac_config.describe_circuit(config, where)
    if kind.startswith("nac_"):
        return nac_config.describe_module(kind, config, shapes, where)
    if kind == "vmoe_detector":
        return detector_config.describe(config, shapes, where)
    return vit_config.describe(kind, config, shapes, where)
