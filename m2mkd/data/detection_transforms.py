"""Image transforms of a detector: random in training, deterministic in evaluation (detection.md 2)."""

from typing import Protocol

from m2mkd.config.detection_input import ScaleJitter, ShortestEdge
from m2mkd.data.samples import Sample, clipped, cropped, flipped, resized, with_recomputed_boxes, without_empty


class Generator(Protocol):
    """Random generator: common interface of numpy's new and old generators."""

    def uniform(self, low: float, high: float) -> float: ...

    def choice(self, a: tuple[int, ...]) -> int: ...


def shortest_edge_size(height: int, width: int, shorter: int, longest: int) -> tuple[int, int]:
    """Height and width with ``shorter`` pixels on the shorter side, or fewer if the longer side would exceed ``longest``."""
    scale = shorter / min(height, width)
    high, wide = (shorter, scale * width) if height < width else (scale * height, shorter)
    if max(high, wide) > longest:
        # In two steps, as released: in a single step the rounding would differ for some sizes.
        scale = longest / max(high, wide)
        high, wide = high * scale, wide * scale
    return int(high + 0.5), int(wide + 0.5)


def fitted_size(height: int, width: int, target: int, scale: float) -> tuple[int, int]:
    """Height and width for which the longer side has ``scale`` times ``target`` pixels, rounded half to even; at least one each."""
    factor = min(target * scale / height, target * scale / width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def augmented(sample: Sample, augmentation: ShortestEdge | ScaleJitter, generator: Generator) -> Sample:
    """Augmented training sample, possibly without any instances left.

    Parameters
    ----------
    sample
        Annotated sample, without crowds.
    augmentation
        Augmentation to apply.
    generator
        Draws a length and a flip (`ShortestEdge`); or a flip, a factor, and the position of the window as one number for both axes
        (`ScaleJitter`).
    """
    if isinstance(augmentation, ShortestEdge):
        size = shortest_edge_size(*sample.size, int(generator.choice(augmentation.sizes)), augmentation.longest)
        sample = resized(sample, *size)
        if generator.uniform(0, 1) < augmentation.flip:
            sample = flipped(sample)
        return without_empty(clipped(sample))
    if generator.uniform(0, 1) < augmentation.flip:
        sample = flipped(sample)
    target = augmentation.target
    height, width = fitted_size(*sample.size, target, generator.uniform(*augmentation.scale))
    place = generator.uniform(0, 1)
    left, top = (round(max(side - target, 0) * place) for side in (width, height))
    return without_empty(with_recomputed_boxes(cropped(resized(sample, height, width), left, top, target, target)))
