"""Operations of timm's RandAugment on whole batches, on any device, equal to Pillow's up to rounding.

Every operation takes images, uint8 (n, 3, S, S), and the argument that timm draws for each image, (n,), and returns new images. Factors are
those of Pillow's ``ImageEnhance``; coordinates, borders and the cubic kernel those of its ``Image.transform``.
"""

from collections.abc import Callable

import torch
from timm.data import IMAGENET_DEFAULT_MEAN
from torch import Tensor
from torchvision.transforms.v2 import functional

OUTSIDE_COLOUR = tuple(round(255 * value) for value in IMAGENET_DEFAULT_MEAN)
"""Colour of pixels that come from outside of an image, as timm sets it."""
GREY = (19595, 38470, 7471)
"""Weights of red, green and blue in Pillow's grey, of 2^16."""


def auto_contrasted(images: Tensor, _: Tensor) -> Tensor:
    """Stretch every channel to the range from 0 to 255; a channel of one value stays."""
    low, high = (extreme(2)[..., None, None].float() for extreme in (images.flatten(2).amin, images.flatten(2).amax))
    flat = high == low
    return _bytes((images - low.where(~flat, 0)).mul_((255 / (high - low)).where(~flat, 1)))


def equalized(images: Tensor, _: Tensor) -> Tensor:
    """Equalise the histogram of every channel."""
    return functional.equalize(images)


def inverted_colours(images: Tensor, _: Tensor) -> Tensor:
    """Take every value from 255."""
    return images.bitwise_not()


