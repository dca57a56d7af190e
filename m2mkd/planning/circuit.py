"""Arithmetic, parameters and activations of a NAC and its modules (specification nac.md 3 to 8, 12 and 17).

A NAC is counted in two ways. ``model`` is what this suite computes: the read-in is re-associated, and the distances of
signatures are computed once. ``released`` is what the published code computes: keys and values of every latent for every
token, and distances in every layer. Modulations depend on codes alone, so they are computed once per batch.
"""

from functools import reduce
from operator import add
from typing import Literal

from m2mkd.config.models import NACConfig
from m2mkd.planning.layer_cost import LayerCost, Tensors

Count = Literal["released", "model"]


def modulated(latents: int, width_in: int, width_out: int, code_dim: int, *, codes: int, bias: bool = True) -> LayerCost:
    """Fully connected layer modulated by codes; ``codes`` is the number of rows: one for each latent or one for all."""
    return LayerCost(
        macs=latents * width_in * width_out,
        batch_macs=codes * code_dim * width_in,
        parameters=width_in * width_out + (width_out if bias else 0) + width_in * code_dim + 1,
        saved=Tensors(latents * width_in),
    )


def feed_forward(config: NACConfig, latents: int, codes: int) -> LayerCost:
    """Norm, modulated expansion, gated GELU, modulated contraction and LayerScale."""
    D, hidden = config.state_dim, round(config.ffn_capacity * config.state_dim)
    layers = modulated(latents, D, 2 * hidden, config.code_dim, codes=codes) + modulated(latents, hidden, D, config.code_dim, codes=codes)
    return layers + LayerCost(parameters=3 * D, saved=Tensors(latents * (4 * hidden + D), 2 * latents * D))


