"""Neural Attentive Circuit with the interface that users of timm expect of a model."""

from typing import Any

import torch
from torch import Tensor, nn

from m2mkd.config.models import NACConfig, Prior
from m2mkd.errors import InputError
from m2mkd.models.nac.circuit import NAC
from m2mkd.models.nac.noise import Noise


class TimmNAC(NAC):
    """NAC that needs no ``noise`` in training: without it, it draws from torch's global generator of its device.

    Parameters
    ----------
    config, image_size, prior
        See :class:`~m2mkd.models.nac.circuit.NAC`.
    num_classes
        Number of classes; 0 for none, so that the circuit returns features.
    **arguments
        Passed on to :class:`~m2mkd.models.nac.circuit.NAC`.

    Attributes
    ----------
    num_classes : int
        Classes of the head; 0 without one.
    num_features, head_hidden_size : int
        Width D of the states.
    """

    in_chans = 3

    def __init__(self, config: NACConfig, *, image_size: int, num_classes: int, prior: Prior | None, **arguments: Any) -> None:
        super().__init__(config, image_size=image_size, num_classes=num_classes or 1, prior=prior, **arguments)
        self.num_features = self.head_hidden_size = config.state_dim
        self.num_classes = num_classes
        if num_classes == 0:
            self.reset_classifier(0)

    def forward(self, images: Tensor, noise: Noise | None = None) -> Tensor:
        """Logits (B, classes) of images (B, 3, S, S), or features (B, D) without a head."""
        return super().forward(images, noise or self._noise(images))

    def forward_features(self, images: Tensor, noise: Noise | None = None) -> Tensor:
        """States (B, N, D) of the output latents for images (B, 3, S, S)."""
        states: list[Tensor] = []
        handle = self.output_tokenizer.register_forward_pre_hook(lambda _, arguments: states.append(arguments[0]))
        try:
            self(images, noise)
        finally:
            handle.remove()
        return states[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False, noise: Noise | None = None) -> Tensor:
        """Logits (B, classes) of states (B, N, D), or with ``pre_logits`` the classifier's input, (B, D)."""
        pooling = self.output_tokenizer
        classifier = pooling.to_logits
        if not pre_logits:
            return pooling(x, noise or self._noise(x))
        try:
            pooling.to_logits = nn.Identity()  # type: ignore[assignment]
            return pooling(x, noise or self._noise(x))
        finally:
            pooling.to_logits = classifier

    def get_classifier(self) -> nn.Module:
        """Linear classifier; the identity if there is none."""
        return self.output_tokenizer.to_logits

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by one with torch's initial weights; 0 classes for none.

        Raises
        ------
        InputError
            If ``global_pool`` asks for another pooling than the circuit's own.
        """
        if global_pool:
            raise InputError(f"global_pool {global_pool!r}: a NAC pools its output latents by confidence; leave global_pool out")
        like = self.output_tokenizer.confidence_scorer.weight
        head = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype) if num_classes else nn.Identity()
        self.output_tokenizer.to_logits = head.train(self.training)  # type: ignore[assignment]
        self.num_classes = num_classes

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Refuse: a circuit draws its noise from an object that cannot repeat its draws.

        Raises
        ------
        InputError
            If ``enable`` is set.
        """
        if enable:
            raise InputError("a NAC has no gradient checkpointing: its noise could not be drawn a second time; use a smaller batch")

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns by which timm groups the parameters, in the order of the forward pass; ``coarse`` has no effect."""
        return {
            "stem": r"^input_tokenizer|^\w+_latents|^latent_seeder",
            "read_in": r"^read_in",
            "propagators": r"^propagators\.(\d+)",
            "read_out": r"^read_out",
        }

    def _noise(self, like: Tensor) -> Noise | None:
        if not self.training:
            return None
        if like.device.type == "cpu":
            return Noise.from_generator(torch.default_generator)
        return Noise.from_generator(torch.get_device_module(like.device).default_generators[like.device.index or 0])
