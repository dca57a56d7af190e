"""Reader of untrusted pickles as plain values: it walks their opcodes, and never imports or calls the names in them.

An unpickler with an allow-list is not enough. Allowed functions are still called with arguments from the file, for example
``torch.Tensor(10**10)``, which takes 40 GB, and their results are given a state, with which ``numpy.dtype`` chooses addresses. Here a
call is a value that describes the call.
"""

import mmap
import pickletools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, BinaryIO, Literal

MOST_OPCODES = 2_000_000
"""Maximum opcodes of one pickle; each makes at most one value, so this bounds time and memory. A large checkpoint has a tenth of them."""
ORDERED = "collections.OrderedDict"
"""Classes that are read as plain mappings, since mappings keep their order."""
SET = "builtins.set"
"""Names that make a set, in any protocol."""
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
"""Opcodes whose argument is the value."""
PYTHON_2_TEXT = {"STRING", "BINSTRING", "SHORT_BINSTRING"}


class PickleError(ValueError):
    """Pickle that is damaged, too large, or not of plain values."""


class ForeignNameError(PickleError):
    """Pickle with a name that is not needed in a file of its kind."""

    def __init__(self, name: str) -> None:
        super().__init__(f"names {name}")
        self.name = name


@dataclass(frozen=True, eq=False)
class Named:
    """Class or function by its name, such as ``collections.OrderedDict``."""

    name: str


@dataclass(eq=False, repr=False)
class Built:
    """Description of a call that the pickle asks for."""

    name: str
    """Name of the called class or function."""
    arguments: tuple[Any, ...]
    state: Any = None
    """State that the result would be given."""


def walk(
    file: BinaryIO | mmap.mmap,
    allowed: Callable[[str], bool],
    calls: Mapping[str, Callable[..., Any]] = MappingProxyType({}),
    persistent: Callable[[Any], Any] | None = None,
    *,
    encoding: Literal["latin-1", "bytes"] = "latin-1",
) -> Any:
    """Read one pickle of protocol 0 to 5.

    Parameters
    ----------
    file
        Opened at its beginning, and left after the pickle's end. Nothing beyond the pickle is read.
    allowed
        Predicate: may the pickle name this class or function, given as ``module.name``?
    calls
        Functions of this program, by the names in the pickle: they are called with the arguments, which are plain values, and raise
        `PickleError` for wrong ones. Any other call gives a `Built`.
    persistent
        Function that resolves a persistent id; None if there are none.
    encoding
        Encoding of Python 2 text: text, or bytes.

    Returns
    -------
    Any
        None, numbers, text, bytes, lists, tuples, dicts (ordered ones too), `Named`, `Built` (sets too), and results of ``calls`` and
        ``persistent``. A value may occur several times, and within itself.

    Raises
    ------
    ForeignNameError
        If it contains a name that is not allowed.
    PickleError
        If it is damaged, has too many opcodes, or does something that plain data does not need.
    """
    machine = _Machine(allowed, calls, persistent, encoding == "bytes")
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):  # type: ignore[arg-type]
            if count == MOST_OPCODES:
                raise PickleError(f"it has more than {MOST_OPCODES:,} opcodes")
            machine.step(opcode.name, argument)
        return machine.result()
    except PickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise PickleError(f"it is damaged ({error or type(error).__name__})") from None


