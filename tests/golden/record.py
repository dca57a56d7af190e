"""The curves that are committed: reading, comparing, and regenerating them together with the phases' format versions."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m2mkd.study.phase import PHASES
from tests.golden.curves import Curve

FILE = Path(__file__).with_name("curves.json")
TOLERANCE = 1e-9
"""Relative, in double precision, on any machine."""

Record = dict[str, dict[str, Any]]
"""By case: ``format`` of its phase, the ``fp64`` curve, and ``exact`` curves in single precision, by what they hold for."""


def agrees(curve: Curve, other: Curve) -> bool:
    """Whether two curves are the same but for the rounding of double precision."""
    return curve.keys() == other.keys() and all(
        len(values) == len(other[name]) and all(math.isclose(*pair, rel_tol=TOLERANCE) for pair in zip(values, other[name], strict=True))
        for name, values in curve.items()
    )


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a case comes to something else than before, in double precision or, where both know the machine, in any bit."""
    machines = old["exact"].keys() & new["exact"].keys()
    return not agrees(old["fp64"], new["fp64"]) or any(old["exact"][machine] != new["exact"][machine] for machine in machines)


def violations(old: Record, new: Record) -> list[str]:
    """Cases whose curve has changed although the format version of their phase was not raised."""
    both = old.keys() & new.keys()
    return sorted(case for case in both if changed(old[case], new[case]) and new[case]["format"] <= old[case]["format"])


def regenerated(old: Record, fp64: Mapping[str, Curve], fp32: Mapping[str, Curve], machine: str) -> tuple[Record, set[str]]:
    """The record with new curves, and the phases whose format version has to be raised for it."""
    new: Record = {}
    for case, curve in fp64.items():
        new[case] = {"format": PHASES[case.partition("/")[0]].FORMAT, "fp64": curve, "exact": {machine: fp32[case]}}
        if case in old and not changed(old[case], new[case]):
            new[case]["fp64"] = old[case]["fp64"]  # of the machine that was first
            new[case]["exact"] = old[case]["exact"] | new[case]["exact"]
    raised = {case.partition("/")[0] for case in violations(old, new)}
    for case, entry in new.items():
        if case.partition("/")[0] in raised:
            entry["format"] += 1
    return new, raised


def with_raised_format(source: str, phase: str) -> str:
    """Python source of the phases' configurations with the format version of one of them raised by 1."""
    name = PHASES[phase].__name__
    head, body = re.split(rf"(?<=\n)(?=class {name}\()", source, maxsplit=1)
    own, gap, rest = body.partition("\n\n\n")
    line = f"    FORMAT: ClassVar[int] = {PHASES[phase].FORMAT + 1}\n"
    if "    FORMAT: ClassVar[int]" in own:
        own = re.sub(r"    FORMAT: ClassVar\[int\] = \d+\n", line, own)
    else:
        own = re.sub(r'(^    """.*?"""\n\n?)', lambda match: match[0] + line, own, count=1, flags=re.DOTALL | re.MULTILINE)
    return head + own + gap + rest


def read(text: str) -> Record:
    """The record in a file's text."""
    return json.loads(text)


def written(record: Record) -> str:
    """A record as a file's text."""
    return json.dumps(record, indent=1, sort_keys=True) + "\n"
