"""Description of a third-party checkpoint in this package's terms, before any tensor is read. Nothing here needs torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from m2mkd.config.detection import DetectorConfig, DetectorSwitches
from m2mkd.config.models import NACConfig, ViTConfig, VMoEConfig
from m2mkd.upstream.kinds import ReleasedKind

DisabledNoise = Literal["seeder", "edge", "gumbel"]
Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each released tensor, by its released name."""


@dataclass(frozen=True)
class Description:
    """Network or module without its weights."""

    kind: ReleasedKind
    architecture: ViTConfig | VMoEConfig | NACConfig | DetectorConfig
    """Architecture, also of a module: a V-MoE's has its blocks as the only stage, a NAC's has the smallest circuit around it."""
    image_size: int
    """Side of the images in pixels; meaningless for a module between two others."""
    num_classes: int
    """Number of classes; meaningless for a module without logits."""
    config: dict[str, Any]
    """Complete released configuration as plain JSON values, from which the description can be derived again."""
    stitch_width: int | None = None
    """Token width outside the stitch layers; None if there are none."""
    stage: int | None = None
    """Single stage of a ViT in the checkpoint, from 0; None: all stages."""
    first: bool = True
    """True if it reads images."""
    last: bool = True
    """True if it returns logits."""
    layer_heads: tuple[tuple[str, int, int], ...] = ()
    """Layers of a NAC (``read_in``, ``read_out``) whose heads differ from the circuit's: name, heads, width of a head."""
    disabled_noise: frozenset[DisabledNoise] = frozenset()
    """Noise of a NAC that its configuration switches off: of the seeder's codes, of the propagators' edges, of the pooling."""
    switches: DetectorSwitches | None = None
    """Defects of a detector."""

    @property
    def whole(self) -> bool:
        """True for a network from images to logits."""
        return self.kind in {"nac", "vmoe"} or (self.kind == "vit" and self.stage is None)
