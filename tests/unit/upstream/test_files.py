"""Files of others: what is read from them, what is refused, and what is written."""

import argparse
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from m2mkd import upstream
from m2mkd.errors import InputError
from m2mkd.files import sha256
from m2mkd.upstream.checkpoint import read
from m2mkd.upstream.configs import describe_checkpoint
from m2mkd.upstream.imported import open_imported, open_released, open_weights, write_imported
from m2mkd.upstream.network import build, convert
from tests.parity.released import TINY, nac_shapes
from tests.unit.upstream.small_models import IMAGES, MODULE, SMALL, VIT, random_state, stage_shapes


def module_state():
    return random_state(stage_shapes(2, moe=(1,)))


ODD = (
    ({0: torch.zeros(1)}, "0 is not a tensor"),
    ({"model_stages": [1, 2]}, "model_stages is not a tensor"),
    ({"block_state_dict": 3}, "block_state_dict is a int"),
)
"""What no trainer saves."""


class Code:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_training_checkpoint(vit, stages, tmp_path):
    expected = upstream.load("vit", vit, VIT)(IMAGES)
    moments = {"state": {0: {"exp_avg": torch.zeros(5), "step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}
    content = {
        "model": vit,
        "model_stages": stages,
        "optimizer": moments,
        "scaler": {},
        "epoch": 3,
        "best_acc1": np.float64(1.5),
        "args": argparse.Namespace(lr=0.1),
    }
    for number, kept in enumerate((content.keys(), content.keys() - {"model"})):
        path = tmp_path / f"{number}.pth"
        torch.save({key: content[key] for key in kept}, path)
        assert torch.equal(open_released(path, "vit", VIT).build()(IMAGES), expected)
    assert torch.equal(upstream.load("vit", content, VIT)(IMAGES), expected)


@pytest.mark.parametrize("form", ["torch", "torch before 1.6", "safetensors", "distributed"])
def test_every_format_of_a_plain_state(vit, tmp_path, form):
    path = tmp_path / "weights"
    staged = {name: tensor for name, tensor in vit.items() if name.startswith("stages.")}
    if form == "safetensors":
        save_file(staged, path)
    else:
        state = {f"module.{name}": tensor for name, tensor in staged.items()} if form == "distributed" else staged
        torch.save(state, path, _use_new_zipfile_serialization=form != "torch before 1.6")
    assert torch.equal(open_released(path, "vit", VIT).build()(IMAGES), upstream.load("vit", vit, VIT)(IMAGES))


def test_a_file_of_a_split_teacher_says_what_it_is(vit, stages, tmp_path):
    whole = upstream.load("vit", vit, VIT)
    open_config = {key: value for key, value in VIT.items() if key != "divided_depths"}
    for index, stage in enumerate(stages):
        path = tmp_path / f"vit_tiny_{index}.pth"
        torch.save({"block_index": index, "block_state_dict": stage, "divided_depths": [1, 2]}, path)
        imported = open_released(path, "vit", open_config)
        assert imported.description.stage == index
        assert not imported.description.whole
        tokens = IMAGES if index == 0 else whole.stages[0](IMAGES)
        assert torch.equal(imported.build()(tokens), whole.stages[index](tokens))


def test_one_stage_of_a_whole_file(vit):
    whole = upstream.load("vit", vit, VIT)
    flat = {name: tensor for name, tensor in vit.items() if not name.startswith("stages.")}
    for index in (0, 1):
        tokens = IMAGES if index == 0 else whole.stages[0](IMAGES)
        for state in (vit, flat):
            assert torch.equal(upstream.load("vit", state, VIT | {"stage": index})(tokens), whole.stages[index](tokens))


def test_one_stage_under_its_name_in_the_network(vit, stages):
    tokens = upstream.load("vit", vit, VIT).stages[0](IMAGES)
    named = {f"stages.1.{name}": tensor for name, tensor in stages[1].items()}
    plain = upstream.load("vit", stages[1], VIT | {"stage": 1})
    assert torch.equal(upstream.load("vit", named, VIT | {"stage": 1})(tokens), plain(tokens))
    with pytest.raises(InputError, match=r"lacks stages\.0\.cls_token"):
        upstream.load("vit", named, VIT | {"stage": 0})


def test_stages_are_told_by_the_names(vit):
    config = {key: value for key, value in VIT.items() if key != "divided_depths"}
    model = upstream.load("vit", vit, config)
    assert [len(stage.blocks) for stage in model.stages] == [1, 2]


def test_the_loaded_network_does_not_share_memory(vit):
    state = {name: tensor.clone() for name, tensor in vit.items()}
    model = upstream.load("vit", state, VIT)
    before = model(IMAGES)
    for tensor in state.values():
        tensor.zero_()
    assert torch.equal(model(IMAGES), before)


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float16, torch.float32), (torch.float64, torch.float64)])
def test_precision(vit, dtype, expected):
    model = upstream.load("vit", {name: tensor.to(dtype) for name, tensor in vit.items()}, VIT)
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    assert model(IMAGES.to(expected)).dtype == expected


