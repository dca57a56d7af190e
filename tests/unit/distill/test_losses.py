"""The losses as functions."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from m2mkd.config.recipe import Distillation
from m2mkd.distill.losses import distillation_loss, hard_distillation, kd_divergence, soft_cross_entropy

STUDENT = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], dtype=torch.float64)
TEACHER = torch.tensor([[0.2, 0.1, -0.4], [2.0, 1.0, 0.0]], dtype=torch.float64)
TARGETS = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]], dtype=torch.float64)


def softmax(row: list[float], tau: float = 1.0) -> list[float]:
    powers = [math.exp(value / tau) for value in row]
    return [power / sum(powers) for power in powers]


def test_soft_cross_entropy_by_hand():
    rows = zip(TARGETS.tolist(), STUDENT.tolist(), strict=True)
    expected = [-sum(t * math.log(p) for t, p in zip(targets, softmax(logits), strict=True)) for targets, logits in rows]
    assert soft_cross_entropy(STUDENT, TARGETS).item() == pytest.approx(sum(expected) / 2)


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_kd_divergence_by_hand(tau):
    total = 0.0
    for student, teacher in zip(STUDENT.tolist(), TEACHER.tolist(), strict=True):
        p_s, p_t = softmax(student, tau), softmax(teacher, tau)
        total += tau**2 * sum(t * (math.log(t) - math.log(s)) for s, t in zip(p_s, p_t, strict=True))
    assert kd_divergence(STUDENT, TEACHER, tau, "batch").item() == pytest.approx(total / 2)
    assert kd_divergence(STUDENT, TEACHER, tau, "numel").item() == pytest.approx(total / 6)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), tau=st.floats(0.5, 8), scale=st.floats(0, 20))
def test_kd_divergence_is_positive_and_zero_for_equal_logits(seed, tau, scale):
    student, teacher = scale * torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert kd_divergence(student, teacher, tau, "batch").item() >= -1e-9
    assert kd_divergence(teacher, teacher + 5, tau, "batch").item() == pytest.approx(0, abs=1e-9)


def test_hard_distillation_takes_the_teachers_class():
    expected = -(math.log(softmax(STUDENT[0].tolist())[0]) + math.log(softmax(STUDENT[1].tolist())[0])) / 2
    assert hard_distillation(STUDENT, TEACHER).item() == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(2, 3), (8, 10), (64, 200), (128, 1000)])
def test_torchs_cross_entropy_has_the_same_gradient_to_the_bit_and_the_same_value_to_rounding(shape):
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.randn(shape, generator=torch.Generator().manual_seed(1)).softmax(-1)
    ours, theirs = soft_cross_entropy(logits, targets), F.cross_entropy(logits, targets)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    assert torch.equal(*(torch.autograd.grad(loss, logits)[0] for loss in (ours, theirs)))


def test_alpha_weighs_the_two_terms():
    labels = soft_cross_entropy(STUDENT, TARGETS)
    divergence = kd_divergence(STUDENT, TEACHER, 2.0, "batch")
    loss = distillation_loss(STUDENT, TARGETS, TEACHER, Distillation(alpha=0.9, tau=2.0), "batch").value
    assert loss.item() == pytest.approx((0.1 * labels + 0.9 * divergence).item())
    loss = distillation_loss(STUDENT, TARGETS, TEACHER, Distillation(kind="hard", alpha=0.25), "batch").value
    assert loss.item() == pytest.approx((0.75 * labels + 0.25 * hard_distillation(STUDENT, TEACHER)).item())


def test_kind_none_gives_the_labels_the_whole_weight():
    loss = distillation_loss(STUDENT, TARGETS, None, Distillation(kind="none", alpha=0.5), "batch").value
    assert loss.item() == soft_cross_entropy(STUDENT, TARGETS).item()
    with pytest.raises(ValueError, match="teacher's logits"):
        distillation_loss(STUDENT, TARGETS, None, Distillation(), "batch")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised(dtype):
    student, teacher = (logits.to(dtype) for logits in (STUDENT, TEACHER))
    loss = distillation_loss(student, TARGETS.float(), teacher, Distillation(), "numel").value
    assert loss.dtype == torch.float32
    exact = distillation_loss(student.double(), TARGETS, teacher.double(), Distillation(), "numel").value
    assert loss.item() == pytest.approx(exact.item(), rel=1e-6)
