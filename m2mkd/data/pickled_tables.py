"""Pickles of numbers, text and arrays, read without an unpickler: their opcodes are walked, and nothing that a file names is ever called.

An unpickler that allows some names still lets the file choose what these are called with and what their objects are set to, which is enough
to crash the process at an address of the file's choosing. Here the few calls that such files hold are recognised, and answered by values.
"""

import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_PICKLE = 1 << 29
"""Bytes; the training set of CIFAR-100 takes a third of that."""
MOST_TABLE_OPCODES = 1 << 21
"""Ten times as many as it has."""
LONGEST_TUPLE = 16
EMPTY_ARRAY = {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}
FULL_ARRAY = {("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer")}
KNOWN_NAMES = {*EMPTY_ARRAY, *FULL_ARRAY, ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
"""All that these pickles name: the making of arrays and, where a newer Python wrote them, of bytes."""
INTEGERS = re.compile(r"[iu][1248]")
CONSTANT_OPCODES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY_OPCODES: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
PYTHON_2_TEXT_OPCODES = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
VALUE_OPCODES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
SCALARS = (type(None), int, bytes, str)


class TablePickleError(ValueError):
    """What a pickle holds that a table of numbers and text does not, in a few words."""


@dataclass(frozen=True)
class _Name:
    module: str
    name: str


@dataclass
class _Type:
    dtype: np.dtype[Any]


@dataclass
class _Array:
    values: NDArray[Any] | None = None


def read_pickle(content: bytes) -> Any:
    """The value of a pickle of scalars, arrays of integers, flat lists of scalars, or a table of these.

    Parameters
    ----------
    content
        The pickle; what Python 2 called text is read as bytes.

    Returns
    -------
    Any
        None, a number, bytes, text, an array, a list, a small tuple, or a dictionary of these by bytes; nothing is nested deeper.

    Raises
    ------
    PickleError
        If it holds anything else, or more than is read.
    Exception
        Whatever `pickletools` and the stack of a damaged pickle stumble over.
    """
    if len(content) > LARGEST_PICKLE:
        raise TablePickleError(f"it has {len(content)} bytes, more than {LARGEST_PICKLE}")
    machine = _Machine()
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if number == MOST_TABLE_OPCODES:
            raise TablePickleError(f"it has more than {MOST_TABLE_OPCODES} parts")
        machine.step(opcode.name, argument)
    (value,) = machine.stack
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.values is None:
            raise TablePickleError("an array in it has no content")
        return value.values
    if not isinstance(value, (*SCALARS, list, tuple, dict)):
        raise TablePickleError("it holds the name of a function")
    return value


class _Machine:
    """The stack machine of a pickle, for the opcodes that tables need."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.encoded = 0
        """Bytes that were made by encoding text: a text may be encoded many times."""

    def step(self, name: str, argument: Any) -> None:  # noqa: PLR0912 - a table of opcodes
        """Do what one opcode says."""
        stack = self.stack
        if name in VALUE_OPCODES:
            stack.append(_checked(argument))
        elif name in PYTHON_2_TEXT_OPCODES:
            stack.append(argument.encode("latin-1"))
        elif name in CONSTANT_OPCODES:
            stack.append(CONSTANT_OPCODES[name])
        elif name in EMPTY_OPCODES:
            stack.append(EMPTY_OPCODES[name]())
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(_tuple(self._last(int(name[-1]))))
        elif name == "TUPLE":
            stack.append(_tuple(self._marked()))
        elif name == "LIST":
            stack.append(_extend(self._marked(), []))
        elif name == "DICT":
            stack.append(_set(self._marked(), {}))
        elif name in ("APPEND", "APPENDS"):
            _extend(self._last(1) if name == "APPEND" else self._marked(), stack[-1])
        elif name in ("SETITEM", "SETITEMS"):
            _set(self._last(2) if name == "SETITEM" else self._marked(), stack[-1])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            stack.append(_known(*(argument.split(" ") if name == "GLOBAL" else self._last(2))))
        elif name == "REDUCE":
            stack.append(self._called(*self._last(2)))
        elif name == "BUILD":
            _build(self._last(1)[0], stack[-1])
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise TablePickleError(f"it has the opcode {name}, which no table needs")

    def _last(self, count: int) -> list[Any]:
        if len(self.stack) < count + (self.marks[-1] if self.marks else 0):
            raise TablePickleError("it takes values that are not there")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def _marked(self) -> list[Any]:
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def _called(self, name: Any, arguments: Any) -> Any:
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise TablePickleError("it calls what is no function")
        if (name.module, name.name) in EMPTY_ARRAY:
            return _Array()
        if (name.module, name.name) in FULL_ARRAY and len(arguments) == 4:
            content, kind, shape, order = arguments
            return _Array(_array(content, kind, shape, order in ("F", b"F")))
        if (name.module, name.name) == ("numpy", "dtype") and arguments:
            return _Type(_integers(arguments[0]))
        if (name.module, name.name) == ("_codecs", "encode") and len(arguments) == 2 and arguments[1] in ("latin1", b"latin1"):
            self.encoded += len(arguments[0])
            if self.encoded > LARGEST_PICKLE:
                raise TablePickleError(f"its text takes more than {LARGEST_PICKLE} bytes")
            return arguments[0].encode("latin-1")
        raise TablePickleError(f"it would call {name.module}.{name.name} with other values than a table needs")


def _checked(value: Any) -> Any:
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise TablePickleError("a number in it has more than 64 bits")
    return bytes(value) if isinstance(value, bytearray) else value


def _known(module: str, name: str) -> _Name:
    if (module, name) not in KNOWN_NAMES:
        raise TablePickleError(f"it would call {module}.{name}")
    return _Name(module, name)


def _tuple(members: list[Any]) -> tuple[Any, ...]:
    """A tuple as the state of an array is one, which holds at most one of numbers."""
    if len(members) > LONGEST_TUPLE:
        raise TablePickleError(f"a tuple in it has more than {LONGEST_TUPLE} members")
    for member in members:
        flat = isinstance(member, (*SCALARS, _Name, _Type)) or (
            isinstance(member, tuple) and all(isinstance(one, SCALARS) for one in member)
        )
        if not flat:
            raise TablePickleError("its values are nested too deep")
    return tuple(members)


def _extend(members: list[Any], target: Any) -> Any:
    if not isinstance(target, list) or not all(isinstance(member, SCALARS) for member in members):
        raise TablePickleError("a list in it holds more than numbers and text")
    target.extend(members)
    return target


def _set(pairs: list[Any], target: Any) -> Any:
    if not isinstance(target, dict) or len(pairs) % 2:
        raise TablePickleError("it sets an entry of what is no table")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if not isinstance(key, (bytes, str)) or isinstance(value, dict):
            raise TablePickleError("its tables are nested, or have no names")
        target[key.encode() if isinstance(key, str) else key] = value
    return target


def _integers(code: Any) -> np.dtype[Any]:
    text = code.decode("latin-1") if isinstance(code, bytes) else str(code)
    if not INTEGERS.fullmatch(text):
        raise TablePickleError("an array in it is not of integers")
    return np.dtype(text)


def _build(state: Any, target: Any) -> None:
    if isinstance(target, _Type) and isinstance(state, tuple) and len(state) >= 5 and state[2:5] == (None, None, None):
        order = state[1].decode("latin-1") if isinstance(state[1], bytes) else str(state[1])
        if order not in ("|", "<", ">", "="):
            raise TablePickleError("an array in it has no known order of bytes")
        target.dtype = target.dtype.newbyteorder(order)  # type: ignore[arg-type]
    elif isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
        _, shape, kind, by_columns, content = state
        target.values = _array(content, kind, shape, bool(by_columns))
    else:
        raise TablePickleError("it sets the state of what is no array of integers")


def _array(content: Any, kind: Any, shape: Any, by_columns: bool) -> NDArray[Any]:
    sizes = isinstance(shape, tuple) and all(isinstance(size, int) and size >= 0 for size in shape)
    if not sizes or not isinstance(kind, _Type) or not isinstance(content, bytes) or math.prod(shape) * kind.dtype.itemsize != len(content):
        raise TablePickleError("an array in it does not have the size that it claims")
    return np.frombuffer(content, kind.dtype).reshape(shape, order="F" if by_columns else "C")
