"""A training stream of a few images of noise."""

import numpy as np
import torch

from m2mkd.config.recipe import Augmentation, Recipe
from m2mkd.data.pack import Split
from m2mkd.data.stream import Batch, TrainStream, mirrored_part

GENERATOR = np.random.default_rng(0)
SPLIT = Split(GENERATOR.integers(0, 256, (70, 16, 16, 3), dtype=np.uint8), GENERATOR.integers(0, 5, 70))
EVERYTHING = {"repeats": 3}
PLAIN = {"crop_scale": (1, 1), "crop_ratio": (1, 1), "flip": 0, "rand_augment": None, "erase": 0, "mixup": 0, "cutmix": 0}


def stream(
    indices=range(70), names=("digits", "student", 0), batch_size=16, workers=0, rank=0, ranks=1, device="cpu", split=SPLIT, **augmentation
):
    """A training stream of the images."""
    recipe = Recipe(epochs=1, batch_size=batch_size, lr=1e-3, augmentation=Augmentation(**augmentation))
    return TrainStream(split, list(indices), 5, recipe, names, workers, device, rank, ranks)


def same(first, second):
    """Whether two epochs are equal to the bit."""
    return len(first) == len(second) and all(
        torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )


def all_gather(parts):
    """The batch that its parts are of."""
    size = sum(len(part.ids) for part in parts)
    indices = torch.from_numpy(np.concatenate([mirrored_part(size, number, len(parts)) for number in range(len(parts))]))
    return Batch(*(torch.cat(fields)[indices.argsort()] for fields in zip(*parts, strict=True)))
