"""Cost of one part of a network: arithmetic, parameters, and the tensors that it keeps for its backward pass."""

# Formulas instead of torch's FlopCounterMode on the meta device, for four reasons: importing torch and the models takes ten times as
# long as planning does, at each start of the workflow; the router of a V-MoE cannot run there, because the work of its experts depends
# on values; a NAC is also counted as the released code computes it, which nothing here runs; and only formulas count memory. The
# counter is the oracle instead: tests/unit/planning/test_flops.py compares each formula with it.

from dataclasses import dataclass
from typing import Literal

Use = Literal["trained", "frozen", "no_grad"]
"""Trained: forward, and gradients of input and weights. Frozen: gradient of the input, for a trained part before it. No_grad: forward."""
PASSES: dict[Use, int] = {"trained": 3, "frozen": 2, "no_grad": 1}
"""Matrix products of each use, in forward passes (specification vmoe.md 8)."""


@dataclass(frozen=True)
class Tensors:
    """Elements of activations, by their precision under autocast."""

    low: int = 0
    """In the recipe's precision: inputs and outputs of matrix products."""
    full: int = 0
    """Always in float32: the residual stream and the tensors that norms save."""

    def __add__(self, other: "Tensors") -> "Tensors":
        return Tensors(self.low + other.low, self.full + other.full)

    def __mul__(self, count: int) -> "Tensors":
        return Tensors(self.low * count, self.full * count)

    def bytes(self, low: int) -> int:
        """Bytes, if an element in the recipe's precision takes ``low`` bytes."""
        return self.low * low + self.full * 4


@dataclass(frozen=True)
class LayerCost:
    """Cost of a part of a network for one image; parts add up to larger ones."""

    macs: int = 0
    """Multiply-accumulates of matrix products and convolutions in one forward pass of an image; a FLOP is half of one."""
    batch_macs: int = 0
    """Multiply-accumulates done once for a whole batch."""
    parameters: int = 0
    idle_parameters: int = 0
    """Parameters in experts that a token is not routed to."""
    saved: Tensors = Tensors()
    """Kept for the backward pass if the part is trained."""
    passed: Tensors = Tensors()
    """Kept for the backward pass if the part is frozen and a gradient flows through it."""
    live: Tensors = Tensors()
    """Largest set of tensors that exist at the same time inside one block."""

    def __add__(self, other: "LayerCost") -> "LayerCost":
        return LayerCost(
            self.macs + other.macs,
            self.batch_macs + other.batch_macs,
            self.parameters + other.parameters,
            self.idle_parameters + other.idle_parameters,
            self.saved + other.saved,
            self.passed + other.passed,
            max(self.live, other.live, key=lambda tensors: tensors.bytes(2)),
        )

    def flops(self, batch: int = 1) -> float:
        """FLOPs of a forward pass per image, in a batch of the given size; a FLOP is half a multiply-accumulate."""
        return 2 * (self.macs + self.batch_macs / batch)


@dataclass(frozen=True)
class Term:
    """Part of a network with the use that training makes of it."""

    name: str
    cost: LayerCost
    use: Use
    again: bool = False
    """True if the weights are already counted by another term."""

    @property
    def passes(self) -> int:
        return PASSES[self.use]
