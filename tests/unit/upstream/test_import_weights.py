"""Weights of others in the graph of runs: they replace phases, and what builds on them knows no difference."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from m2mkd.config import imports, load
from m2mkd.errors import InputError
from m2mkd.families.build import build_module, build_student
from m2mkd.files import sha256
from m2mkd.models.vit import StagedViT
from m2mkd.models.weights import load_modules, load_weights, stage_state
from m2mkd.results.judge.results import Results
from m2mkd.study.phases import ImportWeights
from m2mkd.study.plan import build_study
from m2mkd.upstream.configs import describe_checkpoint
from m2mkd.upstream.imported import Imported, write_imported
from tests import fabricated, wiring
from tests.conftest import ROOT

VIT = {"img_size": 32, "patch_size": 8, "num_classes": 10, "embed_dim": 64, "num_heads": 4}
VMOE = VIT | {"embed_dim": 48, "num_expert": 4, "stitch_dim": 64, "divided_depths": [1]}
TOKENIZER = {"depths": [1, 1], "stem_stride": 4, "grid_dim": 8}
"""The stem that the released modules have, in place of the smoke study's."""
NAC = {
    **{
        "state_dim": 48,
        "code_dim": 48,
        "num_heads": 4,
        "head_dim": 12,
        "ffn_capacity_factor": 1.0,
        "path_drop_prob": 0.1,
        "stitch_dim": 64,
    },
    **{"mod_fc_kwargs": {"add_one_to_scale": True}, "qkv_bias_in_attention": False, "use_geglu": True},
}
GRID = {"capacity_preset": "nano", "num_stages": 2, "positional_grid_kwargs": {"dim": 8, "grid_size": 4}}
SIZES = {"image_size": 32, "num_classes": 10}


