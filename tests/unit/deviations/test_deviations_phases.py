"""Each compat switch that acts on how a phase trains or measures: both values, through the phase itself."""

from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from m2mkd.config import load
from m2mkd.config.recipe import Recipe
from m2mkd.data.pack import Split
from m2mkd.errors import InputError
from m2mkd.evaluation.accuracy import measure
from m2mkd.evaluation.ood import measure_masked
from m2mkd.evaluation.released import twice_counted, whole_batches
from m2mkd.models.weights import stage_state
from m2mkd.study.phase import CURVES
from m2mkd.training import optim
from m2mkd.training.phases import common, train_probe
from tests.tiny import TinyPack, by_phase, module, noise, smoke, student, vit
from tests.wiring import job_with, run_phase, wired

SWITCHES = load.switches()


@pytest.fixture(scope="module")
def runs():
    """Runs of the smoke study by phase, with the probe of a NAC beside that of a V-MoE."""
    probe = {"fewshot_cifar100_nac": {"students": ["nac_tiny_imagenet_scale_free/end_to_end"], "probe": {"data": "digits@16", "shots": 2}}}
    names = ["vmoe_base", "nac_tiny_imagenet_scale_free", "ood_tiny_imagenet_r", "fewshot_cifar100_vmoe", "fewshot_cifar100_nac"]
    recipes = {"probe_nac": {"epochs": 1, "precision": "fp32"}}
    return by_phase(smoke(*names, profiles=["released"], experiment_changes=probe, recipes=recipes))


def find(runs, phase, family=None, **fields):
    """The first run of a phase with those fields."""
    for run in runs[phase]:
        known = getattr(run.config, "student", getattr(run.config, "model", None))
        if family in (None, known.family) and all(getattr(run.config, name) == value for name, value in fields.items()):
            return run
    raise LookupError(phase)


def job(run, value, upstream=None, packs=None, work="work", **changes):
    """A job of that run, in which one switch has a value and all others are as corrected."""
    return job_with(run.config.model_copy(update={"compat": value, **changes}), upstream, packs=packs, work=work)


def both(switch):
    return {switch: SWITCHES[switch].released}, {switch: SWITCHES[switch].corrected}


def trained_task(monkeypatch, run, value, upstream):
    """The task that a phase would train, and what it publishes without a step."""
    (task,), (outcome,) = wired(monkeypatch, job(run, value, upstream))
    return task, outcome


def size_of(config):
    return 16 if config.family == "nac" else 32


def meta_state(run):
    return vit(getattr(run.config, "meta", None) or run.config.model, "meta").state_dict()


# --- training ---------------------------------------------------------------------------------------------------------


def test_position_decay(monkeypatch, runs):
    run = find(runs, "incubate_module", index=0)
    released, corrected = (trained_task(monkeypatch, run, value, {"meta": [meta_state(run)]})[0] for value in both("position_decay"))
    assert set(released.no_weight_decay) == set()
    assert set(corrected.no_weight_decay) == {"cls_token", "pos_embed"}
    assert set(corrected.no_weight_decay) <= {name for name, _ in corrected.trained.named_parameters()}


def test_weight_decay_filter_reaches_the_optimiser(monkeypatch, runs):
    run = find(runs, "train_student", "nac", init="scratch")
    decayed = []
    for value in both("weight_decay_filter"):
        task, _ = trained_task(monkeypatch, run, value, {})
        groups = optim.build_optimizer(task.trained, run.config.recipe, task.no_weight_decay, decay_all=task.decay_all).param_groups
        decayed.append(sum(parameter.numel() for group in groups if group["weight_decay"] for parameter in group["params"]))
    total = sum(parameter.numel() for parameter in task.trained.parameters())
    assert decayed[0] == total > decayed[1] > 0.7 * total