def test_parameters_serve_as_tensors(vit, tmp_path):
    state = {name: torch.nn.Parameter(tensor) for name, tensor in vit.items()}
    torch.save(state, tmp_path / "vit.pth")
    write_imported(open_released(tmp_path / "vit.pth", "vit", VIT), tmp_path / "vit.safetensors")
    expected = upstream.load("vit", vit, VIT)(IMAGES)
    for model in (upstream.load("vit", state, VIT), open_imported(tmp_path / "vit.safetensors").build()):
        assert torch.equal(model(IMAGES), expected)
        assert all(parameter.is_leaf and parameter.requires_grad for parameter in model.parameters())


def test_tensors_may_lie_in_memory_in_any_order(vit):
    turned = {name: tensor.mT.contiguous().mT if tensor.dim() > 1 else tensor for name, tensor in vit.items()}
    model = upstream.load("vit", turned, VIT)
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    assert torch.equal(model(IMAGES), upstream.load("vit", vit, VIT)(IMAGES))


def test_missing_surplus_and_misshapen_tensors_are_named(vit):
    def state(drop=(), **change):
        return {name: tensor for name, tensor in vit.items() if not name.endswith(tuple(drop))} | change

    with pytest.raises(InputError, match=r"lacks stages\.1\.head\.weight of shape \(3, 8\);"):
        upstream.load("vit", state(drop=["head.weight"]), VIT)
    with pytest.raises(InputError, match=r"lacks stages\.0\.blocks\.0\.attn\.qkv\.bias of shape \(24,\) and 2 more"):
        upstream.load("vit", state(drop=["qkv.bias"]), VIT)
    with pytest.raises(InputError, match=r"has stages\.1\.blocks\.7\.x of shape \(2, 2\), "):
        upstream.load("vit", state(**{"stages.1.blocks.7.x": torch.zeros(2, 2)}), VIT)
    with pytest.raises(InputError, match=r"stages\.1\.head\.weight has shape \(4, 8\), expected \(3, 8\)"):
        upstream.load("vit", state(**{"stages.1.head.weight": torch.zeros(4, 8)}), VIT)
    circuit = random_state(nac_shapes(SMALL))
    del circuit["latent_graphs.0.latent_seeder.layernorm.weight"]
    with pytest.raises(InputError, match=r"lacks latent_graphs\.0\.latent_seeder\.layernorm\.weight of shape \(6,\);"):
        convert(describe_checkpoint("nac", SMALL, {}), circuit)


def test_missing_experts_are_named():
    state = module_state()
    assert upstream.load("vmoe_module", state, MODULE)(torch.randn(1, 5, 8)).shape == (1, 5, 8)
    with pytest.raises(InputError, match=r"lacks blocks\.1\.moe\.experts\.2\.htoh4\.weight of shape \(1, 16, 8\) and 3 more"):
        upstream.load("vmoe_module", {name: tensor for name, tensor in state.items() if ".experts.2." not in name}, MODULE)
    with pytest.raises(InputError, match=r"blocks\.1\.moe\.gate\.gate\.weight has shape \(3, 8\), expected \(2, 8\)"):
        upstream.load("vmoe_module", state, MODULE | {"num_expert": 2})


