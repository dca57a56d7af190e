"""Bad configuration is refused before anything runs, in one line that names field and mend; the exported schemas accept the good."""

import json
import shutil
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from m2mkd.config import load
from m2mkd.config.datasets import LARGEST_IMAGE, DataRef
from m2mkd.config.recipe import Augmentation
from m2mkd.errors import InputError
from m2mkd.ranks import Ranks
from m2mkd.study.plan import build_study
from tests.conftest import ROOT

SCHEMAS = {"experiments": "experiment", "scales": "scale"}
"""Schema of the files in a folder of ``config/``; a file outside of them has one of its own name."""


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """A folder with a copy of ``config/``, so that a test may spoil a file."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    load.datasets.cache_clear()
    load.switches.cache_clear()
    yield tmp_path
    load.datasets.cache_clear()
    load.switches.cache_clear()


@pytest.fixture
def refusal(typed):
    """Runs ``m2mkd`` with arguments that it has to refuse, and gives the line."""

    def refuse(*arguments: str) -> str:
        code, _, line = typed(*arguments)
        assert code == 2
        assert len(line.splitlines()) == 1
        return line

    return refuse


@pytest.mark.parametrize(
    ("assignment", "parts"),
    [
        # names that nothing has
        ("experiment_changes.vmoe_bas.title=x", ("experiment_changes", "'vmoe_bas'", "did you mean 'vmoe_base'?")),
        ("experiment_changes.nac_imagenet_erdos_renyi.titel=x", ("titel", "did you mean 'title'?")),
        ("data.imagenet-1kk@224=digits@32", ("data: data set 'imagenet-1kk'", "config/datasets.yaml")),
        ("data.imagenet-1k=digits@32", ("data: 'imagenet-1k'", "name@pixels")),
        ("data.coco-2017@224=digit@32", ("data.coco-2017@224", "'digit'")),
        ("data.imagenet-1k@224=digits@999999999999", ("'digits@999999999999'", str(LARGEST_IMAGE))),
        ("extends=smal", ("extends", "did you mean 'small'?")),
        # no numbers, no YAML
        ("recipes.pretrain_meta.lr=.inf", ("recipes.pretrain_meta.lr", "finite", "inf")),
        ("models.vmoe_base.mlp_ratio=.nan", ("mlp_ratio", "finite", "nan")),
        ("x=[1,", ("--set x=[1,", "not valid YAML")),
        ("x={a: 1, a: 2}", ("--set x=", "'a' occurs twice")),
        ("x=2024-13-45", ("--set x=2024-13-45", "not valid YAML")),
        # values that a job could not work with
        ("models.vmoe_base.top_k=5", ("vmoe_base", "top_k 5", "4 experts")),
        ("models.vmoe_base.mlp_ratio=0", ("vmoe_base", "mlp_ratio", "greater than 0", "(it is 0)")),
        ("models.deit_large.depths=[]", ("deit_large", "depths", "at least 1")),
        ("models.nac_imagenet.graph.groups=5", ("nac_imagenet", "latents.mediator 32", "graph.groups 5")),
        ("models.nac_imagenet.graph.regulariser_groups=3", ("latents.mediator 32", "graph.regulariser_groups 3")),
        ("models.nac_imagenet.graph.edges_per_node=32", ("graph.edges_per_node 32", "latents.mediator 32")),
        ("models.nac_imagenet.tokenizer.depths=[1,1,1,1]", ("tokenizer", "4 stages")),
        ("models.nac_imagenet.ffn_capacity=-1", ("ffn_capacity", "greater than 0")),
        ("models.nac_imagenet.temperature=0", ("temperature", "greater than 0")),
        ("models.nac_imagenet.truncation=0", ("truncation", "greater than 0")),
        ("models.nac_imagenet.truncation=2.5", ("truncation", "less than or equal to 2")),
        ("models.nac_imagenet.drop_path=1", ("drop_path", "less than 1")),
        ("models.nac_imagenet.code_noise=-0.1", ("code_noise", "greater than or equal to 0")),
        ("recipes.pretrain_meta.augmentation.rand_augment=rnad-m9", ("rand_augment", "'rnad-m9'", "rand-m9-mstd0.5-inc1")),
        ("recipes.pretrain_meta.augmentation.crop_scale=[1.0,0.5]", ("crop_scale", "swap them")),
        ("recipes.pretrain_meta.augmentation.crop_scale=[0.5,1.5]", ("crop_scale", "up to 1")),
        ("recipes.pretrain_meta.augmentation.crop_ratio=[0,1]", ("crop_ratio", "greater than 0")),
        # parts that do not fit each other
        ("models.vmoe_base.patch_size=5", ("experiment vmoe_base", "model 'vmoe_base'", "digits@32", "patch_size 5")),
        ("models.meta_large.patch_size=7", ("experiment teacher_deit_large", "model 'meta_large'", "digits@32", "patch_size 7")),
        ("models.nac_tiny_imagenet.tokenizer.stem_stride=3", ("model 'nac_tiny_imagenet'", "digits@32", "stride 6")),
        ("data.imagenet-r@224=digits-r@16", ("experiment vmoe_base: ood", "digits-r@16", "digits@32")),
    ],
)
def test_overrides_that_cannot_work_are_refused(refusal, assignment, parts):
    line = refusal("runs", "list", "--scale", "small", "--set", assignment)
    assert [part for part in parts if part not in line] == [], line


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--scale", ""), ("no such scale ''", "small")),
        (("--scale", "../scales/small"), ("no such scale '../scales/small'",)),
        (("vmoe_base/",), ("experiment vmoe_base: no variant ''", "end_to_end")),
        (("teacher_deit_large/",), ("experiment teacher_deit_large: no variant ''",)),
    ],
)
def test_names_are_taken_literally(refusal, arguments, parts):
    line = refusal("runs", "list", *arguments)
    assert [part for part in parts if part not in line] == [], line


@pytest.mark.parametrize("config", ["{bad", "[1]", ""])
def test_a_workflow_configuration_that_is_no_json_object_is_refused(refusal, config):
    assert "--config" in refusal("runs", "plan", "--config", config)


def test_a_key_that_stands_twice_is_refused_with_file_and_line(root):
    path = Path("config/scales/small.yaml")
    with path.open("a") as file:
        file.write("threads: 2\n")
    with pytest.raises(InputError, match=rf"^{path}: .*'threads' occurs twice.* line {len(path.read_text().splitlines())}"):
        load.scale("small", {})


def test_merge_keys_may_be_replaced(root):
    (root / "x.yaml").write_text("a: &a {x: 1, z: 2}\nb: &b {<<: *a, z: 3}\nc: {<<: *b, z: 4}\n")
    assert load.read_yaml(Path("x.yaml")) == {"a": {"x": 1, "z": 2}, "b": {"x": 1, "z": 3}, "c": {"x": 1, "z": 4}}


def test_a_file_that_is_not_utf8_is_named(refusal, root):
    (root / "config/config.yaml").write_bytes("scale: sm\xe4ll".encode("latin-1"))
    assert "config/config.yaml: byte 9 is not UTF-8" in refusal("runs", "list")


@pytest.mark.parametrize("size", ["0", "032", str(LARGEST_IMAGE + 1), "9" * 5000, "٣٢", "-1", ""])
def test_image_sizes_are_plain_numbers_within_bounds(size):
    with pytest.raises(InputError, match=str(LARGEST_IMAGE)):
        DataRef.parse(f"digits@{size}", "data")


def test_the_largest_image_size_is_allowed():
    assert DataRef.parse(f"digits@{LARGEST_IMAGE}", "data").image_size == LARGEST_IMAGE


# --- RandAugment ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["rand", "rand-m9-mstd0.5-inc1", "rand-m7-n3-p0.5-mmax12-tweights", "rand-t3a", "rand-mstd101-p1"])
def test_policies_that_timm_understands_are_accepted(policy):
    from m2mkd.data.transforms import TrainTransform

    TrainTransform(32, Augmentation(rand_augment=policy))


@pytest.mark.parametrize(
    "policy", ["", "rand-", "rand-x3", "rand-m9.5", "rand-p2", "rand-n0", "rand-m", "rand-inc", "rand-tfoo", "augmix-m5", "v0"]
)
def test_other_policies_are_refused(policy):
    with pytest.raises(ValueError, match="RandAugment"):
        Augmentation(rand_augment=policy)


# --- machine ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["foo", "mps", "meta", "cuda:", "cuda:x", "cuda:99", "CPU", ""])
def test_devices_that_are_none_are_refused(name):
    from m2mkd.training.device import choose_device

    with pytest.raises(InputError, match=f"^--device {name}: .*use"):
        choose_device(name)


def test_the_cpu_is_a_device():
    from m2mkd.training.device import choose_device

    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda")


def test_a_negative_number_of_workers_is_refused(typed):
    code, _, said = typed("run", "pretrain_meta/", "--workers", "-1")
    assert code == 2
    assert "--workers" in said


# --- scales that extend others ----------------------------------------------------------------------------------------


def write_scale(name: str, text: str) -> None:
    Path(f"config/scales/{name}.yaml").write_text(text)


def test_a_scale_extends_through_others():
    write_scale("tiny", "extends: smoke\nthreads: 2\nrecipes: {pretrain_meta: {epochs: 5}}\n")
    tiny, smoke, small = (load.scale(name, {}) for name in ("tiny", "smoke", "small"))
    assert (tiny.extends, smoke.extends, small.extends) == ("smoke", "small", None)
    assert tiny.threads == 2
    assert tiny.recipes["pretrain_meta"] == small.recipes["pretrain_meta"] | smoke.recipes["pretrain_meta"] | {"epochs": 5}
    assert tiny.recipes["distill_module"] == smoke.recipes["distill_module"]
    assert tiny.seeds == smoke.seeds
    assert tiny.models == small.models


def test_a_scale_that_only_extends_has_the_same_runs():
    write_scale("same", "extends: small\n")
    same, small = (build_study(load.settings({"scale": name})) for name in ("same", "small"))
    assert set(same.runs) == set(small.runs)


@pytest.mark.parametrize(("first", "second"), [("a", "a"), ("b", "a")])
def test_a_scale_that_extends_itself_is_refused(first, second):
    write_scale("a", f"extends: {first}\n")
    write_scale("b", f"extends: {second}\n")
    with pytest.raises(InputError, match=r"a extends .*a; remove extends from one of them"):
        load.scale("a", {})


# --- exported schemas -------------------------------------------------------------------------------------------------


def validator_for(path: Path) -> Draft202012Validator:
    name = SCHEMAS.get(path.parent.name, path.stem)
    schema = json.loads((ROOT / f"workflow/schemas/{name}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("path", sorted((ROOT / "config").rglob("*.yaml")), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_satisfies_its_schema(path):
    validator_for(path).validate(load.read_yaml(path))


def test_the_schema_of_a_scale_asks_for_everything_unless_it_extends_another():
    validator = validator_for(ROOT / "config/scales/paper.yaml")
    assert not validator.is_valid({"title": "x"})
    assert validator.is_valid({"title": "x", "extends": "small"})
    assert not validator.is_valid({"title": "x", "extends": "small", "thread": 1})


def test_one_gpu_for_several_ranks_is_refused(monkeypatch):
    import torch

    from m2mkd.training.device import choose_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert choose_device("cuda", Ranks(6, 8)) == torch.device("cuda:2")
    with pytest.raises(InputError, match="--device cuda:3: each of 8 ranks needs its own GPU"):
        choose_device("cuda:3", Ranks(6, 8))