def test_schedule_offset_reaches_the_schedule(monkeypatch, runs):
    run = find(runs, "train_student", "vmoe", init="scratch", distillation=None)
    for value, late in zip(both("schedule_offset"), (True, False), strict=True):
        task, _ = trained_task(monkeypatch, run, value, {})
        assert task.late_schedule is late
    recipe = Recipe(epochs=5, batch_size=2, lr=1.0, lr_batch=None)
    rates = {late: optim.LearningRate(torch.optim.SGD([torch.zeros(1)], lr=1.0), recipe, 1, late) for late in (True, False)}
    released, corrected = ([rates[late].set(epoch, 0) for epoch in range(5)] for late in (True, False))
    assert released == [corrected[0], *corrected[:4]]


def test_scorer_transfer_reaches_the_student(monkeypatch, runs):
    run = find(runs, "train_student", "nac", init="modules")
    modules = [module(run.config.student, index, image_size=16) for index in range(4)]
    modules[-1]["tokenizer.confidence_scorer.weight"].fill_(7.0)
    jobs = [job(run, value, {"modules": modules}, module_data=run.config.data) for value in both("scorer_transfer")]
    _, outcomes = wired(monkeypatch, *jobs)
    loaded, fresh = (outcome.weights["output_tokenizer.confidence_scorer.weight"] for outcome in outcomes)
    assert torch.all(loaded == 7.0)
    assert not torch.any(fresh == 7.0)


def test_clip_in_fp32(monkeypatch):
    seen = []
    monkeypatch.setattr(
        common, "fit", lambda *given, **named: seen.append(next(x for x in (*given, *named.values()) if isinstance(x, Recipe)))
    )
    monkeypatch.setattr(common, "TrainStream", lambda *_: SimpleNamespace(close=lambda: None))
    split = Split(np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, np.int64))
    data = SimpleNamespace(name="data", classes=2, image_size=8)
    for value in both("clip_in_fp32"):
        for precision in ("fp32", "bf16"):
            job = job_with(SimpleNamespace(compat=value, phase="pretrain_meta"))
            recipe = Recipe(epochs=1, batch_size=2, lr=1e-3, clip_norm=1.0, precision=precision)
            common.train_on([job], [None], recipe, split, range(4), split, data)
    assert [recipe.clip_norm for recipe in seen] == [None, 1.0, 1.0, 1.0]


# --- few-shot probe ---------------------------------------------------------------------------------------------------


def probed(monkeypatch, tmp_path, run, value):
    """What a probe trains and measures on, and what it reports of two epochs."""
    config, seen = run.config, {}
    val = noise(12, config.data.image_size, seed=1)
    val = val.take(np.concatenate([np.arange(100), [110]]))  # few images of one class
    pack = TinyPack(noise(12, config.data.image_size), val)
    (tmp_path / CURVES).write_text('{"epoch": 1, "val_top1": 0.9}\n{"epoch": 2, "val_top1": 0.6}\n')

    def train_on(jobs, tasks, recipe, shots, indices, val, data, classes):
        seen.update(task=tasks[0], shots=shots, val=val)
        return [{"val_top1": 0.6}]

    monkeypatch.setattr(train_probe, "train_on", train_on)
    state = student(config.student, image_size=size_of(config.student))
    outcome = run_phase(job(run, value, {"student": [state]}, lambda data: pack, tmp_path))
    return SimpleNamespace(**seen, measured=outcome.metrics)


def test_probe_report(monkeypatch, tmp_path, runs):
    run = find(runs, "train_probe", "vmoe")
    released, corrected = (probed(monkeypatch, tmp_path, run, value).measured["val_top1"] for value in both("probe_report"))
    assert (released, corrected) == (0.9, 0.6)


