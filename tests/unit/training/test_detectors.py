"""Training and measuring a detector: schedule, groups of the optimiser, starts, division of a batch, and what is published."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from m2mkd.config import load
from m2mkd.config.detection_recipe import DetectionRecipe
from m2mkd.data.detection_stream import Target
from m2mkd.detection.detector import build_detector
from m2mkd.detection.layer_decay import rate_factors, spared_by_decay
from m2mkd.errors import InputError
from m2mkd.families.build import build_student
from m2mkd.ranks import Ranks
from m2mkd.seeds import forked_rng
from m2mkd.study.phases import TrainDetector
from m2mkd.training.machine import Machine, accumulation
from m2mkd.training.optim import LearningRate, build_optimizer
from m2mkd.training.phases import detecting
from tests import forked
from tests.conftest import ROOT
from tests.scenes import VAL, detection_study, detector_run, evaluation_run, write_scenes
from tests.wiring import CPU, job_with, run_phase

CLIPPED = {"detection_recipes": {"detection": {"clip_norm": 1.0}}}


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes") / "set")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pack):
    """Outcome of a training, and its work folder."""
    work = tmp_path_factory.mktemp("trained")
    config = detector_run(detection_study()).config
    return run_phase(job_with(config, packs=lambda _: pack, work=work)), work


# --- schedule and optimiser -------------------------------------------------------------------------------------------


def published(name: str) -> DetectionRecipe:
    return load.catalogue(load.scale("paper", {})).detection_recipes[name]


def test_the_published_schedule_is_that_of_the_recording(fixtures_dir):
    recorded = json.loads((fixtures_dir / "detection" / "optim.json").read_text())
    recipe = published("detection_released")
    assert (recipe.lr, recipe.weight_decay, recipe.updates) == (recorded["base_lr"], recorded["weight_decay"], recorded["max_iter"])
    values = dict(map(tuple, recorded["lr_multiplier"]))
    assert {update: recipe.rate_factor(update, 1e-6 * recipe.updates) for update in values} == pytest.approx(values)


@pytest.mark.parametrize(
    ("update", "slack", "factor"),
    [
        (0, 0, 0.001),
        (1999, 0, 0.001 + 0.999 * 0.9995),
        (1999, 1.475, 1),
        (2000, 0, 1),
        (1311111, 0, 1),
        (1311112, 0, 0.1),
        (1420368, 0, 0.01),
    ],
)
def test_without_slack_each_step_is_an_update_later(update, slack, factor):
    assert published("detection_released").rate_factor(update, slack) == pytest.approx(factor)


def test_the_schedule_as_corrected_is_vitdets():
    recipe = published("detection")
    assert recipe.passes(117_266 // recipe.batch_size) == 101
    assert [recipe.rate_factor(update) for update in (0, 125, 250, 163_888, 163_889, 177_546)] == pytest.approx(
        [0.001, 0.5005, 1, 1, 0.1, 0.01]
    )


def test_rates_fall_from_layer_to_layer_at_every_update():
    recipe = DetectionRecipe(updates=10, batch_size=2, lr=0.1, warmup_updates=2, milestones=(4,), layer_decay=0.5, weight_decay=0.3)
    config = detector_run(detection_study()).config
    detector = build_detector(config.model, num_classes=10, compat={})
    factors = rate_factors(detector, recipe.layer_decay)
    optimizer = build_optimizer(
        detector, recipe, spared_by_decay(detector), decay_vectors=True, rate_factors=factors
    )  # fmt: skip
    rate = LearningRate(optimizer, recipe, 5)
    names = {id(parameter): name for name, parameter in detector.named_parameters()}
    for update, expected in ((0, 0.0001), (1, 0.05005), (2, 0.1), (4, 0.01), (9, 0.01)):
        assert rate.set(*divmod(update, 5)) == pytest.approx(expected)
        found = {names[id(p)]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
        assert found.keys() == factors.keys()
        for name, (lr, decay) in found.items():
            assert lr == pytest.approx(expected * factors[name])
            assert decay == (0.0 if name in spared_by_decay(detector) else 0.3)
    assert len({lr for lr, _ in found.values()}) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"milestones": (8, 6)}, "milestones are not in ascending order"),
        ({"milestones": (10,)}, "10 is not below the 10 updates"),
        ({"warmup_updates": 10}, "warmup_updates 10 is not below the 10 updates"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        load.checked(DetectionRecipe, {"updates": 10, "batch_size": 2, "lr": 0.1} | changes, "recipe")


# --- starts -----------------------------------------------------------------------------------------------------------


def test_a_student_gives_the_backbone_and_all_else_starts_as_from_scratch(monkeypatch, pack):
    monkeypatch.setattr("m2mkd.training.phases.train_detector.fit", lambda *_: [{}])
    study = detection_study("m2mkd")
    run = detector_run(study)
    (parent,) = run.upstream["student"]
    assert study.runs[parent].config.init == "modules"
    with forked_rng("student"):
        student = build_student(run.config.model.backbone, image_size=32, num_classes=10, prior=None, stitch_width=None, compat={})
    started = run_phase(job_with(run.config, {"student": [student.state_dict()]}, packs=lambda _: pack)).weights
    scratch = run_phase(job_with(detector_run(detection_study()).config, packs=lambda _: pack)).weights
    taken = {name for name, tensor in started.items() if not torch.equal(tensor, scratch[name])}
    given = {f"backbone.{name}" for name in student.state_dict()}
    assert taken <= given and len(taken) == 23
    assert all(torch.equal(started[name], student.state_dict()[name.removeprefix("backbone.")]) for name in given & started.keys())
    # What a V-MoE has none of: tables of relative positions in the two blocks and more; the rest is the heads'.
    left = {name for name in started.keys() - given if name.startswith("backbone.")}
    assert {name.rpartition(".")[2] for name in left} == {"rel_pos_h", "rel_pos_w"}


def test_as_released_no_variant_loads_anything():
    """Defect D1: the rows of all variants are one and the same training."""
    changes = {"profiles": ["released"]}
    runs = {variant: detector_run(detection_study(variant, **changes)) for variant in ("random", "end_to_end", "m2mkd")}
    assert len({run.id for run in runs.values()}) == 1
    run = runs["m2mkd"]
    assert run.config.init == "scratch" and run.upstream == {}
    assert run.config.compat == {
        "channel_order": "bgr",
        "detection_attention": "global",
        "detection_init": "none",
        "detection_input": "corner",
        "expert_init": "fastmoe",
        "layer_decay": "stage",
        "schedule_slack": "fvcore",
        "unreachable": "positive",
    }
    assert run.config.recipe.input.augmentation.kind == "shortest_edge"


# --- training and measuring -------------------------------------------------------------------------------------------


def test_a_detector_is_trained_to_the_last_update_and_measured_after_each_pass(trained):
    outcome, work = trained
    lines = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 6), (2, 10)]
    assert all(line["loss"] > 0 for line in lines)
    assert lines[-1]["lr"] == pytest.approx(2e-5)
    assert outcome.metrics.keys() == {"loss", *(f"val_{kind}_{name}" for kind in ("boxes", "masks") for name in ("AP", "AP50", "AP75"))}
    assert outcome.metrics["loss"] == lines[-1]["loss"]


def test_what_is_measured_is_what_the_training_saw_at_its_end(trained, pack):
    outcome, _ = trained
    config = evaluation_run(detection_study()).config
    metrics = run_phase(job_with(config, {"detector": [outcome.weights]}, packs=lambda _: pack)).metrics
    for kind in ("boxes", "masks"):
        assert metrics[kind]["AP50"] == outcome.metrics[f"val_{kind}_AP50"]
        assert len(metrics["per_class"][kind]) == 10
        assert [len(curve) for curve in metrics["precision_recall"][kind].values()] == [101, 101]
    assert metrics["count"] == VAL and [one["image"] for one in metrics["examples"]] == list(range(VAL))
    assert [layer["name"] for layer in metrics["diagnostics"]["layers"]] == [f"backbone.stages.{index}.blocks.0.mlp" for index in range(4)]
    measured = list(config.measurements(json.loads(json.dumps(metrics))))
    assert {one.metric for one in measured} >= {"boxes_AP", "masks_AP", "boxes_AR100"} and all(one.count == VAL for one in measured)


def test_a_detector_that_knows_the_truth_has_an_average_precision_of_one(pack, monkeypatch):
    """The whole way of a detection: from the square that the network sees to the annotated image, and to COCO's code."""
    from m2mkd.data.detection_pack import detection_split
    from m2mkd.detection.detections import Detections

    split = detection_split(pack, "val")
    asked = iter(range(VAL))

    class Oracle(torch.nn.Module):
        def predict(self, images):
            found = []
            for _ in images:
                sample = split.sample(next(asked))
                boxes = torch.from_numpy(sample.boxes).float()
                masks = [torch.from_numpy(mask).float() for mask in sample.segmentations]
                crops = [mask[int(y0) : int(y1), int(x0) : int(x1)] for mask, (x0, y0, x1, y1) in zip(masks, boxes.tolist(), strict=True)]
                fine = [torch.nn.functional.interpolate(crop[None, None], (112, 112))[0, 0] for crop in crops]
                found.append(Detections(boxes, torch.ones(len(boxes)), torch.from_numpy(sample.classes), torch.stack(fine)))
            return found

        def load_state_dict(self, *_, **__):
            return [], []

    monkeypatch.setattr("m2mkd.training.phases.evaluate_detector.detector_of", lambda _: Oracle())
    monkeypatch.setattr("m2mkd.training.phases.evaluate_detector.load_strictly", lambda *_: None)
    config = evaluation_run(detection_study()).config
    metrics = run_phase(job_with(config, {"detector": [{}]}, packs=lambda _: pack)).metrics
    assert metrics["boxes"]["AP"] == pytest.approx(1.0)
    assert metrics["masks"]["AP50"] == pytest.approx(1.0) and metrics["masks"]["AP"] > 0.9


