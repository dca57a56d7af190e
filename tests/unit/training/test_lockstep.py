"""Several modules in one process come to the same bits as each alone, and share what can be shared."""

from pathlib import Path

import pytest
import torch

from m2mkd.distill import hybrid
from m2mkd.models.vit import build_stage
from m2mkd.seeds import forked_rng
from m2mkd.training.checkpoint import Checkpoints
from m2mkd.training.job import Job
from m2mkd.training.machine import Machine, Policy
from m2mkd.training.phases import distill_module
from tests.tiny import TinyPack, noise, of_phase, smoke, vit
from tests.wiring import MemoryStore

IMAGES, BATCH, EPOCHS = 20, 8, 2


@pytest.fixture(scope="module")
def configs():
    """Configurations of all modules by family, with two epochs of two steps, and with drop path, which needs two blocks in a module."""
    recipe = {"epochs": EPOCHS, "batch_size": BATCH, "drop_path": 0.3, "eval_every": 1, "train_share": 1.0}
    changes = {"recipes": {"distill_module": recipe, "distill_nac_module": recipe}, "models": {"vmoe_base": {"depths": [2, 2, 2, 2]}}}
    found = [run.config for run in of_phase(smoke(**changes), "distill_module")]
    return {family: [config for config in found if config.student.family == family] for family in ("vmoe", "nac")}


@pytest.fixture
def distil(configs):
    """Distils modules of a family together in a folder; gives their outcomes."""
    weights = {}
    for config in configs["vmoe"]:
        weights["meta"] = vit(config.meta, "meta").state_dict()
        with forked_rng("weights", config.index):
            weights[f"teacher{config.index}"] = build_stage(config.teacher, config.index, image_size=32, num_classes=10).state_dict()
    store, machine = (
        MemoryStore(weights, lambda data: TinyPack(noise(IMAGES // 10))),
        Machine(torch.device("cpu"), checkpoints=Policy(minutes=0.0)),
    )

    def run(folder, family, *indices):
        def job(config):
            upstream = {"meta": (Path("meta"),), "teacher_module": (Path(f"teacher{config.index}"),)}
            return Job(config, upstream, folder / str(config.index), lambda: machine, f"{family} {config.index}", store=store)

        return distill_module.run_together([job(configs[family][index]) for index in indices])

    return run


def assert_same(first, second):
    assert first.metrics == second.metrics
    assert first.weights.keys() == second.weights.keys()
    assert all(torch.equal(tensor, second.weights[name]) for name, tensor in first.weights.items())


@pytest.mark.parametrize("family", ["vmoe", "nac"])
def test_modules_in_lock_step_equal_modules_alone_to_the_bit(distil, tmp_path, family):
    together = distil(tmp_path / "together", family, 0, 1, 2, 3)
    for index, outcome in enumerate(together):
        (alone,) = distil(tmp_path / "alone", family, index)
        assert_same(outcome, alone)
        logs = [(tmp_path / how / str(index) / "metrics.jsonl").read_bytes() for how in ("together", "alone")]
        assert logs[0] == logs[1] and logs[0].count(b"val_top1") == EPOCHS


@pytest.mark.parametrize("saved", [1, 2, 4, 8])
def test_an_interruption_between_two_checkpoints_costs_no_bit(distil, tmp_path, monkeypatch, saved):
    expected = distil(tmp_path / "undisturbed", "vmoe", 1, 2, 3)
    save, calls = Checkpoints.save, []

    def save_until(*arguments, **options):
        if len(calls) == saved:
            raise KeyboardInterrupt
        calls.append(arguments)
        save(*arguments, **options)
        arguments[0].wait()

    monkeypatch.setattr(Checkpoints, "save", save_until)
    with pytest.raises(KeyboardInterrupt):
        distil(tmp_path / "resumed", "vmoe", 1, 2, 3)
    monkeypatch.setattr(Checkpoints, "save", save)
    for outcome, undisturbed in zip(distil(tmp_path / "resumed", "vmoe", 1, 2, 3), expected, strict=True):
        assert_same(outcome, undisturbed)
    for index in (1, 2, 3):
        assert (tmp_path / f"resumed/{index}/metrics.jsonl").read_bytes() == (tmp_path / f"undisturbed/{index}/metrics.jsonl").read_bytes()


def test_the_prefix_runs_once_a_batch_for_all_modules_and_their_teachers(distil, tmp_path, monkeypatch):
    calls = []

    class Counted(hybrid.SharedPrefix):
        def __init__(self, meta):
            super().__init__(meta)
            for place, stage in enumerate(self.stages):
                # The suffix runs the same stages, but only behind a module: what is counted is without a graph and in the prefix.
                stage.register_forward_pre_hook(lambda _, __, place=place: calls.append(place) if self.inside else None)
            self.inside = False

        def forward(self, images, count):
            self.inside = True
            output = super().forward(images, count)
            self.inside = False
            return output

    monkeypatch.setattr(distill_module, "SharedPrefix", Counted)
    distil(tmp_path, "vmoe", 1, 2, 3)
    batches = EPOCHS * (IMAGES // BATCH + 1)  # the validation set is one batch
    assert [calls.count(place) for place in range(4)] == [batches, batches, batches, 0]


def test_only_the_one_teacher_stage_that_a_module_needs_is_built(distil, tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(
        distill_module, "build_stage", lambda config, index, **sizes: built.append(index) or build_stage(config, index, **sizes)
    )
    distil(tmp_path, "vmoe", 0, 2)
    assert built == [0, 2]
