"""Losses on logits, each against its paper's equation written out in plain numbers, and against what theory says of its limits."""

import math

import pytest
import torch
import torch.nn.functional as F

from m2mkd.distill.logit_losses import (
    adaptive_target,
    decoupled_divergence,
    pearson_distance,
    plackett_luce,
    relational_distance,
    standardised,
)
from m2mkd.distill.losses import kd_divergence

STUDENT = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], dtype=torch.float64)
TEACHER = torch.tensor([[0.2, 0.1, -0.4], [2.0, 1.0, 0.0]], dtype=torch.float64)
LABELS = torch.tensor([2, 0])
ROWS = list(zip(STUDENT.tolist(), TEACHER.tolist(), LABELS.tolist(), strict=True))


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def softmax(row: list[float], tau: float = 1.0) -> list[float]:
    powers = [math.exp(value / tau) for value in row]
    return [power / sum(powers) for power in powers]


def correlation(a: list[float], b: list[float]) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    joint = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return joint / math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))


# --- DKD -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [1.0, 4.0])
def test_the_two_parts_of_dkd_by_hand(tau):
    found = decoupled_divergence(STUDENT, TEACHER, LABELS, tau)
    for index, (student, teacher, label) in enumerate(ROWS):
        q, p = softmax(student, tau), softmax(teacher, tau)
        target = p[label] * math.log(p[label] / q[label]) + (1 - p[label]) * math.log((1 - p[label]) / (1 - q[label]))
        others = sum(p[c] / (1 - p[label]) * math.log(p[c] / (1 - p[label]) / (q[c] / (1 - q[label]))) for c in range(3) if c != label)
        assert found.target[index].item() == pytest.approx(tau**2 * target)
        assert found.others[index].item() == pytest.approx(tau**2 * others)


def test_dkd_with_the_teachers_own_weights_is_the_whole_divergence():
    student, teacher, labels = drawn(8, 5), drawn(8, 5, seed=1), torch.arange(8) % 5
    parts = decoupled_divergence(student, teacher, labels, 3.0)
    chosen = (teacher / 3).softmax(-1)[torch.arange(8), labels]
    assert (parts.target + (1 - chosen) * parts.others).mean().item() == pytest.approx(kd_divergence(student, teacher, 3.0, "batch").item())


def test_the_part_among_the_others_knows_nothing_of_the_target_nor_that_of_the_target_of_the_order_of_the_others():
    student, teacher, labels = drawn(4, 5), drawn(4, 5, seed=1), torch.tensor([0, 0, 0, 0])
    before = decoupled_divergence(student, teacher, labels, 2.0)
    moved = student + 7 * F.one_hot(labels, 5)
    assert torch.allclose(decoupled_divergence(moved, teacher, labels, 2.0).others, before.others)
    assert not torch.allclose(decoupled_divergence(moved, teacher, labels, 2.0).target, before.target)
    turned = student[:, [0, 2, 3, 4, 1]]
    assert torch.allclose(decoupled_divergence(turned, teacher, labels, 2.0).target, before.target)


def test_of_two_classes_nothing_is_left_among_the_others():
    parts = decoupled_divergence(drawn(3, 2), drawn(3, 2, seed=1), torch.tensor([0, 1, 0]), 1.0)
    assert parts.others.abs().max().item() == 0
    assert parts.target.mean().item() == pytest.approx(kd_divergence(drawn(3, 2), drawn(3, 2, seed=1), 1.0, "batch").item())


def test_at_high_temperature_the_divergence_becomes_the_squared_distance_of_centred_logits():
    """Hinton et al., section 2.1: with zero mean, the gradient is that of half the squared distance over C."""
    student, teacher = (logits - logits.mean(-1, keepdim=True) for logits in (drawn(6, 4), drawn(6, 4, seed=1)))
    limit = ((student - teacher) ** 2).sum(-1).mean() / (2 * 4)
    assert kd_divergence(student, teacher, 1e4, "batch").item() == pytest.approx(limit.item(), rel=1e-3)


# --- DIST ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_dist_by_hand(tau):
    q, p = ([softmax(row[which], tau) for row in ROWS] for which in (0, 1))
    inter = sum(1 - correlation(a, b) for a, b in zip(q, p, strict=True)) / 2
    columns = zip(zip(*q, strict=True), zip(*p, strict=True), strict=True)
    intra = sum(1 - correlation(list(a), list(b)) for a, b in columns) / 3
    found = relational_distance(STUDENT, TEACHER, tau)
    assert found.inter.item() == pytest.approx(tau**2 * inter) and found.intra.item() == pytest.approx(tau**2 * intra)


def test_pearsons_distance_does_not_see_scale_and_shift_but_a_sign():
    first, second = drawn(5, 7), drawn(5, 7, seed=1)
    assert torch.allclose(pearson_distance(3 * first - 2, 0.5 * second + 9), pearson_distance(first, second))
    assert pearson_distance(first, 2 * first + 1).abs().max().item() < 1e-12
    assert torch.allclose(pearson_distance(first, -first), torch.full((5,), 2.0).double())
    assert pearson_distance(torch.ones(1, 4), torch.arange(4.0)[None]).item() == 1


