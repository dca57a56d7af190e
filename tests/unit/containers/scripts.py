"""What images are built by: the scripts of containers/ as modules."""

import importlib.util

from tests.conftest import ROOT

CONTAINERS = ROOT / "containers"


def script(name: str):
    """A script of containers/ as a module."""
    spec = importlib.util.spec_from_file_location(f"containers_{name}", CONTAINERS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
