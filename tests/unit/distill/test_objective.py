"""Objectives as sums of terms: what today's loss is among them, what the terms see, and what they train of their own."""

import logging
import re

import pytest
import torch
from torch import nn

from m2mkd.config.objective import Objective, StageTokens, StageWidths
from m2mkd.config.recipe import Distillation
from m2mkd.data.stream import mixup_target
from m2mkd.distill.features import Tap, projectors, token_error
from m2mkd.distill.losses import distillation_loss, soft_cross_entropy
from m2mkd.distill.mixing import mixed_labels
from m2mkd.distill.objective import OURS, TaughtLoss
from m2mkd.errors import InputError
from m2mkd.plugins import BUILT_IN
from tests.tiny import by_phase, module, smoke, vit
from tests.wiring import job_with, run_phase, wired

LOGITS = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randn(8, 5, generator=torch.Generator().manual_seed(1)).softmax(-1)


def objective(*terms: dict) -> Objective:
    return Objective.model_validate({"terms": terms})


def taught(*terms: dict, student=(), teacher=(), smoothing=0.0, kl_norm="batch") -> TaughtLoss:
    return TaughtLoss(objective(*terms), student, teacher, smoothing=smoothing, kl_norm=kl_norm)


def test_every_term_of_ours_is_registered_and_counts_as_code_of_what_trains_by_it():
    values = {f"{cls.__module__}:{cls.__name__}" for cls in OURS}
    assert values == set(BUILT_IN["m2mkd.objectives"].values())


# --- sums ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kl_norm", ["batch", "numel"])
@pytest.mark.parametrize(
    ("loss", "term"),
    [
        (Distillation(kind="soft", alpha=0.25, tau=4.0), {"kind": "soft", "weight": 0.25, "temperature": 4}),
        (Distillation(kind="hard", alpha=0.25), {"kind": "hard", "weight": 0.25}),
    ],
    ids=["soft", "hard"],
)
def test_todays_losses_are_sums_of_two_terms_to_the_bit(loss, term, kl_norm):
    student = LOGITS[0].clone().requires_grad_()
    old = distillation_loss(student, TARGETS, LOGITS[1], loss, kl_norm)
    new = taught({"kind": "labels", "weight": 0.75}, term, kl_norm=kl_norm)(student, TARGETS, LOGITS[1])
    assert torch.equal(old.value, new.value)
    assert torch.equal(*(torch.autograd.grad(each.value, student)[0] for each in (old, new)))


def test_every_term_is_a_part_before_it_is_weighted_and_the_labels_in_any_case():
    loss = taught({"kind": "dkd", "weight": 2}, {"kind": "pld"}, {"kind": "dkd", "beta": 1, "weight": 3})(LOGITS[0], TARGETS, LOGITS[1])
    assert list(loss.parts) == ["cross_entropy", "dkd", "pld", "dkd.2"]
    parts = loss.parts
    assert loss.value.item() == pytest.approx((2 * parts["dkd"] + parts["pld"] + 3 * parts["dkd.2"]).item())
    assert torch.equal(parts["cross_entropy"], soft_cross_entropy(LOGITS[0], TARGETS))


def test_half_precision_is_raised_for_every_term_on_logits():
    kinds = [{"kind": kind} for kind in ("soft", "hard", "standardised", "dkd", "dist", "pld", "ofa")]
    half, whole = (taught(*kinds)(logits[0], TARGETS, logits[1]) for logits in (LOGITS.bfloat16(), LOGITS.bfloat16().float()))
    assert half.value.dtype == torch.float32 and torch.equal(half.value, whole.value)


def test_timms_distillation_gives_the_same_loss_and_gradients():
    from timm.task.distillation import LogitDistillationTask

    logging.getLogger("timm").setLevel(logging.WARNING)

    class Linear(nn.Linear):
        num_classes, in_chans = 5, 3
        pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}

        def forward(self, x):
            return super().forward(x.flatten(1))

    torch.manual_seed(0)
    student, teacher = Linear(12, 5), Linear(12, 5)
    teacher.pretrained_cfg = student.pretrained_cfg
    images, labels = torch.randn(8, 3, 2, 2), torch.arange(8) % 5
    task = LogitDistillationTask(
        student, teacher, nn.CrossEntropyLoss(), distill_loss_weight=0.7, task_loss_weight=0.3, temperature=4.0, verbose=False
    )
    terms = taught({"kind": "labels", "weight": 0.3}, {"kind": "soft", "weight": 0.7, "temperature": 4})
    ours = terms(student(images), nn.functional.one_hot(labels, 5).float(), teacher(images).detach())
    theirs = task(images, labels)
    assert ours.value.item() == pytest.approx(theirs["loss"].item(), abs=1e-6)
    assert ours.parts["divergence"].item() == pytest.approx(theirs["kd_loss"].item(), abs=1e-6)
    gradients = [torch.autograd.grad(loss, list(student.parameters())) for loss in (ours.value, theirs["loss"])]
    assert max((a - b).abs().max().item() for a, b in zip(*gradients, strict=True)) <= 1e-6


