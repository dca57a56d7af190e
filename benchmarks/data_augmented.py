"""The work of a recipe's training transform on a batch at once, in its cheapest form."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resizing(begin: Tensor, length: Tensor, source: int, size: int) -> Tensor:
    """Weights (B, size, source) that cut a stretch out of a line of pixels and resize it, bicubic and antialiased as Pillow does it."""
    scale = (length / size)[:, None, None]
    centres = begin[:, None, None] + (torch.arange(size)[None, :, None] + 0.5) * scale
    x = ((torch.arange(source) + 0.5 - centres) / scale.clamp(min=1)).abs()
    near, far = ((1.5 * x - 2.5) * x * x + 1).where(x < 1, torch.zeros(())), (((-0.5 * x + 2.5) * x - 4) * x + 2)
    weights = near + far.where((x >= 1) & (x < 2), torch.zeros(()))
    return weights / weights.sum(dim=2, keepdim=True)


def augmented_at_once(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """The work of crop, flip, RandAugment and normalisation on a batch at once: as many of each kind of operation, in its cheapest form.

    Of RandAugment's two operations each is applied to half of the images; a third of them move pixels, half bicubic and half bilinear, and
    the others are taken for one look-up an image, which equalising and sharpening are more than.
    """
    count, side = len(images), images.shape[1]
    corners, lengths = torch.rand(2, count, generator=generator) * side / 4, (0.3 + 0.4 * torch.rand(2, count, generator=generator)) * side
    rows, columns = (resizing(begin, length, side, size) for begin, length in zip(corners, lengths, strict=True))
    pixels = images.permute(0, 3, 1, 2).float()
    pixels = (rows[:, None] @ pixels @ columns[:, None].mT).clamp_(0, 255)
    tables = torch.rand(count, 3, 256, generator=generator)
    looked_up = slice(0, 2 * count // 3)
    values = pixels[looked_up].byte().flatten(2).long()
    pixels[looked_up] = tables[looked_up].gather(2, values).unflatten(2, (size, size))
    for mode, here in (("bicubic", slice(0, count // 6)), ("bilinear", slice(count // 6, count // 3))):
        turns = torch.eye(2, 3) + 0.1 * torch.rand(len(pixels[here]), 2, 3, generator=generator)
        grid = F.affine_grid(turns, list(pixels[here].shape), align_corners=False)
        pixels[here] = F.grid_sample(pixels[here], grid, mode=mode, align_corners=False)
    return pixels.sub_(120.0).div_(58.0)
