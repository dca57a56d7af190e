"""Input of a detector: images are augmented in training and resized in evaluation (detection.md 1, 2)."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from m2mkd.config.base import Config


class ShortestEdge(Config):
    """The shorter side becomes one of some lengths, the aspect is kept; as the released V-MoE is configured."""

    kind: Literal["shortest_edge"] = "shortest_edge"
    sizes: tuple[PositiveInt, ...] = Field((640, 672, 704, 736, 768, 800), min_length=1)
    """Lengths in pixels of the shorter side, one of which is drawn."""
    longest: PositiveInt = 1333
    """Most pixels of the longer side; a longer image is scaled down to it, so that its shorter side is smaller."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""


class ScaleJitter(Config):
    """The image is fitted into a square, enlarged or reduced at random and cropped to the square; ViTDet's recipe.

    Nothing is padded: an image that is smaller stays so. Boxes are the extents of the masks that are left.
    """

    kind: Literal["jitter"] = "jitter"
    target: PositiveInt = 1024
    """Side of the square in pixels."""
    scale: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)
    """Smallest and largest factor."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability of a horizontal flip."""

    @model_validator(mode="after")
    def _ordered(self):
        if self.scale[0] > self.scale[1]:
            raise ValueError("the smallest factor of scale is above the largest; swap them")
        return self


Augmentation = Annotated[ShortestEdge | ScaleJitter, Field(discriminator="kind")]


class DetectionInput(Config):
    """Processing of an image before the network normalises and pads it."""

    augmentation: Augmentation = ScaleJitter()
    """Augmentation in training."""
    test_size: PositiveInt = 1024
    """Pixels of the shorter side in evaluation, as far as ``test_longest`` allows."""
    test_longest: PositiveInt = 1024
    """Most pixels of the longer side in evaluation."""
