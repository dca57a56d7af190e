"""Each compat switch that acts on how a phase trains or measures: both values, through the phase itself."""

from importlib import import_module
from pathlib import Path
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
from m2mkd.models.build import build_module, build_student
from m2mkd.models.vit import StagedViT
from m2mkd.seeds import forked_rng
from m2mkd.study.phase import CURVES
from m2mkd.study.plan import build_study
from m2mkd.training import optim
from m2mkd.training.job import Job
from m2mkd.training.machine import Machine
from m2mkd.training.phases import common

SWITCHES = load.switches()
MACHINE = Machine(torch.device("cpu"))


@pytest.fixture(scope="module")
def runs():
    """Runs of the smoke study by phase, with the probe of a NAC beside that of a V-MoE."""
    probe = {"fewshot_cifar100_nac": {"students": ["nac_tiny_imagenet_scale_free/end_to_end"], "probe": {"data": "digits@16", "shots": 2}}}
    names = ["vmoe_base", "nac_tiny_imagenet_scale_free", "ood_tiny_imagenet_r", "fewshot_cifar100_vmoe", "fewshot_cifar100_nac"]
    overrides = {"profiles": ["released"], "experiment_changes": probe, "recipes": {"probe_nac": {"epochs": 1, "precision": "fp32"}}}
    planned = build_study(load.settings({"scale": "smoke", "experiments": names, "overrides": overrides}))
    return {phase: [run for run in planned.runs.values() if run.phase == phase] for phase in {run.phase for run in planned.runs.values()}}


def find(runs, phase, family=None, **fields):
    """The first run of a phase with those fields."""
    for run in runs[phase]:
        known = getattr(run.config, "student", getattr(run.config, "model", None))
        if family in (None, known.family) and all(getattr(run.config, name) == value for name, value in fields.items()):
            return run
    raise LookupError(phase)


def job(run, value, upstream=(), work="work", **changes):
    """A job of that run, in which one switch has a value and all others are as corrected."""
    config = run.config.model_copy(update={"compat": value, **changes})
    folders = {role: tuple(Path(f"{role}{place}") for place in range(count)) for role, count in dict(upstream).items()}
    return Job(config, 0, folders, Path(work), lambda: MACHINE, "test")


def both(switch):
    return {switch: SWITCHES[switch].released}, {switch: SWITCHES[switch].corrected}


def trained_task(monkeypatch, run, value, upstream):
    """The task that a phase would train."""
    module, seen = import_module(f"m2mkd.training.phases.{run.phase}"), {}
    states = {f"{role}{place}": state for role, given in upstream.items() for place, state in enumerate(given)}
    monkeypatch.setattr(module, "load_weights", lambda folder: states[folder.name], raising=False)
    monkeypatch.setattr(module, "train", lambda job, task, data, recipe: seen.update(task=task) or {})
    outcome = module.run(job(run, value, {role: len(given) for role, given in upstream.items()}))
    return seen["task"], outcome


def weights(config, index=None):
    """Initial weights of a student, or of one of its modules."""
    sizes = {"image_size": 16 if config.family == "nac" else 32, "num_classes": 10, "compat": {}}
    with forked_rng("weights"):
        if index is None:
            return build_student(config, prior=None, stitch_width=None, **sizes).state_dict()
        return build_module(config, index, stitch_width=64, drop_path=0.0, state_seed=0, **sizes).state_dict()


def meta_state(run):
    config = getattr(run.config, "meta", None) or run.config.model
    with forked_rng("meta"):
        return StagedViT(config, image_size=32, num_classes=10).state_dict()


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
    modules = [weights(run.config.student, index) for index in range(4)]
    modules[-1]["tokenizer.confidence_scorer.weight"].fill_(7.0)
    module = import_module("m2mkd.training.phases.train_student")
    monkeypatch.setattr(module, "load_modules", lambda folders, indices: dict(enumerate(modules)))
    monkeypatch.setattr(module, "train", lambda job, task, data, recipe: {})
    loaded, fresh = (
        module.run(job(run, value, {"modules": 4}, module_data=run.config.data)).weights["output_tokenizer.confidence_scorer.weight"]
        for value in both("scorer_transfer")
    )
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
            config = SimpleNamespace(compat=value, phase="pretrain_meta")
            machine = Job(config, 0, {}, Path("work"), lambda: MACHINE, "test")
            recipe = Recipe(epochs=1, batch_size=2, lr=1e-3, clip_norm=1.0, precision=precision)
            common.train_on([machine], [None], recipe, split, range(4), split, data)
    assert [recipe.clip_norm for recipe in seen] == [None, 1.0, 1.0, 1.0]


# --- few-shot probe ---------------------------------------------------------------------------------------------------


