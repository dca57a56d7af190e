"""Network of stages, with the interface that users of timm expect of a vision transformer."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

from timm.models._features import feature_take_indices
from torch import Tensor, nn

from m2mkd.config.models import ViTConfig
from m2mkd.errors import InputError
from m2mkd.models.stage import Stage

POOLS = "token", ""
"""Pooling of tokens into features: the class token (all published models), or none."""
_WITH_THE_LAYER_BEFORE = (99999,)
"""timm's mark of parameters that share the group of the previous layer."""


class StagedTransformer(nn.Module):
    """Network that consists of its stages, each a separate module.

    In addition to the partial forward by stage, it has the interface of timm's ``VisionTransformer``: features with and
    without intermediate ones, an exchangeable classifier, groups of parameters, gradient checkpointing.

    Parameters
    ----------
    stages
        The stages in order: the first has the embedding and the last the classifier.

    Attributes
    ----------
    num_classes : int
        Classes of the head; 0 without one.
    num_features, embed_dim, head_hidden_size : int
        Token width d.
    global_pool : str
        Input of the head: ``token``, the class token; or the empty string, all tokens.
    feature_info : list of dict
        For each block its module, width and stride in pixels.
    """

    in_chans = 3
    num_prefix_tokens = 1
    drops_stitch = False
    """True if modules that were trained apart lose their stitch layers in it."""

    def __init__(self, stages: Iterable[Stage]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        first = self._stages[0]
        self.num_classes = getattr(self.get_classifier(), "out_features", 0)
        self.num_features = self.embed_dim = self.head_hidden_size = first.cls_token.shape[-1]
        self.global_pool = "token"
        self.feature_info = [
            {"module": f"stages.{i}.blocks.{j}", "num_chs": self.embed_dim, "reduction": first.patch_embed.patch_size[0]}
            for i, stage in enumerate(self._stages)
            for j in range(len(stage.blocks))
        ]

    @property
    def _stages(self) -> Sequence[Stage]:
        return cast(Sequence[Stage], self.stages)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, H, W); features without a head, (B, N, ...) without pooling."""
        if self.global_pool != "token":
            return self.forward_head(self.forward_features(images))
        x = images
        for stage in self.stages:
            x = stage(x)
        return x

    def forward_features(self, images: Tensor) -> Tensor:
        """Normalised tokens (B, N, d) of images (B, 3, H, W), the class token first."""
        x = images
        for stage in self._stages:
            x = stage.tokens(x)
        return self._stages[-1].norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, C) of normalised tokens (B, N, d), or with ``pre_logits`` the classifier's input, (B, d)."""
        if self.global_pool == "token":
            x = x[:, 0]
        return x if pre_logits else self.get_classifier()(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
    ) -> Any:
        """Outputs of chosen blocks, as in timm's ``VisionTransformer.forward_intermediates``.

        Parameters
        ----------
        x
            Images (B, 3, H, W).
        indices
            Blocks, counted over all stages: the last n, a list (negative from the end), or all.
        return_prefix_tokens
            Return pairs of spatial tokens and class token (B, 1, d).
        norm
            Apply the final norm to them.
        stop_early
            Skip the blocks after the last chosen one.
        output_fmt
            ``NCHW``, (B, d, H / patch, W / patch); or ``NLC``, (B, N - 1, d).
        intermediates_only
            Omit the final features; then unneeded blocks are skipped too.
        output_dict
            Return a mapping with ``image_intermediates``, ``image_intermediates_prefix`` and ``image_features``.

        Returns
        -------
        tuple, list or dict
            Final features (B, N, d) and intermediate ones, unless specified otherwise.

        Raises
        ------
        InputError
            If ``output_fmt`` is neither of the two.
        """
        if output_fmt not in {"NCHW", "NLC"}:
            raise InputError(f"output_fmt {output_fmt!r} is unknown; give NCHW or NLC")
        final_norm = self._stages[-1].norm
        grid = self._stages[0].patch_embed.dynamic_feat_size(x.shape[-2:])
        taken, last = feature_take_indices(sum(len(stage.blocks) for stage in self._stages), indices)
        early = stop_early or intermediates_only
        outputs: dict[int, Tensor] = {}
        position = 0
        for stage in self._stages:
            x = stage.enter(x)
            for block in list(stage.blocks)[: last + 1 - position if early else None]:
                x = stage.run(block, x)
                if position in taken:
                    outputs[position] = final_norm(x) if norm else x
                position += 1
            if early and position > last:
                break
            x = stage.post_stitch(x)
        chosen = [outputs[index] for index in taken]
        prefix = [tokens[:, : self.num_prefix_tokens] for tokens in chosen]
        spatial = [tokens[:, self.num_prefix_tokens :] for tokens in chosen]
        if output_fmt == "NCHW":
            spatial = [tokens.transpose(1, 2).unflatten(2, grid).contiguous() for tokens in spatial]
        if output_dict:
            result: dict[str, Any] = {"image_intermediates": spatial}
            if return_prefix_tokens:
                result["image_intermediates_prefix"] = prefix
            return result if intermediates_only else result | {"image_features": final_norm(x)}
        intermediates = list(zip(spatial, prefix, strict=True)) if return_prefix_tokens else spatial
        return intermediates if intermediates_only else (final_norm(x), intermediates)

    def prune_intermediate_layers(self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True) -> list[int]:
        """Remove in place the parts that the intermediate features of the blocks ``indices`` do not need.

        The stages remain, so that names do not change; those after the last chosen block are empty.

        Parameters
        ----------
        indices
            As in `forward_intermediates`.
        prune_norm, prune_head
            True: remove the final norm and the classifier too.

        Returns
        -------
        list of int
            Positions of the chosen blocks.
        """
        taken, last = feature_take_indices(sum(len(stage.blocks) for stage in self._stages), indices)
        kept = last + 1
        for stage in self._stages:
            if kept == 0:
                stage.pre_stitch = nn.Identity()
            if kept <= len(stage.blocks):
                stage.post_stitch = nn.Identity()
            del stage.blocks[kept:]
            kept -= len(stage.blocks)
        if prune_norm:
            self._stages[-1].norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return cast(list[int], taken)

    def get_classifier(self) -> nn.Module:
        """Linear classifier; the identity if there is none."""
        return self._stages[-1].head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by one with torch's initial weights.

        Parameters
        ----------
        num_classes
            Number of classes C; 0 for none, so that the network returns features.
        global_pool
            New value of the attribute; None keeps it.

        Raises
        ------
        InputError
            If the network has no such pooling.
        """
        if global_pool is not None:
            if global_pool not in POOLS:
                raise InputError(f"global_pool {global_pool!r} is unknown; give 'token', the class token, or '', all tokens")
            self.global_pool = global_pool
        self.num_classes = num_classes
        like = self._stages[0].cls_token
        head = nn.Linear(self.embed_dim, num_classes, device=like.device, dtype=like.dtype) if num_classes else nn.Identity()
        self._stages[-1].head = head.train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Switch gradient checkpointing: the backward pass recomputes each block's activations instead of keeping them."""
        for stage in self._stages:
            stage.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters without weight decay: class token and positions."""
        return {"stages.0.cls_token", "stages.0.pos_embed"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns by which timm groups the parameters, for example for layer-wise learning rates.

        Parameters
        ----------
        coarse
            Group by stage instead of by block. The head is a separate group in both.
        """
        block = r"^stages\.(\d+)\.blocks\." if coarse else r"^stages\.(\d+)\.blocks\.(\d+)\."
        return {
            "stem": r"^stages\.0\.(?:cls_token|pos_embed|patch_embed)",
            "blocks": [
                (block, None),
                (r"^stages\.(\d+)\.pre_stitch", (-1, *_WITH_THE_LAYER_BEFORE)),
                (r"^stages\.(\d+)\.post_stitch", _WITH_THE_LAYER_BEFORE),
                (r"^stages\.\d+\.norm", _WITH_THE_LAYER_BEFORE),
            ],
        }


class StagedStudent(StagedTransformer):
    """Student put together of stages, without the stitch layers that they had when they were distilled.

    Parameters
    ----------
    config
        Architecture of the whole network.
    stages
        See `StagedTransformer`.
    """

    drops_stitch = True

    def __init__(self, config: ViTConfig, stages: Iterable[Stage]) -> None:
        super().__init__(stages)
        self.config = config
