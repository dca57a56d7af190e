"""A probe over several episodes: the real phase on a tiny student."""

import json

import pytest
import torch

from m2mkd.errors import InputError
from m2mkd.study.phase import CURVES
from m2mkd.training.phases.train_probe import over_episodes
from tests.tiny import TinyPack, noise, of_phase, smoke, student
from tests.wiring import job_with, run_phase


def test_mean_and_interval_by_hand():
    found = over_episodes([{"val_top1": 0.2, "val_loss": 1.0}, {"val_top1": 0.6, "val_loss": 3.0}])
    assert (found["val_top1"], found["val_loss"]) == (pytest.approx(0.4), 2.0)
    spread = found["episodes"]
    assert spread["count"] == 2
    assert spread["val_top1"] == [0.2, 0.6]
    assert spread["std"] == pytest.approx(0.4 / 2**0.5)
    assert spread["half_width"] == pytest.approx(12.706 * 0.2, abs=1e-3)  # t(0.975, 1 degree of freedom) x std / sqrt(2)


@pytest.fixture(scope="module")
def run():
    overrides = {"experiment_changes": {"fewshot_cifar100_vmoe": {"probe": {"episodes": 3}}}}
    return of_phase(smoke(**overrides), "train_probe")[0]


def planned(shots, **augmentation):
    changes = {"experiment_changes": {"fewshot_cifar100_vmoe": {"probe": {"way": 5, "shots": shots}}}}
    return smoke(**changes, recipes={"probe_vmoe": {"augmentation": augmentation}})


def test_an_odd_episode_is_refused_where_its_images_are_mixed():
    with pytest.raises(InputError, match=r"fewshot_cifar100_vmoe: probe: way 5 x shots 1 is odd.*mixup and cutmix of recipes.probe_vmoe"):
        planned(1, mixup=0.2)


def test_one_shot_of_five_classes(probed):
    """The usual episodes of the field hold 5 and 25 images."""
    odd = of_phase(planned(1, mixup=0.0, cutmix=0.0), "train_probe")[0]
    outcome, _ = probed(1, "odd", config=odd.config)
    assert outcome.weights["weight"].shape[0] == 5
    assert 0 <= outcome.metrics["val_top1"] <= 1


@pytest.fixture
def probed(tmp_path, run):
    """Runs the probe over a number of episodes on images of noise."""
    assert run.config.episodes == 3  # the experiment's field reaches the run
    side = run.config.data.image_size
    pack = TinyPack(noise(12, side), noise(12, side, seed=1))
    state = student(run.config.student, image_size=side, stitch_width=run.config.stitch_width)

    def probe(episodes, name, config=run.config):
        changed = config.model_copy(update={"episodes": episodes, "recipe": config.recipe.model_copy(update={"epochs": 1})})
        work = tmp_path / name
        return run_phase(job_with(changed, {"student": [state]}, packs=lambda data: pack, work=work)), work

    return probe


def test_the_first_episode_is_what_a_single_one_gives(probed):
    (one, alone), (three, together) = probed(1, "one"), probed(3, "three")
    assert "episodes" not in one.metrics
    assert three.metrics["episodes"]["val_top1"][0] == one.metrics["val_top1"]
    assert all(torch.equal(three.weights[name], tensor) for name, tensor in one.weights.items())
    assert (together / CURVES).read_bytes() == (alone / CURVES).read_bytes()
    losses = [json.loads((together / folder / CURVES).read_text())["val_loss"] for folder in ("", "episode-1", "episode-2")]
    assert len(set(losses)) == 3
    assert three.metrics["val_loss"] == pytest.approx(sum(losses) / 3)


def test_finished_episodes_are_not_trained_again(monkeypatch, probed):
    before, _ = probed(2, "again")
    monkeypatch.setattr("m2mkd.training.update.Training.step", lambda *_: pytest.fail("trained again"))
    after, _ = probed(2, "again")
    assert after.metrics == before.metrics