def probed(monkeypatch, tmp_path, run, value):
    """What a probe trains and measures on, and what it reports of two epochs."""
    module, seen = import_module("m2mkd.training.phases.train_probe"), {}
    config = run.config
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 12)
    splits = {
        name: Split(rng.integers(0, 255, (120, config.data.image_size, config.data.image_size, 3), np.uint8), labels)
        for name in ("train", "val")
    }
    splits["val"] = splits["val"].take(np.concatenate([np.arange(100), [110]]))  # few images of the last class
    monkeypatch.setattr(module, "load_weights", lambda folder: weights(config.student))
    monkeypatch.setattr(module, "open_data", lambda data: SimpleNamespace(split=splits.__getitem__, classes=tuple(range(10))))
    (tmp_path / CURVES).write_text('{"epoch": 1, "val_top1": 0.9}\n{"epoch": 2, "val_top1": 0.6}\n')

    def train_on(jobs, tasks, recipe, shots, indices, val, data, classes):
        seen.update(task=tasks[0], shots=shots, val=val)
        return [{"val_top1": 0.6}]

    monkeypatch.setattr(module, "train_on", train_on)
    outcome = module.run(job(run, value, {"student": 1}, tmp_path))
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
    released, corrected = (common.measured_part(SimpleNamespace(compat=value), split, 4) for value in both("val_remainder"))
    assert corrected is split
    np.testing.assert_array_equal(released.labels, range(8))
    np.testing.assert_array_equal(released.images.ravel(), range(8))
    np.testing.assert_array_equal(released.attributes["rendition"], range(8))
    assert len(whole_batches(Split(np.zeros((50_000, 1, 1, 3), np.uint8), np.zeros(50_000, np.int64)), 128)) == 49_920  # as released
    with pytest.raises(InputError, match="fill no batch of 11"):
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


def evaluated(monkeypatch, run, value):
    module = import_module(f"m2mkd.training.phases.{run.phase}")
    rng = np.random.default_rng(1)
    size = run.config.data.image_size

    def open_data(data):
        split = Split(rng.integers(0, 255, (11, size, size, 3), np.uint8), np.arange(11) % data.classes)
        return SimpleNamespace(split=lambda name: split, classes=tuple(map(str, range(data.classes))), image_size=size)

    monkeypatch.setattr(module, "open_data", open_data)
    monkeypatch.setattr(module, "load_weights", lambda folder: weights(run.config.student))
    return module.run(job(run, value, {"student": 1}, batch_size=32)).metrics


def test_evaluation_of_a_vmoe_follows_the_switches(monkeypatch, runs):
    run = find(runs, "evaluate", "vmoe")
    released, corrected = (evaluated(monkeypatch, run, value) for value in both("val_remainder"))
    assert (released["count"], corrected["count"]) == (8, 11)
    assert run.config.batch_size == 32, "profile released tells the batch that the student was trained with"


def test_evaluation_of_a_nac_follows_the_switches(monkeypatch, runs):
    run = find(runs, "evaluate", "nac")
    assert run.config.ood
    released, corrected = (evaluated(monkeypatch, run, value) for value in both("accuracy_meter"))
    assert corrected["top1"] > 0
    assert released["top1"] == pytest.approx(corrected["top1"] * (11 + 0.08) / (11 + 8), rel=0.01)  # eight processes of one or two images
    assert released["ood"].keys() == corrected["ood"].keys()


def test_ood_mask_reaches_the_evaluation(monkeypatch, runs):
    run = find(runs, "evaluate", "vmoe")
    module, seen = import_module("m2mkd.training.phases.evaluate"), []
    monkeypatch.setattr(module, "measure_masked", lambda *_, masked, **__: seen.append(masked) or {"top1": 0.0})
    for value in both("ood_mask"):
        evaluated(monkeypatch, run, value)
    assert seen == [False, True]


def test_the_last_partial_batch_is_measured_by_default():
    batches = [SimpleNamespace(images=torch.zeros(n, 3, 2, 2), labels=torch.zeros(n, dtype=torch.int64)) for n in (4, 4, 1)]
    assert measure(always(0), batches, torch.device("cpu")).count == 9


def test_distillation_follows_the_switches(monkeypatch, runs):
    module, seen = import_module("m2mkd.training.phases.distill_module"), []
    run = find(runs, "distill_module", "nac", index=0)
    teacher = {name.removeprefix("stages.0."): tensor for name, tensor in whole_teacher(run).items() if name.startswith("stages.0.")}
    states = {"meta0": meta_state(run), "teacher_module0": teacher}
    monkeypatch.setattr(module, "load_weights", lambda folder: states[folder.name])
    monkeypatch.setattr(module, "train_together", lambda jobs, tasks, data, recipe: seen.extend(tasks) or [{}])
    images, targets = torch.randn(2, 3, 32, 32), torch.full((2, 10), 0.1)
    losses = {}
    for profile in ("released", "corrected"):
        value = {name: getattr(switch, profile) for name, switch in SWITCHES.items()}
        module.run(job(run, value, {"meta": 1, "teacher_module": 1}))
        losses[profile] = [
            seen[-1].loss(images, targets, torch.Generator()).item()
            for switch in ("kl_norm", None)
            if module.run(job(run, value | ({switch: SWITCHES[switch].corrected} if switch else {}), {"meta": 1, "teacher_module": 1}))
        ]
    released, corrected = seen[0], seen[3]
    assert (released.decay_scalars, corrected.decay_scalars) == (True, False)
    assert (released.late_schedule, corrected.late_schedule) == (True, False)
    assert (len(released.trained.states), len(corrected.trained.states)) == (run.config.recipe.batch_size, 1)
    assert torch.all(released.trained.read_in.ffn.layer_scale.gamma == 1e-6)
    assert losses["released"][0] > losses["released"][1], "the term weighs more when it is divided by the batch alone"
    assert losses["corrected"][0] == losses["corrected"][1]


def whole_teacher(run):
    with forked_rng("teacher"):
        return StagedViT(run.config.teacher, image_size=32, num_classes=10).state_dict()
