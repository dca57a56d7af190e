"""torchvision, timm, torch and this package can be imported in any order, whatever build of torch is installed."""

import importlib.util
import os
import subprocess
import sys
import tomllib

import pytest

from tests.conftest import ROOT

ORDERS = ["timm, m2mkd", "torchvision, m2mkd", "torch, torchvision, m2mkd", "m2mkd, timm", "m2mkd, torchvision", "torch, m2mkd, timm"]
USED = "import timm, torch; from torchvision import ops, transforms; assert ops.FrozenBatchNorm2d(3)(torch.ones(1, 3, 2, 2)).sum() > 0"


@pytest.fixture(scope="module")
def metadata(tmp_path_factory):
    """Folder with the metadata that an installation of these sources has; the installed ones may be older."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    folder = tmp_path_factory.mktemp("metadata")
    here = folder / "m2mkd-0.0.dist-info"
    here.mkdir()
    (here / "METADATA").write_text("Metadata-Version: 2.1\nName: m2mkd\nVersion: 0.0\n")
    groups = ({"console_scripts": project["scripts"]} | project["entry-points"]).items()
    lines = [f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items()) for group, points in groups]
    (here / "entry_points.txt").write_text("\n".join(lines))
    return folder


def imported(order, metadata=None, **environment):
    path = os.pathsep.join(map(str, filter(None, [metadata, ROOT])))
    code = "; ".join([f"import {order}", USED])
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path} | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_of_imports_works(order, metadata):
    done = imported(order, metadata)
    assert done.returncode == 0, done.stderr[-2000:]


def test_importing_this_package_first_needs_no_metadata():
    assert imported("m2mkd, timm", TORCH_DEVICE_BACKEND_AUTOLOAD="0").returncode == 0


def test_without_the_hook_the_builds_do_not_fit():
    """The reason for the module; where torch and torchvision are of one build, nothing is wrong without it either."""
    import torch

    origin = importlib.util.find_spec("torchvision").origin
    fits = True
    try:
        torch.ops.load_library(origin.replace("__init__.py", "_C.so"))
    except OSError:
        fits = False
    done = imported("timm, m2mkd", TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    assert (done.returncode == 0) == fits, done.stderr[-2000:]
    assert fits or "torchvision::nms" in done.stderr
