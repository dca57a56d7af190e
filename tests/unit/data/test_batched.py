"""The fast backend: its operations are timm's, its draws are those of the exact one, and its images differ by rounding only."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats
from timm.data.auto_augment import LEVEL_TO_ARG, NAME_TO_OP, RandAugment

from m2mkd.config.recipe import Augmentation
from m2mkd.data import rand_augment
from m2mkd.data.batched import NAMES, NONE, BatchedTransform
from m2mkd.data.transforms import TrainTransform, reseed, timm_transforms
from m2mkd.seeds import derive_seed, forked_rng
from tests.unit.data.streams import EVERYTHING, all_gather, same, stream

SIDE = 48
FULL = "rand-m9-mstd0.5-inc1"


def photographs(count=8, height=SIDE, width=SIDE):
    """Images with edges, slopes and some noise."""
    generator = np.random.default_rng(0)
    noise = generator.standard_normal((count, height, width, 3))
    slopes = ndimage.gaussian_filter(noise, (0, height / 10, width / 10, 0))
    edges = slopes > 0
    mixed = 120 + 60 * slopes / slopes.std() + 30 * edges + 4 * noise
    return np.clip(mixed, 0, 255).astype(np.uint8)


def pillows(image, name, argument):
    """timm's operation on an image."""
    given = {"fillcolor": rand_augment.OUTSIDE_COLOUR, "resample": Image.Resampling.BICUBIC}
    return np.asarray(NAME_TO_OP[name](Image.fromarray(image), *argument, **given))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("magnitude", [0.0, 2.5, 9.0, 10.0])
def test_an_operation_is_timms(name, magnitude):
    """To one grey level; the argument of each image is one that timm draws at that magnitude."""
    images = photographs()
    with forked_rng("levels"):
        arguments = [LEVEL_TO_ARG[name](magnitude, {}) if LEVEL_TO_ARG[name] else () for _ in images]
    numbers = torch.tensor([argument[0] if argument else 0 for argument in arguments], dtype=torch.float64)
    result = rand_augment.OPERATIONS[name](torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), numbers)
    assert result.dtype == torch.uint8
    expected = np.stack([pillows(image, name, argument) for image, argument in zip(images, arguments, strict=True)])
    off = np.abs(result.permute(0, 2, 3, 1).numpy().astype(int) - expected)
    assert off.max() <= 1
    assert (off > 0).mean() < 0.02


def test_a_shift_beyond_the_image_leaves_the_fill():
    images = torch.from_numpy(photographs(1)).permute(0, 3, 1, 2)
    assert (rand_augment.translated_x(images, torch.tensor([1.5])) == torch.tensor(rand_augment.OUTSIDE_COLOUR)[:, None, None]).all()


def drawn_by_timm(image, seed, transforms):
    """Crop, flip and operations of the exact backend, seen from outside: what timm asks of an image."""
    noted = []

    class Watched:
        def __init__(self, inner):
            self.inner = inner

        def __call__(self, *arguments, **_):
            noted.append((self.inner.name, *arguments[1:]))
            return arguments[0]

    crop, flip, policy = transforms
    with forked_rng():
        reseed(seed)
        box = crop.get_params(image, crop.scale, crop.ratio)
        mark = np.zeros((1, 2, 3), np.uint8)
        mark[0, 0] = 255
        flipped = np.asarray(flip(Image.fromarray(mark)))[0, 0, 0] == 0
        kept = [operation.aug_fn for operation in policy.ops]
        for operation in policy.ops:
            operation.aug_fn = Watched(operation)
        policy(image)
        for operation, function in zip(policy.ops, kept, strict=True):
            operation.aug_fn = function
    return box, bool(flipped), noted


def test_its_draws_are_those_of_the_exact_backend():
    images = photographs(200, 40, 60)
    seeds = [derive_seed("draws", number) for number in range(len(images))]
    augmentation = Augmentation(rand_augment=FULL)
    crops = BatchedTransform(SIDE, augmentation).prepared(images, seeds)
    transforms = timm_transforms(SIDE, augmentation)
    assert isinstance(transforms[-1], RandAugment)
    used = 0
    for number, (image, seed) in enumerate(zip(images, seeds, strict=True)):
        (_, _, height, width), flipped, noted = drawn_by_timm(Image.fromarray(image), seed, transforms)
        assert crops.sizes[number].tolist() == [height, width]
        assert crops.flipped[number].item() == flipped
        here = crops.operations[number]
        assert [NAMES[operation] for operation in here.tolist() if operation != NONE] == [name for name, *_ in noted]
        assert crops.arguments[number, : len(noted)].tolist() == [float(sum(argument)) for _, *argument in noted]
        used += len(noted)
    assert 150 < used < 250


