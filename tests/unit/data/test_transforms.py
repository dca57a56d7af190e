"""Augmentation and the geometry of evaluation."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from torchvision import transforms

from m2mkd.config.recipe import Augmentation
from m2mkd.data.images import evaluated
from m2mkd.data.transforms import TrainTransform, normalised
from m2mkd.seeds import derive_seed, forked_rng

PLAIN = {"crop_scale": (1, 1), "crop_ratio": (1, 1), "flip": 0, "rand_augment": None, "erase": 0}
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
SEEDS = [derive_seed("test", i) for i in range(12)]
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def test_normalisation():
    expected = (torch.from_numpy(IMAGES).permute(0, 3, 1, 2) / 255 - MEAN) / STD
    result = normalised(IMAGES)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)
    assert result.is_contiguous()


def test_without_augmentation_images_are_only_normalised():
    torch.testing.assert_close(TrainTransform(32, Augmentation(**PLAIN))(IMAGES, SEEDS), normalised(IMAGES), atol=0, rtol=0)


def test_the_result_has_the_asked_size():
    assert TrainTransform(24, Augmentation())(IMAGES, SEEDS).shape == (12, 3, 24, 24)


@pytest.mark.parametrize("rand_augment", [None, "rand-m9-mstd0.5-inc1"])
def test_it_is_timms_transform(rand_augment):
    """Up to erasing, which has a seed of its own, and rounding."""
    from timm.data import create_transform

    jitter = 0.4 if rand_augment else None  # configured as published, but inactive beside RandAugment
    reference = create_transform(32, is_training=True, interpolation="bicubic", color_jitter=jitter, auto_augment=rand_augment)
    result = TrainTransform(32, Augmentation(erase=0, rand_augment=rand_augment))(IMAGES, SEEDS)
    for image, seed, pixels in zip(IMAGES, SEEDS, result, strict=True):
        with forked_rng():
            random.seed(seed)
            np.random.seed(seed & 0xFFFFFFFF)
            torch.manual_seed(seed)
            torch.testing.assert_close(pixels, reference(Image.fromarray(image)), atol=1e-5, rtol=0)


def test_an_image_does_not_depend_on_its_batch():
    transform = TrainTransform(32, Augmentation(erase=1))
    together = transform(IMAGES, SEEDS)
    for i in (0, 5, 11):
        assert torch.equal(transform(IMAGES[i : i + 1], SEEDS[i : i + 1])[0], together[i])
    assert not torch.equal(transform(IMAGES, SEEDS[::-1]), together)


def test_erasing_writes_noise_into_one_box():
    transform = TrainTransform(32, Augmentation(**(PLAIN | {"erase": 1})))
    result = transform(IMAGES, SEEDS)
    changed = (result != normalised(IMAGES)).any(1)
    for mask in changed:
        assert ndimage.label(mask)[1] == 1
        assert 0.01 < mask.float().mean() < 0.36
    noise = result.permute(0, 2, 3, 1)[changed]
    assert noise.std(0).tolist() == pytest.approx([1, 1, 1], abs=0.1)


def test_erasing_has_its_probability():
    transform = TrainTransform(8, Augmentation(**(PLAIN | {"erase": 0.25})))
    images = np.zeros((2000, 8, 8, 3), np.uint8)
    changed = (transform(images, [derive_seed("erase", i) for i in range(2000)]) != normalised(images)).flatten(1).any(1)
    assert changed.float().mean().item() == pytest.approx(0.25, abs=0.04)


def test_the_global_generators_are_left_alone():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    TrainTransform(32, Augmentation())(IMAGES, SEEDS)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize(("size", "resized"), [(64, 73), (224, 256), (32, 36)])
def test_evaluation_resizes_and_crops_the_centre(size, resized):
    # A ramp: after resizing to the known size, the crop starts at a known pixel of it.
    width = 2 * resized
    ramp = np.repeat(np.linspace(0, 255, width).astype(np.uint8)[None, :, None], resized, axis=0).repeat(3, axis=2)
    result = np.asarray(evaluated(Image.fromarray(ramp), size))
    assert result.shape == (size, size, 3)
    margin = round((width - size) / 2)
    np.testing.assert_array_equal(result, ramp[:size, margin : margin + size])


@given(width=st.integers(20, 400), height=st.integers(20, 400), side=st.sampled_from([32, 64, 224]))
@settings(max_examples=60, deadline=None)
def test_evaluation_has_the_geometry_of_torchvision(width, height, side):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    resize = transforms.Resize(int(side * 256 / 224), transforms.InterpolationMode.BICUBIC)
    theirs = transforms.Compose([resize, transforms.CenterCrop(side)])
    np.testing.assert_array_equal(np.asarray(evaluated(image, side)), np.asarray(theirs(image)))


def test_augmenting_photographs_without_a_crash(packs_dir):
    import zipfile

    with zipfile.ZipFile(packs_dir / "tiny-imagenet-100x100.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith((".jpeg", ".jpg")))[::240]
        pictures = []
        for name in names:
            with archive.open(name) as file:
                pictures.append(np.asarray(Image.open(file).convert("RGB").resize((32, 32))))
    _augment_many(np.stack(pictures), 4000)


def test_twenty_thousand_augmentations_of_digits_without_a_crash():
    """RandAugment posterises to 0 bits, which Pillow 13 refuses."""
    from m2mkd.config import load
    from m2mkd.data.digits import enlarged, read_digits

    grey, *_ = read_digits("digits", load.datasets()["digits"])
    _augment_many(np.stack([enlarged(image, 16) for image in grey[:100]]), 20_000)


def _augment_many(images, number):
    transform = TrainTransform(images.shape[1], Augmentation(rand_augment="rand-m9-mstd0.5-inc1"))
    for start in range(0, number, 1000):
        numbers = range(start, start + 1000)
        result = transform(images[np.array(numbers) % len(images)], [derive_seed("many", i) for i in numbers])
        assert torch.isfinite(result).all()
