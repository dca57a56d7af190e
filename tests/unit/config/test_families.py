"""Families of students of other packages: planned and keyed like ours, and of no harm to anything else."""

import shutil
import sys

import pytest

from m2mkd.config import load
from m2mkd.config.published import published
from m2mkd.config.registered_families import STUDENT_GROUP, family_named, student_families
from m2mkd.errors import InputError
from m2mkd.study.files import planned_runs, read_planned, write_plan
from m2mkd.study.plan import build_study
from tests.conftest import ROOT
from tests.packages import made_up, project_with
from tests.tiny import by_phase, smoke

SIMPLE = '''
from typing import ClassVar, Literal
from torch import nn
from m2mkd.config.family import Architecture, StudentFamily
class MadeConfig(Architecture):
    """Layers."""
    family: Literal["made"] = "made"
    width: int = 16
    parts: int = 4
    @property
    def modules(self): return self.parts
    @property
    def stride(self): return 1
class Made(StudentFamily):
    """Linear maps."""
    CONFIG: ClassVar = MadeConfig
    LABEL: ClassVar = "Made"
    def build(self, config, *, image_size, num_classes, **_):
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, config.width), nn.Linear(config.width, num_classes))
    def build_module(self, config, index, *, image_size, num_classes, stitch_width, **_):
        return nn.Linear(stitch_width, stitch_width)
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Puts a copy of the configuration with the entry of one more model into the working directory."""

    def write(entry: str) -> None:
        monkeypatch.chdir(project_with(tmp_path / "project", entry))

    return write


@pytest.fixture
def package(tmp_path, monkeypatch):
    def add(source: str = SIMPLE, point: str = "made = made_family:Made", distribution: str = "made-family"):
        return made_up(tmp_path, monkeypatch, STUDENT_GROUP, point, source, distribution)

    return add


def planned(scale_models: dict | None = None, variant: str = "end_to_end"):
    return smoke(f"vmoe_base/{variant}", experiment_changes={"vmoe_base": {"model": "mine"}}, models=scale_models or {})


# --- of other packages -----------------------------------------------------------------------------------------------


def test_package_version_and_code_are_in_the_key_of_what_has_the_student_and_of_nothing_else(project, package, monkeypatch):
    ours = set(smoke().runs)
    folder = package()
    project("{family: made}")
    assert set(smoke().runs) == ours
    study = planned({"mine": {}})
    (trained,), (measured,) = by_phase(study)["train_student"], by_phase(study)["evaluate"]
    stored = trained.content["config"]["student"]
    assert stored == {"family": "made", "width": 16, "parts": 4, "plugin": stored["plugin"]}
    assert stored["plugin"].keys() == {"distribution", "version", "code"} and stored["plugin"]["version"] == "2.0"
    assert measured.content["config"]["student"] == stored

    def key_with(source: str) -> str:
        again = folder.parent / f"again-{len(list(folder.parent.iterdir()))}"
        shutil.copytree(folder, again)
        (again / "made_family.py").write_text(source)
        monkeypatch.delitem(sys.modules, "made_family", raising=False)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "path", [str(again), *(path for path in sys.path if path != str(folder))])
            return by_phase(planned({"mine": {}}))["train_student"][0].key

    assert key_with(SIMPLE + "# a comment\n") == trained.key
    assert key_with(SIMPLE.replace("nn.Flatten(), ", "nn.Flatten(), nn.ReLU(), ")) != trained.key


def test_a_plan_is_read_again_and_refused_where_the_code_has_changed_since(project, package, tmp_path, monkeypatch):
    folder = package()
    project("{family: made}")
    study = planned({"mine": {}})
    write_plan(study)
    one = planned_runs(study)[by_phase(study)["train_student"][0].id]
    assert read_planned(one.file).run == one.run
    monkeypatch.delitem(sys.modules, "made_family")
    (folder / "made_family.py").write_text(SIMPLE.replace("nn.Flatten(), ", "nn.Flatten(), nn.ReLU(), "))
    monkeypatch.syspath_prepend(tmp_path)  # as another process would look again
    with pytest.raises(InputError, match=r"family made: stored with plug-in .* plan again"):
        read_planned(one.file)


@pytest.mark.parametrize(
    ("source", "point", "reason"),
    [
        ("import nothing_of_that_name", "made = broken_a:Made", "cannot be loaded (ModuleNotFoundError"),
        ("Made = dict", "made = broken_b:Made", "is not a subclass of m2mkd.config.family.StudentFamily"),
        (SIMPLE.replace("MadeConfig\n    LABEL", "dict\n    LABEL"), "made = broken_c:Made", "has no CONFIG that is a subclass of"),
        (SIMPLE, "other = broken_d:Made", "has family 'made', but its entry point is 'other'"),
        (SIMPLE.replace('"made"', '"detector"'), "detector = broken_e:Made", "has a name that is taken"),
        (SIMPLE.replace("parts: int = 4", "parts: int = 4\n    like: str = ''"), "made = broken_f:Made", "with the field like"),
        (SIMPLE.replace('LABEL: ClassVar = "Made"', ""), "made = broken_g:Made", "has no LABEL"),
        (SIMPLE.replace("def build_module", "def other"), "made = broken_h:Made", "has no build_module"),
        (SIMPLE.replace("def stride", "def other"), "made = broken_i:Made", "has no stride"),
    ],
)
def test_a_broken_family_is_one_line_where_it_is_used_and_leaves_the_others_usable(project, package, source, point, reason):
    package(source, point)
    project(f"{{family: {point.partition(' ')[0]}}}")
    with pytest.raises(InputError) as caught:
        planned({"mine": {}})
    assert reason in str(caught.value) and "made-family 2.0" in str(caught.value) and "models.mine" in str(caught.value)
    assert "\n" not in str(caught.value)
    shutil.copy(ROOT / "config/models.yaml", "config/models.yaml")
    assert smoke("vmoe_base/end_to_end").runs


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (
            "{family: mde}",
            "models.mine: family: there is no 'mde' among m2mkd.students; did you mean 'made'? There are made, nac, vit, vmoe",
        ),
        ("{width: 3}", "models.mine: a model is a mapping with a family; there are vit, vmoe, nac, made"),
        ("{family: made, widht: 3}", "models.mine.widht is not a known field; did you mean 'width'?"),
        ("{family: made, width: much}", "models.mine.width: Input should be a valid integer"),
    ],
)
def test_a_wrong_entry_is_one_line(project, package, entry, reason):
    package()
    project(entry)
    with pytest.raises(InputError) as caught:
        planned({"mine": {}})
    assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_family_cannot_do_is_said_before_any_job(project, package):
    package()
    project("{family: made}")
    changes = {"model": "mine", "variants": {"end_to_end": {"codes": "identical"}}}
    with pytest.raises(InputError, match=r"variants\.end_to_end\.codes: identical, but student 'mine' is a Made and has none"):
        smoke("vmoe_base/end_to_end", experiment_changes={"vmoe_base": changes}, models={"mine": {}})
    with pytest.raises(InputError, match=r"prior is ring_of_cliques, but a Made has none"):
        smoke("vmoe_base/end_to_end", experiment_changes={"vmoe_base": {"model": "mine", "prior": "ring_of_cliques"}}, models={"mine": {}})
    with pytest.raises(InputError, match=r"model 'vmoe_base' is of family vmoe, but vit is needed here"):
        smoke("vmoe_base/m2mkd", experiment_changes={"teacher_deit_large": {"model": "vmoe_base"}})
    with pytest.raises(InputError, match=r"model 'deit_large' is of family vit, but a student is needed here: vmoe, nac, made"):
        smoke("vmoe_base/m2mkd", experiment_changes={"vmoe_base": {"model": "deit_large"}})


def test_every_family_is_found_by_its_name():
    assert [family_named(name).name for name in ("vit", *student_families())] == ["vit", "vmoe", "nac"]


# --- sizes of another model, and of a scale --------------------------------------------------------------------------


def test_a_model_like_another_has_its_sizes_at_every_scale(project):
    project("{like: vmoe_base, experts: 2}")
    paper, small = (load.catalogue(load.scale(name, {})).models for name in ("paper", "small"))
    assert paper["mine"] == paper["vmoe_base"].model_copy(update={"experts": 2})
    assert small["mine"] == small["vmoe_base"].model_copy(update={"experts": 2})
    assert by_phase(planned())["train_student"][0].config.student == small["mine"]


def test_another_family_inherits_the_fields_that_it_has(project, package):
    package()
    project("{like: vmoe_base, family: made, parts: 3}")
    assert load.catalogue(load.scale("small", {})).models["mine"].model_dump() == {"family": "made", "width": 48, "parts": 3}


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("{like: vmoe_bse}", "config/models.yaml: mine.like: there is no model 'vmoe_bse'; did you mean 'vmoe_base'?"),
        ("{like: mine}", "config/models.yaml: mine.like: mine is like mine; remove like from one of them"),
        ("{like: 3}", "config/models.yaml: mine.like: there is no model '3'; there are deit_base"),
        ("{like: vmoe_base, family: nothing}", "config/models.yaml: mine.family: there is no 'nothing' among m2mkd.students"),
    ],
)
def test_a_wrong_like_is_one_line(project, entry, reason):
    project(entry)
    with pytest.raises(InputError) as caught:
        planned()
    assert str(caught.value).startswith(reason) and "\n" not in str(caught.value)


def test_a_model_that_a_reduced_scale_leaves_at_its_published_size_is_refused(project):
    project("{family: vmoe, patch_size: 16, width: 768, heads: 12, depths: [3, 3, 3, 3]}")
    reason = (
        r"experiment vmoe_base: model 'mine' has its published size at scale smoke, which reduces others; add its sizes to "
        r"config/scales/smoke\.yaml as models\.mine \(\{\} leaves it as it is\), or like: NAME to it in config/models\.yaml"
    )
    with pytest.raises(InputError, match=reason):
        planned()
    reduced = by_phase(planned({"mine": {"patch_size": 8, "width": 24, "heads": 3}}))["train_student"][0].config.student
    assert reduced.width == 24
    project("{family: vmoe, patch_size: 8, width: 24, heads: 3, depths: [1, 1, 1, 1]}")
    assert by_phase(planned({"mine": {}}))["train_student"][0].config.student.width == 24


def test_scale_paper_reduces_nothing_whatever_is_overridden(project):
    changes = {"models": {"vmoe_base": {"top_k": 1}}, "seeds": 1}
    settings = load.settings({"scale": "paper", "experiments": ["vmoe_base/m2mkd"], "overrides": changes})
    assert {run.config.student.top_k for run in build_study(settings).runs.values() if run.phase == "distill_module"} == {1}


def test_published_architectures_know_what_they_are_like():
    assert published("vmoe_base").family == "vmoe"