def test_the_distributions_of_draws_are_those_of_the_exact_backend():
    """With other seeds than its: shares of crops, flips, and levels of an operation, by the two-sample test of Kolmogorov and Smirnov."""
    images = np.zeros((1500, 40, 60, 3), np.uint8)
    augmentation = Augmentation(rand_augment=FULL)
    crops = BatchedTransform(SIDE, augmentation).prepared(images, [derive_seed("fast", number) for number in range(len(images))])
    transforms = timm_transforms(SIDE, augmentation)
    exact = [drawn_by_timm(Image.fromarray(image), derive_seed("exact", number), transforms) for number, image in enumerate(images)]
    shares = [height * width for (_, _, height, width), _, _ in exact]
    assert stats.ks_2samp(crops.sizes.prod(1).tolist(), shares).pvalue > 1e-3
    ratios = [width / height for (_, _, height, width), _, _ in exact]
    assert stats.ks_2samp((crops.sizes[:, 1] / crops.sizes[:, 0]).tolist(), ratios).pvalue > 1e-3
    assert crops.flipped.float().mean().item() == pytest.approx(np.mean([flipped for _, flipped, _ in exact]), abs=0.06)
    for name in ("Rotate", "BrightnessIncreasing", "ShearX"):
        levels = [argument for _, _, noted in exact for operation, *arguments in noted for argument in arguments if operation == name]
        assert stats.ks_2samp(crops.arguments[crops.operations == NAMES.index(name)].tolist(), levels).pvalue > 1e-3


@pytest.mark.parametrize("policy", [None, FULL, "rand-m7-n3-tweights", "rand-m5-p1.0"])
def test_its_images_are_those_of_the_exact_backend(policy):
    """Before normalisation: the resize differs by 2 grey levels at most; operations that divide values into classes enlarge this."""
    images = photographs(240, 60, 90)
    seeds = [derive_seed("images", number) for number in range(len(images))]
    augmentation = Augmentation(rand_augment=policy)
    deviation = 255 * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    fast, exact = (transform(SIDE, augmentation)(images, seeds) * deviation for transform in (BatchedTransform, TrainTransform))
    off = (fast - exact).abs()
    assert off.mean() < 0.25
    if policy is None:
        assert off.max() < 2.1
    else:
        assert (off > 2.1).float().mean() < 0.01


def test_an_image_does_not_depend_on_its_batch():
    images, transform = photographs(12), BatchedTransform(SIDE, Augmentation(erase=1))
    seeds = [derive_seed("batch", number) for number in range(12)]
    together = transform(images, seeds)
    for number in (0, 5, 11):
        assert torch.equal(transform(images[number : number + 1], seeds[number : number + 1])[0], together[number])
    assert not torch.equal(transform(images, seeds[::-1]), together)


def test_without_augmentation_images_are_only_normalised():
    plain = Augmentation(crop_scale=(1, 1), crop_ratio=(1, 1), flip=0, rand_augment=None, erase=0)
    images = photographs()
    torch.testing.assert_close(
        BatchedTransform(SIDE, plain)(images, range(8)), TrainTransform(SIDE, plain)(images, range(8)), atol=0, rtol=0
    )


@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (1, 2), (2, 0), (2, 1)])
def test_workers_ranks_and_a_later_start_change_nothing(ranks, workers):
    whole = list(stream(**EVERYTHING, backend="fast").epoch(3))
    streams = [stream(**EVERYTHING, backend="fast", workers=workers, rank=rank, ranks=ranks) for rank in range(ranks)]
    for start in (0, 2):
        parts = [list(each.epoch(3, start)) for each in streams]
        assert same(whole[start:], [all_gather(step) for step in zip(*parts, strict=True)])


def test_a_stream_mixes_the_same_images_as_the_exact_one():
    fast, exact = (list(stream(rand_augment=None, backend=backend).epoch(0)) for backend in ("fast", "exact"))
    for ours, theirs in zip(fast, exact, strict=True):
        assert torch.equal(ours.targets, theirs.targets)
        assert torch.equal(ours.ids, theirs.ids)
        torch.testing.assert_close(ours.images, theirs.images, atol=0.05, rtol=0)


def test_the_global_generators_are_left_alone():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    list(stream(**EVERYTHING, backend="fast").epoch(0))
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_set_with_blur_is_refused():
    with pytest.raises(ValueError, match="backend fast has no blur, which rand-m9-t3a needs"):
        Augmentation(backend="fast", rand_augment="rand-m9-t3a")


def test_the_backend_is_in_the_key_only_if_it_is_fast():
    assert "backend" not in Augmentation().model_dump(mode="json")
    assert Augmentation(backend="fast").model_dump(mode="json")["backend"] == "fast"
