"""Every phase comes to the losses that are on record; where it does not, its format version has been raised."""

import copy
import itertools
import subprocess
from pathlib import Path

import pytest
import torch

from m2mkd.study import phases
from m2mkd.study.phase import PHASES
from tests.conftest import ROOT
from tests.golden import record
from tests.golden.curves import CASES, compute_curves, exact_on

REGENERATE = "run 'python -m tests.golden', which also raises the format version"


@pytest.fixture(scope="module")
def known():
    return record.read(record.FILE.read_text())


@pytest.fixture(scope="module")
def fp64(tmp_path_factory):
    return compute_curves(tmp_path_factory.mktemp("fp64"), torch.float64)


@pytest.fixture(scope="module")
def fp32(tmp_path_factory):
    return compute_curves(tmp_path_factory.mktemp("fp32"), torch.float32)


@pytest.mark.parametrize("case", CASES)
def test_a_phase_comes_to_the_losses_on_record(known, fp64, case):
    assert record.agrees(fp64[case], known[case]["fp64"]), f"{case} has changed; if that is meant, {REGENERATE}"


@pytest.mark.parametrize("case", CASES)
def test_a_phase_comes_to_the_bits_on_record(known, fp32, case):
    exact = known[case]["exact"].get(exact_on())
    if exact is None:
        # Another torch or processor: no bits are promised, but single precision stays near double.
        assert fp32[case]["loss"] == pytest.approx(next(iter(known[case]["exact"].values()))["loss"], rel=1e-3)
    else:
        assert fp32[case] == exact, f"{case} has changed in the last bits; if that is meant, {REGENERATE}"


def test_losses_are_not_constant(fp64):
    assert all(curve["loss"][0] != curve["loss"][-1] and curve["val_loss"][0] != curve["val_loss"][-1] for curve in fp64.values())


def test_the_record_is_of_the_format_versions_in_force(known):
    assert {case: entry["format"] for case, entry in known.items()} == {case: PHASES[case.partition("/")[0]].FORMAT for case in CASES}


def test_no_commit_has_changed_a_curve_without_raising_the_format_version(known):
    path = record.FILE.relative_to(ROOT).as_posix()

    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)

    commits = git("log", "--format=%H", "-n", "20", "--", path).stdout.split()
    versions = [known, *(record.read(shown.stdout) for commit in commits if not (shown := git("show", f"{commit}:{path}")).returncode)]
    assert [record.violations(old, new) for new, old in itertools.pairwise(versions)] == [[]] * (len(versions) - 1)


@pytest.mark.parametrize("part", ["fp64", "exact"])
def test_a_changed_curve_under_the_same_format_version_is_a_violation(known, part):
    new = copy.deepcopy(known)
    case = "distill_module/nac"
    curve = new[case]["fp64"] if part == "fp64" else next(iter(new[case]["exact"].values()))
    curve["loss"][1] *= 1 + 1e-7
    assert record.violations(known, new) == [case]
    new[case]["format"] += 1
    assert record.violations(known, new) == []


def test_regenerating_raises_the_format_version_of_what_has_changed(known):
    machine = next(iter(known[CASES[0]]["exact"]))
    fp64 = {case: copy.deepcopy(entry["fp64"]) for case, entry in known.items()}
    fp32 = {case: entry["exact"][machine] for case, entry in known.items()}
    assert record.regenerated(known, fp64, fp32, machine) == (known, set())
    elsewhere, raised = record.regenerated(known, fp64, fp32, "another machine")
    assert raised == set() and all(entry["exact"].keys() == {machine, "another machine"} for entry in elsewhere.values())
    fp64["train_student/nac"]["val_loss"][0] += 1e-3
    new, raised = record.regenerated(known, fp64, fp32, machine)
    assert raised == {"train_student"}
    assert {case for case in known if new[case]["format"] == known[case]["format"] + 1} == {"train_student/nac", "train_student/vmoe"}
    assert record.violations(known, new) == []


@pytest.mark.parametrize("phase", ["pretrain_meta", "train_probe", "evaluate"])
def test_the_format_version_is_raised_in_the_source(phase):
    after = record.with_raised_format(Path(phases.__file__).read_text(), phase)
    before = dict(PHASES)
    try:  # phases that are defined make themselves known
        exec(compile(after, "raised", "exec"), {"__name__": "raised"})
        raised = {name: cls.FORMAT - before[name].FORMAT for name, cls in PHASES.items() if cls is not before[name]}
    finally:
        PHASES.update(before)
    assert raised == {name: int(name == phase) for name in before}
