"""``m2mkd import`` and ``m2mkd evaluate``."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from m2mkd import upstream
from m2mkd.config import load
from m2mkd.config.recipe import Recipe
from m2mkd.data.pack import open_pack
from m2mkd.data.packing import Content, SplitSource, write_pack
from m2mkd.data.stream import eval_batches
from m2mkd.files import sha256
from m2mkd.study.data import resolve_data
from m2mkd.study.phases import PretrainMeta, SplitTeacher
from m2mkd.study.run import Run
from m2mkd.training.job import Outcome, record_outputs
from m2mkd.upstream.configs import describe_checkpoint
from m2mkd.upstream.network import build
from tests.bounded import bounded
from tests.conftest import ROOT
from tests.parity.released import nac_shapes
from tests.unit.upstream.small_models import SMALL, changed, random_state, stage_shapes

CIRCUIT = changed(SMALL, "output_dim", 10) | {"simplified_interface": False}
VIT = {"img_size": 24, "patch_size": 8, "num_classes": 3, "embed_dim": 8, "num_heads": 2, "mlp_ratio": 2, "divided_depths": [1]}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder in which the commands work, with a set of ten classes at 24 pixels and a released circuit for it."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for side in (24, 48):
        write_digits(side, generator)
    torch.save({"model": random_state(nac_shapes(CIRCUIT)), "epoch": 3}, "released.pth")
    Path("released.yml").write_text(yaml.safe_dump({"model": {"kwargs": CIRCUIT}}))
    Path("released.json").write_text(json.dumps(CIRCUIT))
    return tmp_path


def write_digits(side, generator):
    """Forty images of noise as the set digits."""
    images = generator.integers(0, 256, (40, side, side, 3), dtype=np.uint8)
    splits = {split: SplitSource(lambda start: images[start:], generator.integers(0, 10, 40)) for split in ("train", "val")}
    folder = Path(resolve_data(f"digits@{side}", "test")[0].folder)
    write_pack(folder, "digits", side, Content(tuple(f"digit {i}" for i in range(10)), splits, {}))


def expected():
    """Top-1 and loss of the released circuit, computed apart."""
    pack = open_pack(Path(resolve_data("digits@24", "test")[0].folder))
    batch = next(eval_batches(pack.split("val"), 24, 40))
    with torch.no_grad():
        logits = upstream.load("nac", torch.load("released.pth"), CIRCUIT)(batch.images).double()
    return {
        "count": 40,
        "top1": (logits.argmax(1) == batch.labels).double().mean().item(),
        "top5": (logits.topk(5).indices == batch.labels[:, None]).any(1).double().mean().item(),
        "loss": pytest.approx(torch.nn.functional.cross_entropy(logits, batch.labels).item(), rel=1e-6),
    }


def test_a_released_and_an_imported_file_measure_the_same(root, typed):
    code, out, err = typed(
        "evaluate", "released.pth", "--kind", "nac", "--config", "released.yml", "--data", "digits@24", "--device", "cpu"
    )
    assert code == 0, err
    released = json.loads(out)
    code, out, err = typed("import", "released.pth", "--kind", "nac", "--config", "released.json", "-o", "ours/circuit.safetensors")
    assert code == 0, err
    assert sha256(Path("released.pth")) in out
    code, out, err = typed("evaluate", "ours/circuit.safetensors", "--data", "digits@24", "--device", "cpu")
    imported = json.loads(out)
    assert {key: imported[key] for key in expected()} == expected()
    for key in ("top1", "top5", "loss", "count", "kind", "source", "source_sha256"):
        assert imported[key] == released[key]
    assert imported["source"] == "released.pth"


def test_of_weights_and_their_average_it_says_which_it_takes(root, typed):
    state = random_state(nac_shapes(CIRCUIT))
    torch.save({"model": state, "model_ema": {name: tensor * 2 for name, tensor in state.items()}}, "both.pth")
    command = ("both.pth", "--kind", "nac", "--config", "released.yml")
    losses = {}
    for option, word in (
        ((), "takes 'model' and leaves 'model_ema'; --ema for the other"),
        (("--ema",), "takes 'model_ema' and leaves 'model'"),
    ):
        code, out, err = typed("evaluate", *command, *option, "--data", "digits@24", "--device", "cpu")
        assert (code, err.startswith(f"m2mkd: both.pth: {word}"), err.count("\n")) == (0, True, 1), err
        losses[option] = json.loads(out)["loss"]
        code, _, err = typed("import", *command, *option, "-o", "ours.safetensors")
        assert (code, word in err) == (0, True)
        code, out, err = typed("evaluate", "ours.safetensors", "--data", "digits@24", "--device", "cpu")
        assert (json.loads(out)["loss"], err) == (losses[option], "")
    assert losses[()] == expected()["loss"]
    assert len(set(losses.values())) == 2


def test_a_circuit_takes_images_of_another_size_and_a_vit_does_not(root, typed):
    command = ("--data", "digits@48", "--device", "cpu")
    code, out, err = typed("evaluate", "released.pth", "--kind", "nac", "--config", "released.yml", *command)
    assert code == 0, err
    assert json.loads(out)["count"] == 40
    torch.save(random_state(stage_shapes(1, first=True, last=True) | {"pos_embed": (1, 10, 8)}), "vit.pth")
    Path("vit.json").write_text(json.dumps(VIT))
    code, _, err = typed("evaluate", "vit.pth", "--kind", "vit", "--config", "vit.json", *command)
    assert (code, "use --data digits@24" in err) == (2, True)


def test_noisy_draws_have_a_mean_and_an_interval_and_are_repeatable(root, typed):
    command = ("evaluate", "released.pth", "--kind", "nac", "--config", "released.yml", "--data", "digits@24", "--device", "cpu")
    draws = json.loads(typed(*command, "--eval-draws", "3")[1])["draws"]
    loss = draws["loss"]
    assert draws["count"] == 3
    assert len(set(loss["values"])) == 3
    assert loss["mean"] == pytest.approx(np.mean(loss["values"]))
    half = 4.302653 * np.std(loss["values"], ddof=1) / np.sqrt(3)  # Student's t, 2 degrees of freedom, 97.5 %
    assert loss["interval95"] == pytest.approx([loss["mean"] - half, loss["mean"] + half], rel=1e-6)
    again = json.loads(typed(*command, "--eval-draws", "1")[1])["draws"]["loss"]
    assert again["values"] == loss["values"][:1]
    assert again["interval95"] is None


def test_classes_from_a_file_cut_the_logits(root, typed):
    """A network of three classes, of which the set has two."""
    save = {"model": random_state(stage_shapes(1, first=True, last=True) | {"pos_embed": (1, 10, 8)})}
    torch.save(save, "vit.pth")
    Path("vit.json").write_text(json.dumps(VIT))
    command = ("evaluate", "vit.pth", "--kind", "vit", "--config", "vit.json", "--data", "digits@24", "--device", "cpu")
    code, _, err = typed(*command)
    assert code == 2
    assert "3 classes, but 10 names are given" in err
    Path("names.txt").write_text("digit 7\nsomething else\ndigit 2\n")
    code, out, err = typed(*command, "--classes-from", "names.txt")
    assert code == 0, err
    labels = open_pack(Path(resolve_data("digits@24", "test")[0].folder)).split("val").labels
    result = json.loads(out)
    assert (result["count"], result["classes"]) == (np.isin(labels, [2, 7]).sum(), 2)


def publish(config, network):
    """The folder of a run, as its job writes it."""
    run = Run(config, {})
    folder = Path("results/small/runs", run.id)
    folder.mkdir(parents=True)
    for name in config.OUTPUTS:
        (folder / name).touch()
    record_outputs(run, folder, Outcome({}, network.state_dict()), 0.0)
    return folder / "model.safetensors"


def test_the_weights_of_an_own_run_need_no_kind(root, typed):
    data = resolve_data("digits@24", "test")[0]
    recipe = Recipe.model_validate(load.read_yaml(Path("config/recipes.yaml"))["pretrain_meta"])
    description = describe_checkpoint("vit", VIT | {"num_classes": 10}, {})
    network = build(description).eval()
    path = publish(PretrainMeta(threads=1, model=description.architecture, data=data, recipe=recipe), network)
    code, out, err = typed("evaluate", path, "--data", "digits@24", "--device", "cpu")
    assert code == 0, err
    batch = next(eval_batches(open_pack(Path(data.folder)).split("val"), 24, 40))
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(network(batch.images).double(), batch.labels).item()
    assert json.loads(out)["loss"] == pytest.approx(expected, rel=1e-6)

    path.write_bytes(path.read_bytes()[:-1] + b"x")
    code, _, err = typed("evaluate", path, "--data", "digits@24")
    assert (code, "the run recorded" in err) == (2, True)
    stage = publish(SplitTeacher(threads=1, model=description.architecture, index=0), network.get_submodule("stages.0"))
    code, _, err = typed("evaluate", stage, "--data", "digits@24")
    assert (code, "this run of split_teacher does not produce a whole network" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("import", "released.pth", "-o", "x", "--config", "released.yml"), "--kind is missing; give one of nac, "),
        (("import", "released.pth", "-o", "x", "--kind", "nca", "--config", "released.yml"), "kind 'nca' is unknown"),
        (("import", "released.pth", "-o", "x", "--kind", "nac"), "latent_graph_kwargs is missing"),
        (("import", "released.pth", "-o", "x", "--kind", "nac", "--config", "absent.yml"), "absent.yml"),
        (("import", "released.pth", "-o", "x", "--kind", "nac", "--config", "absent.json"), "absent.json: cannot be read"),
        (("import", "released.yml", "-o", "x", "--kind", "nac", "--config", "released.yml"), "released.yml: is not a checkpoint"),
        (("import", "absent.pth", "-o", "x", "--kind", "nac", "--config", "released.yml"), "absent.pth: cannot be read"),
        (("evaluate", "released.pth", "--data", "digits@24"), "give --kind and --config"),
        (("import", "released.pth", "-o", "x", "--kind", "nac", "--config", "pipe.yml"), "pipe.yml: is a pipe, not a file"),
        (("import", "released.pth", "-o", "x", "--kind", "nac", "--config", "pipe.json"), "pipe.json: is a pipe, not a file"),
        (("import", "released.pth", "-o", "x", "--kind", "nac", "--config", "released.yml", "--ema"), "no moving average"),
        (("evaluate", "released.pth", "--data", "digits@24", "--ema"), "--ema applies to released files only"),
        (
            ("evaluate", "released.pth", "--kind", "nac", "--config", "released.yml", "--data", "digits@24", "--classes-from", "pipe.yml"),
            "pipe.yml: is a pipe, not a file",
        ),
        (("evaluate", "released.pth", "--kind", "nac", "--config", "released.yml", "--data", "digits@32"), "digits@32"),
        (("evaluate", "released.pth", "--kind", "nac", "--config", "released.yml", "--data", "digitz@24"), "digitz"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(root, typed, arguments, message):
    for name in ("pipe.yml", "pipe.json"):
        os.mkfifo(name)
    with bounded():
        code, out, err = typed(*arguments)
    assert code == 2
    assert message in err
    assert re.fullmatch(r"m2mkd: [^\n]+\n", err)
    assert out == ""
    assert not list(root.glob("*x"))
