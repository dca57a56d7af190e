"""The pass over a split that measures it: every image once, whoever computes it."""

import numpy as np
import pytest
import torch

from m2mkd.data.pack import Split
from m2mkd.data.stream import eval_batches
from m2mkd.data.transforms import normalised
from tests.unit.data.streams import SPLIT, same


def test_evaluation_sees_every_image_in_order():
    batches = list(eval_batches(SPLIT, 16, 32))
    assert [len(batch.labels) for batch in batches] == [32, 32, 6]
    assert torch.cat([batch.ids for batch in batches]).tolist() == list(range(70))
    assert torch.cat([batch.labels for batch in batches]).tolist() == SPLIT.labels.tolist()
    assert torch.equal(torch.cat([batch.images for batch in batches]), normalised(SPLIT.images))


@pytest.mark.parametrize(("ranks", "batch_size"), [(1, 32), (2, 32), (3, 7), (4, 32), (5, 70)])
def test_ranks_divide_an_evaluation(ranks, batch_size):
    whole = {int(batch.ids[0]): batch for batch in eval_batches(SPLIT, 16, batch_size)}
    parts = [batch for rank in range(ranks) for batch in eval_batches(SPLIT, 16, batch_size, rank, ranks)]
    assert sorted(torch.cat([batch.ids for batch in parts]).tolist()) == list(range(70))
    # Batch by batch what one rank has, so that nothing depends on what shares a batch.
    assert same(parts, [whole[int(batch.ids[0])] for batch in parts])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_resize_what_is_evaluated(workers):
    raw = Split(SPLIT.images, SPLIT.labels, final=False)
    before = torch.get_rng_state()
    assert same(list(eval_batches(raw, 24, 32)), list(eval_batches(raw, 24, 32, workers=workers)))
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_at_another_size_resizes_and_crops():
    ramp = Split(
        np.linspace(0, 255, 16).astype(np.uint8)[None, None, :, None].repeat(16, 1).repeat(3, 3), np.zeros(1, np.int64), final=False
    )
    (batch,) = eval_batches(ramp, 64, 8)
    assert batch.images.shape == (1, 3, 64, 64)
    # 73 columns, of which 4 or 5 at each side are cut off: neither the darkest nor the lightest remain.
    assert batch.images.min() > normalised(ramp.images).min()
    assert batch.images.max() < normalised(ramp.images).max()
