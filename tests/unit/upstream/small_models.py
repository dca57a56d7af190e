"""Released models of few and narrow layers: their configurations, names and shapes."""

import copy

import torch

from tests.parity.released import TINY

SMALL = TINY | {
    "state_dim": 16,
    "output_dim": 3,
    "input_tokenizer_kwargs": {"capacity_preset": "tiny", "num_stages": 2, "positional_grid_kwargs": {"dim": 2, "grid_size": [3, 3]}},
    "latent_graph_kwargs": TINY["latent_graph_kwargs"]
    | {
        "code_dim": 6,
        "signature_dim": 5,
        "num_heads": 3,
        "head_dim": 4,
        "num_input_latents": 4,
        "num_mediator_latents": 12,
        "num_output_latents": 3,
        "num_iterations": 2,
        "ffn_capacity_factor": 1.3333,
        "read_in_kwargs": {"include_residual_in_read_in_attention": True, "num_heads": 3},
    },
}
VIT = {"img_size": 16, "patch_size": 8, "num_classes": 3, "embed_dim": 8, "num_heads": 2, "mlp_ratio": 2, "divided_depths": [1, 2]}
MODULE = VIT | {"divided_depths": [2], "num_expert": 3, "idx": 1, "moe_pos": [1]}


def changed(config, path, value):
    """A deep copy of ``config`` with the field at the dotted path set."""
    config = copy.deepcopy(config)
    section = config
    *parents, last = path.split(".")
    for name in parents:
        section = section[name]
    section[last] = value
    return config


def random_state(shapes, seed=0):
    """Weights of given names and shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


BLOCK = {
    "norm1.weight": (8,),
    "norm1.bias": (8,),
    "attn.qkv.weight": (24, 8),
    "attn.qkv.bias": (24,),
    "attn.proj.weight": (8, 8),
    "attn.proj.bias": (8,),
    "norm2.weight": (8,),
    "norm2.bias": (8,),
}
MLP = {"mlp.fc1.weight": (16, 8), "mlp.fc1.bias": (16,), "mlp.fc2.weight": (8, 16), "mlp.fc2.bias": (8,)}
EXPERT = {"htoh4.weight": (1, 16, 8), "htoh4.bias": (1, 16), "h4toh.weight": (1, 8, 16), "h4toh.bias": (1, 8)}


def stage_shapes(blocks, *, first=False, last=False, moe=()):
    """Released stage-local names and shapes of the ViT and V-MoE of width 8 that these tests use."""
    shapes = {}
    if first:
        shapes |= {"cls_token": (1, 1, 8), "pos_embed": (1, 5, 8), "patch_embed.proj.weight": (8, 3, 8, 8), "patch_embed.proj.bias": (8,)}
    for block in range(blocks):
        inside = BLOCK | (MLP if block not in moe else {"moe.gate.gate.weight": (3, 8), "moe.gate.gate.bias": (3,)})
        if block in moe:
            inside |= {f"moe.experts.{expert}.{name}": shape for expert in range(3) for name, shape in EXPERT.items()}
        shapes |= {f"blocks.{block}.{name}": shape for name, shape in inside.items()}
    return shapes | ({"norm.weight": (8,), "norm.bias": (8,), "head.weight": (3, 8), "head.bias": (3,)} if last else {})


IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
"""Of the size that the ViT reads."""
