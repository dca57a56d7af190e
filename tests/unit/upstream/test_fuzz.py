"""Checkpoints with anything changed: read, or refused in one line, in little time and memory.

``M2MKD_FUZZ=20`` tries twenty times as many changes.
"""

import argparse
import io
import json
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from m2mkd import upstream
from m2mkd.errors import LONGEST, InputError
from m2mkd.upstream.imported import open_released, open_weights, write_imported
from tests.bounded import bounded
from tests.fuzzing import fuzzed
from tests.parity.released import TINY
from tests.unit.upstream.small_models import SMALL, random_state, stage_shapes

VIT = {"img_size": 16, "patch_size": 8, "num_classes": 3, "embed_dim": 8, "num_heads": 2, "mlp_ratio": 2}
STATE = random_state(stage_shapes(1, first=True, last=True))


class Files(dict):
    """Their contents by name, too long to be printed."""

    __repr__ = object.__repr__


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def whole(folder) -> Files:
    """Files that are read, by their names."""
    content = {
        "model": STATE,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3}]},
        "args": argparse.Namespace(lr=1.0),
        "best": np.float64(0.5),
        "seen": np.arange(3),
    }
    torch.save(content, folder / "new.pth")
    torch.save(content, folder / "newer.pth", pickle_protocol=5)
    torch.save(content, folder / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"block_state_dict": STATE, "block_index": 0, "divided_depths": [1]}, folder / "stage.pth")
    save_file(STATE, folder / "released.safetensors")
    write_imported(open_released(folder / "new.pth", "vit", VIT), folder / "imported.safetensors")
    index = {"weight_map": dict.fromkeys(STATE, "released.safetensors")}
    (folder / "model.index.json").write_text(json.dumps(index))
    return Files({path.name: path.read_bytes() for path in folder.iterdir()})


def try_to_read(path: Path, content: bytes) -> bool:
    """Whether it is read; it fails where anything but one line comes of it."""
    path.write_bytes(content)
    before = sorted(path.parent.iterdir())
    try:
        with bounded(2**30, 5):
            imported = open_weights(path, None, None) if "imported" in path.name else open_released(path, "vit", VIT)
            imported.build()
    except InputError as error:
        message = str(error)
        assert message.isprintable(), message
        assert len(message) <= LONGEST + 10
        assert "\n" not in message
        return False
    assert sorted(path.parent.iterdir()) == before, "nothing is left behind"
    return True


FILES = ["new.pth", "newer.pth", "old.pth", "stage.pth", "released.safetensors", "imported.safetensors", "model.index.json"]


@pytest.mark.parametrize("name", FILES)
def test_whole_files_are_read(folder, whole, name):
    assert try_to_read(folder / f"whole {name}", whole[name])


def changes(most: int) -> st.SearchStrategy:
    """Positions in a file, as a share of it, with what happens there."""
    at = st.floats(0, 1, exclude_max=True)
    cut = st.tuples(st.just("cut"), at, st.integers(1, 64))
    flip = st.tuples(st.just("flip"), at, st.integers(1, 255))
    put = st.tuples(
        st.just("put"), at, st.binary(min_size=1, max_size=16) | st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7])
    )
    again = st.tuples(st.just("again"), at, st.integers(1, 200))
    return st.lists(cut | flip | put | again | st.tuples(st.just("end"), at, st.just(0)), min_size=1, max_size=most)


def changed(content: bytes, what: list) -> bytes:
    found = bytearray(content)
    for kind, share, value in what:
        at = int(share * len(found))
        if kind == "cut":
            del found[at : at + value]
        elif kind == "flip" and found:
            found[at] ^= value
        elif kind == "put":
            found[at : at + len(value)] = value
        elif kind == "again":
            found[at:at] = found[at : at + value]
        elif kind == "end":
            del found[at:]
    return bytes(found)


@pytest.mark.parametrize("name", FILES)
@fuzzed(60)
@given(what=changes(4))
def test_any_bytes_of_a_file(folder, whole, name, what):
    try_to_read(folder / f"bytes {name}", changed(whole[name], what))


