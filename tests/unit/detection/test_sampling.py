"""Which anchors and regions stand for which instance, by hand; and the random choice among them."""

import math

import pytest
import torch

from m2mkd.config.detection import DetectorSwitches
from m2mkd.detection.anchors import level_anchors
from m2mkd.detection.pooling import pool_regions, region_levels
from m2mkd.detection.rpn import largest
from m2mkd.detection.sampling import IGNORED, NEGATIVE, POSITIVE, RandomSampler, match_anchors, match_regions

CORRECTED, RELEASED = DetectorSwitches(), DetectorSwitches(unreachable="positive")
WIDE = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 5], [0, 0, 10, 2], [50, 50, 60, 60], [100, 100, 101, 101]])
"""Their overlaps with the first: 1, 0.8, 0.5, 0.2, 0, 0."""


def test_anchors_by_hand():
    anchors = level_anchors(2, 3, 8, (4, 8), (0.25, 1))
    assert anchors.shape == (2 * 3 * 4, 4)
    # Height over width 1/4: twice as wide as high again.
    assert anchors[:4].tolist() == [[-4, -1, 4, 1], [-2, -2, 2, 2], [-8, -2, 8, 2], [-4, -4, 4, 4]]
    assert anchors[4].tolist() == [4, -1, 12, 1]
    assert anchors[12].tolist() == [-4, 7, 4, 9]


def test_anchors_by_their_overlap():
    labels, instances = match_anchors(WIDE[:1], WIDE, CORRECTED)
    assert labels.tolist() == [POSITIVE, POSITIVE, IGNORED, NEGATIVE, NEGATIVE, NEGATIVE]
    assert instances.tolist() == [0] * 6


def test_an_instance_has_its_best_anchors_however_little_they_overlap():
    boxes = torch.tensor([[0.0, 0, 10, 10], [55, 55, 75, 75]])
    labels, instances = match_anchors(boxes, WIDE, CORRECTED)
    assert labels.tolist() == [POSITIVE, POSITIVE, IGNORED, NEGATIVE, POSITIVE, NEGATIVE]
    assert instances.tolist() == [0, 0, 0, 0, 1, 0]


def test_such_an_anchor_stands_for_the_instance_that_it_overlaps_most():
    # The best anchor of the small instance overlaps the large one more.
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 2, 2]])
    labels, instances = match_anchors(boxes, WIDE[:1], CORRECTED)
    assert (labels.tolist(), instances.tolist()) == ([POSITIVE], [0])


def test_anchors_of_an_instance_that_none_meets():
    boxes = torch.tensor([[0.0, 0, 10, 10], [500, 500, 510, 510]])
    labels, instances = match_anchors(boxes, WIDE, RELEASED)
    assert labels.tolist() == [POSITIVE] * 6, "every anchor has the instance's best overlap, which is none"
    assert instances.tolist() == [0] * 6
    assert match_anchors(boxes, WIDE, CORRECTED)[0].tolist() == [POSITIVE, POSITIVE, IGNORED, NEGATIVE, NEGATIVE, NEGATIVE]


def test_regions_by_their_overlap():
    boxes, classes = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 61]]), torch.tensor([3, 1])
    found, instances = match_regions(boxes, classes, WIDE, 7)
    assert found.tolist() == [3, 3, 3, 7, 1, 7]
    assert instances.tolist() == [0, 0, 0, 0, 1, 0]


def test_without_instances_everything_is_background():
    nothing = torch.zeros(0, 4)
    assert match_anchors(nothing, WIDE, RELEASED)[0].tolist() == [NEGATIVE] * 6
    assert match_regions(nothing, torch.zeros(0, dtype=torch.int64), WIDE, 7)[0].tolist() == [7] * 6


def test_boxes_without_area_overlap_nothing():
    empty = torch.tensor([[5.0, 5, 5, 5]])
    assert match_regions(empty, torch.tensor([0]), empty, 7)[0].tolist() == [7]


# --- the choice ------------------------------------------------------------------------------------------------------

LABELS = torch.tensor([POSITIVE] * 10 + [NEGATIVE] * 50 + [IGNORED] * 20)


def sampler(*seeds):
    return RandomSampler([torch.Generator().manual_seed(seed) for seed in seeds])


def test_the_choice_has_as_many_as_are_wanted_and_there():
    for number, most, positives, negatives in ((16, 8, 8, 8), (16, 16, 10, 6), (100, 50, 10, 50), (16, 0, 0, 16)):
        chosen, others = sampler(0)("anchors", 0, LABELS, number, most)
        assert (len(chosen), len(others)) == (positives, negatives)
        assert (LABELS[chosen] == POSITIVE).all() and (LABELS[others] == NEGATIVE).all()
        assert len(set(torch.cat([chosen, others]).tolist())) == positives + negatives


def test_the_choice_in_an_image_depends_on_its_generator_alone():
    alone = sampler(5)("regions", 0, LABELS, 16, 8)
    among = sampler(1, 5, 2)
    for image in (2, 0):
        among("regions", image, LABELS, 16, 8)
    for one, other in zip(among("regions", 1, LABELS, 16, 8), alone, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(sampler(6)("regions", 0, LABELS, 16, 8)[1], alone[1])


def test_the_choice_is_even():
    generator = torch.Generator().manual_seed(0)
    draw = RandomSampler([generator])
    counts = torch.zeros(len(LABELS))
    for _ in range(400):
        counts[torch.cat(draw("anchors", 0, LABELS, 20, 5))] += 1
    assert counts[:10].sub(200).abs().max() < 45
    assert counts[10:60].sub(120).abs().max() < 45
    assert not counts[60:].any()


# --- pooling from the levels -----------------------------------------------------------------------------------------


def test_levels_of_regions():
    sides = torch.tensor([1.0, 55, 56, 111, 112, 223, 224, 447, 448, 5000])
    boxes = torch.stack([torch.zeros(10), torch.zeros(10), sides, sides], dim=1)
    assert region_levels(boxes, 224).tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert region_levels(boxes, 112).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3, 3]
    # As a side approaches a limit: torchvision's rule would already give the next level here.
    close = torch.tensor([[0.0, 0, 112 * (1 - 6e-7), 112 * (1 - 6e-7)]])
    assert region_levels(close, 224).tolist() == [0]


def test_regions_are_pooled_from_their_image_and_their_level_in_their_order():
    maps = [torch.full((2, 1, size, size), float(level)) for level, size in enumerate((64, 32, 16, 8, 4))]
    for level in maps:
        level[1] += 10
    sizes = torch.tensor([200.0, 100, 30, 60])
    boxes = torch.stack([torch.zeros(4), torch.zeros(4), sizes, sizes], dim=1)
    pooled = pool_regions(
        maps,
        (4, 8, 16, 32, 64),
        [
            boxes,
            boxes[:2],
        ],
        2,
        56,
    )
    assert pooled.shape == (6, 1, 2, 2)
    assert pooled[:, 0, 0, 0].tolist() == [3, 2, 1, 2, 13, 12]


@pytest.mark.parametrize("number", [1, 5, 39, 40, 50])
@pytest.mark.parametrize("values", [6, 10**6])
def test_the_largest_logits_are_those_of_a_stable_sort(number, values):
    logits = torch.randint(0, values, (3, 40), generator=torch.Generator().manual_seed(values)).float()
    logits[1, 7] = math.nan
    expected = logits.sort(dim=1, descending=True, stable=True)
    best, place = largest(logits, number)
    assert torch.equal(place, expected.indices[:, :number])
    torch.testing.assert_close(best, expected.values[:, :number], rtol=0, atol=0, equal_nan=True)
