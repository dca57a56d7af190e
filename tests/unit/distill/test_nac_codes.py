"""Codes that a NAC's latents start with."""

import pytest
import torch

from m2mkd.config.models import NACConfig
from m2mkd.distill.nac_codes import SPREAD, start_codes
from m2mkd.errors import InputError
from m2mkd.models.nac.circuit import NAC
from m2mkd.seeds import forked_rng
from tests.tiny import module, smoke

CONFIG = NACConfig(
    state_dim=16,
    code_dim=256,
    heads=2,
    head_dim=8,
    latents={"input": 4, "mediator": 8, "output": 4},
    iterations=2,
    tokenizer={"depths": [1], "grid_dim": 4},
)
MODULES = {index: module(CONFIG, index) for index in range(4)}


def circuit():
    with forked_rng("circuit"):
        return NAC(CONFIG, image_size=32, num_classes=10, prior=None)


def groups(nac):
    return nac.input_latents.codes, nac.mediator_latents.codes, nac.output_latents.codes


def test_independent_codes_are_those_that_were_drawn():
    nac = circuit()
    start_codes(nac, "independent", {})
    assert all(torch.equal(*pair) for pair in zip(groups(nac), groups(circuit()), strict=True))


def test_identical_codes_differ_between_groups_alone():
    nac = circuit()
    start_codes(nac, "identical", {})
    assert all((codes == codes[0]).all() for codes in groups(nac))
    assert not torch.equal(groups(nac)[0][0], groups(nac)[1][0])


def test_codes_of_modules_lie_around_those_that_the_modules_were_distilled_for():
    nac = circuit()
    with forked_rng("spread"):
        start_codes(nac, "of_modules", MODULES)
    expected = [[0] * 4, [1, 2] * 4, [3] * 4]
    for codes, numbers in zip(groups(nac), expected, strict=True):
        for code, number in zip(codes, numbers, strict=True):
            assert (code - MODULES[number]["codes"][0]).std().item() == pytest.approx(SPREAD, rel=0.25)
        assert len({tuple(code.tolist()) for code in codes}) == len(codes)


def test_modules_without_a_code_are_named():
    bare = {
        index: {name: tensor for name, tensor in one.items() if name != "codes"} if index == 2 else one for index, one in MODULES.items()
    }
    with pytest.raises(InputError, match="the files of modules 2 hold no code"):
        start_codes(circuit(), "of_modules", bare)


def with_codes(codes, variant="m2mkd", **changes):
    name = "nac_tiny_imagenet_scale_free"
    return smoke(
        f"{name}/{variant}", profiles=["corrected"], experiment_changes={name: {"variants": {variant: {"codes": codes}}}}, **changes
    )


def test_codes_are_in_the_key_where_they_are_not_independent():
    def key(study):
        return study.rows[0].trained

    plain = smoke("nac_tiny_imagenet_scale_free/m2mkd", profiles=["corrected"])
    assert key(with_codes("independent")) == key(plain)
    assert len({key(plain), key(with_codes("identical")), key(with_codes("of_modules"))}) == 3


def test_codes_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="codes: of_modules needs init: modules"):
        with_codes("of_modules", "end_to_end")
    changes = {"vmoe_base": {"variants": {"m2mkd": {"codes": "identical"}}}}
    with pytest.raises(InputError, match=r"variants\.m2mkd\.codes: identical, but student 'vmoe_base' is a V-MoE and has none"):
        smoke("vmoe_base/m2mkd", experiment_changes=changes)