def test_probe_backbone(monkeypatch, tmp_path, runs):
    run = find(runs, "train_probe", "vmoe")
    spreads = []
    for value in both("probe_backbone"):
        task = probed(monkeypatch, tmp_path, run, value).task
        task.network.train()  # as the loop does at the start of an epoch
        images, targets = torch.randn(16, 3, 32, 32), torch.full((16, run.config.way), 1 / run.config.way)
        losses = [task.loss(images, targets, torch.Generator()).item() for _ in range(4)]
        spreads.append(max(losses) - min(losses))
        assert [name for name, _ in task.trained.named_parameters()] == ["weight", "bias"]
    assert spreads[0] > 0
    assert spreads[1] == 0


def test_probe_val_split(monkeypatch, tmp_path, runs):
    run = find(runs, "train_probe", "vmoe")
    contained = []
    for value in both("probe_val_split"):
        seen = probed(monkeypatch, tmp_path, run, value)
        images = {image.tobytes() for image in seen.val.images}
        contained.append(sum(image.tobytes() in images for image in seen.shots.images) / len(seen.shots))
    assert contained == [1.0, 0.0]


def test_val_remainder_of_a_probe(monkeypatch, tmp_path, runs):
    run = find(runs, "train_probe", "vmoe")
    released, corrected = (probed(monkeypatch, tmp_path, run, value) for value in both("val_remainder"))
    batch = len(released.shots)
    assert len(corrected.val) % batch
    assert len(released.val) == len(corrected.val) // batch * batch


def test_accuracy_meter_of_a_probe(monkeypatch, tmp_path, runs):
    run = find(runs, "train_probe", "nac")
    released, corrected = (probed(monkeypatch, tmp_path, run, value) for value in both("accuracy_meter"))
    assert corrected.task.meter is None
    assert released.task.meter.keywords == {"batch": round(len(released.val) / 4), "processes": 4}


# --- measuring --------------------------------------------------------------------------------------------------------


def test_val_remainder():
    split = Split(np.arange(10, dtype=np.uint8)[:, None, None, None], np.arange(10), {"rendition": np.arange(10)})
    released, corrected = (common.measured_subset(SimpleNamespace(compat=value), split, 4) for value in both("val_remainder"))
    assert corrected is split
    np.testing.assert_array_equal(released.labels, range(8))
    np.testing.assert_array_equal(released.images.ravel(), range(8))
    np.testing.assert_array_equal(released.attributes["rendition"], range(8))
    assert len(whole_batches(Split(np.zeros((50_000, 1, 1, 3), np.uint8), np.zeros(50_000, np.int64)), 128)) == 49_920  # as released
    with pytest.raises(InputError, match="do not fill a batch of 11"):
        whole_batches(split, 11)


def test_accuracy_meter():
    assert twice_counted(torch.ones(192, dtype=torch.bool), 192, 1) == pytest.approx((192 + 0.01) / 193)
    assert twice_counted(torch.ones(24, dtype=torch.bool), 6, 4) == pytest.approx(0.8586, abs=1e-4)  # nac.md finding 15
    correct = torch.tensor([True, True, False, True, False])
    # Process 0 has batches (1, 0) and (0), process 1 has (1, 1): 60 % of five images, and fractions 1/2, 0 and 1.
    assert twice_counted(correct, 2, 2) == pytest.approx((300 + 1.5) / 100 / (5 + 3))
    assert twice_counted(correct, 100, 1) < correct.float().mean()


class Pack:
    """A data set of six images and three classes, of which a model knows two among four."""

    classes, image_size = ("b", "c", "x"), 4
    labels = np.array([0, 1, 0, 1, 2, 0])

    def split(self, name):
        return Split(np.full((6, 4, 4, 3), 128, np.uint8), self.labels)


def always(column):
    return lambda images: torch.nn.functional.one_hot(torch.full((len(images),), column), 4).float()