@pytest.fixture(autouse=True)
def _root(tmp_path, monkeypatch):
    """A folder with a configuration and results of its own."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)


def study(changes, *experiments, **overrides):
    settings = {"scale": "smoke", "experiments": experiments, "overrides": {"experiment_changes": changes, **overrides}}
    return build_study(load.settings(settings))


def architecture(name):
    return load.catalogue(load.scale("smoke", {"models": {"nac_tiny_imagenet": {"tokenizer": TOKENIZER}}})).models[name]


def write(name, kind, config, state):
    """A file as ``m2mkd import`` writes it."""
    write_imported(Imported(describe_checkpoint(kind, config, {}), f"{name}.pth", "0" * 64, lambda: state), Path(name))
    return name


def vit_file(name, depths=(2, 2, 2, 2), seed=0, **changes):
    torch.manual_seed(seed)
    fields = {"depths": depths, "width": changes.get("embed_dim", 64), "norm_eps": changes.get("ln_eps", 1e-6)}
    model = architecture("deit_large").model_copy(update=fields)
    size, classes = changes.get("img_size", 32), changes.get("num_classes", 10)
    state = StagedViT(model, image_size=size, num_classes=classes).state_dict()
    return write(name, "vit", VIT | {"divided_depths": list(depths)} | changes, state)


def teacher(**files):
    return {"teacher_deit_large": {"imports": files}}


def execute(planned, *runs):
    for run in runs:
        wiring.execute(planned, run)


def imported(planned):
    return [run for run in planned.runs.values() if run.phase == "import_weights"]


def phases(planned):
    return {run.phase for run in planned.runs.values()}


# --- the graph --------------------------------------------------------------------------------------------------------


def test_an_imported_teacher_replaces_what_would_have_trained_it():
    planned = study(teacher(teacher=vit_file("teacher.safetensors")), "teacher_deit_large", "vmoe_base/m2mkd", "vmoe_base/pure_kd")
    assert phases(planned).isdisjoint({"incubate_module", "assemble_teacher"}) and "pretrain_meta" in phases(planned)
    (run,) = imported(planned)
    for phase in ("split_teacher", "evaluate_teacher", "measure_hybrid"):
        assert all(found.upstream["teacher"] == (run.id,) for found in planned.runs.values() if found.phase == phase)
    assert any(found.upstream.get("teacher") == (run.id,) for found in planned.runs.values() if found.phase == "train_student")


def test_an_imported_meta_model_is_what_modules_are_incubated_and_distilled_in():
    planned = study(teacher(meta=vit_file("meta.safetensors", (1, 1, 1, 1))), "vmoe_base/m2mkd")
    assert "pretrain_meta" not in phases(planned) and "assemble_teacher" in phases(planned)
    (run,) = imported(planned)
    for phase in ("incubate_module", "distill_module", "measure_hybrid"):
        assert all(found.upstream["meta"] == (run.id,) for found in planned.runs.values() if found.phase == phase)


def test_both_imported_leave_nothing_to_train_but_students():
    files = {"meta": vit_file("meta.safetensors", (1, 1, 1, 1)), "teacher": vit_file("teacher.safetensors")}
    # Recipes of what is not trained need not be named.
    changes = {"teacher_deit_large": {"imports": files, "pretrain": None, "incubate": None, "assemble": None}}
    planned = study(changes, "teacher_deit_large", "vmoe_base/m2mkd")
    assert len(imported(planned)) == 2
    trained = {"evaluate_teacher", "split_teacher", "measure_hybrid", "distill_module", "train_student", "evaluate"}
    assert phases(planned) == {"import_weights", *trained}


def test_the_content_of_the_file_decides_the_key_and_its_place_does_not():
    def key(name):
        return imported(study(teacher(teacher=name), "teacher_deit_large"))[0].key

    first = key(vit_file("a.safetensors"))
    Path("b.safetensors").write_bytes(Path("a.safetensors").read_bytes())
    assert key("b.safetensors") == first
    os.utime("a.safetensors", (1, 1))
    assert key("a.safetensors") == first
    before = study(teacher(teacher="a.safetensors"), "teacher_deit_large")
    assert key(vit_file("a.safetensors", seed=1)) != first
    assert not set(before.runs) & set(study(teacher(teacher="a.safetensors"), "teacher_deit_large").runs)


def test_a_digest_is_computed_once():
    path = Path(vit_file("a.safetensors"))
    content = path.read_bytes()
    os.utime(path, (1, 1))
    digest = imports.imported_digest(str(path), "test")
    assert digest == sha256(path)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, (1, 1))
    assert imports.imported_digest(str(path), "test") == digest, "nothing says that it has changed"
    os.utime(path, (2, 2))
    assert imports.imported_digest(str(path), "test") == sha256(path) != digest


def test_an_imported_student_is_measured_and_counted_once_but_probed_with_every_seed():
    torch.manual_seed(0)
    state = build_student(architecture("vmoe_base"), prior=None, stitch_width=None, compat={}, **SIZES).state_dict()
    file = write("student.safetensors", "vmoe", VMOE | {"divided_depths": [1, 1, 1, 1], "stitch_dim": None}, state)
    changes = {
        "vmoe_base": {"variants": {"released": {"imports": {"student": file}}}},
        "fewshot_cifar100_vmoe": {"students": ["vmoe_base/released"]},
    }
    planned = study(changes, "vmoe_base/released", "fewshot_cifar100_vmoe", seeds=4, seeds_per_job=2)
    assert phases(planned) == {"import_weights", "evaluate", "train_probe"}
    (run,) = imported(planned)
    iid, probe = planned.rows
    assert iid.trained == probe.trained == (run.id,)
    assert len(iid.measured) == 1
    assert [planned.runs[run_id].seed for run_id in probe.measured] == [0, 1, 2, 3]
    fabricated.finish(planned, lambda run, seed: seed / 10)
    found = Results.read(planned).measurements
    top1 = found[found["metric"] == "top1"]
    assert len(top1[top1["split"] == "iid"]) == 1
    assert sorted(top1[top1["split"] == "fewshot"]["value"]) == [0.0, 0.1, 0.2, 0.3]
    shutil.rmtree(planned.folder(run.id))  # which a job would keep, invented as it is
    execute(planned, run)
    assert load_weights(Path(planned.folder(run.id))).keys() == state.keys()


# --- the job ----------------------------------------------------------------------------------------------------------


def test_what_builds_on_an_imported_teacher_knows_no_difference():
    planned = study(teacher(teacher=vit_file("teacher.safetensors")), "teacher_deit_large")
    (run,) = imported(planned)
    execute(planned, run)
    folder = Path(planned.folder(run.id))
    torch.manual_seed(0)
    state = StagedViT(architecture("deit_large"), **SIZES).state_dict()
    found = load_weights(folder)
    assert found.keys() == state.keys() and all(torch.equal(found[name], tensor) for name, tensor in state.items())
    record = json.loads((folder / "run.json").read_text())
    assert record["config"]["sha256"] == imports.sha256(Path("teacher.safetensors"))
    assert "file" not in record["config"]
    split = next(run for run in planned.runs.values() if run.phase == "split_teacher" and run.config.index == 2)
    execute(planned, split)
    stage = load_weights(Path(planned.folder(split.id)))
    assert all(torch.equal(stage[name], tensor) for name, tensor in stage_state(state, 2).items())


@pytest.mark.parametrize("experiment", ["vmoe_base", "nac_tiny_imagenet_scale_free"])
def test_imported_modules_replace_distillation(experiment):
    model = architecture("vmoe_base" if experiment == "vmoe_base" else "nac_tiny_imagenet")
    states = []
    for index in range(4):
        torch.manual_seed(index)
        states.append(build_module(model, index, stitch_width=64, drop_path=0.0, state_seed=0, compat={}, **SIZES).state_dict())
    files = [write(f"{index}.safetensors", *module_description(model, index), states[index]) for index in range(4)]
    recipe = "vmoe_finetune" if experiment == "vmoe_base" else "nac_tiny_imagenet"
    variant = {"recipe": recipe, "init": "modules", "imports": {"modules": files}}
    models = {"nac_tiny_imagenet": {"tokenizer": TOKENIZER}}
    planned = study({experiment: {"variants": {"released": variant}}}, f"{experiment}/released", models=models)
    assert phases(planned) == {"import_weights", "train_student", "evaluate"}
    (student,) = (run for run in planned.runs.values() if run.phase == "train_student")
    modules = [planned.runs[run_id] for run_id in student.upstream["modules"]]
    execute(planned, *modules)
    found = load_modules([Path(planned.folder(run.id)) for run in modules], range(4))
    for index, state in enumerate(states):
        assert all(torch.equal(found[index][name], tensor) for name, tensor in state.items())


def module_description(model, index):
    """Kind and released configuration of a module of the smoke study's students."""
    if model.family == "vmoe":
        pre, post = [0] if index else [], [0] if index < 3 else []
        return "vmoe_module", VMOE | {"idx": index if index < 3 else -1, "pre_stitch_pos": pre, "post_stitch_pos": post}
    if index == 0:
        return "nac_readin", NAC | {"tokenizer_kwargs": GRID, "include_residual_in_read_in_attention": True}
    if index == 3:
        return "nac_readout", NAC | {"output_dim": 10, "include_residual_in_latent_attention": False, "use_head": False}
    return "nac_mediator", NAC | {"latent_attention_kwargs": {"share_layernorm": True}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": (2, 2, 2, 3)}, r"depths is \[2, 2, 2, 3\], but \[2, 2, 2, 2\] is expected"),
        ({"embed_dim": 32}, "width is 32, but 64 is expected"),
        ({"ln_eps": 1e-5}, "norm_eps is 1e-05, but 1e-06 is expected"),
        ({"img_size": 64}, "image size is 64, but 32 is expected"),
        ({"num_classes": 7}, "number of classes is 7, but 10 is expected"),
    ],
)
def test_another_architecture_is_refused_in_one_line(changes, message):
    planned = study(teacher(teacher=vit_file("teacher.safetensors", **changes)), "teacher_deit_large")
    with pytest.raises(InputError, match=f"teacher.safetensors: {message}") as refused:
        execute(planned, *imported(planned))
    assert "\n" not in str(refused.value)
    assert not Path(planned.root, "runs").exists()


