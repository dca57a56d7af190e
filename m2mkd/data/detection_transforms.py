"""What is done to the images of a detector: in training by random draws, in evaluation without any (detection.md 2)."""

from typing import Protocol

from m2mkd.config.detection_input import ScaleJitter, ShortestEdge
from m2mkd.data.samples import Sample, clipped, cropped, flipped, resized, with_recomputed_boxes, without_empty


class Generator(Protocol):
    """What draws: numpy's new generators and its old ones alike."""

    def uniform(self, low: float, high: float) -> float: ...

    def choice(self, a: tuple[int, ...]) -> int: ...


def shortest_edge_size(height: int, width: int, shorter: int, longest: int) -> tuple[int, int]:
    """Height and width with ``shorter`` pixels on the shorter side, or fewer where the longer one would have more than ``longest``."""
    scale = shorter / min(height, width)
    high, wide = (shorter, scale * width) if height < width else (scale * height, shorter)
    if max(high, wide) > longest:
        # In two steps, as released: in one the rounding would differ for some sizes.
        scale = longest / max(high, wide)
        high, wide = high * scale, wide * scale
    return int(high + 0.5), int(wide + 0.5)


def fitted_size(height: int, width: int, target: int, scale: float) -> tuple[int, int]:
    """Height and width such that the longer side has ``scale`` times ``target`` pixels, rounded half to even; at least one each."""
    factor = min(target * scale / height, target * scale / width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def augmented(sample: Sample, augmentation: ShortestEdge | ScaleJitter, generator: Generator) -> Sample:
    """A training sample, whose instances may all have gone.

    Parameters
    ----------
    sample
        As it is annotated, without crowds.
    augmentation
        What is done.
    generator
        Draws a length and whether to flip (`ShortestEdge`); or whether to flip, a factor, and the place of the window, one number for
        both axes (`ScaleJitter`).
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
