"""Checkpoints that want the machine: each is refused in one line, at once and in little memory, and nothing of it is run."""

import json
import os
import pickle
import socket
import struct
import zipfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from m2mkd.errors import InputError
from m2mkd.upstream.checkpoint import read
from m2mkd.upstream.imported import open_imported, open_released, open_weights, write_imported
from tests.bounded import bounded
from tests.unit.upstream.small_models import VIT, random_state, stage_shapes

HUGE = 3_500_000_000
"""Numbers of four bytes in 14 GB."""


def ints(*values: int) -> bytes:
    """A tuple of them, as opcodes."""
    return b"(" + b"".join(b"\x8a\x08" + value.to_bytes(8, "little", signed=True) for value in values) + b"t"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def storage(key: str, numbers: int, kind: str = "FloatStorage") -> bytes:
    return (
        b"("
        + text("storage")
        + b"ctorch\n"
        + kind.encode()
        + b"\n"
        + text(key)
        + text("cpu")
        + b"\x8a\x08"
        + struct.pack("<q", numbers)
        + b"tQ"
    )


def tensor(numbers: int, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, key: str = "0") -> bytes:
    arguments = storage(key, numbers) + b"\x8a\x08" + struct.pack("<q", offset) + ints(*shape) + ints(*stride)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"\x89}tR"


def state(value: bytes, names: int = 1, extra: bytes = b"N") -> bytes:
    """A training checkpoint whose model has that value under so many names, and something beside it."""
    items = text("layer.0") + value + b"q\x07" + b"".join(text(f"layer.{number}") + b"h\x07" for number in range(1, names))
    return b"\x80\x02}(" + text("model") + b"}(" + items + b"u" + text("extra") + extra + b"u."


