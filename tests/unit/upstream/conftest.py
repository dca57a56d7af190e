"""Weights of a released ViT, staged and whole."""

import pytest

from tests.unit.upstream.small_models import random_state, stage_shapes


@pytest.fixture(scope="module")
def stages():
    """Stage-local states of a ViT with stages of one and two blocks."""
    return [random_state(stage_shapes(1, first=True)), random_state(stage_shapes(2, last=True), seed=1)]


@pytest.fixture(scope="module")
def vit(stages):
    """The same as the released ``model`` dict, each tensor under both names."""
    staged = {f"stages.{i}.{name}": tensor for i, stage in enumerate(stages) for name, tensor in stage.items()}
    flat = dict(stages[0]) | {name: tensor for name, tensor in stages[1].items() if not name.startswith("blocks.")}
    flat |= {f"blocks.{j + 1}.{name[9:]}": tensor for j in (0, 1) for name, tensor in stages[1].items() if name.startswith(f"blocks.{j}.")}
    return staged | flat
