"""Labels that soft targets were mixed from (specification vmoe.md 4.2)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class MixedLabels(NamedTuple):
    """Two labels of each sample and the share of the first; equal labels, or a share of 1, where nothing was mixed."""

    first: Tensor
    """Labels (B,), int64, that have the larger share."""
    second: Tensor
    """Labels (B,) that have the rest."""
    share: Tensor
    """Shares (B,) of the first ones, from 0.5 to 1."""

    def mean(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Mean over the batch of losses (B,) that hard labels (B,) have, mixed as the images are."""
        return (self.share * loss(self.first) + (1 - self.share) * loss(self.second)).mean()


@torch.no_grad()
def mixed_labels(targets: Tensor, smoothing: float) -> MixedLabels:
    """Labels and shares of soft targets, which hold them exactly but for rounding.

    Mixup and CutMix give a sample the targets r t(a) + (1 - r) t(b), where t(a) has 1 - s + s / C at label a and s / C elsewhere.

    Parameters
    ----------
    targets
        Class probabilities (B, C), C >= 2.
    smoothing
        Label smoothing s that they were made with.
    """
    (largest, _), (first, second) = (part.unbind(dim=-1) for part in targets.topk(2, dim=-1))
    share = ((largest - smoothing / targets.shape[-1]) / (1 - smoothing)).clamp(0.5, 1)
    # Two images of one class have its label whole, which the rounding of the targets must not divide.
    return MixedLabels(first, second, torch.where(share > 1 - 1e-6, torch.ones_like(share), share))
