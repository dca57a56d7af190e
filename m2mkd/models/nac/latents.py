"""Latents: their codes and signatures, and the seeder of their initial states (specification nac.md 4, 5)."""

import torch
from torch import Tensor, nn

from m2mkd.models.nac.cache import Cache
from m2mkd.models.nac.noise import Noise, perturb_codes, required


class LatentGroup(nn.Module):
    """Codes (N, K) and signatures (N, G) of one group of latents, standard normal unless the signatures are given.

    Parameters
    ----------
    count, code_dim, signature_dim
        Number N of latents, widths K of a code and G of a signature.
    signatures
        Initial signatures (N, G); None: standard normal.
    """

    def __init__(self, count: int, code_dim: int, signature_dim: int, signatures: Tensor | None = None):
        super().__init__()
        self.codes = nn.Parameter(torch.randn(count, code_dim))
        self.signatures = nn.Parameter(torch.randn(count, signature_dim) if signatures is None else signatures.clone())


class LatentSeeder(nn.Module):
    """Normal distribution of a latent's initial state, given its code.

    Parameters
    ----------
    code_dim, state_dim
        Widths K of a code and D of a state.
    code_noise
        Relative amplitude of the noise on codes in training.
    """

    def __init__(self, code_dim: int, state_dim: int, code_noise: float):
        super().__init__()
        self.layernorm = nn.LayerNorm(code_dim)
        self.code_to_state_mu = nn.Linear(code_dim, state_dim)
        self.code_to_state_logvar = nn.Linear(code_dim, state_dim)
        nn.init.constant_(self.code_to_state_logvar.bias, -5)
        self.code_noise = code_noise
        # A single value for each of the three groups.
        self._mean, self._deviation = Cache(size=3), Cache(size=3)

    def forward(self, codes: Tensor, batch: int, noise: Noise | None) -> Tensor:
        """States (B, N, D) for codes (N, K): the mean without ``noise``, else a sample of the distribution, in evaluation too."""
        if self.training:
            codes = perturb_codes(codes, self.code_noise, required(noise))

        def deviations() -> Tensor:
            return (self.code_to_state_logvar(self.layernorm(codes)) / 2).exp()

        sources = codes, *self.parameters()
        mean = self._mean(lambda: self.code_to_state_mu(self.layernorm(codes)), *sources).expand(batch, -1, -1)
        if noise is None:
            return mean
        return mean + noise.draw("state", mean.shape, mean) * self._deviation(deviations, *sources)
