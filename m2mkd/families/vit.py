"""Family of teachers and meta models: ViTs in stages (specification vmoe.md 1.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from m2mkd.config.family import Family, Sizes
from m2mkd.config.models import ViTConfig

if TYPE_CHECKING:
    from torch import nn


class ViT(Family[ViTConfig]):
    """Staged ViTs."""

    CONFIG: ClassVar = ViTConfig
    LABEL: ClassVar[str] = "ViT"
    STRIDE: ClassVar[str] = "patch_size"
    HAS_STAGES: ClassVar[bool] = True

    def sizes(self, config: ViTConfig) -> str:
        depths = "+".join(map(str, config.depths))
        return f"{depths} blocks of width {config.width}, {config.heads} heads, patches of {config.patch_size} pixels"

    def cost(self, config: ViTConfig, sizes: Sizes, *, stitch_width: int | None, count: str, drawn: bool) -> Any:
        from m2mkd.planning import transformer

        return transformer.network(config, *sizes, stitch_width=stitch_width)

    def sources(self, config: ViTConfig, name: str, shape: tuple[int, ...]) -> tuple[Any, ...]:
        from m2mkd.models.names import vit

        return vit.vit_sources(name, shape, config.depths)

    def first_and_last(self, config: ViTConfig) -> tuple[str, str]:
        return "stages.0.patch_embed.proj", f"stages.{config.modules - 1}.head"

    def timm_network(self, config: ViTConfig, sizes: Sizes, drop_path: float | None, **arguments: Any) -> nn.Module:
        from m2mkd.models.vit import StagedViT

        return StagedViT(config, **sizes._asdict(), drop_path=drop_path or 0.0, **arguments)

    def imported_kind(self, config: ViTConfig, index: int | None) -> str | None:
        return "vit" if index is None else None
