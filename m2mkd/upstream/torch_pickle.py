"""Pickle inside a torch file, read as plain values.

Neither ``torch.load`` nor an unpickler reads it. Even with ``weights_only``, torch calls functions that it considers safe with any
arguments: a file of a kilobyte takes all memory by ``torch.Tensor(n)``, ``bytearray(n)``, or a storage of n numbers that it lacks.
"""

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

import torch
from torch import Tensor

from m2mkd.pickles import Built, Named, PickleError, walk

TORCH_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}
"""Dtype by the class of a storage; an untyped storage counts bytes."""
NEWER_DTYPES = {
    str(dtype): dtype
    for dtype in (
        *(torch.uint16, torch.uint32, torch.uint64),
        *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
    )
}
"""Dtypes whose storages are untyped, by name."""
BESIDE_WEIGHTS = frozenset(
    f"{module}.{name}"
    for module, names in {
        "argparse": ("Namespace",),
        "types": ("SimpleNamespace",),
        "collections": ("OrderedDict", "defaultdict", "deque", "Counter"),
        "pathlib": ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"),
        "datetime": ("date", "time", "datetime", "timedelta", "timezone"),
        "builtins": ("set", "frozenset", "complex", "bytearray", "list", "dict", "tuple", "int", "float", "str", "bool", "slice", "range"),
        "__builtin__": ("set", "frozenset", "complex", "bytearray", "list", "dict", "tuple", "int", "float", "unicode", "object"),
        "copy_reg": ("_reconstructor",),
        "_codecs": ("encode",),
        "numpy": ("dtype", "ndarray"),
        "numpy.core.multiarray": ("scalar", "_reconstruct"),
        "numpy._core.multiarray": ("scalar", "_reconstruct"),
        "numpy.core.numeric": ("_frombuffer",),
        "numpy._core.numeric": ("_frombuffer",),
        "torch": ("Size", "device", "Tensor"),
        "torch.nn.parameter": ("Parameter", "Buffer"),
        "torch.serialization": ("_get_layout",),
        "torch._tensor": ("_rebuild_from_type_v2",),
    }.items()
    for name in names
)
"""Classes that trainers save in addition to weights. They are read as descriptions, and never instantiated."""


@dataclass(frozen=True, eq=False)
class Storage:
    """Consecutive numbers in a file."""

    dtype: torch.dtype
    key: str
    size: int
    """Bytes that the pickle claims."""
    find: Callable[[str, int], memoryview]

    @cached_property
    def content(self) -> memoryview:
        """Bytes of the storage, mapped from the disk.

        Raises
        ------
        PickleError
            If the file has fewer or other bytes.
        """
        return self.find(self.key, self.size)


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """Tensor that is still in its file."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    """Offset in the storage, in numbers."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def read(self) -> Tensor:
        """Read the tensor, mapped from the disk; changes to it affect neither the file nor other tensors.

        Raises
        ------
        PickleError
            If the file does not contain its numbers.
        """
        count = self.storage.size // self.dtype.itemsize
        if not count:
            return torch.empty(self.shape, dtype=self.dtype)
        return torch.frombuffer(self.storage.content, dtype=self.dtype, count=count).as_strided(self.shape, self.stride, self.offset)


def walk_torch(pickle: BinaryIO | mmap.mmap, find: Callable[[str, int], memoryview], claimed: dict[str, Storage] | None = None) -> Any:
    """Content of a torch pickle, with a `StoredTensor` for each tensor.

    Parameters
    ----------
    pickle
        Opened at its beginning.
    find
        Returns the bytes of the storage with the given key and claimed size; raises `PickleError` if they do not exist.
    claimed
        Filled with the storages that the pickle refers to, by key.

    Raises
    ------
    PickleError
        If it is damaged, names anything that weights do not need, or claims something impossible.
    """
    storages: dict[str, Storage] = {} if claimed is None else claimed

    def persistent(identity: Any) -> Storage:
        if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage" or any(identity[5:]):
            raise PickleError("it refers to something other than a storage, or to a part of one as torch before 0.4 did")
        _, kind, key, _, count = identity[:5]
        dtype = TORCH_DTYPES.get(kind.name.rpartition(".")[2]) if isinstance(kind, Named) else None
        if dtype is None or not isinstance(key, str):
            raise PickleError("it has a storage that does not hold plain numbers")
        storage = Storage(dtype, key, _whole(count) * dtype.itemsize, find)
        known = storages.setdefault(key, storage)
        if (known.dtype, known.size) != (storage.dtype, storage.size):
            raise PickleError(f"it describes two different storages {key}")
        return known

    return walk(pickle, _is_allowed, CALLS, persistent)


def _is_allowed(name: str) -> bool:
    module, _, last = name.rpartition(".")
    known = last in TORCH_DTYPES and module in {"torch", "torch.cuda", "torch.storage"}
    rebuilt = module == "torch._utils" and last.startswith("_rebuild_")
    dtype = module == "torch" and isinstance(vars(torch).get(last), torch.dtype)
    return known or rebuilt or dtype or name in BESIDE_WEIGHTS


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> StoredTensor:
    return _stored(storage, storage.dtype if isinstance(storage, Storage) else None, offset, shape, stride)


def _tensor_of_dtype(storage: Any, offset: Any, shape: Any, stride: Any, _: Any, __: Any, dtype: Any, *___: Any) -> StoredTensor:
    return _stored(storage, NEWER_DTYPES.get(dtype.name) if isinstance(dtype, Named) else None, offset, shape, stride)


def _stored(storage: Any, dtype: Any, offset: Any, shape: Any, stride: Any) -> StoredTensor:
    """Tensor with no more numbers than its storage, and none outside of it."""
    if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
        raise PickleError("it has a tensor that does not hold plain numbers")
    if not (isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride) <= 16):
        raise PickleError("it has a tensor without a shape")
    offset, shape, stride = _whole(offset), tuple(map(_whole, shape)), tuple(map(_whole, stride))
    numbers = 1
    for side in shape:
        numbers = min(numbers * side, 2**62)
    last = offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True)) if numbers else 0
    there = storage.size // dtype.itemsize
    if numbers > there or (numbers and last >= there):
        raise PickleError(f"it has a tensor of shape {shape} in a storage of {there} numbers")
    return StoredTensor(storage, dtype, offset if numbers else 0, shape, stride)


def _of_type(function: Any, _: Any, arguments: Any, *__: Any) -> Any:
    """Return a tensor without its attributes, which are not needed."""
    if isinstance(function, Named) and isinstance(arguments, tuple) and (own := CALLS.get(function.name)) not in (None, _of_type):
        return own(*arguments)
    return Built(function.name if isinstance(function, Named) else "a tensor", ())


def _data(data: Any, *_: Any) -> Any:
    return data


CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _data,
    "torch._utils._rebuild_parameter_with_state": _data,
    "torch.nn.parameter.Parameter": _data,
    "torch._tensor._rebuild_from_type_v2": _of_type,
}
"""Functions that make a tensor in a pickle, and their replacements here."""


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**48:
        raise PickleError("it has an invalid size")
    return value