def repacked(content: bytes, change) -> bytes:
    """A file of torch with its pickle changed, and its list of members and checksums right."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(written, "w") as new:
        for member in old.infolist():
            part = old.read(member)
            new.writestr(member.filename, change(part) if member.filename.endswith("data.pkl") else part)
    return written.getvalue()


@pytest.mark.parametrize("name", ["new.pth", "newer.pth", "stage.pth"])
@fuzzed(100)
@given(what=changes(3))
def test_any_bytes_of_a_pickle(folder, whole, name, what):
    try_to_read(folder / f"pickle {name}", repacked(whole[name], lambda part: changed(part, what)))


def opcodes(content: bytes) -> list[bytes]:
    """A pickle in its opcodes with their arguments."""
    starts = [start for _, _, start in pickletools.genops(content)]
    return [content[start:end] for start, end in zip(starts, [*starts[1:], len(content)], strict=True)]


FOREIGN = [
    *(opcode.code.encode("latin-1") for opcode in pickletools.opcodes if opcode.arg is None),
    *(
        b"K\x01",
        b"J\xff\xff\xff\xff",
        b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
        b"X\x01\0\0\0a",
        b"C\x01a",
        b"G" + struct.pack(">d", float("nan")),
    ),
    *(b"h\x00", b"q\x00", b"r\xff\xff\xff\x7f", b"ctorch\nTensor\n", b"cbuiltins\nbytearray\n", b"cos\nsystem\n", b"cnumpy\ndtype\n"),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n", b"ctorch\nbfloat16\n"),
]
"""Opcodes to put anywhere."""


@pytest.mark.parametrize("name", ["new.pth", "newer.pth", "stage.pth", "old.pth"])
@fuzzed(100)
@given(
    what=st.lists(
        st.tuples(
            st.sampled_from(["drop", "swap", "double", "put", "exchange"]), st.floats(0, 1, exclude_max=True), st.sampled_from(FOREIGN)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_opcodes_of_a_pickle(folder, whole, name, what):
    def change(part: bytes) -> bytes:
        steps = opcodes(part)
        for kind, share, step in what:
            at = int(share * len(steps))
            there = steps[at : at + 1]
            steps[at : at + 2 if kind == "swap" else at + 1] = {
                "drop": [],
                "swap": [*steps[at + 1 : at + 2], *there],
                "double": there * 2,
                "put": [step, *there],
                "exchange": [step],
            }[kind]
        return b"".join(steps)

    if name == "old.pth":
        head = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        body = io.BytesIO(whole[name])
        for _ in range(3):
            list(pickletools.genops(body))
        start = body.tell()
        list(pickletools.genops(body))
        content = whole[name]
        try_to_read(folder / f"opcodes {name}", head + change(content[start : body.tell()]) + content[body.tell() :])
    else:
        try_to_read(folder / f"opcodes {name}", repacked(whole[name], change))


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([2**31, 2**63, 10**30, -1, "\x1b[2J", ""])
)
anything = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3), max_leaves=8
)


def put_somewhere(value, path: list[int], new):
    """The value with one of its parts, wherever the path leads, exchanged."""
    if not path or not isinstance(value, dict | list) or not value:
        return new
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = keys[path[0] % len(keys)]
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[key] = put_somewhere(value[key], path[1:], new)
    return copy


@pytest.mark.parametrize("name", ["released.safetensors", "imported.safetensors"])
@fuzzed(120)
@given(path=st.lists(st.integers(0, 40), min_size=1, max_size=4), new=anything)
def test_any_values_of_a_header(folder, whole, name, path, new):
    (size,) = struct.unpack("<Q", whole[name][:8])
    header = json.loads(whole[name][8 : 8 + size])
    if name.startswith("imported") and path[0] % 2:
        config = json.loads(header["__metadata__"]["config"])
        header["__metadata__"]["config"] = json.dumps(put_somewhere(config, path[1:], new))
    else:
        header = put_somewhere(header, path, new)
    text = json.dumps(header).encode()
    try_to_read(folder / f"header {name}", struct.pack("<Q", len(text)) + text + whole[name][8 + size :])


@fuzzed(120)
@given(
    path=st.lists(st.integers(0, 40), max_size=3), new=anything | st.sampled_from(["new.pth", ".", "/dev/zero", "../a", "model.index.json"])
)
def test_any_values_of_an_index(folder, whole, path, new):
    index = json.loads(whole["model.index.json"])
    try_to_read(folder / "values.index.json", json.dumps(put_somewhere(index, path, new)).encode())


OF_A_STUDENT = ["code_dim", "num_heads", "head_dim", "ffn_capacity_factor", "mod_fc_kwargs", "qkv_bias_in_attention", "use_geglu"]
READ_IN = {"state_dim": 16, "stitch_dim": 8, "include_residual_in_read_in_attention": True}
STITCHED = {"pre_stitch_pos": [1], "post_stitch_pos": [0], "stitch_dim": 6}
CONFIGS = {
    "nac": SMALL,
    "nac_readin": {key: TINY["latent_graph_kwargs"][key] for key in OF_A_STUDENT}
    | READ_IN
    | {"tokenizer_kwargs": TINY["input_tokenizer_kwargs"]},
    "vit": VIT | {"divided_depths": [1]},
    "vmoe": VIT | {"divided_depths": [1, 2], "num_expert": 3, "moe_pos": [1]} | STITCHED,
    "vmoe_module": VIT | {"divided_depths": [2], "num_expert": 3, "idx": 1, "moe_pos": [1]},
}


@pytest.mark.parametrize("kind", CONFIGS)
@fuzzed(80)
@given(path=st.lists(st.integers(0, 40), min_size=1, max_size=4), new=anything)
def test_any_values_of_a_configuration(kind, path, new):
    with bounded(2**30, 5), pytest.raises(InputError) as refused:
        upstream.load(kind, {"nothing": torch.zeros(1)}, put_somewhere(CONFIGS[kind], path, new))
    assert str(refused.value).isprintable()
