"""Which modules a student starts from: all, or some by number, with the others exactly as from scratch."""

import pytest
import torch

from m2mkd.config import load
from m2mkd.distill.nac_transfer import transfer_modules
from m2mkd.errors import InputError
from m2mkd.families.build import build_module, build_student
from m2mkd.study.plan import build_study

SIZES = {"image_size": 32, "num_classes": 10}
PARTS = {0: ("input_tokenizer.", "read_in."), 1: ("propagators.0.",), 2: ("propagators.1.",), 3: ("read_out.", "output_tokenizer.")}
VARIANT = {
    "nac_tiny_imagenet_scale_free": {"variants": {"some": {"recipe": "nac_tiny_imagenet", "init": "modules", "load_modules": [0, 2]}}}
}


@pytest.fixture(scope="module")
def config():
    planned = build_study(load.settings({"scale": "smoke", "experiments": ["nac_tiny_imagenet_scale_free/m2mkd"]}))
    return next(run.config.student for run in planned.runs.values() if run.phase == "distill_module")


def circuit(config):
    torch.manual_seed(0)
    return build_student(config, prior=None, stitch_width=None, compat={}, **SIZES)


def modules(config, *indices):
    torch.manual_seed(1)
    return [build_module(config, index, stitch_width=64, drop_path=0.0, state_seed=0, compat={}, **SIZES).state_dict() for index in indices]


@pytest.mark.parametrize("only", [(0,), (2,), (0, 2), (1, 2), (3,)])
def test_a_nac_loads_the_chosen_modules_and_nothing_of_the_others(config, only):
    nac, sources = circuit(config), modules(config, *only)
    before = {name: tensor.clone() for name, tensor in nac.state_dict().items()}
    left = transfer_modules(nac, sources, same_geometry=True, only=only)
    changed = {name for name, tensor in nac.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and changed.isdisjoint(left)
    absent = tuple(prefix for index, prefixes in PARTS.items() if index not in only for prefix in prefixes)
    assert not any(name.startswith(absent) for name in changed)
    whole = transfer_modules(circuit(config), modules(config, 0, 1, 2, 3), same_geometry=True)
    assert set(left) == set(whole) | {name for name in before if name.startswith(absent)}


def test_all_numbers_are_the_same_as_all(config):
    one, other, sources = circuit(config), circuit(config), modules(config, 0, 1, 2, 3)
    assert transfer_modules(one, sources, same_geometry=False) == transfer_modules(other, sources, same_geometry=False, only=range(4))
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize(
    ("given", "only", "message"),
    [
        ((0, 2), (0,), r"2 modules given, but modules \[0\] are to be loaded"),
        ((0, 0), (0, 0), "one stands twice"),
        ((0,), (4,), "module 4 does not exist: this network has modules 0 to 3"),
        ((1,), (0,), "module 0: tensor .* is of no layer of a NAC"),
    ],
)
def test_the_choice_is_checked(config, given, only, message):
    with pytest.raises(InputError, match=message):
        transfer_modules(circuit(config), modules(config, *given), same_geometry=True, only=only)


def study(**changes):
    overrides = {"experiment_changes": VARIANT, **changes}
    experiments = ["nac_tiny_imagenet_scale_free/some"]
    return build_study(load.settings({"scale": "smoke", "experiments": experiments, "overrides": overrides}))


def test_only_the_chosen_modules_are_distilled():
    planned = study()
    (student,) = (run for run in planned.runs.values() if run.phase == "train_student")
    assert student.config.load_modules == (0, 2)
    distilled = [planned.runs[run_id].config.index for run_id in student.upstream["modules"]]
    assert distilled == [0, 2] == [run.config.index for run in planned.runs.values() if run.phase == "distill_module"]
    whole = build_study(load.settings({"scale": "smoke", "experiments": ["nac_tiny_imagenet_scale_free/m2mkd"]}))
    assert set(student.upstream["modules"]) < set(whole.runs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"load_modules": [0, 4]}, "variants.some.load_modules: student 'nac_tiny_imagenet' has modules 0 to 3, not 4"),
        ({"load_modules": [2, 0]}, "ascending order, each once"),
        ({"load_modules": []}, "ascending order, each once"),
        ({"load_modules": [0], "init": "scratch"}, "need init: modules"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(change, message):
    variant = VARIANT["nac_tiny_imagenet_scale_free"]["variants"]["some"] | change
    with pytest.raises(InputError, match=message):
        study(experiment_changes={"nac_tiny_imagenet_scale_free": {"variants": {"some": variant}}})
