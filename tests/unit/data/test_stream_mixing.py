"""What a training stream does to images: augmentation, mixup and CutMix, and the targets that come of them."""

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup

from m2mkd.data.transforms import normalised
from m2mkd.seeds import forked_rng
from tests.unit.data.streams import EVERYTHING, PLAIN, SPLIT, stream


def views(augmentation, epochs=4):
    """The unmixed images of some epochs by (image, epoch, repeat)."""
    found, single = {}, stream(**augmentation)
    for epoch in range(epochs):
        for draw, batch in zip(single.draws(epoch), single.epoch(epoch), strict=True):
            assert draw.samples.tolist() == batch.ids.tolist()
            for sample, repeat, image in zip(draw.samples, draw.repeats, batch.images, strict=True):
                assert (sample, epoch, repeat) not in found
                found[sample, epoch, repeat] = image
    return found


def test_repeated_augmentation_gives_several_views_of_fewer_images():
    ids = torch.cat([batch.ids for batch in stream(**EVERYTHING).epoch(0)])
    assert len(ids) == 64
    assert len(set(ids.tolist())) == 22  # 64 / 3, rounded up
    assert np.all(ids[:63].reshape(-1, 3).numpy() == ids[:63:3, None].numpy())


@pytest.mark.parametrize("kind", [{"crop_scale": (0.3, 1)}, {"erase": 1}])
def test_augmentation_differs_between_repeats_and_epochs(kind):
    found = views(PLAIN | kind | {"repeats": 2})
    repeats = [(key, (key[0], key[1], 1)) for key in found if key[2] == 0 and (key[0], key[1], 1) in found]
    epochs = [(key, (key[0], key[1] + 1, key[2])) for key in found if (key[0], key[1] + 1, key[2]) in found]
    for pairs in (repeats, epochs):
        assert len(pairs) > 20
        assert np.mean([torch.equal(found[a], found[b]) for a, b in pairs]) < 0.1


def test_a_view_does_not_depend_on_the_batch_size():
    small, large = stream(batch_size=8, mixup=0, cutmix=0), stream(batch_size=32, mixup=0, cutmix=0)
    images = [torch.cat([batch.images for batch in each.epoch(1)])[:64] for each in (small, large)]
    assert torch.equal(*images)


@pytest.mark.parametrize("mixing", [{}, {"cutmix": 0}, {"mixup": 0}, {"label_smoothing": 0}, {"mixup": 0, "cutmix": 0}])
def test_targets_sum_to_one(mixing):
    for batch in stream(**mixing).epoch(0):
        torch.testing.assert_close(batch.targets.sum(1), torch.ones(16))
        assert batch.targets.min() >= 0


def test_without_mixing_targets_are_smoothed_labels():
    for batch in stream(mixup=0, cutmix=0, label_smoothing=0.1).epoch(0):
        expected = 0.02 + 0.9 * torch.nn.functional.one_hot(batch.labels, 5)
        torch.testing.assert_close(batch.targets, expected)


def test_mixup_blends_a_batch_with_its_reverse():
    mixed, plain = (list(stream(**(PLAIN | {"mixup": alpha, "label_smoothing": 0})).epoch(0)) for alpha in (0.8, 0))
    lams = []
    for blend, clean in zip(mixed, plain, strict=True):
        i = next(i for i in range(16) if clean.labels[i] != clean.labels[15 - i])
        lam = blend.targets[i, clean.labels[i]]
        torch.testing.assert_close(blend.images, lam * clean.images + (1 - lam) * clean.images.flip(0), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(blend.targets, lam * clean.targets + (1 - lam) * clean.targets.flip(0))
        lams.append(lam.item())
    assert len(set(lams)) == len(lams)  # one for each batch


def test_cutmix_pastes_a_box_of_the_reverse():
    mixed, plain = (list(stream(**(PLAIN | {"cutmix": alpha, "label_smoothing": 0})).epoch(0)) for alpha in (1.0, 0))
    for blend, clean in zip(mixed, plain, strict=True):
        pasted = (blend.images != clean.images).any(0).any(0)
        assert torch.equal(blend.images, torch.where(pasted, clean.images.flip(0), clean.images))
        i = next(i for i in range(16) if clean.labels[i] != clean.labels[15 - i])
        assert blend.targets[i, clean.labels[i]].item() == pytest.approx(1 - pasted.float().mean().item(), abs=1e-6)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.25, 16), (1.0, 64)])
def test_the_share_of_cutmix(share, expected):
    pasted = 0
    mixing = stream(**(PLAIN | {"mixup": 0.8, "cutmix": 1.0, "cutmix_share": share}))
    for epoch in range(16):
        for blend in mixing.epoch(epoch):
            clean = normalised(SPLIT.images[blend.ids.numpy()])
            pasted += torch.equal(blend.images, torch.where(blend.images == clean, clean, clean.flip(0)))
    assert abs(pasted - expected) <= (10 if 0 < share < 1 else 0)


def test_mixing_draws_what_the_released_code_draws(fixtures_dir):
    """Which of the two, and lambda before the box is cut, from numpy's seed 123 (vmoe.md 4.2)."""
    recorded = np.load(fixtures_dir / "vmoe" / "vmoe_fixtures.npz")["mixup.seed123.lam_cutmix"]
    with forked_rng():
        np.random.seed(123)
        drawn = [Mixup(0.8, 1.0, switch_prob=0.5)._params_per_batch() for _ in recorded]
    np.testing.assert_allclose(drawn, recorded, atol=1e-12)
