"""Stitch layers: the change of width between a student module and its neighbours."""

from torch import Tensor, nn


class Stitch(nn.Module):
    """Layer norm and linear map from one token width to another (specification vmoe.md 1.3).

    Parameters
    ----------
    in_width, out_width
        Token widths on both sides.
    """

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(in_width, eps=1e-5)
        self.fc = nn.Linear(in_width, out_width)
        nn.init.trunc_normal_(self.fc.weight, std=0.02)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (..., in_width) to (..., out_width)."""
        return self.fc(self.ln(x))
