"""What each compat switch of the detector does to its average precision at scale small, from random weights.

Each switch alone has the released value, on an otherwise corrected detector; ``released`` has all of them, with the released detector and
its recipe. ``python benchmarks/detection_switches.py`` trains them in this process, one after the other, and prints a table for
docs/how-to/detection.md. It takes about a minute of one core for each seed of each line; what is finished is kept and not computed again.
"""

import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from m2mkd.config import load
from m2mkd.data.prepare import prepare
from m2mkd.statistics import summarise
from m2mkd.study.data import Data
from m2mkd.study.phases import EvaluateDetector, TrainDetector
from m2mkd.study.plan import build_study
from m2mkd.training.device import prepare_torch
from m2mkd.training.job import Job
from m2mkd.training.machine import Machine
from m2mkd.training.phases import evaluate_detector, train_detector
from m2mkd.training.store import PublishedFiles

KINDS = ("boxes", "masks")
SHOWN = ("AP50", "AP")
Configs = tuple[TrainDetector, EvaluateDetector]


class Weights(PublishedFiles):
    """Prepared sets where the workflow has them, and the weights of one training that lies nowhere."""

    def __init__(self, state: dict[str, torch.Tensor]):
        self.state = state

    def weights(self, folder: Path) -> dict[str, torch.Tensor]:
        """Those."""
        return self.state


def planned(profile: str, seed: int) -> Configs:
    """Training and measurement of a detector at scale small, from random weights."""
    overrides = {"profiles": [profile], "seeds": [seed]}
    study = build_study(load.settings({"scale": "small", "experiments": ["coco_vmoe_base/random"], "overrides": overrides}))
    configs: Any = [run.config for run in study.runs.values()]
    trained, measured = configs
    return trained, measured


def switched(name: str, seed: int) -> Configs:
    """The same with one switch as released; ``corrected``: none, ``released``: all of them."""
    if name in ("corrected", "released"):
        return planned(name, seed)
    trained, measured = planned("corrected", seed)
    value = {name: load.switches()[name].released}
    if name == "detection_input":
        # Which shows a corner of a detector's square; only a smaller one leaves anything out.
        smaller = planned("released", seed)[0].model
        trained, measured = (config.model_copy(update={"model": smaller}) for config in (trained, measured))
    trained = trained.model_copy(update={"compat": trained.compat | value})
    if name in measured.compat:
        measured = measured.model_copy(update={"compat": measured.compat | value})
    return trained, measured


def prepared(data: Data) -> None:
    """Prepare the set, unless it is there."""
    if not Path(data.manifest).is_file():
        prepare(data.name, load.datasets()[data.name], data.image_size, Path(data.folder))


def measured(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Numbers of one detector, trained now unless they are there."""
    path = folder / f"{name}-{seed}.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    train, evaluate = switched(name, seed)
    prepared(train.data)
    machine = Machine(torch.device("cpu"))
    started = time.process_time()
    outcome = train_detector.run(Job(train, {}, folder / f"{name}-{seed}", lambda: machine, f"{name} seed {seed}"))
    seconds = time.process_time() - started
    assert outcome.weights is not None
    job = Job(evaluate, {"detector": (Path("detector"),)}, folder, lambda: machine, name, store=Weights(dict(outcome.weights)))
    metrics = evaluate_detector.run(job).metrics
    found = {kind: {number: metrics[kind][number] for number in SHOWN} for kind in KINDS} | {"seconds": seconds}
    path.write_text(json.dumps(found))
    return found


def main(
    switch: Annotated[list[str], typer.Option(help="Switch, corrected or released; may be repeated. [default: all]")] = [],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each.")] = 3,
    folder: Annotated[Path, typer.Option(help="Where what is finished is kept.")] = Path("results/detection_switches"),
) -> None:
    """Train detectors at scale small with single switches as released, and print their average precision in percent."""
    prepare_torch(1)
    folder.mkdir(parents=True, exist_ok=True)
    known = [name for name, entry in load.switches().items() if "train_detector" in entry.applies]
    sys.stdout.write(
        "| as released | boxes AP50 | boxes AP | masks AP50 | masks AP | CPU seconds of a training |\n|---|---|---|---|---|---|\n"
    )
    for name in switch or ("corrected", *known, "released"):
        found = [measured(name, seed, folder) for seed in range(seeds)]
        cells = []
        for kind in KINDS:
            for number in SHOWN:
                over = summarise([100 * (one[kind][number] or 0.0) for one in found])
                cells.append(f"{over.mean:.1f}" + ("" if over.half_width is None else f" ± {over.half_width:.1f}"))
        seconds = sum(one["seconds"] for one in found) / len(found)
        sys.stdout.write(f"| {name} | {' | '.join(cells)} | {seconds:.0f} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    typer.run(main)
