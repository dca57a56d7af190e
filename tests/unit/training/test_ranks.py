"""One rank, two ranks and accumulation come to the same; evaluation does to the bit; what cannot be divided is refused."""

import os
import signal
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from m2mkd.config.models import ViTConfig, VMoEConfig
from m2mkd.config.recipe import Augmentation, Recipe
from m2mkd.data.pack import Split
from m2mkd.data.stream import TrainStream, eval_batches
from m2mkd.distill.losses import soft_cross_entropy
from m2mkd.errors import InputError, Interrupted
from m2mkd.evaluation.accuracy import measure_together
from m2mkd.models.vit import StagedViT
from m2mkd.models.vmoe import VMoEConfig as VMoENetwork
from m2mkd.ranks import ALONE, Ranks
from m2mkd.seeds import forked_rng
from m2mkd.training.launch import first_failure, ranks_for
from m2mkd.training.loop import Task, Trainee, fit
from m2mkd.training.machine import Machine, accumulation
from tests import forked

BATCH, EPOCHS = 64, 10
MIXING = Augmentation(crop_scale=(0.8, 1.0), rand_augment=None, erase=0.0, mixup=0.8, cutmix=1.0)
RECIPE = Recipe(epochs=EPOCHS, batch_size=BATCH, lr=1e-3, lr_batch=None, clip_norm=1.0, eval_every=EPOCHS, augmentation=MIXING)
MODELS = {
    "vit": ViTConfig(patch_size=8, width=16, heads=2, depths=(1, 1)),
    "vmoe": VMoEConfig(patch_size=8, width=16, heads=2, depths=(1, 1), experts=3),
}
HERE = [pytest.param(ranks, limit, id=f"{ranks}x{limit or BATCH // ranks}") for ranks, limit in ((2, None), (1, 16), (2, 16))]


def images(count: int) -> Split:
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 5
    noise = generator.integers(0, 127, (count, 16, 16, 3), dtype=np.uint8)
    return Split(noise + 20 * labels[:, None, None, None].astype(np.uint8), labels)


def network(family: str) -> torch.nn.Module:
    with forked_rng("network", family):
        sizes = {"image_size": 16, "num_classes": 5}
        config = MODELS[family]
        made = StagedViT(config, **sizes) if isinstance(config, ViTConfig) else VMoENetwork(config, **sizes)
    return made.double()


def train(folder: Path, family: str, machine: Machine, interrupt: int | None = None) -> dict[str, torch.Tensor]:
    """Twenty updates in double precision; ``interrupt`` sends this process a signal in that one."""
    model, data, ranks = network(family), images(2 * BATCH), (machine.ranks.rank, machine.ranks.count)
    calls = 0

    def loss(batch, targets, _):
        nonlocal calls
        calls += 1
        if calls == interrupt:
            os.kill(os.getpid(), signal.SIGTERM)
        return soft_cross_entropy(model(batch.double()), targets.double())

    task = Task(model, model, loss, lambda batch: model(batch.double()))
    stream = TrainStream(data, range(len(data)), 5, RECIPE, ("data", "noise", 0), 0, "cpu", *ranks)
    fit([Trainee(task, folder, family)], RECIPE, stream, lambda: eval_batches(data, 16, 10, *ranks), ("noise",), machine)
    return model.state_dict()


def on_ranks(rank: int, ranks: int, port: int, folder: Path) -> None:
    """All that needs several ranks, in one start of them; each writes what it came to."""
    from m2mkd.training.device import join, prepare_torch

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    prepare_torch(1)
    here = Ranks(rank, ranks)
    join(torch.device("cpu"), here)
    found = {}
    for limit in (None, 16):
        for family in MODELS:
            machine = Machine(torch.device("cpu"), ranks=here, device_batch=limit)
            found[family, limit] = train(folder / f"{family}-{limit}", family, machine)
    with torch.no_grad():
        (accuracy,) = measure_together([network("vit")], _double(images(50), 7, here), torch.device("cpu"), ranks=here)
    found["accuracy"] = accuracy
    try:
        train(folder / "interrupted", "vit", Machine(torch.device("cpu"), ranks=here), interrupt=9 if rank == 1 else None)
    except Interrupted as stopped:
        found["interrupted"] = str(stopped)
    torch.save(found, folder / f"found-{rank}.pt")


