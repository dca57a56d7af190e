"""A training of a few seconds, of which every bit is known: two classes of stripes."""

from contextlib import closing

import numpy as np
import torch

from m2mkd.config.models import ViTConfig
from m2mkd.config.recipe import Augmentation, Recipe
from m2mkd.data.pack import Split
from m2mkd.data.stream import TrainStream, eval_batches
from m2mkd.distill.losses import soft_cross_entropy
from m2mkd.models.vit import StagedViT
from m2mkd.seeds import forked_rng
from m2mkd.training import loop
from m2mkd.training.usage import Usage
from tests.wiring import CPU

PLAIN = Augmentation(crop_scale=(0.9, 1.0), flip=0.0, rand_augment=None, erase=0.0, mixup=0.2, cutmix=0.0)
RECIPE = Recipe(epochs=4, batch_size=8, lr=3e-3, lr_batch=None, drop_path=0.2, warmup_epochs=1, clip_norm=1.0, augmentation=PLAIN)
MODEL = ViTConfig(patch_size=8, width=16, heads=2, depths=(1, 1))


def stripes(count: int) -> Split:
    """Two classes of 16 px images that differ in where they are bright."""
    labels = np.arange(count) % 2
    images = np.random.default_rng(0).integers(0, 40, (count, 16, 16, 3), dtype=np.uint8)
    images[labels == 0, :8] += 200
    images[labels == 1, 8:] += 200
    return Split(images, labels.astype(np.int64))


def train(folder, recipe=RECIPE, predict=None, loss=None, machine=CPU, usage=None):
    """Train a small ViT on stripes from fixed seeds; returns it with the measurements. ``loss`` gets the model and a batch's arguments."""
    data = stripes(32)
    with forked_rng("model"):
        model = StagedViT(MODEL, image_size=16, num_classes=2, drop_path=recipe.drop_path)
    loss = loss or (lambda model, images, targets, _: soft_cross_entropy(model(images), targets))
    task = loop.Task(model, model, lambda *batch: loss(model, *batch), predict or model, model.no_weight_decay())
    trainees = [loop.Trainee(task, folder, "stripes", usage or Usage())]
    with closing(TrainStream(data, range(32), 2, recipe, ("data", "stripes", 0), machine.workers)) as stream:
        (measured,) = loop.fit(trainees, recipe, stream, lambda: eval_batches(data, 16, 5), ("stripes",), machine)
    return model, measured


def assert_same(folder, undisturbed, first, second):
    """Assert that two trainings came to the same weights, measurements and curves."""
    (model, measured), (again, measured_again) = first, second
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert measured == measured_again
    assert (folder / "metrics.jsonl").read_bytes() == (undisturbed / "metrics.jsonl").read_bytes()
