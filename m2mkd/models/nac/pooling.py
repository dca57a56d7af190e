"""Pooling of output latents into logits (specification nac.md 8.2)."""

from torch import Tensor, nn

from m2mkd.models.nac.noise import Noise, required


class OutputLatentPooling(nn.Module):
    """Average of the output latents, weighted by the softmax of their confidence with Gumbel noise, and a linear classifier.

    Parameters
    ----------
    dim
        Width D of the states.
    num_classes
        Number of classes.
    gumbel
        True if noise is added to the confidence when there is a noise source.
    """

    def __init__(self, dim: int, num_classes: int, gumbel: bool = True):
        super().__init__()
        self.gumbel = gumbel
        self.confidence_scorer = nn.Linear(dim, 1)
        self.to_logits = nn.Linear(dim, num_classes)

    def forward(self, states: Tensor, noise: Noise | None = None) -> Tensor:
        """Logits (B, classes) of states (B, N, D); the Gumbel noise may be missing only in evaluation."""
        scores = self.confidence_scorer(states).squeeze(-1)
        if self.training and self.gumbel:
            noise = required(noise)
        if noise is not None and self.gumbel:
            scores = scores + noise.draw("gumbel", scores.shape, scores)
        return self.to_logits((scores.softmax(dim=-1)[:, None] @ states)[:, 0])
