"""The lower bound of ``benchmarks/distill.py`` does the work of an m2mKD step, else its ratio would mean nothing."""

import importlib.util
from types import ModuleType

import pytest

from m2mkd.config.models import ViTConfig, VMoEConfig
from tests.conftest import ROOT


@pytest.fixture
def benchmark(monkeypatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_distill", ROOT / "benchmarks" / "distill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    meta = ViTConfig(patch_size=4, width=16, heads=2, depths=(2, 1, 1, 2))
    tiny = module.Networks(
        meta, meta.model_copy(update={"depths": (2, 2, 3, 2)}), VMoEConfig(patch_size=4, width=8, heads=2, depths=(1,) * 4), 8, 5
    )
    monkeypatch.setattr(module, "networks", lambda size: tiny)
    return module


@pytest.mark.parametrize("index", range(4))
def test_hybrid_and_bound_agree(benchmark, index):
    benchmark.check_agreement(benchmark.steps("small", index, 3, "cpu", "fp32"), "fp32")


def test_a_bound_with_other_gradients_is_noticed(benchmark):
    both = benchmark.steps("small", 1, 3, "cpu", "fp32")

    def wrong():
        loss = both.bound()
        both.student.blocks[0].norm1.weight.grad.mul_(1.1)
        return loss

    with pytest.raises(AssertionError):
        benchmark.check_agreement(both._replace(bound=wrong), "fp32")


def test_measurement(benchmark):
    row = benchmark.measure("small", 0, 2, "cpu", "fp32", 1)
    assert row["ratio"] == pytest.approx(row["hybrid_seconds"] / row["bound_seconds"])


def test_a_whole_student_learns_as_by_timms_distillation(benchmark):
    both = benchmark.whole_steps("small", 4, "cpu", "fp32")
    found = []
    for step in (both.hybrid, both.bound):
        loss = step()
        found.append([loss, *(parameter.grad.clone() for parameter in both.student.parameters() if parameter.grad is not None)])
    assert len(found[0]) == len(found[1]) > 10
    assert max((ours - timms).abs().max().item() for ours, timms in zip(*found, strict=True)) <= 1e-6
