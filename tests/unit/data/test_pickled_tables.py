"""Pickles of tables are read as an unpickler reads them, and nothing that a pickle asks for is ever done."""

import ast
import os
import pickle
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from m2mkd.data import pickled_tables
from m2mkd.data.pickled_tables import read_pickle
from m2mkd.pickles import MOST_OPCODES, PickleError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 12), dtype=np.uint8)
TABLE = {
    b"data": PIXELS,
    b"by columns": np.asfortranarray(PIXELS),
    b"wide": np.arange(6, dtype=">i4").reshape(2, 3),
    b"labels": [0, 1, 2, 300, 70_000, -1, True],
    b"names": [b"a", b"\xe9", "caf\u00e9", None],
    b"title": b"training batch 1 of 1",
}


@pytest.mark.parametrize("protocol", range(6))
def test_a_table_is_read_as_an_unpickler_reads_it(protocol: int):
    content = pickle.dumps(TABLE, protocol)
    found, expected = read_pickle(content), pickle.loads(content, encoding="bytes")
    assert found.keys() == expected.keys() == TABLE.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(found[name], value)
            assert found[name].dtype.newbyteorder("=") == value.dtype.newbyteorder("=")
        else:
            assert found[name] == value


def test_a_pickle_of_python_2():
    """As CIFAR's are: names of bytes, and arrays whose content is such a name."""
    old = b"\x80\x02}q\x00U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87R"
    old += b"(K\x01K\x02K\x02\x86"
    old += (
        b"cnumpy\ndtype\nq\x04U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x04\x00\xff\x80\x01tbs."
    )
    np.testing.assert_array_equal(read_pickle(old)[b"data"], pickle.loads(old, encoding="bytes")[b"data"])


def array(kind: bytes, state: bytes, content: bytes = b"C\x08AAAAAAAA") -> bytes:
    """A pickled array of one element, whose type is called and set to a state as the file wishes."""
    made = b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    return made + b"(K\x01K\x01\x85cnumpy\ndtype\n" + kind + b"R" + state + b"\x89" + content + b"tb."


def called(what: str) -> bytes:
    return b"c" + what.replace(".", "\n", 1).encode() + b"\n(C\x01xtR."


class _Deep:
    def __reduce__(self):
        return (os.system, ("touch run",))


