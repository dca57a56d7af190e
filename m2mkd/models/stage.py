"""Stage: consecutive blocks of a ViT as a separate module (specification vmoe.md 1.1, 1.3, 1.4)."""

from collections.abc import Iterable

import torch
from timm.layers import PatchEmbed
from timm.models import checkpoint_seq
from torch import Tensor, nn

from m2mkd.config.models import ViTConfig
from m2mkd.errors import InputError
from m2mkd.models.stitch import Stitch

INIT_STD = 0.02
"""Standard deviation of the initial linear weights, class token and positions (specification vmoe.md 1.5)."""


class Stage(nn.Module):
    """Consecutive blocks of a ViT, with the embedding if they are the first and the classifier if they are the last.

    Calling a stage is the partial forward of the network. Its parameters have the released stage-local names
    (specification vmoe.md 3.2).

    Parameters
    ----------
    config
        Widths of the network that the stage belongs to.
    blocks
        The stage's blocks, (B, N, d) to (B, N, d).
    first
        True if the stage has patch embedding, class token and positions.
    last
        True if the stage has the final norm and the head.
    image_size
        Side of the square images in pixels, a multiple of the patch size; used by the first stage.
    num_classes
        Number of classes C, 0 for no head; used by the last stage.
    stitch_width
        Token width of the neighbouring stages if they belong to another network: a stitch layer then leads from it (unless first)
        and to it (unless last). None: the neighbours have this network's width.

    Raises
    ------
    InputError
        If ``image_size`` is not a multiple of the patch size.
    """

    def __init__(
        self,
        config: ViTConfig,
        blocks: Iterable[nn.Module],
        *,
        first: bool,
        last: bool,
        image_size: int,
        num_classes: int,
        stitch_width: int | None = None,
    ) -> None:
        super().__init__()
        self.first = first
        self.last = last
        self.grad_checkpointing = False
        width = config.width
        if first:
            if image_size % config.patch_size:
                raise InputError(f"image size {image_size} is not a multiple of patch_size {config.patch_size}; change one of them")
            self.patch_embed = PatchEmbed(img_size=image_size, patch_size=config.patch_size, embed_dim=width)
            self.cls_token = nn.Parameter(torch.empty(1, 1, width))
            self.pos_embed = nn.Parameter(torch.empty(1, (image_size // config.patch_size) ** 2 + 1, width))
            nn.init.trunc_normal_(self.cls_token, std=INIT_STD)
            nn.init.trunc_normal_(self.pos_embed, std=INIT_STD)
        self.pre_stitch = nn.Identity() if first or stitch_width is None else Stitch(stitch_width, width)
        self.blocks = nn.Sequential(*blocks)
        self.post_stitch = nn.Identity() if last or stitch_width is None else Stitch(width, stitch_width)
        if last:
            self.norm: nn.Module = nn.LayerNorm(width, eps=config.norm_eps)
            self.head: nn.Module = nn.Linear(width, num_classes) if num_classes else nn.Identity()
            init_linear(self.head)
        self.blocks.apply(init_linear)

    def embed(self, images: Tensor) -> Tensor:
        """Tokens (B, N, d) of images (B, 3, H, W): the class token, then the patches row by row."""
        patches = self.patch_embed(images)
        return torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1) + self.pos_embed

    def enter(self, x: Tensor) -> Tensor:
        """Map the stage's input to the tokens (B, N, d) of the first block."""
        return self.pre_stitch(self.embed(x) if self.first else x)

    def run(self, blocks: nn.Module, x: Tensor) -> Tensor:
        """Run one or all of the blocks, (B, N, d) to (B, N, d), keeping activations unless ``grad_checkpointing`` is set."""
        if not (self.grad_checkpointing and torch.is_grad_enabled()):
            return blocks(x)
        return checkpoint_seq(blocks if isinstance(blocks, nn.Sequential) else nn.Sequential(blocks), x)

    def tokens(self, x: Tensor) -> Tensor:
        """Output of the stage without final norm and head: tokens (B, N, width of the next stage)."""
        return self.post_stitch(self.run(self.blocks, self.enter(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Run the stage.

        Parameters
        ----------
        x
            Images (B, 3, H, W) for the first stage, else tokens (B, N, width of the previous stage).

        Returns
        -------
        Tensor
            Logits (B, C) of the last stage, else tokens (B, N, width of the next stage).
        """
        x = self.tokens(x)
        # The norm works token by token, so only the class token needs it.
        return self.head(self.norm(x[:, 0])) if self.last else x

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters without weight decay: class token and positions."""
        return {"cls_token", "pos_embed"} if self.first else set()


def init_linear(module: nn.Module) -> None:
    """Initialise a linear map, and leave any other module unchanged (specification vmoe.md 1.5)."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
