"""The whole detector: its losses, what they average over, its detections, and that it learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import box_iou

from m2mkd.data.detection_stream import Target
from m2mkd.detection import targets
from m2mkd.detection.detections import Detections
from m2mkd.detection.heads import REGION_CODER, Regions
from m2mkd.detection.rpn import Proposed, Scored
from m2mkd.detection.targets import mask_targets
from m2mkd.errors import InputError
from tests.unit.detection.small import CLASSES, CONFIG, detector, sampler, scene

SCENES = [scene(seed, instances) for seed, instances in enumerate((2, 0, 3, 1))]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def gradients(network):
    return {name: None if parameter.grad is None else parameter.grad.clone() for name, parameter in network.named_parameters()}


# --- losses ----------------------------------------------------------------------------------------------------------


def test_a_batch_has_the_mean_of_its_images_losses_and_gradients():
    network = detector().train()
    images, targets = zip(*SCENES, strict=True)
    whole = network.losses(images, targets, sampler(0, 1, 2, 3))
    whole.total.backward()
    of_the_batch = gradients(network)
    network.zero_grad()
    alone = [network.losses([image], [target], sampler(seed)) for seed, (image, target) in enumerate(SCENES)]
    torch.stack([losses.total / 4 for losses in alone]).sum().backward()
    for place, loss in enumerate(whole):
        torch.testing.assert_close(loss, torch.stack([losses[place] for losses in alone]).mean(), rtol=1e-12, atol=0)
    for name, gradient in gradients(network).items():
        torch.testing.assert_close(gradient, of_the_batch[name], rtol=1e-9, atol=1e-13)


def test_the_whole_batch_may_be_averaged_over_instead():
    network = detector().train()
    images, targets = zip(*SCENES, strict=True)
    by_image, by_batch = (network.losses(images, targets, sampler(0, 1, 2, 3), averaging=averaging) for averaging in ("image", "batch"))
    assert by_image.masks != by_batch.masks
    assert by_image.anchors == by_batch.anchors
    alone = [network.losses([image], [target], sampler(seed)) for seed, (image, target) in enumerate(SCENES)]
    # Of one image both are the same.
    assert network.losses(images[:1], targets[:1], sampler(0), averaging="batch") == alone[0]


def test_losses_of_regions_by_hand(monkeypatch):
    heads = detector().heads
    logits = torch.randn(5, CLASSES + 1, dtype=torch.float64, requires_grad=True)
    deltas = torch.randn(5, CLASSES, 4, dtype=torch.float64)
    masks = torch.randn(3, 28, 28, dtype=torch.float64)
    monkeypatch.setattr(heads, "boxes", lambda maps, boxes: (logits, deltas))
    monkeypatch.setattr(heads, "masks", lambda maps, boxes, classes: masks)
    boxes = torch.tensor([[0.0, 0, 20, 20], [10, 10, 30, 40], [5, 5, 15, 15], [1, 1, 9, 9], [2, 2, 8, 8]])
    bitmaps = torch.zeros(2, 64, 64, dtype=torch.bool)
    bitmaps[0, :22, :21], bitmaps[1, 10:44, 12:30] = True, True
    target = Target(torch.tensor([[0.0, 0, 21, 22], [12, 10, 30, 44]]), torch.tensor([2, 0]), bitmaps)
    empty = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), bitmaps[:0])
    regions = [
        Regions(boxes[:4], torch.tensor([2, 0, 0, CLASSES]), torch.tensor([0, 1, 1, 0]), 3),
        Regions(boxes[4:], torch.tensor([CLASSES]), torch.tensor([0]), 0),
    ]
    by_class, by_box, by_mask = heads.losses([], regions, [target, empty], "batch")
    wanted = torch.tensor([2, 0, 0, CLASSES, CLASSES])
    assert by_class.item() == pytest.approx(F.cross_entropy(logits, wanted).item())
    coded = REGION_CODER.encode_single(target.boxes[[0, 1, 1]], boxes[:3])
    found = deltas[[0, 1, 2], [2, 0, 0]]
    assert by_box.item() == pytest.approx((found - coded).abs().sum().item() / 5), "all regions count, also those of the background"
    drawn = mask_targets([target], [torch.tensor([0, 1, 1])], [boxes[:3]]).double()
    assert by_mask.item() == pytest.approx(F.binary_cross_entropy_with_logits(masks, drawn).item())
    by_class, by_box, by_mask = heads.losses([], regions, [target, empty], "image")
    each = F.cross_entropy(logits, wanted, reduction="none")
    assert by_class.item() == pytest.approx((each[:4].mean() + each[4]).item() / 2)
    assert by_box.item() == pytest.approx((found - coded).abs().sum().item() / 4 / 2)
    assert by_mask.item() == pytest.approx(F.binary_cross_entropy_with_logits(masks, drawn).item() / 2)


def test_losses_of_anchors_by_hand():
    rpn = detector().rpn
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50], [0, 0, 10, 9]])
    logits = torch.tensor([[0.5, -1.0, 2.0, 0.1]], dtype=torch.float64)
    deltas = torch.full((1, 4, 4), 0.25, dtype=torch.float64)
    scored = Scored([anchors[:2], anchors[2:]], [logits[:, :2], logits[:, 2:]], [deltas[:, :2], deltas[:, 2:]])
    target = Target(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0]), torch.zeros(1, 64, 64, dtype=torch.bool))
    by_anchor, by_box = rpn.losses(scored, [target], lambda *_: (torch.tensor([0, 3]), torch.tensor([1])))
    expected = F.binary_cross_entropy_with_logits(logits[0, [0, 3, 1]], torch.tensor([1.0, 1, 0]).double(), reduction="sum")
    # Divided by the 32 that are wanted, not by the 3 that there are.
    assert by_anchor.item() == pytest.approx(expected.item() / 32)
    # The second is a tenth too low and half a pixel off; both are asked for a quarter each time.
    height, shift = torch.tensor(10 / 9).log().item(), 0.5 / 9
    assert by_box.item() == pytest.approx((4 * 0.25 + 2 * 0.25 + abs(0.25 - shift) + abs(0.25 - height)) / 32, rel=1e-6)


def test_without_any_instance_every_parameter_but_the_masks_and_the_boxes_learns():
    network = detector().train()
    losses = network.losses(*zip(SCENES[1], strict=True), sampler(0))
    assert losses.masks == losses.boxes == losses.anchor_boxes == 0
    losses.total.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters() if parameter.grad is not None)
    assert network.heads.class_logits.weight.grad.any()
    assert not network.heads.mask_logits.mask_fcn_logits.weight.grad.any()


def test_numbers_that_are_none_reach_the_loss():
    network = detector().train()
    with torch.no_grad():
        network.pyramid.levels[0][0].weight.fill_(float("nan"))
    image, target = SCENES[0]
    assert not torch.isfinite(network.losses([image], [target], sampler(0)).total)


# --- proposals -------------------------------------------------------------------------------------------------------


def test_proposals_by_hand():
    rpn = detector().rpn
    anchors = [torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [-8, -8, -2, -2], [50, 50, 70, 70]]), torch.tensor([[0.0, 0, 10, 10]])]
    logits = [torch.tensor([[3.0, 4, 9, 1]]), torch.tensor([[2.0]])]
    deltas = [torch.zeros(1, 4, 4), torch.zeros(1, 1, 4)]
    proposed = rpn.propose(Scored(anchors, logits, deltas), [(64, 64)], CONFIG.train_proposals)[0]
    # The third lies outside of the image; the first overlaps a better one of its level, and the one of the other level goes uncontested.
    assert proposed.boxes.tolist() == [[0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 64, 64]]
    assert proposed.logits.tolist() == [4, 2, 1]
    two = CONFIG.train_proposals.model_copy(update={"before_nms": 2})
    assert rpn.propose(Scored(anchors, logits, deltas), [(64, 64)], two)[0].logits.tolist() == [4, 2]
    one = CONFIG.train_proposals.model_copy(update={"after_nms": 1})
    assert rpn.propose(Scored(anchors, logits, deltas), [(64, 64)], one)[0].logits.tolist() == [4]


def test_proposals_leave_out_what_is_no_number_and_what_grows_too_large():
    rpn = detector().rpn
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [20, 20, 21, 21]])
    deltas = torch.zeros(1, 3, 4)
    deltas[0, 0, 0], deltas[0, 2, 2:] = float("inf"), 50.0
    proposed = rpn.propose(Scored([anchors], [torch.tensor([[3.0, 2, 1]])], [deltas]), [(64, 64)], CONFIG.train_proposals)[0]
    # A side grows 1000/16 times at most.
    assert proposed.boxes.tolist() == [[20, 20, 30, 30], [0, 0, 51.75, 51.75]]


# --- detections ------------------------------------------------------------------------------------------------------


def test_detections_by_hand(monkeypatch):
    heads = detector().heads
    boxes = torch.tensor([[0.0, 0, 20, 20], [0, 0, 20, 18], [30, 30, 80, 50]])
    scores = torch.tensor([[0.6, 0.3, 0.0, 0.1], [0.7, 0.04, 0.0, 0.26], [0.0, 0.0, 0.5, 0.5]]).double()
    monkeypatch.setattr(heads, "boxes", lambda maps, regions: (scores.log(), torch.zeros(3, CLASSES, 4, dtype=torch.float64)))
    monkeypatch.setattr(heads, "masks", lambda maps, regions, classes: torch.zeros(len(classes), 28, 28) + classes[:, None, None])
    found = heads.detect([], [Proposed(boxes, torch.zeros(3))], [(64, 64)])[0]
    # Of class 0 the second suppresses the first; class 1 of the first is above 0.05, of the second below; the background is no class.
    assert found.classes.tolist() == [0, 2, 1]
    assert found.scores.tolist() == pytest.approx([0.7, 0.5, 0.3])
    assert found.boxes.tolist() == [[0, 0, 20, 18], [30, 30, 64, 50], [0, 0, 20, 20]]
    assert found.masks[:, 0, 0].tolist() == pytest.approx(torch.tensor([0.0, 2, 1]).sigmoid().tolist())


def test_predictions_stay_in_the_image_and_in_number():
    network = detector()
    nn.init.normal_(network.heads.class_logits.weight, std=1.0)
    images = [scene(0, 1)[0], scene(1, 1, 40, 56)[0]]
    for image, found in zip(images, network(images), strict=True):
        assert 0 < len(found) <= CONFIG.detections
        assert (found.boxes >= 0).all()
        assert (found.boxes[:, 2] <= image.shape[2]).all() and (found.boxes[:, 3] <= image.shape[1]).all()
        assert (found.scores[:-1] >= found.scores[1:]).all()
        assert found.masks.shape == (len(found), 28, 28)
        assert not found.masks.requires_grad


def test_what_is_found_in_an_image_does_not_depend_on_the_others():
    network = detector()
    nn.init.normal_(network.heads.class_logits.weight, std=1.0)
    images = [scene(seed, 1)[0] for seed in range(3)]
    for image, among in zip(images, network(images), strict=True):
        (alone,) = network([image])
        assert torch.equal(alone.classes, among.classes)
        torch.testing.assert_close(alone.boxes, among.boxes, rtol=0, atol=1e-4)


def test_nothing_found():
    network = detector()
    nn.init.constant_(network.heads.class_logits.bias[CLASSES:], 50.0)
    (found,) = network([scene(0, 1)[0]])
    assert len(found) == 0 and found.masks.shape == (0, 28, 28)
    assert found.resized((64, 64), (100, 100)).bitmaps(100, 100).shape == (0, 100, 100)


def test_detections_in_the_original_image():
    masks = torch.zeros(2, 28, 28)
    masks[0, :14] = 1
    found = Detections(torch.tensor([[8.0, 8, 24, 40], [0, 63.9, 64, 64]]), torch.ones(2), torch.tensor([1, 2]), masks)
    half = found.resized((64, 64), (32, 32))
    assert half.boxes.tolist() == [[4, 4, 12, 20], [0, pytest.approx(31.95), 32, 32]]
    bitmaps = half.bitmaps(32, 32)
    assert bitmaps[0].sum() == 8 * 8 and bitmaps[0, 4:12, 4:12].all()
    assert not bitmaps[1].any()
    beyond = Detections(found.boxes + torch.tensor([60.0, 0, 60, 0]), found.scores, found.classes, masks).resized((64, 64), (64, 64))
    assert beyond.classes.tolist() == [2], "a box that lies outside is left out"


def test_a_full_mask_fills_its_box_and_no_place_outside():
    box = torch.tensor([[3.3, 5.6, 20.5, 17.4]])
    full = Detections(box, torch.ones(1), torch.zeros(1, dtype=torch.int64), torch.ones(1, 28, 28)).bitmaps(24, 24)[0]
    x, y = torch.arange(24) + 0.5, torch.arange(24) + 0.5
    inside = ((y >= 5.6) & (y <= 17.4))[:, None] & ((x >= 3.3) & (x <= 20.5))
    assert torch.equal(full, inside)


# --- targets ---------------------------------------------------------------------------------------------------------


def test_outlines_and_bitmaps_give_the_same_masks():
    outline = (np.array([[8.0, 8], [40, 8], [40, 32], [8, 32]]),)
    bitmap = torch.zeros(1, 64, 64, dtype=torch.bool)
    bitmap[0, 8:32, 8:40] = True
    box, which = torch.tensor([[4.0, 4, 32, 60]]), torch.zeros(1, dtype=torch.int64)
    drawn, pooled = (mask_targets([Target(box, which, masks)], [which], [box]) for masks in ([outline], bitmap))
    expected = torch.zeros(1, 28, 28, dtype=torch.bool)
    expected[0, 2:14, 4:] = True
    assert torch.equal(drawn, expected)
    assert torch.equal(pooled, expected)


def test_the_parts_of_an_outline_are_joined():
    parts = tuple(np.array([[x, 0.0], [x + 14, 0], [x + 14, 28], [x, 28]]) for x in (0, 7))
    box, which = torch.tensor([[0.0, 0, 28, 28]]), torch.zeros(1, dtype=torch.int64)
    mask = mask_targets([Target(box, which, [parts])], [which], [box])[0]
    assert mask[:, :21].all() and not mask[:, 21:].any()
    none = mask_targets([Target(box, which, [parts])], [which[:0]], [box[:0]])
    assert none.shape == (0, 28, 28) and none.dtype == torch.bool


@pytest.mark.parametrize("pixels", [1, 3 * 64 * 64, targets.POOLED_PIXELS])
def test_masks_of_a_batch_are_those_of_its_images(monkeypatch, pixels):
    """Whatever is pooled at once: images of two sizes, one with outlines, one without a region."""
    monkeypatch.setattr(targets, "POOLED_PIXELS", pixels)
    random = torch.Generator().manual_seed(0)
    batch, instances, boxes = [], [], []
    for side, count in ((64, 3), (40, 2), (64, 0), (64, 1), (40, 2)):
        corner = torch.rand(count, 2, generator=random) * side / 2
        boxes.append(torch.cat([corner, corner + torch.rand(count, 2, generator=random) * side / 2], dim=1))
        instances.append(torch.randint(0, 3, (count,), generator=random))
        bitmaps = torch.rand(3, side, side, generator=random) < 0.5
        batch.append(Target(boxes[-1][:3], instances[-1], bitmaps))
    outline = [(np.array([[8.0, 8], [40, 8], [40, 32], [8, 32]]),)] * 3
    batch[3] = replace(batch[3], masks=outline)
    found = mask_targets(batch, instances, boxes).split([len(mine) for mine in boxes])
    for mine, *image in zip(found, batch, instances, boxes, strict=True):
        assert torch.equal(mine, mask_targets(*([one] for one in image)))


# --- learning --------------------------------------------------------------------------------------------------------


def test_it_learns_two_scenes():
    network = detector().float().train()
    images, targets = zip(*(scene(seed, 1) for seed in (10, 12)), strict=True)
    assert targets[0].classes != targets[1].classes
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for step in range(150):
        losses = network.losses(images, targets, sampler(step, step + 1000))
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    for found, target in zip(network.eval()(images), targets, strict=True):
        assert found.classes[0] == target.classes[0]
        assert found.scores[0] > 0.5
        assert box_iou(found.boxes[:1], target.boxes) > 0.5
        seen, there = found.bitmaps(64, 64)[0], target.masks[0]
        assert (seen & there).sum() > 0.5 * (seen | there).sum()


def test_an_image_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"an image of 70 x 64 pixels does not fit the detector's square of 64; resize it first"):
        detector()([torch.zeros(3, 70, 64)])
