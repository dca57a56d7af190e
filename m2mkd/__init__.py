"""Reproducibility suite for m2mKD (arXiv 2402.16918).

The names in ``__all__`` are the stable interface from Python. Each is imported at its first use, so that ``import m2mkd`` stays light.
A name or parameter that is to go first raises a `DeprecationWarning` that names its replacement, for at least one minor release; the
changelog lists it. All other names of the package may change at any time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from m2mkd import torchvision_cpu

if TYPE_CHECKING:
    from m2mkd.api.distilling import distill_module
    from m2mkd.api.loading import load_network, load_student
    from m2mkd.api.student import Student
    from m2mkd.api.tables import Results
    from m2mkd.errors import InputError

__version__ = "0.1.0"
__all__ = ["InputError", "Results", "Student", "distill_module", "load_network", "load_student"]

_HOMES = {
    "InputError": "m2mkd.errors",
    "Results": "m2mkd.api.tables",
    "Student": "m2mkd.api.student",
    "distill_module": "m2mkd.api.distilling",
    "load_network": "m2mkd.api.loading",
    "load_student": "m2mkd.api.loading",
}

torchvision_cpu.install()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'm2mkd' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
