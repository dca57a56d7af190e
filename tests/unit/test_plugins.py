"""Parts of other packages: found by entry points, in keys and records of what used them, and of no harm to anything else."""

import json
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from m2mkd.cli import app
from m2mkd.config.objective import Objective
from m2mkd.distill.losses import soft_cross_entropy
from m2mkd.distill.objective import TaughtLoss
from m2mkd.errors import InputError
from m2mkd.plugins import BUILT_IN
from m2mkd.study.files import planned_runs, read_planned, write_plan
from tests.conftest import ROOT
from tests.packages import installed
from tests.tiny import by_phase, smoke

GROUP = "m2mkd.objectives"
SIMPLE = '''
from typing import ClassVar, Literal
from m2mkd.config.objective import ObjectiveTerm
class Made(ObjectiveTerm):
    """Half of the logits' mean square."""
    NEEDS: ClassVar = frozenset()
    kind: Literal["made"] = "made"
    factor: float = 0.5
    def loss(self, given):
        return self.factor * given.student.square().mean()
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Puts a distribution of one module on the path."""

    def add(source: str, name: str = "made", value: str = "made_plugin:Made", distribution: str = "made-objective") -> Path:
        folder = tmp_path / distribution
        metadata = folder / f"{distribution.replace('-', '_')}-2.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 2.0\n")
        (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {value}\n")
        (folder / f"{value.partition(':')[0]}.py").write_text(source)
        monkeypatch.delitem(sys.modules, value.partition(":")[0], raising=False)
        monkeypatch.syspath_prepend(folder)
        return folder

    return add


def objective(*terms: dict) -> Objective:
    return Objective.model_validate({"terms": terms})


def modules_of(*terms: dict) -> list:
    return by_phase(smoke("vmoe_base/m2mkd", experiment_changes={"vmoe_base": {"distill": {"objective": {"terms": terms}}}}))[
        "distill_module"
    ]


def listed() -> dict[str, dict]:
    done = CliRunner().invoke(app, ["plugins", "--json"])
    assert done.exit_code == 0, done.output
    return {f"{one['package']} {one['name']}": one for one in json.loads(done.output)}


def test_our_own_are_the_entry_points_of_the_distribution():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = {group: names for group, names in project["entry-points"].items() if group.startswith("m2mkd.")}
    assert ours == {group: dict(names) for group, names in BUILT_IN.items()}


def test_a_term_of_another_package_is_used_and_listed_like_ours(package):
    package(SIMPLE)
    logits, targets = torch.ones(2, 3), torch.eye(3)[:2]
    loss = TaughtLoss(objective({"kind": "labels"}, {"kind": "made", "weight": 2}), (), (), smoothing=0.0, kl_norm="batch")(
        logits, targets, None
    )
    assert list(loss.parts) == ["cross_entropy", "made"] and loss.parts["made"].item() == 0.5
    assert loss.value.item() == pytest.approx(soft_cross_entropy(logits, targets).item() + 1)
    assert listed()["made-objective made"] == {"group": GROUP, "name": "made", "package": "made-objective", "version": "2.0", "warning": ""}


def test_package_version_and_code_are_in_the_key_of_what_uses_it_and_of_nothing_else(package, monkeypatch):
    before = modules_of({"kind": "soft"})
    folder = package(SIMPLE)
    assert [run.id for run in modules_of({"kind": "soft"})] == [run.id for run in before]
    run = modules_of({"kind": "made"})[0]
    (term,) = run.content["config"]["objective"]["terms"]
    assert term["plugin"].keys() == {"distribution", "version", "code"} and term["plugin"]["version"] == "2.0"

    def key_with(source: str, version: str = "2.0") -> str:
        again = folder.parent / f"again-{len(list(folder.parent.iterdir()))}"
        shutil.copytree(folder, again)
        (again / "made_plugin.py").write_text(source)
        metadata = next(again.glob("*.dist-info/METADATA"))
        metadata.write_text(metadata.read_text().replace("2.0", version))
        monkeypatch.delitem(sys.modules, "made_plugin", raising=False)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "path", [str(again), *(path for path in sys.path if path != str(folder))])
            return modules_of({"kind": "made"})[0].key

    assert key_with(SIMPLE) == run.key
    assert key_with(SIMPLE.replace("Half of", "Half  of") + "# a comment\n") == run.key
    assert key_with(SIMPLE.replace("square()", "abs()")) != run.key
    assert key_with(SIMPLE, version="2.1") != run.key


def test_a_default_is_part_of_no_key_and_a_given_value_is():
    plain, given, other = (modules_of({"kind": "dkd", **more})[0].key for more in ({}, {"alpha": 1, "beta": 8.0}, {"beta": 2}))
    assert plain == given != other


def test_a_plan_whose_plugin_has_changed_since_is_refused_in_one_line(package, tmp_path, monkeypatch):
    folder = package(SIMPLE)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "config", "config")
    study = smoke("vmoe_base/m2mkd", experiment_changes={"vmoe_base": {"distill": {"objective": {"terms": [{"kind": "made"}]}}}})
    write_plan(study)
    planned = planned_runs(study)[by_phase(study)["distill_module"][0].id]
    assert read_planned(planned.file).run.id == planned.run.id
    monkeypatch.delitem(sys.modules, "made_plugin")
    (folder / "made_plugin.py").write_text(SIMPLE.replace("square()", "abs()"))
    monkeypatch.syspath_prepend(tmp_path)  # as another process would look again
    with pytest.raises(InputError, match=r"objective term made: stored with plug-in .* plan again"):
        read_planned(planned.file)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(folder)])
    with pytest.raises(InputError, match="there is no 'made'"):
        read_planned(planned.file)


# --- wrong ones ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name", "value", "reason"),
    [
        (
            "import nothing_of_that_name",
            "made",
            "broken_one:Made",
            "cannot be loaded (ModuleNotFoundError: No module named 'nothing_of_that_name')",
        ),
        ("raise SystemExit(3)", "made", "broken_two:Made", "cannot be loaded (SystemExit: 3)"),
        ("Other = 1", "made", "broken_three:Made", "cannot be loaded (AttributeError"),
        ("Made = dict", "made", "broken_four:Made", "is not a subclass of m2mkd.config.objective.ObjectiveTerm"),
        (SIMPLE, "other", "broken_five:Made", "has kind 'made', but its entry point is 'other'"),
        (SIMPLE.replace('"made"', '"loss"'), "loss", "broken_six:Made", "has a name that its curve cannot have"),
        (SIMPLE.partition("    def loss")[0], "made", "broken_seven:Made", "has no method loss"),
        (
            SIMPLE.replace("frozenset()", 'frozenset({"pixels"})'),
            "made",
            "broken_eight:Made",
            "needs pixels; a term can ask for teacher, tokens",
        ),
    ],
)
def test_a_broken_plugin_is_one_line_where_it_is_used_and_leaves_the_others_usable(package, source, name, value, reason):
    package(source, name, value)
    with pytest.raises(InputError) as caught:
        modules_of({"kind": name})
    assert reason in str(caught.value) and "made-objective 2.0" in str(caught.value) and "terms.0" in str(caught.value)
    assert modules_of({"kind": "soft"})
    found = listed()
    assert reason in found[f"made-objective {name}"]["warning"] and found["m2mkd soft"]["warning"] == ""


def test_a_name_of_two_packages_is_refused_and_one_of_ours_stays_ours(package):
    package(SIMPLE)
    package(SIMPLE, value="made_plugin_too:Made", distribution="other-objective")
    with pytest.raises(InputError, match="of made-objective and other-objective; uninstall all but one"):
        modules_of({"kind": "made"})
    package(SIMPLE, name="soft", value="made_soft:Made", distribution="soft-objective")
    assert "the name is taken by plug-in 'soft' of m2mkd" in listed()["soft-objective soft"]["warning"]
    assert "plugin" not in modules_of({"kind": "soft"})[0].content["config"]["objective"]["terms"][0]


def test_a_term_that_gives_no_scalar_is_one_line(package):
    package(SIMPLE.replace(".mean()", ".mean(-1)"))
    loss = TaughtLoss(objective({"kind": "made"}), (), (), smoothing=0.0, kl_norm="batch")
    with pytest.raises(InputError, match=r"objective term made: gives a tensor of shape \(2,\), but a scalar tensor is needed"):
        loss(torch.ones(2, 3), torch.eye(3)[:2], None)


# --- the example -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed_example(tmp_path_factory):
    """Folder that pip has installed the example in."""
    return installed("m2mkd-focal-objective", tmp_path_factory.mktemp("plugins"))


def test_the_example_is_installed_by_pip_and_used(installed_example, monkeypatch):
    monkeypatch.syspath_prepend(installed_example)
    assert listed()["m2mkd-focal-objective focal"]["warning"] == ""
    logits, targets = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), torch.eye(5)[[0, 1, 2, 3, 4, 0]]

    def value(gamma: float) -> float:
        return TaughtLoss(objective({"kind": "focal", "gamma": gamma}), (), (), smoothing=0.0, kl_norm="batch")(
            logits, targets, None
        ).value.item()

    assert value(0) == pytest.approx(soft_cross_entropy(logits, targets).item())
    chosen = (logits.softmax(-1) * targets).sum(-1)
    assert value(2) == pytest.approx((-((1 - chosen) ** 2) * chosen.log()).mean().item())
    run = modules_of({"kind": "labels"}, {"kind": "focal", "gamma": 1.0})[0]
    assert run.content["config"]["objective"]["terms"][1]["plugin"]["distribution"] == "m2mkd-focal-objective"
