"""Layer-wise decay of learning rates, and the parameters exempt from weight decay (specification detection.md 3.6)."""

import re
from collections.abc import Iterable

from timm.layers import LayerNorm2d
from torch import nn

from m2mkd.detection.detector import Detector

_BLOCK = re.compile(r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.")
_EMBEDDING = re.compile(r"backbone\.stages\.0\.(pos_embed|patch_embed\.)")


def rate_factors(detector: Detector, decay: float) -> dict[str, float]:
    """Learning rate factor of each parameter: ``decay`` to the power of the layers between it and the pyramid, which has factor 1.

    Blocks are counted over the whole backbone, or per stage, as in the release, if ``layer_decay`` says so.

    Parameters
    ----------
    detector
        Detector with the parameters.
    decay
        Factor from one layer to the one below it, 0.7 as published.
    """
    depths = detector.config.backbone.depths
    top = sum(depths) + 1

    def layer(name: str) -> int:
        if _EMBEDDING.match(name):
            return 0
        block = _BLOCK.match(name)
        if block is None:
            return top
        before = sum(depths[: int(block[1])]) if detector.switches.layer_decay == "block" else 0
        return before + int(block[2]) + 1

    return {name: decay ** (top - layer(name)) for name, _ in detector.named_parameters()}


def spared_by_decay(detector: Detector, *, channel_norms: bool = False) -> frozenset[str]:
    """Names of the parameters without weight decay: the positions, and weights and biases of the backbone's layer norms.

    Parameters
    ----------
    detector
        Detector with the parameters.
    channel_norms
        True: include the norms of pyramid and heads. As published they are not included, since they are not torch's layer norms.
    """

    def spared_norms() -> Iterable[str]:
        for name, module in detector.named_modules():
            if isinstance(module, nn.LayerNorm) and (channel_norms or not isinstance(module, LayerNorm2d)):
                yield from (f"{name}.{parameter}" for parameter, _ in module.named_parameters())

    return frozenset(("backbone.stages.0.pos_embed", *spared_norms()))