def _double(split, batch_size, ranks=ALONE):
    return (batch._replace(images=batch.images.double()) for batch in eval_batches(split, 16, batch_size, ranks.rank, ranks.count))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def found(folder):
    """What each of two ranks came to."""
    assert forked.run_ranks(on_ranks, 2, folder) == [0, 0]
    return [torch.load(folder / f"found-{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one rank comes to that has the whole batch."""
    return {family: train(tmp_path_factory.mktemp(family), family, Machine(torch.device("cpu"))) for family in MODELS}


def furthest(state, other):
    """Largest relative difference of two states, tensor by tensor."""
    return max(((state[name] - other[name]).abs().max() / other[name].abs().max().clamp(min=1e-12)).item() for name in other)


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize(("ranks", "limit"), HERE)
def test_a_divided_batch_gives_the_weights_of_a_whole_one(tmp_path, found, alone, ranks, limit, family):
    if ranks == 1:
        state = train(tmp_path, family, Machine(torch.device("cpu"), device_batch=limit))
    else:
        state = found[0][family, limit]
        assert all(torch.equal(tensor, found[1][family, limit][name]) for name, tensor in state.items())
    assert furthest(state, alone[family]) <= 1e-10
    assert furthest(state, network(family).state_dict()) > 1e-3  # it has learnt something


def test_several_ranks_measure_to_the_bit_what_one_measures(found):
    with torch.no_grad():
        (expected,) = measure_together([network("vit")], _double(images(50), 7), torch.device("cpu"))
    for accuracy in (each["accuracy"] for each in found):
        assert accuracy.summary() == expected.summary()
        assert torch.equal(accuracy.correct, expected.correct) and torch.equal(accuracy.labels, expected.labels)


def test_a_signal_to_one_rank_stops_all_and_one_rank_goes_on_from_there(folder, found, alone):
    assert [each["interrupted"].partition(":")[0] for each in found] == ["a signal to another rank", "SIGTERM"]
    assert all("saved after 9 updates" in each["interrupted"] for each in found)
    assert furthest(train(folder / "interrupted", "vit", Machine(torch.device("cpu"))), alone["vit"]) <= 1e-10


@pytest.mark.parametrize(
    ("batch", "ranks", "limit", "parts"),
    [
        (64, 1, None, 1),
        (64, 2, None, 1),
        (64, 1, 16, 4),
        (64, 2, 16, 2),
        (48, 1, 20, 3),
        (6, 1, 4, 3),
        (62, 1, 30, 31),
        (5, 1, None, 1),
        (5, 1, 5, 1),
    ],
)
def test_accumulation_is_derived(batch, ranks, limit, parts):
    assert accumulation(batch, ranks, limit) == parts


@pytest.mark.parametrize(
    ("batch", "ranks", "message"),
    [
        (64, 3, "batch_size 64: cannot be divided among 3 ranks into parts of even size; use --ranks 2"),
        (6, 2, "use --ranks 1"),
        (64, 64, "use --ranks 32"),
    ],
)
def test_what_cannot_be_divided_is_refused(batch, ranks, message):
    with pytest.raises(InputError) as refused:
        accumulation(batch, ranks, None)
    assert message in str(refused.value)


def test_an_odd_batch_is_not_divided():
    with pytest.raises(InputError, match=r"a batch of 25 images is odd, .*; use --device-batch 25"):
        accumulation(25, 1, 10)


def test_another_number_of_ranks_than_torchrun_started_is_refused(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    run = forked.student(forked.planned())
    with pytest.raises(InputError, match=r"--ranks 4: this process is one of 2 that torchrun started"):
        ranks_for(run.config, 4, None, [])


def test_what_cannot_be_shared_is_the_first_rank_s_alone(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    run = next(run for run in forked.planned().runs.values() if run.phase == "evaluate")
    for rank, expected in (("0", nullcontext()), ("1", pytest.raises(SystemExit))):
        monkeypatch.setenv("RANK", rank)
        with expected:
            assert ranks_for(run.config, 1, None, []) == ALONE


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ({0: 1, 1: -9}, (1, 1, "was ended by SIGKILL")),
        ({0: -15, 1: -9}, (1, 1, "was ended by SIGKILL")),
        ({0: 2, 1: 1}, (0, 2, "failed with exit code 2")),
        ({0: 75, 1: 75}, (0, 75, "failed with exit code 75")),
        ({1: 1}, (1, 1, "failed with exit code 1")),
    ],
)
def test_the_rank_that_brought_down_the_others_is_named(codes, expected):
    assert first_failure(codes) == expected
