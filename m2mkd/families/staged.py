"""Base of families whose students are ViTs in stages, with other layers instead of some or all MLPs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from m2mkd.config.family import StudentFamily
from m2mkd.config.models import ViTConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from m2mkd.models.stage import Stage

ViTConfigT = TypeVar("ViTConfigT", bound=ViTConfig)


class StagedFamily(StudentFamily[ViTConfigT]):
    """Students whose modules are stages of a ViT; the stitch layers are dropped when they are put together.

    A subclass gives ``CONFIG``, a subclass of ``ViTConfig``; ``LABEL``; and ``token_layers``.
    """

    STRIDE: ClassVar[str] = "patch_size"
    HAS_STAGES: ClassVar[bool] = True

    def token_layers(self, config: ViTConfigT, index: int, compat: Mapping[str, Any]) -> Sequence[Callable[..., nn.Module]]:
        """Constructors of the token-wise branch of each block of stage ``index``, from the keywords of timm's ``Mlp``."""
        raise NotImplementedError

    def build(self, config: ViTConfigT, **given: Any) -> nn.Module:
        from m2mkd.models.staged import StagedStudent
        from m2mkd.models.vit import drop_path_rates, stage_positions

        rates = drop_path_rates(given["drop_path"], sum(config.depths))
        return StagedStudent(
            config,
            (
                self._stage(config, index, [rates[position] for position in stage_positions(config, index)], None, given)
                for index in range(config.modules)
            ),
        )

    def build_module(self, config: ViTConfigT, index: int, **given: Any) -> nn.Module:
        from m2mkd.models.vit import check_module_index, drop_path_rates

        check_module_index(config, index)
        rates = drop_path_rates(given["drop_path"], config.depths[index])
        return self._stage(config, index, rates, given["stitch_width"], given)

    def _stage(self, config: ViTConfigT, index: int, rates: Sequence[float], stitch_width: int | None, given: Mapping[str, Any]) -> Stage:
        from m2mkd.models.stage import Stage
        from m2mkd.models.vit import build_block

        layers = self.token_layers(config, index, given["compat"])
        return Stage(
            config,
            [build_block(config, rate, layer) for rate, layer in zip(rates, layers, strict=True)],
            first=index == 0,
            last=index == config.modules - 1,
            image_size=given["image_size"],
            num_classes=given["num_classes"],
            stitch_width=stitch_width,
        )

    def transfer(
        self,
        student: nn.Module,
        modules: Mapping[int, Mapping[str, Tensor]],
        *,
        same_data: bool,
        only: Sequence[int] | None,
        compat: Mapping[str, Any],
    ) -> None:
        from m2mkd.distill.transfer import assemble

        assemble(modules, student, only)  # type: ignore[type-var]

    def replace_head(self, student: Any, classes: int) -> nn.Linear:
        student.reset_classifier(classes)
        head: nn.Linear = student.get_classifier()
        return head

    def feature_width(self, config: ViTConfigT) -> int:
        return config.width

    def first_and_last(self, config: ViTConfigT) -> tuple[str, str]:
        return "stages.0.patch_embed.proj", f"stages.{config.modules - 1}.head"
