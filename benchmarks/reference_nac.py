"""Plain NAC, written down from the specification (nac.md 1 to 8): the yardstick of ``nac.py``.

It does the work that the released code does, and leaves out nothing that the released code computes: keys and values of
every token for every input latent are materialised (section 6), each layer works out the distances of the signatures
anew, normalises its log-kernel and throws away its exponential (7.1, finding 46), attention is written out (8), and no
value outlives a forward pass. It shares no code with the package, only the names of its state dict.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]
"""Of receivers and of senders."""
LATENT = "codes", "signatures"


class ModFC(nn.Module):
    """Fully connected layer modulated by codes (2.1)."""

    def __init__(self, in_features: int, out_features: int, code_dim: int, bias: bool = True):
        super().__init__()
        self.native_weight = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.kaiming_uniform_(self.native_weight, a=math.sqrt(5))
        self.native_bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.scale = nn.Linear(code_dim, in_features, bias=False)
        self.scale_gain = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        scales = self.scale(codes)
        scales = self.scale_gain * F.layer_norm(scales, scales.shape[-1:]) + 1
        return F.linear(x * scales, self.native_weight, self.native_bias)


class LayerScale(nn.Module):
    """Learned factor of each channel (2.3)."""

    def __init__(self, dim: int, value: float):
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class ModFFN(nn.Module):
    """Modulated feed-forward layer (2.2)."""

    def __init__(self, config: Any, drop_path: float):
        super().__init__()
        hidden = round(config.ffn_capacity * config.state_dim)
        self.layernorm = nn.LayerNorm(config.state_dim)
        self.ffn = nn.ModuleDict(
            {"0": ModFC(config.state_dim, 2 * hidden, config.code_dim), "2": ModFC(hidden, config.state_dim, config.code_dim)}
        )
        self.layer_scale = LayerScale(config.state_dim, config.layer_scale)
        self.drop_path = drop_path

    def forward(self, states: Tensor, codes: Tensor, noise: Any) -> Tensor:
        values, gates = self.ffn["0"](self.layernorm(states), codes).chunk(2, dim=-1)
        branch = self.layer_scale(self.ffn["2"](values * F.gelu(gates), codes))
        return states + drop_path(branch, self.drop_path if self.training else 0, noise)


def drop_path(branch: Tensor, rate: float, noise: Any) -> Tensor:
    """Stochastic depth for each sample (2.3)."""
    if not rate:
        return branch
    return branch * torch.floor(1 - rate + noise.draw("drop_path", (len(branch), 1, 1), branch)) / (1 - rate)


class ReadInAttention(nn.Module):
    """Cross attention to the tokens, with keys and values of each latent (6)."""

    def __init__(self, config: Any, token_width: int):
        super().__init__()
        inner = config.heads * config.head_dim
        self.heads = config.heads
        self.receiver_layernorm = nn.LayerNorm(config.state_dim)
        self.sender_layernorm = nn.LayerNorm(token_width)
        self.query_compiler = ModFC(config.state_dim, inner, config.code_dim, bias=False)
        self.key_compiler = ModFC(token_width, inner, config.code_dim, bias=False)
        self.value_compiler = ModFC(token_width, inner, config.code_dim, bias=False)
        self.exit_layer = ModFC(inner, config.state_dim, config.code_dim)
        self.layer_scale = LayerScale(config.state_dim, 1.0)

    def forward(self, states: Tensor, tokens: Tensor, codes: Tensor) -> Tensor:
        tokens = self.sender_layernorm(tokens)[:, :, None]  # B, T, 1, C
        queries = self.query_compiler(self.receiver_layernorm(states), codes).unflatten(-1, (self.heads, -1))
        keys = self.key_compiler(tokens, codes).unflatten(-1, (self.heads, -1))  # B, T, N, H, d
        values = self.value_compiler(tokens, codes).unflatten(-1, (self.heads, -1))
        scores = torch.einsum("buhd,btuhd->buht", queries, keys) / math.sqrt(queries.shape[-1])
        attended = torch.einsum("buht,btuhd->buhd", scores.softmax(dim=-1), values).flatten(2)
        return states + self.layer_scale(self.exit_layer(attended, codes))


class Kernel(nn.Module):
    """Kernel on signatures, truncated, sampled and normalised (7, 7.1)."""

    def __init__(self, truncation: float | None, temperature: float | None):
        super().__init__()
        self.bandwidth = nn.Parameter(torch.tensor(1.0))
        self.truncation = truncation
        self.temperature = temperature

    def forward(self, receivers: Tensor, senders: Tensor, batch: int, noise: Any) -> Tensor:
        with torch.autocast(receivers.device.type, enabled=False):
            distance = 1 - F.normalize(receivers, dim=-1) @ F.normalize(senders, dim=-1).T
        log_kernel = -distance / self.bandwidth
        if self.truncation is not None:
            log_kernel = log_kernel.masked_fill(distance.detach() > self.truncation, -torch.inf)
        if self.training and self.temperature is not None:
            epsilon = torch.finfo(log_kernel.dtype).eps
            probability = log_kernel.exp().expand(batch, -1, -1).clamp(epsilon, 1 - epsilon)
            uniform = noise.draw("edge", probability.shape, probability).clamp(epsilon, 1 - epsilon)
            logits = probability.log() - (-probability).log1p() + uniform.log() - (-uniform).log1p()
            log_kernel = F.logsigmoid(logits / self.temperature)
        return log_kernel - log_kernel.logsumexp(dim=-1, keepdim=True)


class LatentAttention(nn.Module):
    """Kernel-modulated attention among latents (8)."""

    def __init__(self, config: Any, read_out: bool):
        super().__init__()
        inner = config.heads * config.head_dim
        self.heads = config.heads
        self.residual = not read_out
        self.drop_path = 0.0 if read_out else config.drop_path
        self.kernel = Kernel(None, None) if read_out else Kernel(config.truncation, config.temperature)
        self.receiver_layernorm = nn.LayerNorm(config.state_dim)
        self.sender_layernorm = nn.LayerNorm(config.state_dim) if read_out else None
        self.query_compiler = ModFC(config.state_dim, inner, config.code_dim, bias=False)
        self.key_compiler = ModFC(config.state_dim, inner, config.code_dim, bias=False)
        self.value_compiler = ModFC(config.state_dim, inner, config.code_dim, bias=False)
        self.exit_layer = ModFC(inner, config.state_dim, config.code_dim)
        self.layer_scale = LayerScale(config.state_dim, config.layer_scale)

    def forward(
        self, receivers: Tensor, senders: Tensor, codes: tuple[Tensor, Tensor], signatures: tuple[Tensor, Tensor], noise: Any
    ) -> Tensor:
        normed = self.receiver_layernorm(receivers)
        sources = (self.sender_layernorm or self.receiver_layernorm)(senders)
        queries = self.query_compiler(normed, codes[0]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        keys = self.key_compiler(sources, codes[1]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        values = self.value_compiler(sources, codes[1]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        log_affinities = self.kernel(*signatures, len(receivers), noise)
        log_affinities.exp()  # which the released code computes, and does not use
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(queries.shape[-1])
        scores = scores + (log_affinities[:, None] if log_affinities.dim() == 3 else log_affinities)
        attended = (scores.softmax(dim=-1) @ values).transpose(1, 2).flatten(2)
        branch = self.layer_scale(self.exit_layer(attended, codes[0]))
        branch = drop_path(branch, self.drop_path if self.training else 0, noise)
        return receivers + branch if self.residual else branch


class LatentLayer(nn.Module):
    """Propagator or read-out (8)."""

    def __init__(self, config: Any, read_out: bool = False):
        super().__init__()
        self.latent_attention = LatentAttention(config, read_out)
        self.ffn = ModFFN(config, 0.0 if read_out else config.drop_path)

    def forward(
        self, receivers: Tensor, senders: Tensor, codes: tuple[Tensor, Tensor], signatures: tuple[Tensor, Tensor], noise: Any
    ) -> Tensor:
        return self.ffn(self.latent_attention(receivers, senders, codes, signatures, noise), codes[0], noise)


class ReadIn(nn.Module):
    """Read-in (6)."""

    def __init__(self, config: Any, token_width: int):
        super().__init__()
        self.read_in_attention = ReadInAttention(config, token_width)
        self.ffn = ModFFN(config, drop_path=0.0)

    def forward(self, states: Tensor, tokens: Tensor, codes: Tensor) -> Tensor:
        return self.ffn(self.read_in_attention(states, tokens, codes), codes, None)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of a map (3)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        normed = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
        return self.weight[:, None, None] * normed + self.bias[:, None, None]


class Block(nn.Module):
    """ConvNeXt block (3)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv_dw = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(channels, 4 * channels), "fc2": nn.Linear(4 * channels, channels)})
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.conv_dw(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.mlp["fc2"](F.gelu(self.mlp["fc1"](hidden)))).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """ConvNeXt stage; all but the first halve the resolution (3)."""

    def __init__(self, channels_in: int, channels: int, depth: int):
        super().__init__()
        same = channels_in == channels
        self.downsample = nn.Identity() if same else nn.Sequential(ChannelNorm(channels_in), nn.Conv2d(channels_in, channels, 2, 2))
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class Tokenizer(nn.Module):
    """ConvNeXt features beside a positional grid (3)."""

    def __init__(self, config: Any, image_size: int):
        super().__init__()
        depths, stem = config.tokenizer.depths, config.tokenizer.stem_stride
        widths = [config.state_dim // 4, config.state_dim // 2, config.state_dim][: len(depths)]
        stages = (Stage(widths[max(i - 1, 0)], width, depth) for i, (width, depth) in enumerate(zip(widths, depths, strict=True)))
        self.backbone = nn.ModuleDict(
            {"stem": nn.Sequential(nn.Conv2d(3, widths[0], stem, stem), ChannelNorm(widths[0])), "stages": nn.Sequential(*stages)}
        )
        side = image_size // (stem * 2 ** (len(depths) - 1))
        self.positional_grid = nn.Parameter(torch.randn(config.tokenizer.grid_dim, side, side))
        self.width = widths[-1] + config.tokenizer.grid_dim

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone["stages"](self.backbone["stem"](images))
        grid = self.positional_grid.expand(len(images), -1, -1, -1)
        return torch.cat([features, grid], dim=1).flatten(2).transpose(1, 2)


class Latents(nn.Module):
    """Codes and signatures of a group (4)."""

    def __init__(self, count: int, config: Any):
        super().__init__()
        self.codes = nn.Parameter(torch.randn(count, config.code_dim))
        self.signatures = nn.Parameter(torch.randn(count, config.signature_dim))


class Seeder(nn.Module):
    """Normal distribution of the initial states (5)."""

    def __init__(self, config: Any):
        super().__init__()
        self.layernorm = nn.LayerNorm(config.code_dim)
        self.code_to_state_mu = nn.Linear(config.code_dim, config.state_dim)
        self.code_to_state_logvar = nn.Linear(config.code_dim, config.state_dim)

    def forward(self, codes: Tensor, batch: int, noise: Any) -> Tensor:
        normed = self.layernorm(codes)
        mean, deviation = self.code_to_state_mu(normed), (self.code_to_state_logvar(normed) / 2).exp()
        return mean + noise.draw("state", (batch, *mean.shape), mean) * deviation


class Pooling(nn.Module):
    """Gumbel softmax over the output latents, and the classifier (8.2)."""

    def __init__(self, dim: int, classes: int):
        super().__init__()
        self.confidence_scorer = nn.Linear(dim, 1)
        self.to_logits = nn.Linear(dim, classes)

    def forward(self, states: Tensor, noise: Any) -> Tensor:
        scores = self.confidence_scorer(states)
        scores = scores + noise.draw("gumbel", scores.shape[:-1], scores)[..., None]
        return self.to_logits((scores.softmax(dim=1) * states).sum(dim=1))


class ReferenceNAC(nn.Module):
    """Neural Attentive Circuit as specified, without any of the rewrites of nac.md 17.

    Parameters
    ----------
    config
        Sizes, by the field names of ``m2mkd.config.models.NAC``.
    image_size, num_classes
        Of the data set.
    """

    def __init__(self, config: Any, image_size: int, num_classes: int):
        super().__init__()
        self.config = config
        self.input_tokenizer = Tokenizer(config, image_size)
        self.input_latents = Latents(config.latents.input, config)
        self.mediator_latents = Latents(config.latents.mediator, config)
        self.output_latents = Latents(config.latents.output, config)
        self.latent_seeder = Seeder(config)
        self.read_in = ReadIn(config, self.input_tokenizer.width)
        self.propagators = nn.ModuleList(LatentLayer(config) for _ in range(config.iterations))
        self.read_out = LatentLayer(config, read_out=True)
        self.output_tokenizer = Pooling(config.state_dim, num_classes)

    def forward(self, images: Tensor, noise: Any) -> Tensor:
        """Logits (B, classes) of images (B, 3, S, S); ``noise.draw(kind, shape, like)`` gives the random numbers, in evaluation too."""
        tokens = self.input_tokenizer(images)
        groups = self.input_latents, self.mediator_latents, self.output_latents
        inputs, mediators, outputs = (self.latent_seeder(self._noisy(group.codes, noise), len(images), noise) for group in groups)
        inputs = self.read_in(inputs, tokens, self._noisy(self.input_latents.codes, noise))

        for propagator in self.propagators:
            mediators = self._layer(propagator, self.mediator_latents, mediators, torch.cat([inputs, mediators], dim=1), noise)
        outputs = self._layer(self.read_out, self.output_latents, outputs, torch.cat([inputs, mediators], dim=1), noise)
        return self.output_tokenizer(outputs, noise)

    def regularisation(self) -> Tensor:
        """Weighted repulsion of the signatures (10)."""
        groups = self.input_latents, self.mediator_latents, self.output_latents
        signatures = F.normalize(torch.cat([group.signatures for group in groups]), dim=-1)
        distance = 1 - signatures @ signatures.T
        close = (distance.detach() < self.config.hinge).tril(-1)
        return self.config.graph_weight * -(distance * close).sum()

    def _layer(self, layer: nn.Module, group: Latents, receivers: Tensor, senders: Tensor, noise: Any) -> Tensor:
        codes, signatures = (torch.cat([getattr(part, name) for part in (self.input_latents, self.mediator_latents)]) for name in LATENT)
        noisy = self._noisy(group.codes, noise), self._noisy(codes, noise)
        return layer(receivers, senders, noisy, (group.signatures, signatures), noise)

    def _noisy(self, codes: Tensor, noise: Any) -> Tensor:
        if not self.training:
            return codes
        amplitude = self.config.code_noise * codes.detach().abs()
        return codes - amplitude + 2 * amplitude * noise.draw("code", codes.shape, codes)