class _Machine:
    """Stack machine of pickle, without its calls."""

    def __init__(
        self,
        allowed: Callable[[str], bool],
        calls: Mapping[str, Callable[..., Any]],
        persistent: Callable[[Any], Any] | None,
        text_is_bytes: bool,
    ) -> None:
        self._allowed, self._calls, self._persistent = allowed, calls, persistent
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._steps: dict[str, Callable[[str, Any], object]] = {
            **dict.fromkeys(VALUES, lambda _, argument: self._stack.append(argument)),
            **dict.fromkeys(PYTHON_2_TEXT, lambda _, text: self._stack.append(text.encode("latin-1") if text_is_bytes else text)),
            **dict.fromkeys(CONSTANTS, lambda opcode, _: self._stack.append(CONSTANTS[opcode])),
            **dict.fromkeys(EMPTY, lambda opcode, _: self._stack.append(EMPTY[opcode]())),
            "EMPTY_SET": lambda *_: self._stack.append(Built(SET, ())),
            **dict.fromkeys(("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"), self._remember),
            **dict.fromkeys(("BINGET", "LONG_BINGET", "GET"), lambda _, index: self._stack.append(self._memo[index])),
            "POP": lambda *_: self._stack.pop(),
            "DUP": lambda *_: self._stack.append(self._stack[-1]),
            "MARK": self._mark,
            **dict.fromkeys(("LIST", "TUPLE", "DICT", "FROZENSET", "POP_MARK", "APPENDS", "ADDITEMS", "SETITEMS"), self._since_mark),
            **dict.fromkeys(("TUPLE1", "TUPLE2", "TUPLE3"), lambda opcode, _: self._group("TUPLE", self._pop(int(opcode[-1])))),
            "APPEND": lambda *_: self._group("APPENDS", self._pop(1)),
            "SETITEM": lambda *_: self._group("SETITEMS", self._pop(2)),
            "GLOBAL": lambda _, path: self._name(*path.split(" ", 1)),
            "STACK_GLOBAL": lambda *_: self._name(*self._pop(2)),
            **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda *_: self._call(*self._pop(2))),
            "NEWOBJ_EX": lambda *_: self._call(*self._pop(3)[:2]),
            "BUILD": lambda *_: self._set_state(self._stack.pop()),
            "BINPERSID": self._persist,
            **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda *_: None),
        }

    def step(self, opcode: str, argument: Any) -> None:
        if opcode not in self._steps:
            raise PickleError(f"it has the opcode {opcode}, which no plain data needs")
        self._steps[opcode](opcode, argument)

    def result(self) -> Any:
        if len(self._stack) != 1 or self._below:
            raise PickleError("it is damaged (values are left over)")
        return self._stack[0]

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise PickleError("it is damaged (values are missing)")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _remember(self, opcode: str, argument: Any) -> None:
        self._memo[len(self._memo) if opcode == "MEMOIZE" else argument] = self._stack[-1]

    def _mark(self, *_: Any) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _since_mark(self, opcode: str, _: Any) -> None:
        items, self._stack = self._stack, self._below.pop()
        self._group(opcode, items)

    def _group(self, opcode: str, items: list[Any]) -> None:
        """Make a container of values, or add them to the one on the stack."""
        if opcode == "TUPLE":
            self._stack.append(tuple(items))
        elif opcode == "LIST":
            self._stack.append(items)
        elif opcode == "FROZENSET":
            self._stack.append(Built(SET, (items,)))
        elif opcode == "DICT":
            self._stack.append({})
            self._group("SETITEMS", items)
        elif opcode != "POP_MARK":
            there = self._stack[-1]
            if opcode == "SETITEMS" and isinstance(there, dict):
                there.update(zip(map(_key, items[::2]), items[1::2], strict=True))
            elif opcode == "APPENDS" and isinstance(there, list):
                there.extend(items)
            elif not isinstance(there, Built):  # the items of other containers are not needed
                raise PickleError(f"it adds to a {type(there).__name__}")

    def _name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise PickleError("it is damaged (a name is not text)")
        path = f"{module}.{name}"
        if not self._allowed(path):
            raise ForeignNameError(path)
        self._stack.append(Named(path))

    def _call(self, called: Any, arguments: Any) -> None:
        if not isinstance(called, Named) or not isinstance(arguments, tuple):
            raise PickleError(f"it calls a {type(called).__name__}")
        if called.name == ORDERED:
            self._stack.append({})
            self._group("SETITEMS", [value for pairs in arguments[:1] for pair in pairs for value in pair])
            return
        own = self._calls.get(called.name)
        self._stack.append(Built(called.name, arguments) if own is None else own(*arguments))

    def _set_state(self, state: Any) -> None:
        there = self._stack[-1]
        if isinstance(there, Built):
            there.state = state
        elif not isinstance(there, dict):  # the attributes of a mapping are not needed
            raise PickleError(f"it changes a {type(there).__name__}")

    def _persist(self, *_: Any) -> None:
        if self._persistent is None:
            raise PickleError("it has persistent ids, which no plain data needs")
        self._stack.append(self._persistent(self._stack.pop()))


def _key(value: Any) -> Any:
    """Key that is compared in constant time, whatever the file contains; other values become unique keys."""
    plain: Collection[type] = (str, bytes, float, bool, type(None), Named, Built)
    if type(value) in plain or (type(value) is int and value.bit_length() < 64):
        return value
    return Built(type(value).__name__, (value,))
