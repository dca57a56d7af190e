"""Import of the CUDA build of torchvision with a CPU build of torch.

The registry offers torchvision only as a CUDA build. Its compiled operators cannot load with a CPU build of torch, and its import
then fails because it registers shape functions for undeclared operators. Declaring the two operators first is enough for
everything that this project and timm use (transforms, frozen batch norm); ``torchvision.ops.nms`` still raises its own clear error.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

OPERATORS = ("nms", "qnms")
_libraries: list[object] = []  # a torch library's declarations last only as long as the object


def install() -> None:
    """Arrange for the declaration when torchvision is first imported; this costs nothing until then."""
    if "torchvision" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if fullname != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.origin is not None:
            _declare_missing_operators(Path(spec.origin).parent / "_C.so")
        return spec


def _declare_missing_operators(extension: Path) -> None:
    import torch

    try:
        torch.ops.load_library(extension)
    except OSError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in OPERATORS:
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(library)
