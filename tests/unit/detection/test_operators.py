"""NMS and ROIAlign against naive loops, against cases worked out by hand, and their gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.extension import _has_ops

from m2mkd.detection import operators, pure_operators

OVERLAPPING = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20], [0, 0, 10, 9], [20, 20, 20, 20], [20, 20, 20, 20]])
NMS = [pure_operators.batched_nms, operators.batched_nms]


def naive_nms(boxes, scores, groups, threshold):
    """Pair by pair, in the boxes' own precision."""
    low, high = torch.maximum(boxes[:, None, :2], boxes[:, :2]), torch.minimum(boxes[:, None, 2:], boxes[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=-1)
    overlap, group = (shared / (area[:, None] + area - shared)).tolist(), groups.tolist()
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i].item()):
        if not any(group[i] == group[j] and overlap[i][j] > threshold for j in kept):
            kept.append(i)
    return kept


def sample_at(plane, y, x):
    """Bilinear value of a map (H, W), extended by half a pixel and more as ROIAlign has it."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return torch.zeros((), dtype=plane.dtype)
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    y, x = (y - top if bottom > top else 0.0), (x - left if right > left else 0.0)
    upper = (1 - x) * plane[top, left] + x * plane[top, right]
    lower = (1 - x) * plane[bottom, left] + x * plane[bottom, right]
    return (1 - y) * upper + y * lower


def naive_roi_align(features, boxes, size, scale, sampling, aligned):
    """Bin by bin and sample by sample."""
    out = torch.zeros(len(boxes), features.shape[1], size, size, dtype=features.dtype)
    for k, (image, *corners) in enumerate(boxes.tolist()):
        x0, y0, x1, y1 = (corner * scale - (0.5 if aligned else 0) for corner in corners)
        width, height = (x1 - x0, y1 - y0) if aligned else (max(x1 - x0, 1), max(y1 - y0, 1))
        columns, rows = sampling or math.ceil(width / size), sampling or math.ceil(height / size)
        for channel, plane in enumerate(features[int(image)]):
            for i in range(size):
                for j in range(size):
                    ys = [y0 + (i + (a + 0.5) / rows) * height / size for a in range(rows)]
                    xs = [x0 + (j + (b + 0.5) / columns) * width / size for b in range(columns)]
                    values = [sample_at(plane, y, x) for y in ys for x in xs]
                    out[k, channel, i, j] = sum(values) / max(len(values), 1)
    return out


def test_compiled_operators_are_used_where_they_are():
    assert _has_ops() == operators.COMPILED


# --- NMS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batched_nms", NMS)
def test_nms_by_hand(batched_nms):
    # Overlaps with the first box: 10 x 20 by a half exactly, 10 x 9 by 0.9; empty boxes overlap nothing, not even each other.
    scores, one = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), torch.zeros(5, dtype=torch.int64)
    assert batched_nms(OVERLAPPING, scores, one, 0.5).tolist() == [0, 1, 3, 4]
    assert batched_nms(OVERLAPPING, scores, one, 0.4999).tolist() == [0, 3, 4]
    assert batched_nms(OVERLAPPING, scores, one, 0.95).tolist() == [0, 1, 2, 3, 4]
    assert batched_nms(OVERLAPPING, scores, torch.tensor([0, 1, 1, 0, 0]), 0.4).tolist() == [0, 1, 3, 4]


@pytest.mark.parametrize("batched_nms", NMS)
def test_of_equal_scores_the_first_box_stays(batched_nms):
    same, one = OVERLAPPING[:1].expand(3, -1), torch.zeros(3, dtype=torch.int64)
    assert batched_nms(same, torch.tensor([0.5, 0.5, 0.5]), one, 0.5).tolist() == [0]
    assert batched_nms(same, torch.tensor([0.5, 0.5, 0.6]), one, 0.5).tolist() == [2]
    assert batched_nms(same, torch.tensor([0.5, 0.5, 0.5]), torch.tensor([2, 0, 1]), 0.5).tolist() == [0, 1, 2]


@pytest.mark.parametrize("batched_nms", NMS)
def test_nms_of_nothing(batched_nms):
    nothing = torch.zeros(0)
    assert batched_nms(nothing.view(0, 4), nothing, nothing.long(), 0.5).tolist() == []


def test_the_threshold_is_compared_in_double_precision():
    # In single precision 0.3 is more than 0.3, as the compiled operator's comparison has it, and so is an overlap of 3 in 10.
    boxes = torch.tensor([[0.0, 0, 10, 1], [0, 0, 3, 1]])
    assert torch.tensor(3.0).div(10).item() > 0.3
    assert pure_operators.batched_nms(boxes, torch.tensor([0.9, 0.8]), torch.zeros(2), 0.3).tolist() == [0]


@given(st.integers(0, 2**31), st.integers(0, 400), st.sampled_from([0.3, 0.5, 0.7]), st.sampled_from([1, 4]))
@settings(max_examples=30, deadline=None)
def test_nms_equals_a_naive_loop(seed, number, threshold, groups):
    random = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 30, (number, 2), generator=random).float()
    boxes = torch.cat([corners, corners + torch.randint(0, 20, (number, 2), generator=random)], dim=1)
    scores = torch.randint(0, 50, (number,), generator=random) / 50
    group = torch.randint(0, groups, (number,), generator=random)
    expected = naive_nms(boxes, scores, group, threshold)
    for batched_nms in NMS:
        assert batched_nms(boxes, scores, group, threshold).tolist() == expected
        assert batched_nms(boxes, scores, group, threshold, 7).tolist() == expected[:7]


# --- ROIAlign --------------------------------------------------------------------------------------------------------

FEATURES = torch.randn(3, 2, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
BOXES = torch.tensor(
    [
        [0.0, 3, 2, 30, 25],
        [2, 0, 0, 48, 36],
        [0, 10.3, 8.7, 11.1, 9.9],
        [1, -20, -30, 100, 90],
        [2, 40, 30, 70, 60],
        [0, 200, 200, 220, 230],
        [2, 12, 12, 12, 12],
    ]
)


def chosen_roi_align(features, boxes, size, scale, sampling, aligned):
    return operators.roi_align(features, boxes, size, scale, sampling=sampling, aligned=aligned)


@pytest.mark.parametrize("roi_align", [pure_operators.roi_align, chosen_roi_align])
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling", [0, 2])
@pytest.mark.parametrize("size", [1, 4])
def test_roi_align_equals_a_naive_loop(roi_align, size, sampling, aligned):
    pooled = roi_align(FEATURES, BOXES, size, 0.25, sampling, aligned)
    torch.testing.assert_close(pooled, naive_roi_align(FEATURES, BOXES, size, 0.25, sampling, aligned), rtol=0, atol=1e-14)


def test_roi_align_of_a_ramp_gives_the_centres_of_the_bins():
    # A place of the map stands for its centre, so that the value at x pixels is x / stride - 1/2.
    ramp = torch.arange(16, dtype=torch.float64).expand(1, 1, 16, 16)
    pooled = operators.roi_align(ramp, torch.tensor([[0.0, 8, 8, 40, 24]]), 4, 0.25)
    assert pooled[0, 0, 0].tolist() == [(8 + 32 * (j + 0.5) / 4) / 4 - 0.5 for j in range(4)]
    assert (pooled == pooled[:, :, :1]).all()


def test_roi_align_of_no_boxes():
    features = FEATURES.clone().requires_grad_()
    pooled = operators.roi_align(features, torch.zeros(0, 5), 7, 0.25)
    assert pooled.shape == (0, 2, 7, 7)
    pooled.sum().backward()
    assert not features.grad.any()


@pytest.mark.parametrize("aligned", [True, False])
def test_gradient_of_roi_align(aligned):
    features = FEATURES[:, :1, :4, :5].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda maps: pure_operators.roi_align(maps, BOXES, 2, 0.125, 0, aligned), features)


def test_half_precision_is_pooled_in_single_precision():
    features = FEATURES.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = operators.roi_align(features, BOXES, 4, 0.25)
    assert pooled.dtype == torch.bfloat16
    assert torch.equal(pooled, operators.roi_align(features.float(), BOXES, 4, 0.25).to(torch.bfloat16))