# --- labels before mixing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("classes", [2, 5])
def test_labels_and_shares_are_read_from_mixed_targets(smoothing, classes):
    labels = torch.arange(8) % classes
    partners = labels.flip(0)
    for share in (1.0, 0.8, 0.3):
        found = mixed_labels(mixup_target(labels, classes, share, smoothing), smoothing)
        differ = labels != partners
        larger, smaller = (labels, partners) if share >= 0.5 else (partners, labels)
        assert torch.equal(found.first, torch.where(differ, larger, labels))
        assert torch.allclose(found.share, torch.where(differ, torch.tensor(max(share, 1 - share)), torch.tensor(1.0)), atol=1e-6)
        assert share == 1 or torch.equal(found.second[differ], smaller[differ])


def test_a_term_on_labels_is_mixed_as_the_images_are():
    labels = torch.arange(8) % 5
    mixed = taught({"kind": "pld"}, smoothing=0.1)(LOGITS[0], mixup_target(labels, 5, 0.7, 0.1), LOGITS[1]).value
    alone = [
        taught({"kind": "pld"}, smoothing=0.1)(LOGITS[0], mixup_target(some, 5, 1.0, 0.1), LOGITS[1]).value
        for some in (labels, labels.flip(0))
    ]
    assert mixed.item() == pytest.approx((0.7 * alone[0] + 0.3 * alone[1]).item(), rel=1e-5)


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_token_error_by_hand():
    student, teacher = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]]), torch.tensor([[[0.0, 2.0], [2.0, 1.0]]])
    assert token_error((StageTokens(student, teacher),), None).item() == (1 + 4) / 4
    single = StageTokens(student[:, :1], teacher)
    assert token_error((single, StageTokens(student, teacher)), None).item() == pytest.approx((0.5 + 1.25) / 2)


def test_a_projector_is_there_where_widths_differ_alone():
    assert projectors((StageWidths(4, 4),)) is None
    own = projectors((StageWidths(4, 4), StageWidths(2, 3)))
    assert [tuple(parameter.shape) for parameter in own.parameters()] == [(3, 2), (3,)]
    student, teacher = torch.randn(2, 5, 2), torch.randn(2, 5, 3)
    tokens = (StageTokens(torch.ones(2, 5, 4), torch.ones(2, 5, 4)), StageTokens(student, teacher))
    expected = (own["1"](student) - teacher).square().mean() / 2
    assert token_error(tokens, own).item() == pytest.approx(expected.item())


def test_another_number_of_tokens_is_one_line():
    with pytest.raises(InputError, match="stage 0 of the student has 3 tokens, the teacher's 4"):
        token_error((StageTokens(torch.ones(1, 3, 2), torch.ones(1, 4, 2)),), None)


def test_a_tap_sees_tokens_before_norm_and_head_and_changes_nothing():
    config = by_phase(smoke())["distill_module"][0].config
    network = vit(config.teacher, "any", image_size=16)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        before = network(images)
        seen = [Tap(stage) for stage in network.stages]
        assert torch.equal(network(images), before)
        x = images
        for stage, tap in zip(network.stages, seen, strict=True):
            tokens = stage.tokens(x)
            assert torch.equal(tap.take(), tokens) and tap.width == tokens.shape[-1]
            x = tokens
    with pytest.raises(ValueError, match="has not run"):
        seen[0].take()


# --- in the phases ---------------------------------------------------------------------------------------------------

FEATURES = {"terms": [{"kind": "labels"}, {"kind": "features", "weight": 0.5}]}


def modules_of(family: str, given: dict = FEATURES) -> list:
    name = {"vmoe": "vmoe_base", "nac": "nac_tiny_imagenet_scale_free"}[family]
    study = smoke(f"{name}/m2mkd", experiment_changes={name: {"distill": {"objective": given}}})
    return by_phase(study)["distill_module"]


def job_of(run, tmp_path):
    config = run.config
    side = config.data.image_size
    meta, teacher = (vit(each, name, image_size=side) for each, name in ((config.meta, "meta"), (config.teacher, "teacher")))
    return job_with(config, {"meta": [meta.state_dict()], "teacher_module": [teacher.stages[config.index].state_dict()]}, work=tmp_path)


@pytest.mark.parametrize("family", ["vmoe", "nac"])
def test_every_module_of_a_student_can_learn_from_the_tokens_of_the_teachers(family, tmp_path, monkeypatch):
    for run in modules_of(family):
        job = job_of(run, tmp_path)
        (task,), (outcome,) = wired(monkeypatch, job)
        side = run.config.data.image_size
        images, targets = torch.randn(4, 3, side, side), torch.eye(10)[:4]
        task.network.train()
        loss = task.loss(images, targets, torch.Generator())
        assert {"cross_entropy", "features"} <= set(loss.parts) and loss.parts["features"].item() > 0
        loss.value.backward()
        own = [name for name, parameter in task.trained.named_parameters() if name.startswith("loss.") and parameter.grad is not None]
        assert bool(own) == (run.config.index == run.config.meta.modules - 1), "the last one alone keeps its own width"
        expected = module(run.config.student, run.config.index, image_size=side, stitch_width=run.config.meta.width)
        assert outcome.weights.keys() == expected.keys()


