"""Networks without formulas: torch counts what formulas say, without memory for weights where that is possible."""

from functools import partial

import pytest
import torch
from torch import nn

from m2mkd.config.family import Sizes
from m2mkd.config.models import VMoEConfig
from m2mkd.config.registered_families import STUDENT_GROUP
from m2mkd.errors import InputError
from m2mkd.families.build import build_module, build_student
from m2mkd.families.vmoe import VMoEFamily
from m2mkd.planning import transformer
from m2mkd.planning.cost import cost_of
from m2mkd.planning.counted import counted_module, counted_student
from m2mkd.planning.work import work_of
from tests.packages import made_up, project_with
from tests.tiny import by_phase, smoke

DENSE = VMoEConfig(patch_size=8, width=48, heads=4, depths=(1, 2, 1), moe_blocks=())
SIZES = Sizes(image_size=32, num_classes=10)
TOKENS = transformer.tokens_of(DENSE, 32)
HOW = {**SIZES._asdict(), "drop_path": 0.0, "compat": {}}


def test_products_and_parameters_are_those_of_the_formulas():
    counted, planned = counted_student(DENSE, SIZES, None), transformer.network(DENSE, *SIZES)
    assert (counted.macs, counted.batch_macs, counted.parameters) == (planned.macs, 0, planned.parameters)
    for index in range(3):
        counted = counted_module(DENSE, index, SIZES, stitch_width=64, tokens=TOKENS)
        planned = transformer.stage(DENSE, index, *SIZES, stitch_width=64)
        assert (counted.macs, counted.parameters) == (planned.macs, planned.parameters)


def test_what_is_kept_for_the_backward_pass_is_of_the_order_of_the_formulas():
    counted, planned = (cost.saved.bytes(4) for cost in (counted_student(DENSE, SIZES, None), transformer.network(DENSE, *SIZES)))
    assert 0.8 < counted / planned < 2


def test_weights_take_no_memory(monkeypatch):
    devices = []
    monkeypatch.setattr(VMoEFamily, "build", watched_build(VMoEFamily.build, devices))
    huge = VMoEConfig(patch_size=8, width=16384, heads=64, depths=(12, 12), moe_blocks=())  # 300 GB
    assert counted_student(huge, SIZES, None).parameters == transformer.network(huge, *SIZES).parameters
    assert set(devices) == {"meta"}


def watched_build(build, devices):
    def wrapped(self, *arguments, **how):
        network = build(self, *arguments, **how)
        devices.extend(parameter.device.type for parameter in network.parameters())
        return network

    return wrapped


def test_experts_whose_work_depends_on_values_are_counted_on_a_cpu_and_draw_from_nobodys_generator():
    experts = DENSE.model_copy(update={"moe_blocks": "all", "experts": 4})
    before = torch.get_rng_state()
    counted = counted_student(experts, SIZES, None)
    assert torch.equal(torch.get_rng_state(), before)
    assert counted.parameters == sum(
        parameter.numel() for parameter in build_student(experts, prior=None, stitch_width=None, **HOW).parameters()
    )
    assert counted.macs > counted_student(DENSE, SIZES, None).macs


FAMILY = """
from functools import partial
from typing import ClassVar, Literal
from timm.layers import Mlp
from torch import nn
from m2mkd.config.models import ViTConfig
from m2mkd.families.staged import StagedFamily
class MadeConfig(ViTConfig):
    family: Literal["made"] = "made"
class Made(StagedFamily[MadeConfig]):
    CONFIG: ClassVar = MadeConfig
    LABEL: ClassVar = "Made"
    def token_layers(self, config, index, compat): return [Mlp] * config.depths[index]
"""


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Plans a study with a family of another package."""

    def plan(source: str = FAMILY):
        made_up(tmp_path, monkeypatch, STUDENT_GROUP, "made = counted_family:Made", source, "made-family")
        monkeypatch.chdir(project_with(tmp_path, "{like: vmoe_base, family: made}"))
        return smoke("vmoe_base/m2mkd", experiment_changes={"vmoe_base": {"model": "mine"}})

    return plan


def test_planned_parameters_of_another_family_are_those_of_its_networks(planned):
    study = planned()
    costs = cost_of(study)
    student = by_phase(study)["train_student"][0]
    data = student.config.data
    built = partial(build_student, student.config.student, prior=None, stitch_width=None, drop_path=0.0, compat={})
    count = parameters(built(image_size=data.image_size, num_classes=data.classes))
    assert costs[student.id].parameters == count
    for run in by_phase(study)["distill_module"]:
        config = run.config
        how = {"stitch_width": config.meta.width, "drop_path": 0.0, "state_seed": 0, "compat": {}}
        module = build_module(config.student, config.index, image_size=data.image_size, num_classes=data.classes, **how)
        assert work_of(config, "model").published.parameters == parameters(module)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_a_network_that_cannot_run_is_one_line(planned):
    study = planned(FAMILY.replace("[Mlp] * config.depths[index]", "[lambda **_: nn.Linear(7, 7)] * config.depths[index]"))
    with pytest.raises(
        InputError, match=r"family made: its whole cannot be counted \(RuntimeError: .*\); mend it, or give the family a cost"
    ):
        work_of(by_phase(study)["train_student"][0].config, "model")
