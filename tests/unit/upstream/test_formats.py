"""Checkpoints as people's programs save them: wrapped, averaged, in several files, beside all that trainers note."""

import argparse
import collections
import datetime
import errno
import hashlib
import json
import mmap
import os
import pathlib
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from m2mkd import upstream
from m2mkd.errors import InputError
from m2mkd.files import sha256
from m2mkd.upstream.checkpoint import checkpoint_digest, read
from m2mkd.upstream.contents import unpack
from m2mkd.upstream.imported import open_imported, open_released, open_weights, write_imported
from tests.unit.upstream.small_models import IMAGES, VIT


class Network(nn.Module):
    """A network of two layers, as a stranger has it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2, 3)
        self.head = nn.Sequential(nn.Linear(3, 1))


NAMES = ["embed.weight", "embed.bias", "head.0.weight", "head.0.bias"]


def prefixed(prefix: str, network: nn.Module) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}


def with_a_compiled_layer() -> dict[str, torch.Tensor]:
    network = Network()
    network.head = torch.compile(network.head)
    return network.state_dict()


WRAPPED = {
    "as it is": lambda: Network().state_dict(),
    "compiled": lambda: torch.compile(Network()).state_dict(),
    "compiled twice": lambda: prefixed("_orig_mod._orig_mod.", Network()),
    "parallel": lambda: nn.DataParallel(Network()).state_dict(),
    "compiled, then parallel": lambda: nn.DataParallel(torch.compile(Network())).state_dict(),
    "parallel, then compiled": lambda: torch.compile(nn.DataParallel(Network())).state_dict(),
    "averaged": lambda: AveragedModel(Network()).state_dict(),
    "averaged, compiled and parallel": lambda: AveragedModel(torch.compile(nn.DataParallel(Network()))).state_dict(),
    "compiled, averaged": lambda: torch.compile(AveragedModel(Network())).state_dict(),
    "a compiled layer": with_a_compiled_layer,
    "a Lightning module": lambda: prefixed("model.", Network()),
    "a compiled Lightning module": lambda: prefixed("model._orig_mod.", Network()),
}


@pytest.mark.parametrize("wrapped", WRAPPED.values(), ids=WRAPPED)
@pytest.mark.parametrize("container", [None, "model", "state_dict", "model_state_dict", "model_state", "net"])
def test_whatever_a_network_was_saved_in_its_tensors_have_their_names(tmp_path, wrapped, container):
    state = wrapped()
    torch.save(state if container is None else {container: state, "epoch": 3}, tmp_path / "a.pth")
    found = read(tmp_path / "a.pth")
    assert list(found.state) == NAMES
    for name, tensor in found.state.items():
        assert torch.equal(tensor, next(value for key, value in state.items() if key.replace("_orig_mod.", "").endswith(name)))
    assert unpack(state).state.keys() == found.state.keys()


def test_containers_inside_each_other():
    assert list(unpack({"model": {"state_dict": Network().state_dict()}}).state) == NAMES


def test_a_tensor_that_stands_twice_is_not_chosen_from():
    state = Network().state_dict()
    with pytest.raises(InputError, match="under a compiled and under its plain name"):
        unpack(state | {"head._orig_mod.0.bias": state["head.0.bias"]})


BESIDE = {
    "numbers of numpy": {"a": np.float64(3.0), "b": np.int32(3), "c": np.float16(3), "d": np.bool_(True), "e": np.datetime64("2020-01-01")},
    "arrays of numpy": {"a": np.arange(3), "b": np.array(["a", "b"]), "c": np.zeros((2, 2), order="F"), "d": np.random.get_state()},
    "arguments": argparse.Namespace(lr=1.0, device=torch.device("cuda:0"), out=pathlib.Path("/x"), dtype=torch.bfloat16),
    "containers": [
        collections.defaultdict(list, a=[1]),
        collections.deque([1]),
        collections.Counter("aab"),
        {1, 2},
        frozenset("a"),
        {(1, 2): 3},
    ],
    "times": [datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), datetime.timedelta(1)],
    "numbers": [2**100, 1e300, 1j, b"bytes", bytearray(b"more"), None, torch.Size([2])],
    "an optimiser": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]},
    "other tensors": [
        torch.zeros(2, dtype=torch.float8_e5m2),
        torch.zeros(2, dtype=torch.uint16),
        torch.eye(2).to_sparse(),
        torch.zeros(0),
    ],
}


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
@pytest.mark.parametrize(("protocol", "new"), [(2, True), (4, True), (5, True), (2, False)])
def test_what_trainers_note_beside_the_weights_is_passed_over(tmp_path, beside, protocol, new):
    torch.save(
        {"model": Network().state_dict(), "beside": beside},
        tmp_path / "a.pth",
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=new,
    )
    assert list(read(tmp_path / "a.pth").state) == NAMES


@pytest.mark.parametrize("new", [True, False])
def test_tensors_of_any_kind_and_layout_are_what_they_were(tmp_path, new):
    numbers = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    plain = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.int8)
    state = {str(dtype): numbers.to(dtype) for dtype in plain}
    state |= {str(dtype): (numbers > 0).to(dtype) for dtype in (torch.bool, torch.uint8, torch.int16, torch.int32, torch.complex64)}
    state |= {"turned": numbers.T, "part": numbers[1:3, ::2], "same": numbers, "number": torch.tensor(3.0), "empty": torch.zeros(0, 3)}
    state |= {"parameter": nn.Parameter(numbers), "buffer": nn.Buffer(numbers), "channels": torch.randn(2, 3, 4, 4)}
    state["channels"] = state["channels"].to(memory_format=torch.channels_last)
    if new:
        state |= {str(dtype): numbers.to(dtype) for dtype in (torch.float8_e4m3fn, torch.uint16)}
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    expected = torch.load(tmp_path / "a.pth", weights_only=True)
    for name, tensor in read(tmp_path / "a.pth").state.items():
        assert (tensor.dtype, tensor.shape, tensor.stride()) == (expected[name].dtype, expected[name].shape, expected[name].stride()), name
        assert tensor.tolist() == expected[name].tolist(), name


def test_changing_what_was_read_changes_neither_the_file_nor_the_next_reading(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pth")
    before = sha256(tmp_path / "a.pth")
    read(tmp_path / "a.pth").state["a"].fill_(1)
    assert read(tmp_path / "a.pth").state["a"].tolist() == [0, 0, 0]
    assert sha256(tmp_path / "a.pth") == before


@pytest.fixture
def both(vit, tmp_path):
    """A training checkpoint with weights and their moving average."""
    average = {name: tensor + 1 for name, tensor in vit.items()}
    torch.save({"model": vit, "model_ema": average, "epoch": 3}, tmp_path / "both.pth")
    return tmp_path / "both.pth"


def test_of_weights_and_their_average_it_says_which_it_takes(vit, both):
    told = []
    name = "stages.0.cls_token"
    last = open_released(both, "vit", VIT, say=told.append)
    average = open_released(both, "vit", VIT, ema=True, say=told.append)
    assert told == [
        f"{both}: takes 'model' and leaves 'model_ema'; --ema for the other",
        f"{both}: takes 'model_ema' and leaves 'model'; leave out --ema for the other",
    ]
    assert torch.equal(last.state()[name], vit[name])
    assert torch.equal(average.state()[name], vit[name] + 1)
    with pytest.warns(UserWarning, match="takes 'model' and leaves 'model_ema'; ema=True takes the other"):
        loaded = upstream.load("vit", {"model": vit, "model_ema": vit}, VIT)
    assert torch.equal(loaded.get_parameter(name), vit[name])


def test_an_average_alone_is_asked_for(vit, tmp_path):
    torch.save({"state_dict_ema": vit, "epoch": 1}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="only has a moving average of the weights, 'state_dict_ema'; use it with --ema"):
        read(tmp_path / "a.pth")
    assert read(tmp_path / "a.pth", ema=True).choice is None
    torch.save({"model": vit}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="has no moving average of the weights"):
        read(tmp_path / "a.pth", ema=True)
    torch.save(AveragedModel(Network()).state_dict(), tmp_path / "a.pth")
    assert list(read(tmp_path / "a.pth", ema=True).state) == NAMES


def shards(folder, state, form):
    """The state in two files with their index, as the hub has it."""
    files = {f"model-0000{number}-of-00002.{form}": dict(list(state.items())[number - 1 :: 2]) for number in (1, 2)}
    for file, tensors in files.items():
        (save_file if form == "safetensors" else torch.save)(tensors, folder / file)
    index = folder / f"model.{form}.index.json"
    weight_map = {name: file for file, tensors in files.items() for name in tensors}
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("old", [False, True])
def test_on_a_file_system_without_memory_maps_a_file_is_read_whole(tmp_path, monkeypatch, old):
    class InMemory(mmap.mmap):
        def __new__(cls, number: int, *rest, **named):
            if number != -1:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
            return super().__new__(cls, number, *rest, **named)

    state = Network().state_dict()
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=not old)
    monkeypatch.setattr(mmap, "mmap", InMemory)
    found = read(tmp_path / "a.pth").state
    assert list(found) == NAMES and all(torch.equal(found[name], state[name]) for name in NAMES)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("prefix", ["", "module._orig_mod."])
def test_several_files_with_an_index_are_one_checkpoint(vit, tmp_path, form, prefix):
    state = {f"{prefix}{name}": tensor.clone() for name, tensor in vit.items()}
    index = shards(tmp_path, state, form)
    imported = open_released(index, "vit", VIT)
    assert torch.equal(imported.build()(IMAGES), upstream.load("vit", vit, VIT)(IMAGES))
    # The digest is of all of them.
    listing = "".join(f"{sha256(path)}  {path.name}\n" for path in sorted(tmp_path.iterdir()))
    assert imported.source_sha256 == hashlib.sha256(listing.encode()).hexdigest()
    shard = sorted(tmp_path.glob("*00002*"))[0]
    changed = {name: tensor + 1 for name, tensor in (load_file(shard) if form == "safetensors" else torch.load(shard)).items()}
    (save_file if form == "safetensors" else torch.save)(changed, shard)
    assert checkpoint_digest(index) != imported.source_sha256
    shard.unlink()
    with pytest.raises(InputError, match=rf"{re.escape(shard.name)}: cannot be read"):
        read(index)


def test_a_tied_tensor_is_imported(vit, tmp_path):
    tied = {name: tensor for name, tensor in vit.items() if name.startswith("stages.")}
    tied["stages.0.blocks.0.norm2.weight"] = tied["stages.0.blocks.0.norm1.weight"]
    tied["stages.1.norm.bias"] = tied["stages.1.norm.weight"][:]
    torch.save(tied, tmp_path / "a.pth")
    write_imported(open_released(tmp_path / "a.pth", "vit", VIT), tmp_path / "a.safetensors")
    assert torch.equal(open_imported(tmp_path / "a.safetensors").build()(IMAGES), upstream.load("vit", tied, VIT)(IMAGES))


MISTAKEN = {
    "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n": "is a git-LFS pointer, .* 'git lfs pull'",
    "<!DOCTYPE html><html>quota exceeded</html>": "is a web page",
    "\n<HTML>": "is a web page",
    "\x1f\x8b\x08": "is packed with gzip; unpack it first",
}


@pytest.mark.parametrize(("content", "message"), MISTAKEN.items(), ids=["lfs", "doctype", "html", "gzip"])
def test_what_stands_in_the_place_of_a_file_is_called_by_its_name(tmp_path, content, message):
    for name in ("a.pth", "a.safetensors", "model.safetensors.index.json"):
        (tmp_path / name).write_bytes(content.encode("latin-1"))
        with pytest.raises(InputError, match=message):
            read(tmp_path / name)
        with pytest.raises(InputError, match=message):
            open_weights(tmp_path / name, None, None)
