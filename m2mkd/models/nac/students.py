"""Modules of a NAC as they are distilled alone, between stitch layers (specification nac.md 14)."""

import torch
from torch import Tensor, nn

from m2mkd.config.models import NACConfig
from m2mkd.errors import InputError
from m2mkd.models.nac.layers import LatentLayer, ReadIn
from m2mkd.models.nac.noise import Noise
from m2mkd.models.nac.pooling import OutputLatentPooling
from m2mkd.models.nac.tokenizer import ImageTokenizer


class NACModule(nn.Module):
    """Base class of the three kinds: one code (1, K) for all latents, and a state (1, 1, D) for a latent that is not a token.

    Both are constants, drawn once and kept as buffers, because the module is distilled for them. The released code draws a
    state for each position in the batch and saves neither; here all samples share one state, so that any batch size works,
    unless ``num_states`` asks for more.

    Parameters
    ----------
    config
        Sizes of the circuit.
    state_seed
        Seed of code and state.
    has_state
        True if the module has a latent of its own.
    num_states
        Number of states to draw; sample b of a batch takes state b modulo this number.
    """

    codes: Tensor
    states: Tensor

    def __init__(self, config: NACConfig, state_seed: int, has_state: bool = True, num_states: int = 1):
        super().__init__()
        generator = torch.Generator().manual_seed(state_seed)
        self.register_buffer("codes", torch.randn(1, config.code_dim, generator=generator, device="cpu"))
        if has_state:
            self.register_buffer("states", torch.randn(num_states, 1, config.state_dim, generator=generator, device="cpu"))

    def initial(self, batch: int) -> Tensor:
        """Initial states (B, 1, D) of a batch of B samples."""
        return self.states[torch.arange(batch, device=self.states.device) % len(self.states)]


class ReadInModule(NACModule):
    """Read-in for one latent: images to one token of the meta model."""

    def __init__(
        self, config: NACConfig, image_size: int, stitch_width: int, ffn_layer_scale: float | None, state_seed: int, num_states: int = 1
    ):
        super().__init__(config, state_seed, num_states=num_states)
        self.tokenizer = ImageTokenizer(config.tokenizer, config.state_dim, image_size)
        self.read_in = ReadIn(config, self.tokenizer.width, ffn_layer_scale)
        self.post_stitch = nn.Linear(config.state_dim, stitch_width)

    def forward(self, images: Tensor, noise: Noise | None = None) -> Tensor:
        """Tokens (B, 1, W) of images (B, 3, S, S); no random numbers are drawn."""
        return self.post_stitch(self.read_in(self.initial(images.shape[0]), self.tokenizer(images), self.codes))


class MediatorModule(NACModule):
    """Propagator whose latents are the tokens of the meta model; each token attends to all tokens."""

    def __init__(self, config: NACConfig, stitch_width: int, state_seed: int):
        super().__init__(config, state_seed, has_state=False)
        self.pre_stitch = nn.Linear(stitch_width, config.state_dim)
        self.layer = LatentLayer(config, kernel=None)
        self.post_stitch = nn.Linear(config.state_dim, stitch_width)

    def forward(self, tokens: Tensor, noise: Noise | None = None) -> Tensor:
        """Tokens (B, N, W) of the meta model after the layer; ``noise`` drops paths in training."""
        states = self.pre_stitch(tokens)
        return self.post_stitch(self.layer(states, states, self.codes, self.codes, noise=noise))


class ReadOutModule(NACModule):
    """Read-out for one latent: tokens of the meta model to logits."""

    def __init__(self, config: NACConfig, num_classes: int, stitch_width: int, state_seed: int, num_states: int = 1):
        super().__init__(config, state_seed, num_states=num_states)
        self.pre_stitch = nn.Linear(stitch_width, config.state_dim)
        self.layer = LatentLayer(config, kernel=None, read_out=True)
        self.tokenizer = OutputLatentPooling(config.state_dim, num_classes)

    def forward(self, tokens: Tensor, noise: Noise | None = None) -> Tensor:
        """Logits (B, classes) of tokens (B, N, W); the Gumbel noise of pooling one latent has no effect."""
        states = self.initial(tokens.shape[0])
        return self.tokenizer(self.layer(states, self.pre_stitch(tokens), self.codes, self.codes, noise=noise), noise)


def build_nac_module(
    config: NACConfig,
    index: int,
    *,
    image_size: int,
    num_classes: int,
    stitch_width: int,
    readin_ffn_layer_scale: float | None = None,
    state_seed: int,
    num_states: int = 1,
) -> NACModule:
    """Build one module of a NAC, to be distilled alone.

    Parameters
    ----------
    config
        Sizes of the circuit with L propagators.
    index
        0: read-in, 1 to L: mediators, L + 1: read-out.
    image_size
        Side of the images in pixels (read-in).
    num_classes
        Number of classes (read-out).
    stitch_width
        Width W of the meta model's tokens.
    readin_ffn_layer_scale
        Initial value of LayerScale in the read-in's feed-forward layer; None: that of the circuit. The released code
        starts the module at 1e-6.
    state_seed
        Seed of the module's constant code and state.
    num_states
        Number of states, as in :class:`NACModule`; a mediator has none.

    Returns
    -------
    NACModule
        ``forward(x, noise=None)``: images to (B, 1, W), tokens (B, N, W) to (B, N, W), or tokens (B, N, W) to logits.

    Raises
    ------
    InputError
        If there is no module ``index``, or the image size does not fit.
    """
    if not 0 <= index < config.modules:
        raise InputError(f"module {index}: a NAC with {config.iterations} iterations has modules 0 to {config.modules - 1}")
    if index == 0:
        return ReadInModule(config, image_size, stitch_width, readin_ffn_layer_scale, state_seed, num_states)
    if index < config.modules - 1:
        return MediatorModule(config, stitch_width, state_seed)
    return ReadOutModule(config, num_classes, stitch_width, state_seed, num_states)
