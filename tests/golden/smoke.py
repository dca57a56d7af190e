"""What the smoke study comes to, run by run, whatever its keys are called.

``python -m tests.golden.smoke FOLDER`` records the finished smoke study of the project in that folder for this machine.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from m2mkd.config import load
from m2mkd.study.files import planned_runs
from m2mkd.study.phase import METRICS, WEIGHTS
from m2mkd.study.plan import build_study
from tests.golden.curves import exact_on

FILE = Path(__file__).with_name("smoke.json")


def came_to(root: Path) -> dict[str, dict[str, Any]]:
    """Digests of weights and metrics, and a loss, of every run of the finished smoke study below the root of a project, by what it is."""
    found = {}
    for planned in planned_runs(build_study(load.settings({"scale": "smoke"}))).values():
        run, folder = planned.run, root / planned.folder
        content: dict[str, Any] = {}
        if (folder / WEIGHTS).is_file():
            digest = hashlib.sha256()
            for name, tensor in sorted(load_file(folder / WEIGHTS).items()):
                digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode() + tensor.tobytes())
            content["weights"] = digest.hexdigest()
        if (folder / METRICS).is_file():
            metrics = json.loads((folder / METRICS).read_text())
            content["metrics"] = hashlib.sha256(json.dumps(metrics, sort_keys=True).encode()).hexdigest()
            measured = metrics.get("meta", metrics)
            if name := next((name for name in ("val_loss", "loss") if name in measured), None):
                content["loss"] = measured[name]
        found[f"{run.phase} {run.what} of {planned.row}"] = content
    return found


def recorded() -> dict[str, dict[str, dict[str, Any]]]:
    """What was recorded, by machine."""
    return json.loads(FILE.read_text()) if FILE.is_file() else {}


if __name__ == "__main__":
    FILE.write_text(json.dumps(recorded() | {exact_on(): came_to(Path(sys.argv[1]))}, indent=1, sort_keys=True) + "\n")
