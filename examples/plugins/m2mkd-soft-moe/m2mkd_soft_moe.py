"""Soft MoE (Puigcerver et al. 2023, arXiv 2308.00951) as a family of students: each slot of an expert is a mean of all tokens."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveInt
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from m2mkd.config.models import ViTConfig
from m2mkd.evaluation.attention import watched
from m2mkd.families.staged import StagedFamily
from m2mkd.models.moe import ExpertLinear
from m2mkd.models.vit import stage_positions


class SoftMoEConfig(ViTConfig):
    """A staged ViT with soft experts instead of the MLP in some blocks."""

    family: Literal["soft_moe"] = "soft_moe"
    experts: PositiveInt = 8
    """Experts in each layer."""
    slots: PositiveInt = 4
    """Slots of each expert."""
    moe_blocks: Literal["all", "second_half"] = "second_half"
    """Blocks with experts; the paper has them in the second half."""

    @property
    def moe_positions(self) -> range:
        """Positions in the whole network of the blocks with experts, from 0."""
        depth = sum(self.depths)
        return range(0 if self.moe_blocks == "all" else depth // 2, depth)


class SoftMoE(nn.Module):
    """Layer that replaces an MLP (section 2.1, with the normalisation of section 2.3): tokens (B, N, d) to the same shape."""

    def __init__(self, in_features: int, hidden_features: int, *, experts: int, slots: int, **_: Any) -> None:
        super().__init__()
        self.experts, self.slots = experts, slots
        self.phi = nn.Parameter(torch.randn(in_features, experts * slots) * in_features**-0.5)
        self.scale = nn.Parameter(torch.ones(()))
        self.fc1 = ExpertLinear(experts, in_features, hidden_features, init="trunc02")
        self.fc2 = ExpertLinear(experts, hidden_features, in_features, init="trunc02")

    def weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (B, N, slots of all experts) by which slots collect tokens, sum 1 over N, and tokens collect slots, sum 1 over these."""
        logits = F.normalize(x, dim=-1) @ (self.scale * F.normalize(self.phi, dim=0))
        return logits.softmax(dim=1), logits.softmax(dim=2)

    def forward(self, x: Tensor) -> Tensor:
        dispatch, combine = self.weights(x)
        slots = (dispatch.mT @ x).unflatten(1, (self.experts, self.slots))
        hidden = F.gelu(slots @ self.fc1.weight.mT + self.fc1.bias[:, None])
        return combine @ (hidden @ self.fc2.weight.mT + self.fc2.bias[:, None]).flatten(1, 2)


class SoftMoEFamily(StagedFamily[SoftMoEConfig]):
    """Soft mixtures of experts; what is not said here is as in any student of stages."""

    CONFIG: ClassVar = SoftMoEConfig
    LABEL: ClassVar[str] = "Soft MoE"

    def token_layers(self, config: SoftMoEConfig, index: int, compat: Mapping[str, Any]) -> Sequence[Callable[..., nn.Module]]:
        layer = partial(SoftMoE, experts=config.experts, slots=config.slots)
        return [layer if position in config.moe_positions else Mlp for position in stage_positions(config, index)]

    def sizes(self, config: SoftMoEConfig) -> str:
        depths = "+".join(map(str, config.depths))
        experts = f"{config.experts} experts of {config.slots} slots in {len(config.moe_positions)} of them"
        return f"{depths} blocks of width {config.width}, {experts}, {config.heads} heads, patches of {config.patch_size} pixels"

    def diagnose(self, student: nn.Module, images: Tensor) -> dict[str, Any]:
        """Share that each expert has in the tokens' output, and the entropy of these shares token by token."""
        layers: list[dict[str, Any]] = []

        def see(name: str, layer: Any, arguments: dict[str, Any], _: Tensor) -> None:
            shares = layer.weights(arguments["x"])[1].float().unflatten(2, (layer.experts, layer.slots)).sum(3)
            entropy = torch.special.entr(shares).sum(2).mean().item()
            layers.append({"name": name, "tokens": shares.mean((0, 1)).tolist(), "router_entropy": entropy})

        with watched({name: layer for name, layer in student.named_modules() if isinstance(layer, SoftMoE)}, see):
            student(images)
        return {"layers": layers}