# --- division of a batch ----------------------------------------------------------------------------------------------


def in_double(config: TrainDetector, pack, folder: Path, machine: Machine) -> dict[str, torch.Tensor]:
    """Weights of a training in double precision."""
    original = detecting.build_detector

    def double(*arguments, **options):
        return original(*arguments, **options).double()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detecting, "build_detector", double)
        outcome = run_phase(replace(job_with(config, packs=lambda _: pack, work=folder), machine=lambda: machine))
    return {name: tensor.clone() for name, tensor in outcome.weights.items()} | {
        "measured": torch.tensor([outcome.metrics[name] for name in sorted(outcome.metrics)], dtype=torch.float64)
    }


def on_ranks(rank: int, ranks: int, port: int, folder: Path) -> None:
    """Each of two ranks, with and without accumulation; it writes what it came to."""
    from m2mkd.data.pack import open_pack
    from m2mkd.training.device import join, prepare_torch

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.chdir(ROOT)
    prepare_torch(1)
    here = Ranks(rank, ranks)
    join(torch.device("cpu"), here)
    config = detector_run(detection_study(**CLIPPED)).config
    found = {
        limit: in_double(
            config, open_pack(folder / "set"), folder / f"work-{limit}", Machine(torch.device("cpu"), ranks=here, device_batch=limit)
        )
        for limit in (None, 1)
    }
    torch.save(found, folder / f"found-{rank}.pt")


