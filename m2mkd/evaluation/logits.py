"""Logits of an evaluation, kept next to its numbers, so that a metric that nobody thought of needs no network."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from m2mkd.errors import InputError
from m2mkd.files import write_atomically


class KeptLogits(NamedTuple):
    """Outputs of a network on every measured image of a set, in its order."""

    logits: Tensor
    """(N, K), float32 in the file."""
    labels: Tensor
    """(N,), int64."""

    def save(self, path: Path) -> None:
        """Write them as safetensors."""
        content = save({"logits": self.logits.float().contiguous(), "labels": self.labels.long().contiguous()})
        write_atomically(path, lambda file: file.write(content))


def read_logits(content: bytes, where: str) -> KeptLogits:
    """Logits, raised to float64, and labels from the content of a file.

    Raises
    ------
    InputError
        If it does not hold them; ``where`` is its path.
    """
    try:
        found = load(content)
        logits, labels = found["logits"].double(), found["labels"].long()
    except (SafetensorError, KeyError) as error:
        raise InputError(f"{where}: does not hold logits and labels ({error}); remove it, or run the evaluation again") from None
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise InputError(f"{where}: {tuple(logits.shape)} logits do not fit {tuple(labels.shape)} labels; remove it")
    return KeptLogits(logits, labels)


@dataclass
class Recorder:
    """A network that remembers its outputs."""

    predict: Callable[[Tensor], Tensor]
    seen: list[Tensor] = field(default_factory=list)

    def __call__(self, images: Tensor) -> Tensor:
        logits = self.predict(images)
        self.seen.append(logits.detach().float().cpu())
        return logits

    def kept(self, labels: Tensor) -> KeptLogits:
        """Outputs that were seen, with the labels of the same images."""
        return KeptLogits(torch.cat(self.seen), labels)