def tokenizer(config: NACConfig, image_size: int) -> tuple[LayerCost, int, int]:
    """ConvNeXt and positional grid, with number T and width C of the tokens."""
    widths = [config.state_dim // 4, config.state_dim // 2, config.state_dim][: len(config.tokenizer.depths)]
    stride, side = config.tokenizer.stem_stride, image_size // config.tokenizer.stem_stride
    parts = [_convolution(3, widths[0], stride, side) + LayerCost(parameters=2 * widths[0], saved=Tensors(3 * image_size**2))]
    for index, (depth, width) in enumerate(zip(config.tokenizer.depths, widths, strict=True)):
        if index:
            parts.append(LayerCost(parameters=2 * widths[index - 1], saved=Tensors(2 * side * side * widths[index - 1])))
            side //= 2
            parts.append(_convolution(widths[index - 1], width, 2, side))
        parts += [_convnext_block(width, side)] * depth
    grid = config.tokenizer.grid_dim
    parts.append(LayerCost(parameters=grid * side * side))
    return reduce(add, parts), side * side, widths[-1] + grid


def _convolution(width_in: int, width_out: int, kernel: int, side: int) -> LayerCost:
    weights = width_in * width_out * kernel * kernel
    return LayerCost(macs=side * side * weights, parameters=weights + width_out, saved=Tensors(side * side * width_out))


def _convnext_block(width: int, side: int) -> LayerCost:
    positions = side * side
    return LayerCost(
        macs=positions * (49 * width + 8 * width * width),
        parameters=8 * width * width + 58 * width,
        saved=Tensors(positions * 12 * width),
        live=Tensors(positions * 10 * width),
    )


def read_in(config: NACConfig, latents: int, tokens: int, width: int, codes: int, count: Count) -> LayerCost:
    """Attention of latents to tokens of the given number and width, and its feed-forward layer."""
    D, K, inner = config.state_dim, config.code_dim, config.heads * config.head_dim
    query = modulated(latents, D, inner, K, codes=codes, bias=False)
    leave = modulated(latents, inner, D, K, codes=codes)
    # Key and value layers on the latents' side: per head, from the latent's width to that of a token.
    absorbed = modulated(latents, width, inner, K, codes=codes, bias=False)
    scores = latents * config.heads * tokens * width
    every_key = 2 * tokens * latents * width * inner + 2 * latents * tokens * inner
    macs = every_key - 2 * absorbed.macs if count == "released" else 2 * scores
    pooled = latents * config.heads * width
    kept = Tensors(4 * pooled - 2 * latents * width + 2 * latents * inner + latents * D + tokens * width, 2 * latents * D + tokens * width)
    return (
        query + absorbed + absorbed + leave + feed_forward(config, latents, codes)
        + LayerCost(macs=macs, parameters=3 * D + 2 * width, saved=kept, live=Tensors(2 * pooled, tokens * width))
    )  # fmt: skip


def latent_layer(config: NACConfig, receivers: int, senders: int, codes: tuple[int, int], *, read_out: bool, edges: bool) -> LayerCost:
    """Propagator, or the read-out.

    Parameters
    ----------
    config
        Sizes of the circuit.
    receivers, senders
        Latents U that receive, and V that send.
    codes
        Rows of codes of receivers and senders.
    read_out
        True if the senders have a norm of their own.
    edges
        True if a kernel on signatures biases the scores; distances are counted separately.
    """
    U, V, D, K, inner = receivers, senders, config.state_dim, config.code_dim, config.heads * config.head_dim
    projections = (
        modulated(U, D, inner, K, codes=codes[0], bias=False)
        + modulated(V, D, inner, K, codes=codes[1], bias=False)
        + modulated(V, D, inner, K, codes=codes[1], bias=False)
        + modulated(U, inner, D, K, codes=codes[0])
    )
    # Attention saves q, k, v and its output; sampled edges save their logits; the norms save input and output.
    kept = Tensors((2 * U + 2 * V) * inner + U * D, 2 * (U + V) * D)
    sampled = Tensors(U * V, 0 if read_out else U * V) if edges else Tensors()
    attention = LayerCost(
        macs=2 * U * V * inner,
        parameters=2 * D + D + (2 * D if read_out else 0) + int(edges),
        saved=kept + sampled,
        live=Tensors(2 * U * V if edges else (U + 2 * V) * inner, 2 * U * V if edges else 0),
    )
    return projections + attention + feed_forward(config, U, codes[0])


def pooling(config: NACConfig, latents: int, classes: int) -> LayerCost:
    """Average of output latents, and the classifier."""
    D = config.state_dim
    return LayerCost(macs=2 * latents * D + D * classes, parameters=D + 1 + classes * (D + 1), saved=Tensors(2 * latents * D + D))


def circuit(config: NACConfig, image_size: int, classes: int, *, count: Count, drawn: bool = True) -> LayerCost:
    """Whole NAC.

    Parameters
    ----------
    config
        Sizes.
    image_size, classes
        Image size and number of classes of the data set.
    count
        Implementation to count; parameters and activations are always this suite's.
    drawn
        True if initial states are drawn, as in training, which needs their deviations as well as their means. The published code
        always draws them.
    """
    inputs, mediators, outputs = config.latents.input, config.latents.mediator, config.latents.output
    all_latents, senders = inputs + mediators + outputs, inputs + mediators
    D, K, G = config.state_dim, config.code_dim, config.signature_dim
    image, tokens, width = tokenizer(config, image_size)
    distances = mediators * senders * G * (config.iterations if count == "released" else 1) + outputs * senders * G
    seeded = 2 if drawn or count == "released" else 1
    rest = LayerCost(
        batch_macs=distances + seeded * all_latents * K * D,
        parameters=all_latents * (K + G) + 2 * K + 2 * (K + 1) * D,
    )
    propagator = latent_layer(config, mediators, senders, (mediators, senders), read_out=False, edges=True)
    parts = [image, rest, read_in(config, inputs, tokens, width, inputs, count), *[propagator] * config.iterations]
    parts.append(latent_layer(config, outputs, senders, (outputs, senders), read_out=True, edges=True))
    return reduce(add, parts) + pooling(config, outputs, classes)


def module(config: NACConfig, index: int, image_size: int, classes: int, *, stitch_width: int, tokens: int, count: Count) -> LayerCost:
    """Module of a NAC as it is distilled alone, with its linear stitch layers and one code for all latents (nac.md 14).

    Parameters
    ----------
    config, image_size, classes, count
        See `circuit`.
    index
        0: read-in, then the propagators, last the read-out.
    stitch_width, tokens
        Width and number of the meta model's tokens.
    """
    D = config.state_dim
    if index == 0:
        image, count_in, width = tokenizer(config, image_size)
        return image + read_in(config, 1, count_in, width, 1, count) + _linear(1, D, stitch_width)
    into = _linear(tokens, stitch_width, D)
    if index < config.modules - 1:
        layer = latent_layer(config, tokens, tokens, (1, 1), read_out=False, edges=False)
        return into + layer + _linear(tokens, D, stitch_width)
    return into + latent_layer(config, 1, tokens, (1, 1), read_out=True, edges=False) + pooling(config, 1, classes)


def _linear(rows: int, width_in: int, width_out: int) -> LayerCost:
    return LayerCost(macs=rows * width_in * width_out, parameters=(width_in + 1) * width_out, saved=Tensors(rows * width_in))