def test_a_projector_trains_resumes_and_is_not_published(tmp_path):
    run = modules_of("vmoe")[-1]
    short = run.config.model_copy(
        update={"recipe": run.config.recipe.model_copy(update={"epochs": 1, "batch_size": 16, "warmup_epochs": 0})}
    )
    job = job_of(type(run)(short, run.upstream), tmp_path)
    weights = run_phase(job).weights
    state = torch.load(next(tmp_path.glob("checkpoint*.pt")), weights_only=True)
    assert any(name.startswith("loss.terms.") for name in state["module"]) and not any("terms" in name for name in weights)
    again = run_phase(job).weights
    assert all(torch.equal(again[name], weights[name]) for name in weights)


def test_a_whole_student_learns_from_the_tokens_of_every_stage(tmp_path, monkeypatch):
    changes = {"vmoe_base": {"variants": {"pure_kd": {"distillation": None, "objective": FEATURES}}}}
    (run,) = by_phase(smoke("vmoe_base/pure_kd", experiment_changes=changes))["train_student"]
    assert run.what.endswith("pure KD") and run.config.distillation is None
    side = run.config.data.image_size
    job = job_with(run.config, {"teacher": [vit(run.config.teacher, "teacher", image_size=side).state_dict()]}, work=tmp_path)
    (task,), (outcome,) = wired(monkeypatch, job)
    task.network.train()
    loss = task.loss(torch.randn(4, 3, side, side), torch.eye(10)[:4], torch.Generator())
    loss.value.backward()
    own = [name for name, parameter in task.trained.named_parameters() if name.startswith("loss.")]
    assert len(own) == 2 * run.config.student.modules and not any("loss." in name for name in outcome.weights)
    assert "network.stages.0.cls_token" in task.no_weight_decay


def test_a_whole_nac_has_no_tokens_of_stages_which_is_one_line_before_any_job():
    changes = {"nac_tiny_imagenet_scale_free": {"variants": {"end_to_end": {"objective": FEATURES}}}}
    with pytest.raises(InputError, match=r"variants\.end_to_end\.objective: features needs tokens of stages"):
        smoke("nac_tiny_imagenet_scale_free/end_to_end", experiment_changes=changes)


def test_an_objective_without_a_teacher_asks_for_none():
    runs = modules_of("vmoe", {"terms": [{"kind": "labels"}]})
    assert all("teacher_module" not in run.upstream and "kl_norm" not in run.config.compat for run in runs)
    runs = modules_of("vmoe", {"terms": [{"kind": "soft"}]})
    assert all("teacher_module" in run.upstream and "kl_norm" in run.config.compat for run in runs)


# --- what people write -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objective": {"terms": [{"kind": "dkb"}]}},
            r"objective\.terms\.0: there is no 'dkb' .*did you mean 'dkd'\? There are dist, dkd,",
        ),
        (
            {"objective": {"terms": [{"kind": "labels"}, {"kind": "dkd", "temprature": 4}]}},
            r"terms\.1: temprature .* did you mean 'temperature'",
        ),
        (
            {"objective": {"terms": [{"kind": "dkd", "alpha": -1}]}},
            r"terms\.0\.alpha: Input should be greater than or equal to 0 \(it is -1\)",
        ),
        ({"objective": {"terms": [{"weight": 1}]}}, r"terms\.0: a term is a mapping with a kind; there are labels, soft"),
        ({"objective": {"terms": []}}, r"objective\.terms: Tuple should have at least 1 item"),
        ({"objective": {"terms": [{"kind": "soft"}]}, "loss": {"tau": 4}}, r"distill: loss and objective are given; remove loss"),
    ],
)
def test_a_wrong_objective_is_one_line_with_file_field_and_fix(changes, message):
    with pytest.raises(InputError, match=r"vmoe_base\.yaml: (student\.)?distill.*") as caught:
        smoke("vmoe_base/m2mkd", experiment_changes={"vmoe_base": {"distill": changes}})
    assert re.search(message, str(caught.value)), caught.value


def test_a_variant_has_one_of_distillation_and_objective():
    changes = {"vmoe_base": {"variants": {"pure_kd": {"objective": {"terms": [{"kind": "soft"}]}}}}}
    with pytest.raises(InputError, match="distillation and objective are given; remove distillation"):
        smoke("vmoe_base/pure_kd", experiment_changes=changes)


def test_the_ablation_compares_every_term_of_ours():
    rows = {row.variant: row for row in smoke("ablation_objectives").rows}
    study = smoke("ablation_objectives")
    modules = [run.config for run in study.runs.values() if run.phase == "distill_module"]
    kinds = {term.kind for config in modules if config.objective for term in config.objective.terms}
    assert kinds == set(BUILT_IN["m2mkd.objectives"]) and len(rows) == len({row.measured for row in rows.values()}) == 10
    assert set(smoke("vmoe_base/m2mkd").runs) < set(study.runs), "the first setting is the study's own"
