"""What one part of a network costs: arithmetic, parameters, and the tensors that it keeps for its backward pass."""

# Formulas, and not torch's FlopCounterMode on the meta device, for four reasons: importing torch and the models takes ten times as long as
# planning does, at each start of the workflow; the router of a V-MoE cannot run there, for how much its experts compute depends on values;
# a NAC is also counted as the released code computes it, which nothing here runs; and nobody counts memory but formulas. The counter is
# the oracle instead: tests/unit/planning/test_flops.py holds each formula against it.

from dataclasses import dataclass
from typing import Literal

Use = Literal["trained", "frozen", "no_grad"]
"""Trained: forward, and gradients of input and weights. Frozen: gradient of the input, for a trained part before it. No_grad: forward."""
PASSES: dict[Use, int] = {"trained": 3, "frozen": 2, "no_grad": 1}
"""Matrix products of each use, in forward passes (specification vmoe.md 8)."""


@dataclass(frozen=True)
class Tensors:
    """Elements of activations, by the precision that they are held in under autocast."""

    low: int = 0
    """In the precision of the recipe: what goes in and out of matrix products."""
    full: int = 0
    """Always in float32: the residual stream and what the norms save."""

    def __add__(self, other: "Tensors") -> "Tensors":
        return Tensors(self.low + other.low, self.full + other.full)

    def __mul__(self, count: int) -> "Tensors":
        return Tensors(self.low * count, self.full * count)

    def bytes(self, low: int) -> int:
        """Bytes, where an element in the precision of the recipe has ``low``."""
        return self.low * low + self.full * 4


@dataclass(frozen=True)
class LayerCost:
    """One part of a network, for one image; parts add up to larger ones."""

    macs: int = 0
    """Multiply-accumulates of matrix products and convolutions in one forward pass of an image; a FLOP is half of one."""
    batch_macs: int = 0
    """The same, but once for a whole batch."""
    parameters: int = 0
    idle_parameters: int = 0
    """Of them, in experts that a token is not sent to."""
    saved: Tensors = Tensors()
    """Kept for the backward pass where the part is trained."""
    passed: Tensors = Tensors()
    """Kept for the backward pass where it is frozen and a gradient flows through."""
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
        """FLOPs of a forward pass for each image of a batch of that size; a FLOP is half a multiply-accumulate."""
        return 2 * (self.macs + self.batch_macs / batch)


@dataclass(frozen=True)
class Term:
    """A part of a network with what training asks of it."""

    name: str
    cost: LayerCost
    use: Use
    again: bool = False
    """Whether its weights are already there, as those of another term."""

    @property
    def passes(self) -> int:
        return PASSES[self.use]