def test_another_kind_is_refused():
    torch.manual_seed(0)
    state = build_student(architecture("vmoe_base"), prior=None, stitch_width=None, compat={}, **SIZES).state_dict()
    file = write("vmoe.safetensors", "vmoe", VMOE | {"divided_depths": [1, 1, 1, 1], "stitch_dim": None}, state)
    planned = study(teacher(teacher=file), "teacher_deit_large")
    with pytest.raises(InputError, match=r"vmoe.safetensors: kind is vmoe, but vit is expected"):
        execute(planned, *imported(planned))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.pop("stages.1.blocks.0.norm1.weight"), "lacks stages.1.blocks.0.norm1.weight"),
        (lambda state: state.update(extra=torch.zeros(1)), "has extra that nothing takes"),
        (lambda state: state.update({"stages.3.head.bias": torch.zeros(3)}), r"stages.3.head.bias is \(3,\), expected \(10,\)"),
    ],
)
def test_other_tensors_are_refused(damage, message):
    state = StagedViT(architecture("deit_large"), **SIZES).state_dict()
    damage(state)
    file = write("teacher.safetensors", "vit", VIT | {"divided_depths": [2, 2, 2, 2]}, state)
    planned = study(teacher(teacher=file), "teacher_deit_large")
    with pytest.raises(InputError, match=f"teacher.safetensors.* {message}"):
        execute(planned, *imported(planned))


