"""What released files hold, written down from the specification and not from the package (nac.md 12; vmoe.md 3)."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from m2mkd.data.segmentation import Polygons

Shapes = dict[str, tuple[int, ...]]


def nac_kwargs(state, heads, inputs, mediators, capacity, grid, classes, graph):
    """Keyword arguments of a shipped configuration."""
    return {
        "input_dim": 3,
        "output_dim": classes,
        "state_dim": state,
        "simplified_interface": True,
        "student_type": "tinynet",
        "input_tokenizer_type": "ConvNeXtImageTokenizer",
        "input_tokenizer_kwargs": {
            "capacity_preset": "tiny",
            "num_stages": 2,
            "positional_grid_kwargs": {"dim": 64, "grid_size": [grid, grid]},
        },
        "latent_graph_type": "LatentGraph",
        "latent_graph_kwargs": {
            "code_dim": state,
            "signature_dim": 64,
            "code_noise_scale": 0.05,
            "ffn_capacity_factor": capacity,
            "head_dim": 64,
            "num_heads": heads,
            "input_latent_kwargs": None,
            "layer_scale_initial_value": 0.1,
            "mediator_latent_kwargs": {"graph_preset": "barabasi-albert", "graph_generator_kwargs": graph},
            "mod_fc_kwargs": {"add_one_to_scale": True, "learnable_scale_gain": True, "scale_gain": 0.1},
            "num_input_latents": inputs,
            "num_mediator_latents": mediators,
            "num_output_latents": 64,
            "num_iterations": 8,
            "output_latent_kwargs": None,
            "path_drop_prob": 0.1,
            "propagator_kwargs": {
                "latent_attention_kwargs": {
                    "kernel_kwargs": {"stochastic_kernel": True, "stochastic_sampling_temperature": 0.5, "truncation": 0.9},
                    "kernel_type": "DotProductKernel",
                    "share_layernorm": True,
                }
            },
            "qkv_bias_in_attention": False,
            "read_in_kwargs": {"include_residual_in_read_in_attention": True, "num_heads": heads, "path_drop_prob": 0.0},
            "read_out_kwargs": {
                "include_residual_in_latent_attention": False,
                "path_drop_prob": 0.0,
                "pre_output_layernorm": False,
                "use_head": False,
            },
            "share_propagator_weights": False,
            "use_code_noise_in_latent_seeder": True,
            "use_geglu": True,
        },
        "output_tokenizer_type": "OutputLatentPooling",
        "output_tokenizer_kwargs": {"softmax_type": "gumbel"},
    }


TINY = nac_kwargs(384, 6, 64, 256, 2.0, 8, 200, {"n": 256, "m": 2})
IMAGENET = nac_kwargs(512, 8, 192, 768, 1.0, 28, 1000, {"n": 768, "m": 6})


def nac_shapes(kwargs) -> Shapes:
    """Names and shapes of the released state dict of those arguments."""
    graph, tokenizer = kwargs["latent_graph_kwargs"], kwargs["input_tokenizer_kwargs"]
    state, code, inner = kwargs["state_dim"], graph["code_dim"], graph["num_heads"] * graph["head_dim"]
    hidden = round(graph["ffn_capacity_factor"] * state)
    grid, side = tokenizer["positional_grid_kwargs"]["dim"], tokenizer["positional_grid_kwargs"]["grid_size"][0]
    shapes: Shapes = {}

    def norm(name, width):
        shapes.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})

    def linear(name, rows, columns):
        shapes.update({f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)})

    def modulated(name, rows, columns, bias):
        shapes.update({f"{name}.native_weight": (rows, columns), f"{name}.scale_gain": (), f"{name}.scale.weight": (columns, code)})
        if bias:
            shapes[f"{name}.native_bias"] = (rows,)

    def layer(name, attention, senders, sender_norm):
        norm(f"{name}.{attention}.receiver_layernorm", state)
        if sender_norm:
            norm(f"{name}.{attention}.sender_layernorm", senders)
        modulated(f"{name}.{attention}.query_compiler", inner, state, False)
        modulated(f"{name}.{attention}.key_compiler", inner, senders, False)
        modulated(f"{name}.{attention}.value_compiler", inner, senders, False)
        modulated(f"{name}.{attention}.exit_layer", state, inner, True)
        shapes[f"{name}.{attention}.layer_scale.gamma"] = (state,)
        norm(f"{name}.ffn.layernorm", state)
        modulated(f"{name}.ffn.ffn.0", 2 * hidden, state, True)
        modulated(f"{name}.ffn.ffn.2", state, hidden, True)
        shapes[f"{name}.ffn.layer_scale.gamma"] = (state,)

    root = "latent_graphs.0"
    for group, count in (("input", "num_input_latents"), ("mediator", "num_mediator_latents"), ("output", "num_output_latents")):
        shapes[f"{root}.{group}_latents.codes_"] = (graph[count], code)
        shapes[f"{root}.{group}_latents.signatures_"] = (graph[count], graph["signature_dim"])
    norm(f"{root}.latent_seeder.layernorm", code)
    linear(f"{root}.latent_seeder.code_to_state_mu", state, code)
    linear(f"{root}.latent_seeder.code_to_state_logvar", state, code)
    widths = (state // 4, state // 2)
    layer(f"{root}.read_in", "read_in_attention", widths[-1] + grid, True)
    for i in range(graph["num_iterations"]):
        shapes[f"{root}.propagators.{i}.latent_attention.kernel.bandwidth"] = ()
        layer(f"{root}.propagators.{i}", "latent_attention", state, False)
    shapes[f"{root}.read_out.latent_attention.kernel.bandwidth"] = ()
    layer(f"{root}.read_out", "latent_attention", state, True)

    backbone = "input_tokenizer.backbone"
    shapes |= {f"{backbone}.downsample_layers.0.0.weight": (widths[0], 3, 4, 4), f"{backbone}.downsample_layers.0.0.bias": (widths[0],)}
    norm(f"{backbone}.downsample_layers.0.1", widths[0])
    norm(f"{backbone}.downsample_layers.1.0", widths[0])
    shapes |= {
        f"{backbone}.downsample_layers.1.1.weight": (widths[1], widths[0], 2, 2),
        f"{backbone}.downsample_layers.1.1.bias": (widths[1],),
    }
    for stage, width in enumerate(widths):
        for block in range(3):
            name = f"{backbone}.stages.{stage}.{block}"
            shapes |= {f"{name}.gamma": (width,), f"{name}.dwconv.weight": (width, 1, 7, 7), f"{name}.dwconv.bias": (width,)}
            norm(f"{name}.norm", width)
            linear(f"{name}.pwconv1", 4 * width, width)
            linear(f"{name}.pwconv2", width, 4 * width)
    shapes["input_tokenizer.positional_grid.grid"] = (grid, side, side)
    linear("output_tokenizer.confidence_scorer", 1, state)
    linear("output_tokenizer.to_logits", kwargs["output_dim"], state)
    return shapes


def empty(shapes: Shapes, device: str = "meta") -> dict[str, Tensor]:
    """A state dict of those names and shapes; on the meta device it takes no memory."""
    return {name: torch.zeros(shape, device=device) for name, shape in shapes.items()}


def key_list(fixtures_dir: Path, name: str) -> dict[str, Tensor]:
    """A full-size state dict of the released ViT or V-MoE, on the meta device."""
    with gzip.open(fixtures_dir / "vmoe" / "keys" / f"{name}.tsv.gz", "rt") as file:
        return empty({key: tuple(json.loads(f"[{shape.strip('(),')}]")) for key, shape in csv.reader(file, delimiter="\t")})


def outlines(polygons: list[list[list[float]]]) -> list[Polygons]:
    """Of each instance, from x0 y0 x1 y1 and so on."""
    return [tuple(np.reshape(part, (-1, 2)) for part in parts) for parts in polygons]