INTEGER = b"(K\x03C\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
ENCODE = b"c_codecs\nencode\nq\x00"
TEXT = b"X\x00\x00\x10\x00" + bytes(1 << 20)
NOT_INTEGERS, NESTED = "an array in it is not of integers", "instead of a number, text, a list of these or an array"
EVIL: dict[str, tuple[Callable[[], bytes], str]] = {
    "a call": (lambda: pickle.dumps(_Deep()), r"it would call posix\.system"),
    "a call of a builtin": (lambda: called("builtins.eval"), r"it would call builtins\.eval"),
    "a call by a name on the stack": (lambda: b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.", r"it would call os\.system"),
    "another function of numpy": (lambda: called("numpy.load"), r"it would call numpy\.load"),
    "a codec that inflates": (
        lambda: b"c_codecs\nencode\nX\x01\x00\x00\x00xX\x03\x00\x00\x00zip\x86R.",
        r"it would call _codecs\.encode with values that a table does not need",
    ),
    "pointers for objects": (
        lambda: array(b"C\x02O8K\x00K\x01\x87", b"(K\x03C\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"),
        NOT_INTEGERS,
    ),
    "fields at chosen offsets": (
        lambda: array(b"C\x02u1K\x00K\x01\x87", b"(K\x03C\x01|N(C\x01at}C\x01a(NtsJ\xff\xff\xff\x7fK\x01K\x00tb"),
        NOT_INTEGERS,
    ),
    "a type of chosen size": (
        lambda: array(b"C\x02V8K\x00K\x01\x87", b"(K\x03C\x01|NNNJ\xff\xff\xff\x7fK\x01K\x00tb"),
        NOT_INTEGERS,
    ),
    "a type that is no text": (lambda: array(b"K\x07\x85", INTEGER), NOT_INTEGERS),
    "no order of bytes": (lambda: array(b"C\x02u8K\x00K\x01\x87", INTEGER.replace(b"|", b"x")), "no known order of bytes"),
    "more elements than bytes": (lambda: array(b"C\x02u8K\x00K\x01\x87", INTEGER, b"C\x01A"), "does not have the size that it claims"),
    "state of a list": (lambda: b"](K\x01tb.", "changes a list"),
    "an instance": (lambda: b"(inumpy\nndarray\n.", "opcode INST"),
    "a new object": (lambda: b"cnumpy\nndarray\n)\x81.", "is not an array of integers"),
    "a set": (lambda: b"\x8f(K\x01\x90.", "is not an array of integers"),
    "a frozen set": (lambda: b"(K\x01\x91.", "is not an array of integers"),
    "a persistent name": (lambda: b"Pxyz\n.", "opcode PERSID"),
    "an extension": (lambda: b"\x82\x01.", "opcode EXT1"),
    "a number that is not whole": (lambda: pickle.dumps({b"a": 0.5}), f"a float {NESTED}"),
    "a list in a list": (lambda: b"]]a.", f"a list {NESTED}"),
    "a list that holds itself": (lambda: b"]q\x00h\x00a.", f"a list {NESTED}"),
    "a table in a table": (lambda: b"}X\x01\x00\x00\x00a}s.", f"a dict {NESTED}"),
    "tuples in tuples": (lambda: b"N" + b"\x85" * 100_000 + b".", f"a tuple {NESTED}"),
    "a tuple without end": (lambda: b"(" + b"N" * 1000 + b"t.", f"a tuple {NESTED}"),
    "a name that is no text": (lambda: b"}](K\x01eK\x02s.", "an entry of its table has no name"),
    "a huge number": (lambda: b"\x8b\x00\x00\x10\x00" + b"\x7f" * (1 << 20) + b".", "more than 64 bits"),
    "a text that is encoded again and again": (
        lambda: ENCODE + TEXT + b"q\x01X\x06\x00\x00\x00latin1q\x02" + b"h\x00h\x01h\x02\x86R" * 600 + b".",
        "its text takes more than",
    ),
    "more parts than a table has": (lambda: b"N" * (MOST_OPCODES + 2) + b".", "opcodes"),
    "nothing on the stack": (lambda: b"a.", "damaged"),
    "fewer values than are taken": (lambda: b"(K\x01\x86.", "damaged"),
    "two values": (lambda: b"NN.", "damaged"),
    "only a name": (lambda: b"cnumpy\nndarray\n.", f"a Named {NESTED}"),
    "an array without content": (lambda: b"cnumpy.core.multiarray\n_reconstruct\n)R.", "is not an array of integers"),
    "no end": (lambda: b"N", "damaged"),
    "an unknown opcode": (lambda: b"\xff.", "damaged"),
    "nothing": (lambda: b"", "damaged"),
}


@pytest.mark.parametrize("evil", EVIL)
def test_what_no_table_needs_is_refused_and_not_done(evil: str, tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    make, message = EVIL[evil]
    content = make()
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(PickleError, match=message):
        read_pickle(content)
    assert time.process_time() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20, "KiB"
    assert not list(tmp_path.iterdir())


def test_a_pickle_that_is_too_large():
    with pytest.raises(PickleError, match="more than 10"):
        read_pickle(pickle.dumps(b"12345678901"), limit=10)


def test_no_reader_of_foreign_files_has_an_unpickler():
    """Neither this one, which only knows the opcodes, nor another in the room."""
    for path in Path(pickled_tables.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert "pickle" not in names and getattr(node, "module", None) != "pickle", path
            assert not (isinstance(node, ast.keyword) and node.arg == "allow_pickle"), path
