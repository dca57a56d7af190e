"""Family of V-MoEs: ViTs in stages with a mixture of experts in some blocks (specification vmoe.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from m2mkd.config.family import Sizes
from m2mkd.config.models import VMoEConfig
from m2mkd.families.staged import StagedFamily

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

_OF_A_MODULE = frozenset({"depths", "moe_blocks", "stitch"})
"""Fields that a single module does not determine."""


class VMoEFamily(StagedFamily[VMoEConfig]):
    """Vision mixtures of experts."""

    CONFIG: ClassVar = VMoEConfig
    LABEL: ClassVar[str] = "V-MoE"

    def build(self, config: VMoEConfig, **given: Any) -> nn.Module:
        from m2mkd.models.vmoe import VMoE

        names = ("image_size", "num_classes", "stitch_width", "drop_path")
        return VMoE(config, **{name: given[name] for name in names}, expert_init=_expert_init(given["compat"]))

    def build_module(self, config: VMoEConfig, index: int, **given: Any) -> nn.Module:
        from m2mkd.models.vmoe import build_vmoe_module

        names = ("image_size", "num_classes", "stitch_width", "drop_path")
        return build_vmoe_module(config, index, **{name: given[name] for name in names}, expert_init=_expert_init(given["compat"]))

    def token_layers(self, config: VMoEConfig, index: int, compat: Mapping[str, Any]) -> Sequence[Callable[..., nn.Module]]:
        from m2mkd.models.vmoe import token_layers

        return token_layers(config, index, _expert_init(compat))

    def stitch_width(self, config: VMoEConfig, meta_width: int) -> int | None:
        return meta_width if config.stitch == "kept" else None

    def noise(self, config: VMoEConfig, generator: Generator) -> dict[str, Any]:
        return {"noise": generator} if config.router == "vmoe" else {}

    def regularisation(self, student: nn.Module, compat: Mapping[str, Any]) -> Tensor | float:
        """Auxiliary losses of the last call of the layers with experts."""
        from m2mkd.models.moe import MoE

        return sum(layer.take_auxiliary_loss() for layer in student.modules() if isinstance(layer, MoE))

    def diagnose(self, student: nn.Module, images: Tensor) -> dict[str, Any]:
        from m2mkd.evaluation.diagnostics import use_of_experts

        return use_of_experts(student, images)

    def sizes(self, config: VMoEConfig) -> str:
        depths = "+".join(map(str, config.depths))
        experts = f"{config.experts} experts in {len(config.moe_positions)} of them, router {config.router}"
        return f"{depths} blocks of width {config.width}, {experts}, {config.heads} heads, patches of {config.patch_size} pixels"

    def cost(self, config: VMoEConfig, sizes: Sizes, *, stitch_width: int | None, count: str, drawn: bool) -> Any:
        from m2mkd.planning import transformer

        return transformer.network(config, *sizes, stitch_width=stitch_width)

    def module_cost(self, config: VMoEConfig, index: int, sizes: Sizes, *, stitch_width: int, tokens: int, count: str) -> Any:
        from m2mkd.planning import transformer

        return transformer.stage(config, index, *sizes, stitch_width=stitch_width)

    def sources(self, config: VMoEConfig, name: str, shape: tuple[int, ...]) -> tuple[Any, ...]:
        from m2mkd.models.names import vit

        return vit.vit_sources(name, shape, config.depths, config.moe_positions)

    def timm_network(self, config: VMoEConfig, sizes: Sizes, drop_path: float | None, **arguments: Any) -> nn.Module:
        from m2mkd.models.moe import MoE
        from m2mkd.models.vmoe import VMoE, draw_noise

        network = VMoE(config, **sizes._asdict(), drop_path=drop_path or 0.0, **arguments)
        for layer in network.modules():
            if isinstance(layer, MoE):
                layer.register_forward_pre_hook(draw_noise)
        return network

    def imported_kind(self, config: VMoEConfig, index: int | None) -> str | None:
        return "vmoe" if index is None else "vmoe_module"

    def undetermined(self, config: VMoEConfig, index: int | None) -> frozenset[str]:
        return frozenset() if index is None else _OF_A_MODULE


def _expert_init(compat: Mapping[str, Any]) -> Any:
    return compat.get("expert_init", "trunc02")
