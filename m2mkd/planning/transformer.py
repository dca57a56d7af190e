"""Arithmetic, parameters and activations of ViT and V-MoE, stage by stage (specification vmoe.md 3.2 and 6).

Only matrix products count. Activations are those of fused attention under autocast: the residual stream and the norms in
float32, matrix products in the precision of the recipe.
"""

from functools import reduce
from operator import add

from m2mkd.config.models import ViTConfig, VMoEConfig
from m2mkd.planning.layer_cost import LayerCost, Tensors


def tokens_of(config: ViTConfig, image_size: int) -> int:
    """Number of tokens of an image: one per patch, and the class token."""
    return (image_size // config.patch_size) ** 2 + 1


def block(config: ViTConfig, tokens: int, *, moe: bool) -> LayerCost:
    """Transformer block.

    Parameters
    ----------
    config
        Widths, and the experts of a V-MoE.
    tokens
        Tokens N of an image.
    moe
        True if experts replace the MLP.
    """
    N, d = tokens, config.width
    hidden = int(d * config.mlp_ratio)
    experts, chosen = (config.experts, config.top_k) if moe and isinstance(config, VMoEConfig) else (1, 1)
    gate_bias = not (isinstance(config, VMoEConfig) and config.router == "vmoe")
    gate_macs, gate_parameters = (N * experts * d, experts * (d + gate_bias)) if moe else (0, 0)
    expert_parameters = 2 * d * hidden + d + hidden

    # The norms save their input and its mean and deviation, attention q, k, v, its output and the logarithm of its normaliser, GELU
    # its input, experts the answers that their weights multiply. What only the gradient of a weight needs, the input of each
    # product, is not kept where the weights are frozen. Experts recompute GELU in the backward pass.
    sent = chosen * N * d if moe else 0
    passed = Tensors(4 * N * d + chosen * N * hidden + sent, 2 * N * d + N * config.heads + 4 * N)
    saved = passed + Tensors(2 * N * d + (sent if moe else N * hidden))
    return LayerCost(
        macs=4 * N * d * d + 2 * N * N * d + chosen * 2 * N * d * hidden + gate_macs,
        parameters=4 * d * d + d + (3 * d if config.qkv_bias else 0) + 4 * d + experts * expert_parameters + gate_parameters,
        idle_parameters=(experts - chosen) * expert_parameters,
        saved=saved,
        passed=passed,
        live=Tensors(max(4 * N * d, 2 * chosen * N * hidden + 2 * sent), 2 * N * d),
    )


def stitch(tokens: int, width_in: int, width_out: int) -> LayerCost:
    """Stitch layer: norm and linear map from one width to another."""
    kept = Tensors(full=tokens * width_in)
    return LayerCost(
        macs=tokens * width_in * width_out,
        parameters=2 * width_in + width_in * width_out + width_out,
        saved=kept + Tensors(tokens * width_in),
        passed=kept,
    )


def embedding(config: ViTConfig, image_size: int) -> LayerCost:
    """Patch embedding, class token and positions."""
    N, d, pixels = tokens_of(config, image_size), config.width, 3 * config.patch_size**2
    return LayerCost(macs=(N - 1) * pixels * d, parameters=pixels * d + d + d + N * d, saved=Tensors(3 * image_size**2))


def head(config: ViTConfig, tokens: int, classes: int) -> LayerCost:
    """Final norm of the class token, which keeps all tokens alive, and the classifier."""
    d, stream = config.width, tokens * config.width
    return LayerCost(macs=classes * d, parameters=2 * d + classes * (d + 1), saved=Tensors(d, stream), passed=Tensors(0, stream))


def stage(
    config: ViTConfig, index: int, image_size: int, classes: int, *, tokens: int | None = None, stitch_width: int | None = None
) -> LayerCost:
    """Stage of a network, with the embedding if it is the first and the classifier if it is the last.

    Parameters
    ----------
    config
        Architecture of the whole network.
    index
        Number of the stage, from 0.
    image_size, classes
        Image size and number of classes of the data set.
    tokens
        Incoming tokens, if they are not those of an image: a NAC's read-in passes on a single one.
    stitch_width
        Width of the neighbouring stages, if stitch layers connect them.
    """
    N = tokens_of(config, image_size) if tokens is None else tokens
    first, last = index == 0, index == config.modules - 1
    start = sum(config.depths[:index])
    moe = config.moe_positions if isinstance(config, VMoEConfig) else ()
    parts = [block(config, N, moe=position in moe) for position in range(start, start + config.depths[index])]
    if first:
        parts.append(embedding(config, image_size))
    elif stitch_width is not None:
        parts.append(stitch(N, stitch_width, config.width))
    if last:
        parts.append(head(config, N, classes))
    elif stitch_width is not None:
        parts.append(stitch(N, config.width, stitch_width))
    return reduce(add, parts)


def stages(config: ViTConfig, which: range, image_size: int, classes: int, *, tokens: int | None = None) -> LayerCost:
    """Several consecutive stages; arguments as in `stage`."""
    return reduce(add, (stage(config, index, image_size, classes, tokens=tokens) for index in which), LayerCost())


def network(config: ViTConfig, image_size: int, classes: int, *, stitch_width: int | None = None) -> LayerCost:
    """Whole network; give ``stitch_width`` for a V-MoE that keeps its stitch layers."""
    return reduce(add, (stage(config, index, image_size, classes, stitch_width=stitch_width) for index in range(config.modules)))
