"""Which code a phase uses: what counts as a change of it, and what does not."""

import json
import shutil
from pathlib import Path

import pytest

from m2mkd.study import code
from m2mkd.study.code import changed_modules, code_of
from m2mkd.study.phase import PHASES
from tests.conftest import ROOT


@pytest.fixture
def package(tmp_path) -> Path:
    """A copy of the sources, in a working directory of its own."""
    return Path(shutil.copytree(ROOT / "m2mkd", tmp_path / "m2mkd", ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture(autouse=True)
def _afresh(tmp_path, monkeypatch):
    """As in a new process."""
    monkeypatch.chdir(tmp_path)
    code._every_code.cache_clear()
    yield
    code._every_code.cache_clear()


def edit(package: Path, module: str, *changes: tuple[str, str]) -> None:
    path = package / f"{module}.py"
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)
    code._every_code.cache_clear()


def test_a_phase_uses_what_its_training_imports_and_nothing_that_watches():
    used = code_of("train_student")
    assert {"m2mkd.training.phases.train_student", "m2mkd.training.update", "m2mkd.models.nac.circuit", "m2mkd.data.stream"} <= used.keys()
    assert "m2mkd.training.phases.train_probe" not in used and "m2mkd.evaluation.calibration" not in code_of("split_teacher")
    assert [name for name in used if name.split(".")[1:2] in (["tracking"], ["planning"], ["cli"], ["results"], ["containers"])] == []
    assert {phase: f"m2mkd.training.phases.{phase}" in code_of(phase) for phase in PHASES} == dict.fromkeys(PHASES, True)


def test_a_copy_of_the_sources_is_the_same_code(package):
    assert {phase: code_of(phase, package) for phase in PHASES} == {phase: code_of(phase) for phase in PHASES}


def test_wording_is_no_change_and_work_is_one_for_who_uses_it(package):
    before = {phase: code_of(phase, package) for phase in PHASES}
    edit(
        package,
        "distill/losses",
        ("\nimport torch\n", "\n# Another word.\nimport torch\n"),
        ('    """', '    """Another docstring. '),
    )
    assert {phase: code_of(phase, package) for phase in PHASES} == before
    edit(package, "distill/losses", ("mean()", "sum()"))
    after = {phase: code_of(phase, package) for phase in PHASES}
    users = {phase for phase in PHASES if "m2mkd.distill.losses" in before[phase]}
    assert {"distill_module", "train_student"} <= users and "split_teacher" not in users
    for phase in PHASES:
        assert changed_modules(before[phase], after[phase]) == (("m2mkd.distill.losses",) if phase in users else ())


def test_a_new_import_is_a_change_but_not_one_for_the_checker_of_types(package):
    before = code_of("split_teacher", package)
    edit(package, "training/phases/split_teacher", ("\nfrom ", "\nfrom typing import TYPE_CHECKING\n\nfrom "))
    typed = code_of("split_teacher", package)
    assert changed_modules(before, typed) == ("m2mkd.training.phases.split_teacher",)
    edit(package, "training/phases/split_teacher", ("\n\n\ndef ", "\nif TYPE_CHECKING:\n    from m2mkd.data import cifar\n\n\ndef "))
    assert code_of("split_teacher", package).keys() == typed.keys()
    edit(package, "training/phases/split_teacher", ("if TYPE_CHECKING:\n", "if True:\n"))
    assert "m2mkd.data.cifar" in changed_modules(typed, code_of("split_teacher", package))


def test_what_was_found_is_noted_and_the_note_is_of_these_sources_alone(monkeypatch):
    found = code_of("evaluate")
    note = json.loads(code.NOTE.read_text())
    code._every_code.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(code, "_Modules", None)  # which would parse them again
        assert code_of("evaluate") == found
    for change in ({"sources": "0" * 16}, {"phases": note["phases"] | {"evaluate": {"m2mkd": "0" * 16}}}):
        code.NOTE.write_text(json.dumps(note | change))
        code._every_code.cache_clear()
        assert code_of("evaluate") == found


def test_a_record_that_says_little_is_compared_with_all_that_is_used():
    used = code_of("evaluate")
    assert changed_modules({}, used) == tuple(sorted(used))
    assert changed_modules(used | {"m2mkd.gone": "0"}, used) == ("m2mkd.gone",)
