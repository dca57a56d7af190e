"""``python -m tests.golden.keys``: record the keys of every published scale again, where a change is meant to move some."""

import json
from pathlib import Path
from typing import Any

from m2mkd.config import load
from m2mkd.study.keys import digest
from m2mkd.study.plan import build_study

FILE = Path(__file__).with_name("keys.json")
SCALES = ("smoke", "small", "paper")
"""Those whose studies are published; of smoke every key is on record, of the others how many each phase has, and their digest."""


def keys() -> dict[str, Any]:
    """Keys of the runs of every scale, ablations and detectors included, by phase."""
    found: dict[str, Any] = {}
    for scale in SCALES:
        study = build_study(load.settings({"scale": scale}), ablations=True, detection=True)
        by_phase: dict[str, list[str]] = {}
        for run in study.runs.values():
            by_phase.setdefault(run.phase, []).append(run.key)
        ordered = {phase: sorted(of_phase) for phase, of_phase in sorted(by_phase.items())}
        found[scale] = ordered if scale == "smoke" else {phase: [len(some), digest(some)] for phase, some in ordered.items()}
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(keys(), indent=1) + "\n")
