"""Kernel on signatures, which determines the edges between latents and their weights (specification nac.md 7)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2mkd.models.nac.cache import Cache
from m2mkd.models.nac.noise import Noise, required


def cosine_distance(rows: Tensor, columns: Tensor, half: bool = False) -> Tensor:
    """Cosine distance, 0 to 2, of signatures (U, G) and (V, G), as (U, V) in float32 or better.

    ``half`` rounds to float16 the values that the released code computes in it under autocast: directions, products, distances.
    """
    # In half precision the distance would be too coarse for the cut.
    precision = torch.promote_types(rows.dtype, torch.float32)
    with torch.autocast(rows.device.type, enabled=False):
        units = [F.normalize(signatures.to(precision), dim=-1) for signatures in (rows, columns)]
        if half:
            units = [unit.half().to(precision) for unit in units]
        distance = 1 - units[0] @ units[1].T
        return distance.half().to(precision) if half else distance


def log_concrete(log_probability: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Logarithm of a sample of the Concrete (relaxed Bernoulli) distribution (specification nac.md 7.1).

    Parameters
    ----------
    log_probability
        Logarithm of the probability, clamped to the machine epsilon from 0 and 1: a cut edge may appear with a tiny weight, and
        neither it nor a certain edge has a gradient.
    uniform
        Uniform random numbers, of a shape that ``log_probability`` broadcasts to.
    temperature
        The lower, the closer the samples are to 0 and 1.

    Returns
    -------
    Tensor
        Of the shape of ``uniform``, below 0.
    """
    epsilon = torch.finfo(log_probability.dtype).eps
    log_odds = torch.logit(log_probability.exp().clamp(epsilon, 1 - epsilon))
    # The division is done on the few values that samples share, and the sum is one pass.
    return F.logsigmoid(torch.add(log_odds / temperature, torch.logit(uniform, epsilon), alpha=1 / temperature))


class DotProductKernel(nn.Module):
    """Exponential kernel of the cosine distance, cut beyond a distance and sampled in training.

    It is given and returned as a logarithm, an additive bias on attention scores. Its normalisation over senders is omitted:
    it is a constant of each row, which the following softmax removes. An edge is cut by its distance alone, so that a
    negative bandwidth does not reverse the cut.

    Parameters
    ----------
    truncation
        Distance above which an edge is cut; an edge at this distance is kept. None: no edge is cut.
    temperature
        Temperature of the Concrete distribution that samples edges in training. None: edges are not sampled.
    """

    def __init__(self, truncation: float | None = None, temperature: float | None = None):
        super().__init__()
        self.bandwidth = nn.Parameter(torch.tensor(1.0))
        self.truncation = truncation
        self.temperature = temperature
        self._log = Cache()

    @property
    def cuts(self) -> bool:
        """True if the kernel can now be minus infinity, so that a receiver may have no edges."""
        return self.truncation is not None and not (self.training and self.temperature is not None)

    def log(self, distance: Tensor) -> Tensor:
        """Logarithm of the kernel at distances (U, V); minus infinity and without gradient for cut edges."""
        log_kernel = -distance / self.bandwidth
        if self.truncation is None:
            return log_kernel
        return log_kernel.masked_fill(distance.detach() > self.truncation, -torch.inf)

    def forward(self, distance: Tensor, batch: int, noise: Noise | None) -> Tensor:
        """Additive bias on scores: (B, U, V) sampled in training, else (1, U, V)."""
        if self.training and self.temperature is not None:
            uniform = required(noise).draw("edge", (batch, *distance.shape), distance)
            return log_concrete(self.log(distance), uniform, self.temperature)
        return self._log(lambda: self.log(distance)[None], distance, self.bandwidth)