@pytest.mark.parametrize(("column", "released", "corrected"), [(0, 3 / 6, 3 / 5), (1, 2 / 6, 3 / 5), (2, 1 / 6, 2 / 5)])
def test_ood_mask(column, released, corrected):
    """The model's classes are a, b, c, d: the set's label 0 is its column 1; unmasked, column 0 is taken for label 0."""
    found = [
        measure_masked(always(column), Pack(), ("a", "b", "c", "d"), 4, torch.device("cpu"), masked=value["ood_mask"] == "applied")
        for value in both("ood_mask")
    ]
    assert found[0]["top1"] == pytest.approx(released)
    assert found[1]["top1"] == pytest.approx(corrected)
    assert [measured["left_out"] for measured in found] == [0, 1]


def evaluated(run, value):
    def packs(data):
        images = noise(side=data.image_size, classes=data.classes, of_each_class=2, seed=1)
        return replace(TinyPack(images.first(11)), classes=tuple(map(str, range(data.classes))))

    state = student(run.config.student, image_size=size_of(run.config.student))
    return run_phase(job(run, value, {"student": [state]}, packs, batch_size=32)).metrics


def test_evaluation_of_a_vmoe_follows_the_switches(runs):
    run = find(runs, "evaluate", "vmoe")
    released, corrected = (evaluated(run, value) for value in both("val_remainder"))
    assert (released["count"], corrected["count"]) == (8, 11)
    assert run.config.batch_size == 32, "profile released tells the batch that the student was trained with"


def test_evaluation_of_a_nac_follows_the_switches(runs):
    run = find(runs, "evaluate", "nac")
    assert run.config.ood
    released, corrected = (evaluated(run, value) for value in both("accuracy_meter"))
    assert corrected["top1"] > 0
    assert released["top1"] == pytest.approx(corrected["top1"] * (11 + 0.08) / (11 + 8), rel=0.01)  # eight processes of one or two images
    assert released["ood"].keys() == corrected["ood"].keys()


def test_ood_mask_reaches_the_evaluation(monkeypatch, runs):
    run = find(runs, "evaluate", "vmoe")
    module, seen = import_module("m2mkd.training.phases.evaluate"), []
    monkeypatch.setattr(module, "measure_masked", lambda *_, masked, **__: seen.append(masked) or {"top1": 0.0})
    for value in both("ood_mask"):
        evaluated(run, value)
    assert seen == [False, True]


def test_the_last_partial_batch_is_measured_by_default():
    batches = [SimpleNamespace(images=torch.zeros(n, 3, 2, 2), labels=torch.zeros(n, dtype=torch.int64)) for n in (4, 4, 1)]
    assert measure(always(0), batches, torch.device("cpu")).count == 9


def test_distillation_follows_the_switches(monkeypatch, runs):
    run = find(runs, "distill_module", "nac", index=0)
    teacher = stage_state(vit(run.config.teacher, "teacher").state_dict(), 0)
    upstream = {"meta": [meta_state(run)], "teacher_module": [teacher]}
    images, targets = torch.randn(2, 3, 32, 32), torch.full((2, 10), 0.1)
    losses, tasks = {}, {}
    for profile in ("released", "corrected"):
        value = {name: getattr(switch, profile) for name, switch in SWITCHES.items()}
        pair = wired(monkeypatch, *(job(run, value | changed, upstream) for changed in ({"kl_norm": SWITCHES["kl_norm"].corrected}, {})))[0]
        losses[profile] = [task.loss(images, targets, torch.Generator()).value.item() for task in pair]
        tasks[profile] = pair[-1]
    released, corrected = tasks["released"], tasks["corrected"]
    assert (released.decay_scalars, corrected.decay_scalars) == (True, False)
    assert (released.late_schedule, corrected.late_schedule) == (True, False)
    assert (len(released.trained.states), len(corrected.trained.states)) == (run.config.recipe.batch_size, 1)
    assert torch.all(released.trained.read_in.ffn.layer_scale.gamma == 1e-6)
    assert losses["released"][0] > losses["released"][1], "the term weighs more when it is divided by the batch alone"
    assert losses["corrected"][0] == losses["corrected"][1]