def archive(path: Path, content: bytes, storages: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED) -> Path:
    """A file as torch writes it since 1.6."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("a/data.pkl", content)
        file.writestr("a/version", "3\n")
        file.writestr("a/byteorder", "little")
        for key, numbers in (storages or {}).items():
            file.writestr(f"a/data/{key}", numbers)
    return path


def old(path: Path, content: bytes, rest: bytes = b"") -> Path:
    """A file as torch wrote it before 1.6, with views of storages, of which there is none."""
    content = content.replace(b"tQ", b"NtQ")
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    path.write_bytes(b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, system)) + content + rest)
    return path


FOUR = bytes(16)
LONG = b"\x8a\x08"
CALLS = {
    "torch.Tensor": (b"ctorch\nTensor\n(" + LONG + struct.pack("<q", HUGE) + b"tR", None),
    "torch.FloatTensor": (b"ctorch\nFloatTensor\n(" + LONG + struct.pack("<q", HUGE) + b"tR", r"more than weights \(torch\.FloatTensor\)"),
    "torch.UntypedStorage": (b"ctorch.storage\nUntypedStorage\n(" + LONG + struct.pack("<q", HUGE) + b"tR", None),
    "bytearray": (b"cbuiltins\nbytearray\n(" + LONG + struct.pack("<q", 4 * HUGE) + b"tR", None),
    "a tensor of a dictionary": (b"ctorch._utils\n_rebuild_wrapper_subclass\n(tR", None),
    "a state of numpy.dtype": (
        b"cnumpy\ndtype\n(" + text("V8") + b"K\x00K\x01tR(K\x03" + text("|") + b"N(" + text("a") + b"t}J\xff\xff\xff\x7fK\x01K\x3ftb",
        None,
    ),
    "a scalar of a made-up dtype": (
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(" + text("O") + b"K\x00K\x01tR" + text("addressX") + b"tR",
        None,
    ),
}
"""What an unpickler with an allow-list would run, as opcodes that leave a value; and why it is refused, or none where it is not."""


@pytest.mark.parametrize(("call", "refused"), CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("form", ["new", "old"])
def test_a_call_beside_the_weights_takes_nothing(tmp_path, call, refused, form):
    """Under 2 kB that would take 14 GB, or memory at an address of its choosing: never run."""
    content = state(tensor(4, (4,), (1,)), extra=call)
    rest = pickle.dumps(["0"], 2) + struct.pack("<q", 4) + FOUR
    path = archive(tmp_path / "a.pth", content, {"0": FOUR}) if form == "new" else old(tmp_path / "a.pth", content, rest)
    assert path.stat().st_size < 2000
    with bounded(2**28, 5), pytest.raises(InputError, match=refused) if refused else nullcontext():
        assert read(path).state["layer.0"].tolist() == [0.0] * 4


CLAIMS = {
    "a storage that is not there": (state(tensor(HUGE, (HUGE,), (1,))), {}),
    "a storage that is smaller": (state(tensor(HUGE, (HUGE,), (1,))), {"0": FOUR}),
    "one number for all": (state(tensor(4, (50_000, 70_000), (0, 0))), {"0": FOUR}),
    "one row for all": (state(tensor(4, (HUGE, 4), (0, 1))), {"0": FOUR}),
    "numbers behind the end": (state(tensor(4, (4,), (1,), offset=1)), {"0": FOUR}),
    "an offset before the beginning": (state(tensor(4, (1,), (1,), offset=-3)), {"0": FOUR}),
    "a negative stride": (state(tensor(4, (2,), (-1,), offset=1)), {"0": FOUR}),
    "a shape that overflows": (state(tensor(4, (2**40, 2**40), (1, 1))), {"0": FOUR}),
    "a negative shape": (state(tensor(4, (-1,), (1,))), {"0": FOUR}),
    "fewer strides than axes": (state(tensor(4, (2, 2), (1,))), {"0": FOUR}),
    "too many axes": (state(tensor(4, (1,) * 40, (1,) * 40)), {"0": FOUR}),
    "a storage of two kinds": (state(tensor(4, (4,), (1,)), extra=storage("0", 2, "DoubleStorage")), {"0": FOUR}),
    "a storage by a path": (state(tensor(4, (4,), (1,), key="../data.pkl")), {"0": FOUR}),
    "many names of one storage": (state(tensor(2**14, (2**14,), (1,)), names=5000), {"0": bytes(2**16)}),
}


@pytest.mark.parametrize(("content", "storages"), CLAIMS.values(), ids=CLAIMS)
def test_what_a_file_claims_is_compared_with_what_it_has(tmp_path, content, storages):
    with bounded(2**28, 5), pytest.raises(InputError, match=r"^[^\n]*a\.pth: "):
        read(archive(tmp_path / "a.pth", content, storages))


def test_the_old_format_claims_no_more_than_it_has_either(tmp_path):
    listed = pickle.dumps(["0"], 2)
    for numbers, rest in (
        (HUGE, b""),
        (HUGE, listed + struct.pack("<q", HUGE)),
        (4, listed + struct.pack("<q", 5) + FOUR),
        (4, pickle.dumps(["1"], 2)),
    ):
        with bounded(2**28, 5), pytest.raises(InputError, match="is not a checkpoint, or is damaged"):
            read(old(tmp_path / "a.pth", state(tensor(numbers, (numbers,), (1,))), rest))


def test_compressed_members_are_not_unpacked(tmp_path):
    """A thousandth on the disk of what they are in memory."""
    numbers = 2**26
    path = archive(tmp_path / "a.pth", state(tensor(numbers, (numbers,), (1,))), {"0": bytes(4 * numbers)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**19
    with bounded(2**27, 5), pytest.raises(InputError, match=r"a/\w+ is compressed, as torch never does"):
        read(path)


def test_a_long_list_of_members_is_not_read(tmp_path):
    """Each of its entries is 47 bytes on the disk, and twenty times that in memory."""
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", *[20, 3, 20, 0], *[0, 0, 0, 0], 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"x"
    count = 400_000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, len(entry) * count, 4, 0)
    (tmp_path / "a.pth").write_bytes(b"PK\x03\x04" + entry * count + end)
    with bounded(2**27, 5), pytest.raises(InputError, match="its list of members has 18800000 bytes"):
        read(tmp_path / "a.pth")


def test_a_changed_number_is_noticed(tmp_path):
    content = bytearray(archive(tmp_path / "a.pth", state(tensor(4, (4,), (1,))), {"0": b"0123456789abcdef"}).read_bytes())
    content[content.index(b"0123456789abcdef") + 5] ^= 1
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(InputError, match="a/data/0 does not match its saved checksum"):
        read(tmp_path / "a.pth")


def test_a_file_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.arange(4.0)}, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read(tmp_path / "a.pth").state["a"].tolist() == [0, 1, 2, 3]


OPENERS = {
    "released": lambda path: open_released(path, "vit", VIT),
    "imported": lambda path: open_weights(path, None, None),
}


@pytest.mark.parametrize("opener", OPENERS.values(), ids=OPENERS)
@pytest.mark.parametrize(
    ("kind", "name"), [("pipe", "a.pth"), ("socket", "a.pth"), ("device", "a.pth"), ("folder", "a.pth"), ("pipe", "a.json")]
)
def test_what_is_no_file_is_not_waited_for(tmp_path, opener, kind, name):
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with bounded(2**28, 5), pytest.raises(InputError, match=rf"{name}: is a {kind}, not a file"):
        opener(path)


def test_sizes_that_a_file_says_of_itself_have_limits(tmp_path):
    """They decide on the network that is laid out before its tensors are compared."""
    weights = {"cls_token": torch.zeros(1, 1, 8)}
    for name, value in (("divided_depths", [10**9]), ("divided_depths", [300, 300]), ("block_index", 10**30), ("model_name", "v" * 10**6)):
        torch.save({"block_state_dict": weights, "block_index": 0, "divided_depths": [1], name: value}, tmp_path / "a.pth")
        with bounded(2**28, 5), pytest.raises(InputError, match=r"divided_depths|block_index"):
            open_released(tmp_path / "a.pth", "vit", {key: value for key, value in VIT.items() if key != "divided_depths"})
    write_imported(open_released(small_vit(tmp_path), "vit", VIT), tmp_path / "good.safetensors")
    for changes in (
        {"embed_dim": 2**40},
        {"divided_depths": [10**6]},
        {"num_classes": 10**12},
        {"img_size": 10**9},
        {"embed_dim": "x" * 10**6},
    ):
        header = {"format": "m2mkd-import/1", "kind": "vit", "config": json.dumps(VIT | changes), "source": "a", "source_sha256": "0"}
        save_file(weights, tmp_path / "a.safetensors", header)
        with bounded(2**28, 5), pytest.raises(InputError, match=next(iter(changes))) as refused:
            open_imported(tmp_path / "a.safetensors").build()
        assert len(str(refused.value)) < 2100


def small_vit(folder: Path) -> Path:
    shapes = stage_shapes(1, first=True) | {
        f"blocks.{index}.{name[9:]}": shape for index in (1, 2) for name, shape in stage_shapes(1).items()
    }
    torch.save(
        random_state(shapes | {"norm.weight": (8,), "norm.bias": (8,), "head.weight": (3, 8), "head.bias": (3,)}), folder / "vit.pth"
    )
    return folder / "vit.pth"


@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_control_characters_of_names_do_not_reach_the_terminal(tmp_path, form):
    evil = {"\x1b]0;owned\x07\x1b[2J\nm2mkd: all is well\u202e": torch.zeros(1)}
    path = tmp_path / "a"
    torch.save(evil, path) if form == "torch" else save_file(evil, path)
    with pytest.raises(InputError) as refused:
        open_released(path, "vit", VIT | {"depths": 3})
    assert str(refused.value).isprintable()
    beside = small_vit(tmp_path)
    torch.save(torch.load(beside) | evil, beside)
    with pytest.raises(InputError, match=r"has \\x1b\]0;owned\\x07") as refused:
        open_released(beside, "vit", VIT)
    assert str(refused.value).isprintable()


def test_names_of_a_pickle_and_long_ones_do_not_either(tmp_path):
    for name in ("\x1b[31mred", "x" * 10**6):
        with pytest.raises(InputError) as refused:
            read(archive(tmp_path / "a.pth", b"\x80\x02c" + name.encode() + b"\nf\n."))
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 2100
        assert str(refused.value).endswith("give a file of weights")


def test_a_checkpoint_that_holds_itself(tmp_path):
    with pytest.raises(InputError, match="holds no state dict"):
        read(archive(tmp_path / "a.pth", b"\x80\x02}q\x00" + text("model") + b"h\x00s."))


def test_headers_and_indices_have_limits(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{" + bytes(100))
    with bounded(2**28, 5), pytest.raises(InputError, match="has a header of more than 16 MiB"):
        read(path)
    deep = "[" * 200_000
    save_file({"a": torch.zeros(1)}, path, {"format": "m2mkd-import/1", "kind": "vit", "config": deep, "source": "a", "source_sha256": "0"})
    with bounded(2**28, 5), pytest.raises(InputError, match="nested too deep"):
        open_imported(path)
    index = tmp_path / "model.safetensors.index.json"
    contents = {
        "nested too deep": deep,
        "holds a list": "[]",
        "has no weight_map": "{}",
        "which is not a file next to it": json.dumps({"weight_map": {"a": "../a.safetensors"}}),
        "in '7', which is not a file": json.dumps({"weight_map": {"a": 7}}),
        "is not a checkpoint": json.dumps({"weight_map": {"a": index.name}}),
        "cannot be read": json.dumps({"weight_map": {"a": "absent"}}),
        "lacks b, which model": json.dumps({"weight_map": {"b": path.name}}),
        "not UTF-8": "{\xe9",
        "more than 16 MiB": " " * (2**24 + 1),
    }
    for message, content in contents.items():
        index.write_bytes(content.encode("latin-1"))
        with bounded(2**28, 5), pytest.raises(InputError, match=message):
            read(index)


def test_numpy_is_not_needed_to_read_numbers_beside_weights(tmp_path):
    """They stay what the file says; that the same file as of any numpy is read shows that none of it is made."""
    torch.save(
        {"model": {"a": torch.zeros(2)}, "best": np.float16(3), "seen": np.arange(3), "at": np.datetime64("2020-01-01")}, tmp_path / "a.pth"
    )
    assert read(tmp_path / "a.pth").state["a"].tolist() == [0, 0]