@pytest.mark.parametrize("kind", ["nac", "vmoe", "vmoe_module", "nac_mediator"])
def test_the_wrong_kind_is_refused(vit, kind):
    config = {"nac": SMALL, "vmoe": VIT, "vmoe_module": MODULE}.get(kind, {"state_dim": 3})
    with pytest.raises(InputError):
        upstream.load(kind, vit, config)


def test_code_in_a_file_is_not_run(vit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for new in (True, False):
        torch.save({"model": vit, "args": Code()}, "evil.pth", _use_new_zipfile_serialization=new)
        with pytest.raises(InputError, match=r"evil.pth: holds more than weights \(posix.mkdir\)"):
            read(Path("evil.pth"))
    torch.save(torch.nn.Linear(1, 1), "module.pth")
    with pytest.raises(InputError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read(Path("module.pth"))
    assert not Path("executed").exists()


def test_damaged_and_foreign_files_are_refused_in_one_line(vit, tmp_path):
    good, path = tmp_path / "good.pth", tmp_path / "file"
    torch.save({"model": vit}, good)
    save_file({name: tensor.clone() for name, tensor in vit.items()}, tmp_path / "good.safetensors")
    contents = {
        "is not a checkpoint": (b"", b"\x80nonsense", b"just some text", good.read_bytes()[:3000]),
        "is damaged": ((tmp_path / "good.safetensors").read_bytes()[:-9], struct.pack("<Q", 9) + b"{nonsense"),
    }
    for message, files in contents.items():
        for content in files:
            path.write_bytes(content)
            with pytest.raises(InputError, match=message) as caught:
                read(path)
            assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "absent")
    for value, message in (([1, 2], "holds a list"), ({"epoch": 3}, "epoch is not a tensor"), ({"model": {}}, "it is empty"), *ODD):
        torch.save(value, path)
        with pytest.raises(InputError, match=message):
            read(path)


def test_an_imported_file_says_what_it_is(vit, tmp_path):
    torch.save({"model": vit}, tmp_path / "vit.pth")
    write_imported(open_released(tmp_path / "vit.pth", "vit", VIT), tmp_path / "out" / "vit.safetensors")
    imported = open_imported(tmp_path / "out" / "vit.safetensors")
    assert (imported.kind, imported.image_size, imported.num_classes) == ("vit", 16, 3)
    assert imported.architecture == describe_checkpoint("vit", VIT, {}).architecture
    assert imported.source == "vit.pth"
    assert imported.source_sha256 == sha256(tmp_path / "vit.pth")
    assert imported.state().keys() == build(imported.description).state_dict().keys()
    assert torch.equal(imported.build()(IMAGES), upstream.load("vit", vit, VIT)(IMAGES))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["vit.safetensors"]


def test_what_the_tensors_told_is_in_the_imported_file(tmp_path):
    """Stages and stitch layers that the configuration left open are known again without the released tensors."""
    shapes = stage_shapes(2, moe=(0, 1)) | {
        "blocks.0.pre_stitch.ln.weight": (6,),
        "blocks.0.pre_stitch.ln.bias": (6,),
        "blocks.0.pre_stitch.fc.weight": (8, 6),
        "blocks.0.pre_stitch.fc.bias": (8,),
        "blocks.1.post_stitch.ln.weight": (8,),
        "blocks.1.post_stitch.ln.bias": (8,),
        "blocks.1.post_stitch.fc.weight": (6, 8),
        "blocks.1.post_stitch.fc.bias": (6,),
    }
    config = {key: value for key, value in MODULE.items() if key not in {"divided_depths", "moe_pos"}}
    save_file(random_state(shapes), tmp_path / "released.safetensors")
    released = open_released(tmp_path / "released.safetensors", "vmoe_module", config)
    write_imported(released, tmp_path / "ours.safetensors")
    imported = open_imported(tmp_path / "ours.safetensors")
    assert imported.description == released.description
    assert imported.description.stitch_width == 6
    tokens = torch.randn(2, 5, 6)
    assert torch.equal(imported.build()(tokens), released.build()(tokens))


def test_the_constants_of_a_nac_module_travel_with_it(fixtures_dir, tmp_path):
    meta = json.loads((fixtures_dir / "nac" / "students.meta.json").read_text())
    recorded = load_file(fixtures_dir / "nac" / "students_m2mkd.safetensors")
    path = fixtures_dir / "nac" / "student_readin.state_dict.safetensors"
    config = meta | {key: recorded[f"input.{key}"].tolist() for key in ("codes", "states")}
    write_imported(open_released(path, "nac_readin", config), tmp_path / "readin.safetensors")
    module = open_imported(tmp_path / "readin.safetensors").build()
    torch.testing.assert_close(module(recorded["input.image"]), recorded["readin.module_out"], atol=2e-5, rtol=0)
    drawn = [open_released(path, "nac_readin", meta).build().codes for _ in range(2)]
    assert drawn[0].shape == (1, 16)
    assert torch.equal(*drawn)


def test_the_constants_do_not_decide_the_precision(fixtures_dir):
    meta = json.loads((fixtures_dir / "nac" / "students.meta.json").read_text())
    state = load_file(fixtures_dir / "nac" / "student_readin.state_dict.safetensors")
    constants = {"codes": np.ones((1, 16)), "states": torch.nn.Parameter(torch.ones(1, 1, 32, dtype=torch.float64))}
    module = upstream.load("nac_readin", state, meta | constants)
    assert {tensor.dtype for tensor in module.state_dict().values()} == {torch.float32}
    assert not module.states.requires_grad
    for wrong, message in (
        ({"codes": "abc"}, "codes and states must be lists"),
        ({"codes": [1.0]}, r"codes has shape \(1,\), expected nx16"),
    ):
        with pytest.raises(InputError, match=message):
            upstream.load("nac_readin", state, meta | wrong)
    with pytest.raises(InputError, match="config: holds a str"):
        upstream.load("nac_readin", state, "config.yaml")


def test_a_released_file_of_full_size(tmp_path):
    """107 MB: the Tiny-ImageNet circuit as its trainer saves it."""
    state = {name: torch.full(shape, 0.01) for name, shape in nac_shapes(TINY).items()}
    first = state["latent_graphs.0.propagators.3.ffn.ffn.2.native_weight"].uniform_()
    moments = {"state": {0: {"exp_avg": torch.zeros(1000)}}}
    torch.save({"model": state, "optimizer": moments, "epoch": 1, "best_acc1": 0.5}, tmp_path / "a.pth")
    write_imported(open_released(tmp_path / "a.pth", "nac", TINY), tmp_path / "a.safetensors")
    imported = open_imported(tmp_path / "a.safetensors")
    ours = imported.state()
    assert len(ours) == 362
    assert sum(tensor.numel() for tensor in ours.values()) == 26_703_342
    assert torch.equal(ours["propagators.3.ffn.ffn.2.native_weight"], first)
    assert (imported.image_size, imported.num_classes, imported.architecture.modules) == (64, 200, 10)


def test_other_files_are_no_imported_ones(vit, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="was not written by 'm2mkd import'"):
        open_weights(tmp_path / "other.safetensors", None, None)
    torch.save({"model": vit}, tmp_path / "vit.pth")
    with pytest.raises(InputError, match="give --kind and --config"):
        open_weights(tmp_path / "vit.pth", None, None)
    with pytest.raises(InputError, match="cannot be read"):
        open_weights(tmp_path / "absent", None, None)
    save_file({"a": torch.zeros(1)}, tmp_path / "bad.safetensors", {"format": "m2mkd-import/1", "kind": "vit"})
    with pytest.raises(InputError, match="its header is damaged"):
        open_imported(tmp_path / "bad.safetensors")
