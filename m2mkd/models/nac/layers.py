"""Layers of a circuit, each an attention and a feed-forward layer: read-in, propagator and read-out (specification nac.md 6, 8)."""

from torch import Tensor, nn

from m2mkd.config.models import NACConfig
from m2mkd.models.nac.attention import LatentAttention, ReadInAttention
from m2mkd.models.nac.kernel import DotProductKernel
from m2mkd.models.nac.modulated import ModFFN
from m2mkd.models.nac.noise import Noise


class ReadIn(nn.Module):
    """Layer in which input latents read the image tokens.

    Parameters
    ----------
    config
        Sizes of the circuit.
    token_width
        Width of a token.
    ffn_layer_scale
        Initial value of LayerScale in the feed-forward layer; None: that of the circuit.
    """

    def __init__(self, config: NACConfig, token_width: int, ffn_layer_scale: float | None = None):
        super().__init__()
        scale = config.layer_scale if ffn_layer_scale is None else ffn_layer_scale
        self.read_in_attention = ReadInAttention(config.state_dim, token_width, config.code_dim, config.heads, config.head_dim)
        self.ffn = ModFFN(config.state_dim, config.code_dim, config.ffn_capacity, scale)

    def forward(self, states: Tensor, tokens: Tensor, codes: Tensor) -> Tensor:
        """States (B, N, D) after reading tokens (B, T, C), with codes (N, K) or (1, K)."""
        return self.ffn(self.read_in_attention(states, tokens, codes), codes)


class LatentLayer(nn.Module):
    """Layer in which latents attend to latents: a propagator, with residual and drop path, or the read-out, whose attention has neither.

    Parameters
    ----------
    config
        Sizes of the circuit.
    kernel
        Kernel on signatures; None in a module that is distilled alone.
    read_out
        True for the read-out.
    """

    def __init__(self, config: NACConfig, kernel: DotProductKernel | None, read_out: bool = False):
        super().__init__()
        drop_path = 0.0 if read_out else config.drop_path
        self.latent_attention = LatentAttention(
            config.state_dim,
            config.code_dim,
            config.heads,
            config.head_dim,
            config.layer_scale,
            kernel,
            residual=not read_out,
            drop_path=drop_path,
        )
        self.ffn = ModFFN(config.state_dim, config.code_dim, config.ffn_capacity, config.layer_scale, drop_path)

    def forward(
        self,
        receivers: Tensor,
        senders: Tensor,
        receiver_codes: Tensor,
        sender_codes: Tensor,
        distance: Tensor | None = None,
        noise: Noise | None = None,
    ) -> Tensor:
        """States (B, U, D) of the receivers after the layer; arguments as in :class:`LatentAttention`."""
        states = self.latent_attention(receivers, senders, receiver_codes, sender_codes, distance, noise)
        return self.ffn(states, receiver_codes, noise)