def test_a_file_that_changed_after_the_planning_is_refused():
    planned = study(teacher(teacher=vit_file("teacher.safetensors")), "teacher_deit_large")
    vit_file("teacher.safetensors", seed=1)
    with pytest.raises(InputError, match="has changed since the workflow was planned"):
        execute(planned, *imported(planned))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (teacher(teacher="absent.safetensors"), "experiment teacher_deit_large: imports.teacher: absent.safetensors is not a file"),
        ({"teacher_deit_large": {"assemble": None}}, "assemble is missing; name a recipe, or give imports.teacher"),
        (
            {"teacher_deit_large": {"pretrain": None, "imports": {"teacher": "x"}}},
            "pretrain is missing; name a recipe, or give imports.meta",
        ),
        ({"vmoe_base": {"variants": {"m2mkd": {"imports": {"modules": ["a", "b"]}}}}}, "2 files, but modules 0, 1, 2, 3 are loaded"),
        ({"vmoe_base": {"variants": {"m2mkd": {"imports": {"student": "a"}}}}}, "give either a recipe .* or imports.student"),
        ({"vmoe_base": {"variants": {"m2mkd": {"recipe": None}}}}, "give either a recipe .* or imports.student"),
        ({"vmoe_base": {"variants": {"m2mkd": {"init": "scratch", "imports": {"modules": ["a"]}}}}}, "need init: modules"),
        ({"vmoe_base": {"variants": {"m2mkd": {"recipe": None, "imports": {"student": "a"}}}}}, "an imported student is not trained"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_one_line(changes, message):
    with pytest.raises(InputError, match=message) as refused:
        study(changes, "teacher_deit_large", "vmoe_base/m2mkd")
    assert "\n" not in str(refused.value)


def test_the_workflow_gets_the_file_as_an_input_whose_age_does_not_matter():
    from m2mkd.study.graph import as_graph

    planned = study(teacher(teacher=vit_file("teacher.safetensors")), "teacher_deit_large")
    (run,) = imported(planned)
    entry = as_graph(planned, planned)["runs"][run.id]
    assert entry["ancient"] == ["teacher.safetensors"] and entry["inputs"] == []
    assert isinstance(run.config, ImportWeights)
    # A file among the results would be taken for one that Snakemake is to make.
    inside = Path(planned.root, "runs/assemble_teacher/0123456789abcdef/model.safetensors")
    inside.parent.mkdir(parents=True)
    Path("teacher.safetensors").rename(inside)
    planned = study(teacher(teacher=str(inside)), "teacher_deit_large")
    assert as_graph(planned, planned)["runs"][run.id]["ancient"] == []
