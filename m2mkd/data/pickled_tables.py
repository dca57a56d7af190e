"""Pickles of tables of numbers, text and arrays, such as CIFAR's. They are walked, and only calls that make arrays are emulated."""

import io
import math
import re
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from m2mkd.pickles import Built, ForeignNameError, PickleError, walk

LARGEST_PICKLE = 1 << 29
"""Maximum bytes; the training set of CIFAR-100 takes a third of that."""
LONGEST_TUPLE = 16
EMPTY_ARRAY = {"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"}
FULL_ARRAY = {"numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"}
KNOWN_NAMES = {*EMPTY_ARRAY, *FULL_ARRAY, "numpy.ndarray", "numpy.dtype", "_codecs.encode"}
"""Names in these pickles: for making arrays and, in pickles of newer Python versions, bytes."""
INTEGERS = re.compile(r"[iu][1248]")


def read_pickle(content: bytes, limit: int = LARGEST_PICKLE) -> Any:
    """Value of a pickle of scalars, arrays of integers, flat lists of scalars, or a table of these.

    Parameters
    ----------
    content
        Pickle; text of Python 2 is read as bytes.
    limit
        Maximum bytes of the pickle, and of its encoded text.

    Returns
    -------
    Any
        None, a number, bytes, text, an array, a list, a small tuple, or a dictionary of these by bytes; nothing is nested deeper.

    Raises
    ------
    PickleError
        If it is damaged, holds anything else, or exceeds the limit.
    """
    if len(content) > limit:
        raise PickleError(f"it has {len(content)} bytes, more than {limit}")
    encoded = 0

    def encode(text: Any, encoding: Any) -> bytes:
        nonlocal encoded
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
            raise PickleError("it would call _codecs.encode with values that a table does not need")
        encoded += len(text)  # a text may be encoded many times
        if encoded > limit:
            raise PickleError(f"its text takes more than {limit} bytes")
        return text.encode("latin-1")

    try:
        value = walk(io.BytesIO(content), KNOWN_NAMES.__contains__, {"_codecs.encode": encode}, encoding="bytes")
    except ForeignNameError as error:
        raise PickleError(f"it would call {error.name}") from None
    return {_name(key): _flat(entry) for key, entry in value.items()} if isinstance(value, dict) else _flat(value)


def _name(key: Any) -> bytes:
    if not isinstance(key, bytes | str):
        raise PickleError("an entry of its table has no name")
    return key.encode() if isinstance(key, str) else key


def _flat(value: Any) -> Any:
    if isinstance(value, Built):
        return _array(value)
    several = isinstance(value, list) or (isinstance(value, tuple) and len(value) <= LONGEST_TUPLE)
    for one in value if several else (value,):
        if isinstance(one, int) and not -(1 << 63) <= one < 1 << 63:
            raise PickleError("a number in it has more than 64 bits")
        if not isinstance(one, type(None) | int | bytes | str):
            raise PickleError(f"it holds a {type(one).__name__} instead of a number, text, a list of these or an array")
    return value


def _array(made: Built) -> NDArray[np.integer]:
    order: Literal["C", "F"]
    match made:
        case Built(name, _, (_, shape, kind, by_columns, content)) if name in EMPTY_ARRAY:
            order = "F" if by_columns else "C"
        case Built(name, (content, kind, shape, given), None) if name in FULL_ARRAY:
            order = "F" if given in ("F", b"F") else "C"
        case _:
            raise PickleError(f"the result of {made.name} is not an array of integers")
    dtype = _dtype(kind)
    known = isinstance(shape, tuple) and len(shape) <= LONGEST_TUPLE and isinstance(content, bytes | bytearray)
    whole = known and all(isinstance(size, int) and 0 <= size <= len(content) for size in shape)
    if not whole or math.prod(shape) * dtype.itemsize != len(content):
        raise PickleError("an array in it does not have the size that it claims")
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _dtype(kind: Any) -> np.dtype[np.integer]:
    match kind:
        case Built("numpy.dtype", (code, *_), None):
            order = "="
        case Built("numpy.dtype", (code, *_), (_, given, None, None, None, *_)):
            order = _text(given)
        case _:
            code, order = None, ""
    if not INTEGERS.fullmatch(_text(code)):
        raise PickleError("an array in it is not of integers")
    if order not in ("|", "<", ">", "="):
        raise PickleError("an array in it has no known order of bytes")
    return np.dtype(_text(code)).newbyteorder(order)  # type: ignore[arg-type]


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, str) else ""
