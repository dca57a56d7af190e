"""The names that are stable: light to import, documented, and every example of docstrings, guide and notebook works."""

import doctest
import inspect
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

import m2mkd
from tests.conftest import ROOT
from tests.site import blocks
from tests.tiny import of_phase

GUIDE = [block.text for block in blocks(ROOT / "docs/how-to/python.md") if block.mark == "run"]
NOTEBOOK = json.loads((ROOT / "examples/from_python.ipynb").read_text())
EXAMPLES = [name for name in m2mkd.__all__ if ">>>" in (inspect.getdoc(getattr(m2mkd, name)) or "")]
EXAMPLES += [f"Student.{name}" for name, method in vars(m2mkd.Student).items() if ">>>" in (inspect.getdoc(method) or "")]


def run(code, *arguments):
    return subprocess.run([sys.executable, *arguments, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)


def test_importing_the_package_imports_none_of_the_heavy_libraries():
    done = run(
        "import sys, m2mkd; m2mkd.InputError; dir(m2mkd); print(*{'torch', 'timm', 'pandas', 'pydantic', 'numpy'} & set(sys.modules))"
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_every_stable_name_exists_and_has_a_docstring():
    assert sorted(m2mkd.__all__, key=str.lower) == sorted(m2mkd._HOMES, key=str.lower) and set(m2mkd.__all__) <= set(dir(m2mkd))
    for name in m2mkd.__all__:
        thing = getattr(m2mkd, name)
        assert thing is getattr(import_module(m2mkd._HOMES[name]), name) and inspect.getdoc(thing)
    with pytest.raises(AttributeError, match="has no attribute 'load_studnet'"):
        m2mkd.load_studnet  # noqa: B018


def test_every_parameter_is_documented():
    for name in m2mkd.__all__:
        thing = getattr(m2mkd, name)
        if inspect.isfunction(thing):
            assert all(f"\n{parameter}\n" in inspect.getdoc(thing) for parameter in inspect.signature(thing).parameters), name


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_work(project, name):
    thing = m2mkd
    for part in name.split("."):
        thing = getattr(thing, part)
    student = next(one for one in of_phase(project, "train_student") if one.config.student.family == "vmoe")
    split = next(one for one in of_phase(project, "split_teacher") if one.config.index == 1)
    names = {"student_run": student.id, "split_run": split.id, "meta_run": of_phase(project, "pretrain_meta")[0].id, "scale": "smoke"}
    parsed = doctest.DocTestParser().get_doctest(inspect.getdoc(thing), names | {"m2mkd": m2mkd, "torch": torch}, name, None, 0)
    told = []
    assert doctest.DocTestRunner().run(parsed, out=told.append).failed == 0, "".join(told)
    assert parsed.examples


def test_the_examples_are_there():
    assert set(EXAMPLES) == {"Results", "distill_module", "load_network", "load_student", "Student.features", "Student.evaluate"}
    assert len(GUIDE) == 3


@pytest.mark.parametrize("number", range(len(GUIDE)))
def test_programs_of_the_guide_work(project, number, capsys):
    exec(compile(GUIDE[number], f"docs/how-to/python.md, program {number + 1}", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out


def test_the_notebook_works_and_is_kept_without_outputs(project, capsys):
    assert (NOTEBOOK["nbformat"], NOTEBOOK["metadata"]["kernelspec"]["language"]) == (4, "python")
    cells = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 4 and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    names = {"__name__": "__main__"}
    for number, cell in enumerate(cells, start=1):
        exec(compile("".join(cell["source"]), f"examples/from_python.ipynb, cell {number}", "exec"), names)
    assert names["student"].num_classes == 10 and Path("results/smoke").is_dir()


def test_the_notebook_is_valid():
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.from_dict(NOTEBOOK))
