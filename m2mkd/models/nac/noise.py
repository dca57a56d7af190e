"""Random numbers of a forward pass, all from one explicit object (specification nac.md 11)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

NoiseKind = Literal["code", "state", "edge", "drop_path", "gumbel"]
Select = Callable[[Tensor], Tensor]


class Noise(ABC):
    """Source of the random tensors of a forward pass, drawn in the order in which the layers ask for them.

    The kinds are ``code`` (uniform, amplitude of the code noise), ``state`` (standard normal, seeded states), ``edge``
    (uniform, Concrete samples of edges), ``drop_path`` (uniform, one per sample) and ``gumbel`` (output pooling).
    """

    @abstractmethod
    def draw(self, kind: NoiseKind, shape: Sequence[int], like: Tensor) -> Tensor:
        """Draw the next random tensor.

        Parameters
        ----------
        kind
            Purpose, which determines the distribution.
        shape
            Shape of the tensor.
        like
            Tensor whose device and dtype the result has.

        Returns
        -------
        Tensor
            Tensor of ``shape``, without gradient.
        """

    @staticmethod
    def from_generator(generator: torch.Generator) -> "Noise":
        """Noise drawn from ``generator``, in float32 on its device."""
        return _Drawn(generator)

    @staticmethod
    def replay(record: Iterable[tuple[NoiseKind, Tensor]]) -> "Noise":
        """Noise that returns recorded tensors in their order, and refuses a call of another kind or shape."""
        return _Replayed(record)


class _Drawn(Noise):
    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def draw(self, kind: NoiseKind, shape: Sequence[int], like: Tensor) -> Tensor:
        empty = torch.empty(tuple(shape), device=self.generator.device)
        match kind:
            case "state":
                drawn = empty.normal_(generator=self.generator)
            case "gumbel":
                drawn = empty.exponential_(generator=self.generator).log_().neg_()
            case _:
                drawn = empty.uniform_(generator=self.generator)
        return drawn.to(like)


class _Replayed(Noise):
    def __init__(self, record: Iterable[tuple[NoiseKind, Tensor]]):
        self.record = iter(record)

    def draw(self, kind: NoiseKind, shape: Sequence[int], like: Tensor) -> Tensor:
        recorded, tensor = next(self.record, (None, None))
        if tensor is None or recorded != kind or tensor.shape != tuple(shape):
            found = "nothing" if tensor is None else f"{recorded} {tuple(tensor.shape)}"
            raise ValueError(f"the forward pass draws {kind} {tuple(shape)}, but the record holds {found}")
        return tensor.to(like)


def required(noise: Noise | None) -> Noise:
    """Return ``noise``, which the layer requires.

    Raises
    ------
    ValueError
        If it is None.
    """
    if noise is None:
        raise ValueError("a forward pass in training mode draws random numbers: pass noise=Noise.from_generator(generator)")
    return noise


def perturb_codes(codes: Tensor, amplitude: float, noise: Noise) -> Tensor:
    """Codes plus uniform noise on ``[-amplitude |code|, amplitude |code|]`` (specification nac.md 2.4).

    The noise has no batch axis: the whole batch shares one draw. With amplitude 0 nothing is drawn.
    """
    if not amplitude:
        return codes
    uniform = noise.draw("code", codes.shape, codes)
    return codes + codes.detach().abs() * (amplitude * (2 * uniform - 1))


def drop_path(states: Tensor, rate: float, noise: Noise, branch: Callable[[Select], Tensor], *, skip: bool | None = None) -> Tensor:
    """States plus a residual branch that is dropped for a sample with probability ``rate`` (specification nac.md 2.3).

    Parameters
    ----------
    states
        States (B, N, D).
    rate
        Probability; a kept branch is divided by ``1 - rate``.
    noise
        Draws one uniform number for each sample, before the branch is computed.
    branch
        Function of the branch (b, N, D), for the b samples that its argument selects from a tensor (B, ...).
    skip
        True: dropped branches are not computed. None: as True on a CPU only, because the number of kept branches then determines
        shapes, which would synchronise an accelerator and break a compiled graph.

    Returns
    -------
    Tensor
        (B, N, D).
    """
    uniform = noise.draw("drop_path", (len(states),) + (1,) * (states.dim() - 1), states)
    kept = (1 - rate + uniform).floor()
    if not (_on_cpu(kept) if skip is None else skip):
        return states + branch(lambda x: x) * (kept / (1 - rate))
    # A dropped branch has neither value nor gradient, and need not be computed.
    survivors = kept.flatten().nonzero()[:, 0]
    if len(survivors) == len(states):
        return states.add(branch(lambda x: x), alpha=1 / (1 - rate))
    survived = branch(lambda x: x.index_select(0, survivors))
    return states.index_add(0, survivors, survived.to(states.dtype), alpha=1 / (1 - rate))


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
