"""Attention weights of a NAC's layers, which fused attention does not return, recomputed from a layer's inputs.

Nothing here is part of a forward pass: hooks record the arguments of each layer call.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from m2mkd.models.nac.attention import LatentAttention, ReadInAttention
from m2mkd.models.nac.modulated import ModFC

Attention = LatentAttention | ReadInAttention


def attention_weights(layer: Attention, arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Attention weights in evaluation mode, and the layer's output computed from them.

    Parameters
    ----------
    layer
        An attention layer in evaluation mode.
    arguments
        Arguments of the call, by the names of the layer's ``forward``.

    Returns
    -------
    weights, output
        (B, H, U, V), which sum to 1 over the V senders, or to 0 for a receiver without an edge; and the layer's output (B, U, D).
    """
    return _read_in(layer, **arguments) if isinstance(layer, ReadInAttention) else _latent(layer, **arguments)


def _read_in(layer: ReadInAttention, states: Tensor, tokens: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    tokens = layer.sender_layernorm(tokens)[:, None]
    queries = _heads(layer.query_compiler(layer.receiver_layernorm(states), codes), layer.heads)
    # A latent's keys are W (s * x) for its own scale s; as in the layer itself, they are never formed (specification nac.md 17.1).
    absorbed = queries @ _weight(layer.key_compiler, layer.heads) * layer.key_compiler.modulation(codes)
    weights = (absorbed @ tokens.mT * queries.shape[-1] ** -0.5).softmax(dim=-1)
    values = (weights @ tokens * layer.value_compiler.modulation(codes)) @ _weight(layer.value_compiler, layer.heads).mT
    return weights, states + layer.layer_scale(layer.exit_layer(values.transpose(1, 2).flatten(2), codes))


def _weight(compiler: ModFC, heads: int) -> Tensor:
    """Weight of a compiler as (H, d, in)."""
    return compiler.native_weight.unflatten(0, (heads, -1))


def _latent(
    layer: LatentAttention,
    receivers: Tensor,
    senders: Tensor,
    receiver_codes: Tensor,
    sender_codes: Tensor,
    distance: Tensor | None = None,
    noise: object = None,
) -> tuple[Tensor, Tensor]:
    sources = (layer.sender_layernorm or layer.receiver_layernorm)(senders)
    queries = _heads(layer.query_compiler(layer.receiver_layernorm(receivers), receiver_codes), layer.heads)
    keys, values = (_heads(compiler(sources, sender_codes), layer.heads) for compiler in (layer.key_compiler, layer.value_compiler))
    scores = queries @ keys.mT * queries.shape[-1] ** -0.5
    if layer.kernel is not None and distance is not None:
        scores = scores + layer.kernel.log(distance)
    weights = scores.softmax(dim=-1).nan_to_num()
    branch = layer.layer_scale(layer.exit_layer((weights @ values).transpose(1, 2).flatten(2), receiver_codes))
    return weights, receivers + branch if layer.residual else branch


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


@contextmanager
def watched(layers: Mapping[str, nn.Module], see: Callable[[str, nn.Module, dict[str, Any], Any], object]) -> Iterator[None]:
    """Call ``see`` at every call of the given layers while the context is active.

    Parameters
    ----------
    layers
        Layers by name.
    see
        Called with name, layer, arguments by name, and output.
    """

    def hook(name: str) -> Callable[..., None]:
        def seen(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            see(name, layer, dict(inspect.signature(layer.forward).bind(*args, **kwargs).arguments), output)

        return seen

    handles = [layer.register_forward_hook(hook(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
