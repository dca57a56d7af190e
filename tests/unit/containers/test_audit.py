"""Licences and vulnerabilities of what is installed, and who asks for them."""

import re

import pytest
import yaml

from tests.conftest import ROOT
from tests.unit.containers.scripts import CONTAINERS, script

licences = script("licences")


@pytest.mark.parametrize(
    ("expression", "accepted"),
    [("MIT", True), ("GPL-3.0-only", False), ("MIT OR GPL-3.0-only", True), ("MIT AND GPL-3.0-only", False),
     ("MPL-2.0 AND (Apache-2.0 OR GPL-3.0-only)", True), ("(MIT OR GPL-3.0-only) AND Nobody-1.0", False),
     ("Apache-2.0 WITH LLVM-exception", True), ("", False)],
)  # fmt: skip
def test_licences_are_accepted_only_if_the_list_has_them(expression, accepted):
    listed, _ = licences.read_list((CONTAINERS / "licences.txt").read_text())
    assert licences.is_accepted(expression, listed) is accepted


def test_a_package_without_a_known_licence_is_named():
    component = {"name": "odd", "version": "1"}
    rows, complaints = licences.collect({"components": [component]}, {"MIT"}, {})
    assert rows == [("odd", "1", "")] and complaints == ["odd 1: no licence in its metadata"]
    assert licences.collect({"components": [component]}, {"MIT"}, {"odd": "MIT"}) == ([("odd", "1", "MIT")], [])
    classified = component | {"licenses": [{"license": {"name": "License :: Odd"}}, {"expression": "MIT"}]}
    assert licences.collect({"components": [classified]}, {"MIT"}, {})[1] == []


def test_an_audit_that_asked_nobody_says_so():
    report = {"dependencies": [{"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "unknown"}]}
    judge = script("vulnerabilities").judge
    assert judge(report, 2) == (0, ["NOT AUDITED: 1 of 2 packages; the advisory service did not answer for them"])
    report["dependencies"][1] = {"name": "b", "version": "2", "vulns": []}
    assert judge(report, 2)[1] == ["no known vulnerability in 2 packages"]
    report["dependencies"][0]["vulns"] = [{"id": "CVE-1"}]
    assert judge(report, 2) == (1, ["a 1: CVE-1"])


def test_the_forge_calls_targets_that_exist():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    called = {target for command in commands for target in re.findall(r"^make ([a-z-]+)", command)}
    before_landing = set(re.findall(r"^make ([a-z-]+)", (ROOT / ".ci/run").read_text(), re.M))
    targets = set(re.findall(r"^([a-z][a-z -]*):(?!=)", (ROOT / "Makefile").read_text(), re.M))
    assert called <= {name for line in targets for name in line.split()}
    assert {"lint", "lock-check", "audit", "test", "containers-check"} <= before_landing <= called
    assert {"reproduce", "image-cpu", "vulnerabilities"} <= called
