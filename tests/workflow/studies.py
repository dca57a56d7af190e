"""What a study in a copy of the project has come to, and how it is started and edited."""

import json
import re
import subprocess
from pathlib import Path

import yaml

from tests.workflow.conftest import Project

ABLATION = """kind: ablation
title: Initialisation of the experts, once more
of: vmoe_base/end_to_end
scales: [smoke]
settings:
  trunc02: {compat: {expert_init: trunc02}}
  fastmoe: {compat: {expert_init: fastmoe}}
"""


def add_ablation(project: Project) -> None:
    """Give scale smoke, which has none, an ablation; one of its settings is a run of the study."""
    (project.root / "config/experiments/ablation_new.yaml").write_text(ABLATION)


def tables(project: Project) -> dict[str, bytes]:
    """Contents of all tables, by name.

    Of the study's receipt without the overrides, which a test may ask for; without that of the report, which has times in it.
    """
    folder = project.root / "results" / project.scale / "tables"
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.match("report-*.json")}
    for name in [name for name in found if name.startswith("study-")]:
        receipt = json.loads(found[name])
        found[name] = json.dumps({key: receipt[key] for key in receipt.keys() - {"overrides", "digest"}}, sort_keys=True).encode()
    return found


def weights(project: Project) -> dict[str, bytes]:
    """Contents of all published weights, by run."""
    runs = project.root / "results" / project.scale / "runs"
    return {str(path.relative_to(runs)): path.read_bytes() for path in sorted(runs.rglob("model.safetensors"))}


def start(project: Project, log: Path) -> subprocess.Popen:
    """Type ``make reproduce`` in a terminal of its own; the environment is the one that runs the tests, and stays as it is."""
    with log.open("w") as output:
        return subprocess.Popen(
            ["make", "--assume-old=.venv/.ok-run", "reproduce"],
            cwd=project.root,
            env=project.environment,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def change_epochs(project: Project) -> None:
    """Edit the file of the project's scale, as somebody may do who plans the next study while this one runs."""
    path = project.root / "config" / "scales" / f"{project.scale}.yaml"
    content = yaml.safe_load(path.read_text())
    for recipe in content["recipes"].values():
        recipe["epochs"] += 1
    path.write_text(yaml.safe_dump(content))


def held_gpus(project: Project, phase: str) -> list[tuple[str, float, float]]:
    """GPU of each run of a phase, as its log names it, with start and end; fails if two of them had one at the same time."""
    held: list[tuple[str, float, float]] = []
    for record in (project.root / "results" / project.scale / "runs" / phase).glob("*/run.json"):
        run = json.loads(record.read_text())
        logs = (project.root / "results" / project.scale / "logs" / phase).glob("*.log")
        # Of a job with several runs, that of the first.
        log = next(text for path in logs if run["key"] in (text := f"{path.stem}\n{path.read_text()}"))
        (device,) = re.findall(r"^on (\S+)$", log, re.M)
        # Not by its seconds: those of a job that was cancelled and tried again count both times.
        begin, end = run["provenance"]["started"], run["provenance"]["ended"]
        assert not [other for other in held if other[0] == device and begin < other[2] and other[1] < end]
        held.append((device, begin, end))
    return held