def test_dist_does_not_see_an_affine_change_of_logits_at_high_temperature_alone():
    """It compares probabilities, which are affine in the logits only where these are small against the temperature."""
    student, teacher = drawn(6, 4), drawn(6, 4, seed=1)
    at_one = [relational_distance(scale * student + 5, teacher, 1.0).inter.item() for scale in (1, 3)]
    assert relational_distance(student + 5, teacher, 1.0).inter.item() == pytest.approx(
        relational_distance(student, teacher, 1.0).inter.item()
    )
    assert abs(at_one[0] - at_one[1]) > 1e-3
    at_many = [relational_distance(scale * student + 5, teacher, 1e4).inter.item() / 1e8 for scale in (1, 3)]
    assert at_many[0] == pytest.approx(at_many[1], rel=1e-3)


def test_equal_logits_are_no_distance():
    found = relational_distance(TEACHER, TEACHER + 4, 2.0)
    assert found.inter.item() == pytest.approx(0, abs=1e-12) and found.intra.item() == pytest.approx(0, abs=1e-12)


# --- standardised logits ---------------------------------------------------------------------------------------------


def test_z_scores_by_hand():
    row = STUDENT[0].tolist()
    mean = sum(row) / 3
    deviation = math.sqrt(sum((value - mean) ** 2 for value in row) / 3)
    assert standardised(STUDENT)[0].tolist() == pytest.approx([(value - mean) / deviation for value in row])


def test_z_scores_do_not_see_scale_and_shift_and_equal_logits_have_none():
    logits = drawn(4, 6)
    assert torch.allclose(standardised(3 * logits - 2), standardised(logits))
    equal = torch.ones(1, 4, requires_grad=True)
    standardised(equal).sum().backward()
    assert standardised(equal).abs().max().item() == 0 and equal.grad is not None


# --- PLD -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_plackett_luce_by_hand(tau):
    found = plackett_luce(STUDENT, TEACHER, LABELS, tau)
    for index, (student, teacher, label) in enumerate(ROWS):
        ranking = [label, *sorted((c for c in range(3) if c != label), key=lambda c: -teacher[c])]
        weights = softmax(teacher, tau)
        expected = sum(
            weights[c] * (math.log(sum(math.exp(student[left]) for left in ranking[place:])) - student[c])
            for place, c in enumerate(ranking)
        )
        assert found[index].item() == pytest.approx(expected)


def test_with_one_class_there_is_nothing_to_choose():
    assert plackett_luce(drawn(3, 1), drawn(3, 1), torch.zeros(3, dtype=torch.int64), 1.0).tolist() == [0, 0, 0]


def test_with_a_certain_teacher_it_is_the_cross_entropy_with_the_label():
    labels = torch.tensor([1, 3, 0])
    certain = 1e4 * F.one_hot(labels, 4).double()
    assert torch.allclose(plackett_luce(STUDENT_4, certain, labels, 1.0), F.cross_entropy(STUDENT_4, labels, reduction="none"))


STUDENT_4 = drawn(3, 4, seed=5)


def test_it_does_not_see_a_shift_and_falls_as_the_student_takes_up_the_ranking():
    teacher, labels = drawn(3, 4), torch.tensor([1, 3, 0])
    loss = plackett_luce(STUDENT_4, teacher, labels, 1.0)
    assert torch.allclose(plackett_luce(STUDENT_4 + 11, teacher, labels, 1.0), loss)
    ranked = teacher + 20 * F.one_hot(labels, 4)
    ordered = 50 * ranked.argsort(-1).argsort(-1).double()
    assert (plackett_luce(ordered, teacher, labels, 1.0) < 1e-9).all() and (loss > 0).all()


# --- OFA -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 1.0, 1.5])
def test_the_adaptive_target_by_hand(gamma):
    found = adaptive_target(STUDENT, TEACHER, LABELS, gamma)
    for index, (student, teacher, label) in enumerate(ROWS):
        q, p = softmax(student), softmax(teacher)
        expected = -((1 + p[label]) ** gamma) * math.log(q[label]) - sum(p[c] * math.log(q[c]) for c in range(3) if c != label)
        assert found[index].item() == pytest.approx(expected)


def test_with_exponent_1_it_is_labels_and_teacher_together():
    both = F.cross_entropy(STUDENT, LABELS, reduction="none") - (TEACHER.softmax(-1) * STUDENT.log_softmax(-1)).sum(-1)
    assert torch.allclose(adaptive_target(STUDENT, TEACHER, LABELS, 1.0), both)


@pytest.mark.parametrize(
    "loss",
    [
        lambda student: decoupled_divergence(student, TEACHER, LABELS, 2.0).target.sum(),
        lambda student: decoupled_divergence(student, TEACHER, LABELS, 2.0).others.sum(),
        lambda student: sum(relational_distance(student, TEACHER, 2.0)),
        lambda student: (standardised(student) * TEACHER).sum(),
        lambda student: plackett_luce(student, TEACHER, LABELS, 2.0).sum(),
        lambda student: adaptive_target(student, TEACHER, LABELS, 1.5).sum(),
    ],
    ids=["dkd target", "dkd others", "dist", "standardised", "pld", "ofa"],
)
def test_gradients_are_those_of_small_steps(loss):
    assert torch.autograd.gradcheck(loss, STUDENT.clone().requires_grad_())