def furthest(state, other):
    return max(((state[name] - other[name]).abs().max() / other[name].abs().max().clamp(min=1e-12)).item() for name in other)


def test_ranks_and_accumulation_come_to_what_one_rank_does(tmp_path):
    pack = write_scenes(tmp_path / "set")
    config = detector_run(detection_study(**CLIPPED)).config
    alone = in_double(config, pack, tmp_path / "alone", CPU)
    assert forked.run_ranks(on_ranks, 2, tmp_path) == [0, 0]
    found = [torch.load(tmp_path / f"found-{rank}.pt", weights_only=False) for rank in range(2)]
    accumulated = in_double(config, pack, tmp_path / "accumulated", Machine(torch.device("cpu"), device_batch=1))
    for other in (accumulated, *(each[limit] for each in found for limit in (None, 1))):
        assert furthest(other, alone) <= 1e-8
    with forked_rng("init", "detector", config.seed):
        start = build_detector(config.model, num_classes=10, compat=config.compat).double().state_dict()
    learnt = {name: tensor for name, tensor in alone.items() if name in start}
    assert furthest(start, learnt) > 1e-2


def test_images_of_a_detector_need_no_partner():
    assert accumulation(8, 8, None, 1) == 1 and accumulation(8, 2, 1, 1) == 4 and accumulation(5, 1, 2, 1) == 5
    with pytest.raises(InputError, match=r"batch_size 6: cannot be divided among 4 ranks into equal parts; use --ranks 3"):
        accumulation(6, 4, None, 1)


def test_what_is_drawn_for_an_image_depends_on_no_other(pack):
    from m2mkd.config.detection_input import DetectionInput, ShortestEdge
    from m2mkd.data.detection_pack import detection_split
    from m2mkd.data.detection_stream import DetectionStream

    given = DetectionInput(augmentation=ShortestEdge(sizes=(64,), longest=64, flip=0.0), test_size=64, test_longest=64)
    split = detection_split(pack, "train")

    def seeds(size: int, epoch: int = 0) -> dict[int, int]:
        stream = DetectionStream(split, split.trainable, size, given, ("data", "set", 0))
        return {
            index: target.seed for batch in stream.epoch(epoch) for index, target in zip(batch.ids.tolist(), batch.targets, strict=True)
        }

    assert seeds(2) == seeds(6) and len(set(seeds(2).values())) == len(seeds(2)) and seeds(2, 1) != seeds(2)
    assert Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), []).seed == 0


def test_the_last_pass_may_be_cut_short(pack):
    from m2mkd.config.detection_input import DetectionInput
    from m2mkd.data.detection_pack import detection_split
    from m2mkd.data.detection_stream import DetectionStream

    split = detection_split(pack, "train")
    stream = DetectionStream(split, split.trainable, 4, DetectionInput(), ("data", "set", 0), updates=10)
    assert [len(list(stream.draws(epoch))) for epoch in range(2)] == [6, 4]
    assert [draw.samples.tolist() for draw in stream.draws(1, 3)] == [list(stream.draws(1))[3].samples.tolist()]
