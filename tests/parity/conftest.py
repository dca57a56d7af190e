"""Recordings of the released ViT and V-MoE (specification vmoe.md 9)."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor


@pytest.fixture(scope="module")
def recorded(fixtures_dir: Path) -> Mapping[str, np.ndarray]:
    """Inputs and outputs of the released ViT and V-MoE."""
    return np.load(fixtures_dir / "vmoe" / "vmoe_fixtures.npz")


@pytest.fixture(scope="module")
def meta_json(fixtures_dir: Path) -> dict:
    """Numbers of theirs."""
    return json.loads((fixtures_dir / "vmoe" / "meta.json").read_text())


@pytest.fixture(scope="module")
def states(fixtures_dir: Path) -> dict[str, dict[str, Tensor]]:
    """Weights and gradients of theirs, by the name of the file."""
    return {path.stem: load_file(path) for path in (fixtures_dir / "vmoe").glob("*.safetensors")}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
