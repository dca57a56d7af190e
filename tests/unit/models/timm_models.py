"""The registered models with few and narrow layers."""

import timm
import torch
from torch import nn

VIT = {"width": 16, "heads": 2, "depths": [1, 2, 1]}
NAC = {
    "state_dim": 16,
    "code_dim": 8,
    "signature_dim": 4,
    "heads": 2,
    "head_dim": 8,
    "latents": {"input": 4, "mediator": 8, "output": 4},
    "iterations": 2,
    "tokenizer": {"depths": [1, 1]},
    "graph": {"groups": 2, "regulariser_groups": 2, "fit_steps": 5},
}
TRANSFORMERS = {
    "staged_deit_large_patch16_224": VIT,
    "vmoe_base_patch16_224": VIT | {"experts": 3},
    "vmoe_small_patch16_224": VIT | {"experts": 3, "stitch": "kept", "stitch_width": 24},
}


def small(name: str, **arguments) -> nn.Module:
    """A model of few and narrow layers, in evaluation mode."""
    torch.manual_seed(0)
    sizes = NAC if name.startswith("nac") else TRANSFORMERS[name]
    return timm.create_model(name, **{"num_classes": 5, "img_size": 32} | sizes | arguments).eval()


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
