"""Import of the CUDA build of torchvision with a CPU build of torch.

Package indexes offer torchvision for Linux on x86-64 as a CUDA build alone. Its compiled operators need ``libtorch_cuda.so``, which a CPU
build of torch does not have, so they do not load; and the import then fails because torchvision registers shape functions for operators
that nobody has declared (``operator torchvision::nms does not exist``). Declaring the two operators first is enough for everything that
this project and timm use (transforms, frozen batch norm); ``torchvision.ops.nms`` still raises its own clear error.

`install` is an entry point of the group ``torch.backends``, which torch calls at the end of its own import. The declaration is therefore in
time whatever is imported first: torchvision, timm, torch or this package. Without installed metadata, importing this package first works.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

OPERATORS = ("nms", "qnms")
_libraries: list[object] = []  # a torch library's declarations last only as long as the object


def install() -> None:
    """Arrange for the declaration when torchvision is first imported; this costs nothing until then."""
    torchvision = sys.modules.get("torchvision")
    if torchvision is None:
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())
    elif "torchvision._meta_registrations" not in sys.modules and not _libraries:  # its import has begun, and waits for torch's
        _declare_missing_operators(torchvision.__spec__)


class _Finder(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if fullname != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path)
        _declare_missing_operators(spec)
        return spec


def _declare_missing_operators(torchvision: ModuleSpec | None) -> None:
    if torchvision is None or torchvision.origin is None:
        return
    import torch

    try:
        torch.ops.load_library(Path(torchvision.origin).parent / "_C.so")
    except OSError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in OPERATORS:
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(library)