def posterized(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the upper bits; from 8 on all of them."""
    return images & _each(256 - 2.0 ** (8 - bits.clamp(max=8)), images).to(torch.uint8)


def solarized(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert values from a threshold on."""
    return images.where(images < _each(threshold, images), images.bitwise_not())


def solarized_by_adding(images: Tensor, added: Tensor) -> Tensor:
    """Add to values below 128, up to 255."""
    brighter = (images.short() + _each(added, images).short()).clamp_(max=255).to(torch.uint8)
    return brighter.where(images < 128, images)


def coloured(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the grey image."""
    return _blended(_grey(images)[:, None], images, factor)


def contrasted(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean of the grey image."""
    mean = (_grey(images).flatten(1).float().mean(1) + 0.5).floor()
    return _blended(mean[:, None, None, None], images, factor)


def brightened(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    return _blended(torch.zeros((), device=images.device), images, factor)


def sharpened(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image smoothed by 3 x 3 pixels, of which the one in the middle counts five times; the border stays."""
    pixels, smooth = images.short(), images.float()
    rows = pixels[..., :-2, :] + pixels[..., 1:-1, :] + pixels[..., 2:, :]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth[..., 1:-1, 1:-1] = ((around + 4 * pixels[..., 1:-1, 1:-1]) / 13 + 0.5).floor()
    return _blended(smooth, images, factor)


def sheared_x(images: Tensor, factor: Tensor) -> Tensor:
    """Shift every row by ``factor`` times its height."""
    return _shifted(images, factor[:, None] * (torch.arange(images.shape[-1]) + 0.5))


def sheared_y(images: Tensor, factor: Tensor) -> Tensor:
    """Shift every column by ``factor`` times its place."""
    return sheared_x(images.mT, factor).mT


def translated_x(images: Tensor, share: Tensor) -> Tensor:
    """Shift by a share of the width."""
    size = images.shape[-1]
    return _shifted(images, (share * size)[:, None].expand(-1, size))


def translated_y(images: Tensor, share: Tensor) -> Tensor:
    """Shift by a share of the height."""
    return translated_x(images.mT, share).mT


def turned(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate around the middle."""
    size, device = images.shape[-1], images.device
    angle = torch.deg2rad(-degrees)[:, None, None].to(device)
    places = torch.arange(size, dtype=torch.float64, device=device) + 0.5 - size / 2
    down, right = places[None, :, None], places[None, None, :]
    x = (angle.cos() * right + angle.sin() * down + size / 2).flatten(1)
    y = (angle.cos() * down - angle.sin() * right + size / 2).flatten(1)
    inside = ((x >= 0) & (x < size) & (y >= 0) & (y < size)).unflatten(1, (1, size, size))
    (x_taps, x_weights), (y_taps, y_weights) = (_taps(line, size) for line in (x, y))
    # The three colours of a pixel are looked up as one number: a look-up costs more than taking it apart.
    red, green, blue = images.flatten(2).int().unbind(1)
    source, result = red | green << 8 | blue << 16, torch.zeros(images.flatten(2).shape, device=device)
    for row, vertical in zip(y_taps, y_weights, strict=True):
        for column, horizontal in zip(x_taps, x_weights, strict=True):
            found, weight = source.gather(1, row * size + column), vertical * horizontal
            for channel in range(3):
                result[:, channel].addcmul_(((found >> 8 * channel) & 255).float(), weight)
    return _bytes(result.unflatten(2, (size, size))).where(inside, _fill(device))


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "AutoContrast": auto_contrasted,
    "Equalize": equalized,
    "Invert": inverted_colours,
    "Rotate": turned,
    "Posterize": posterized,
    "PosterizeIncreasing": posterized,
    "Solarize": solarized,
    "SolarizeIncreasing": solarized,
    "SolarizeAdd": solarized_by_adding,
    "Color": coloured,
    "ColorIncreasing": coloured,
    "Contrast": contrasted,
    "ContrastIncreasing": contrasted,
    "Brightness": brightened,
    "BrightnessIncreasing": brightened,
    "Sharpness": sharpened,
    "SharpnessIncreasing": sharpened,
    "ShearX": sheared_x,
    "ShearY": sheared_y,
    "TranslateXRel": translated_x,
    "TranslateYRel": translated_y,
}
"""Operations by timm's names: those of its sets with and without ``inc1``, and of ``tweights``."""


def _shifted(images: Tensor, shift: Tensor) -> Tensor:
    """Rows that begin at a place of their own: pixel x of row y comes from x + shift[y]; float64 (n, S), on the CPU."""
    size, device = images.shape[-1], images.device
    whole = shift.floor()
    weights = [weight.float().to(device)[:, None, :, None] for weight in _cubic(shift - whole)]
    first = whole.clamp(-size, size).long()
    margin = int(first.abs().max()) + 2
    left, right = (images[..., place, None].expand(*images.shape[:-1], margin) for place in (0, -1))
    # One look-up takes the whole stretch that a row's four taps need, because a row has one shift.
    stretches = torch.cat([left, images, right], dim=-1).unfold(-1, size + 3, 1)
    image, channel, row = (torch.arange(length, device=device) for length in images.shape[:3])
    begin = (first - 1 + margin).to(device)
    rows = stretches[image[:, None, None], channel[:, None], row, begin[:, None, :]].float()
    result = sum(weight * rows[..., tap : tap + size] for tap, weight in enumerate(weights))
    origin = torch.arange(size, device=device) + 0.5 + shift.to(device)[:, None, :, None]
    assert isinstance(result, Tensor)
    return _bytes(result).where((origin >= 0) & (origin < size), _fill(device))


def _taps(line: Tensor, size: int) -> tuple[list[Tensor], list[Tensor]]:
    """Four neighbours of each place, inside of the image, and their weights."""
    line = line - 0.5
    whole = line.floor()
    neighbours = [(whole.long() + tap).clamp_(0, size - 1) for tap in (-1, 0, 1, 2)]
    return neighbours, list(_cubic((line - whole).float()))


def _cubic(d: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of four neighbours at a distance ``d`` from the second: the cubic kernel with a = -1, Pillow's in transforms."""
    return (((2 - d) * d - 1) * d, (d - 2) * d * d + 1, ((1 - d) * d + 1) * d, (d - 1) * d * d)


def _blended(base: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Base plus ``factor`` times what the images have more."""
    return _bytes((images - base.float()).mul_(_each(factor, images)).add_(base))


def _grey(images: Tensor) -> Tensor:
    """Pillow's grey of each pixel, int32 (n, S, S)."""
    red, green, blue = (images[:, channel].int() * weight for channel, weight in enumerate(GREY))
    return (red + green + blue + (1 << 15)) >> 16


def _bytes(values: Tensor) -> Tensor:
    """Values as uint8, cut off as Pillow does it."""
    return values.clamp_(0, 255).to(torch.uint8)


def _each(values: Tensor, images: Tensor) -> Tensor:
    """Number of each image, float32 (n, 1, 1, 1), on the device of the images."""
    return values.float().to(images.device)[:, None, None, None]


def _fill(device: torch.device) -> Tensor:
    return torch.tensor(OUTSIDE_COLOUR, dtype=torch.uint8, device=device)[:, None, None]
