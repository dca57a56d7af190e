"""Finished runs of a real study with invented numbers, for everything that reads runs."""

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from m2mkd.config import load
from m2mkd.config.datasets import PREPARE_FORMAT
from m2mkd.data.manifest import manifest_digest
from m2mkd.files import write_json
from m2mkd.study.data import Data
from m2mkd.study.keys import sealed
from m2mkd.study.measurements import PRECISIONS
from m2mkd.study.phase import CURVES, WEIGHTS, Phase
from m2mkd.study.phases import Evaluate, EvaluateDetector, EvaluateTeacher, MeasureHybrid
from m2mkd.study.plan import build_study
from m2mkd.study.run import Run
from m2mkd.study.study import Study
from m2mkd.training.curves import Curves
from m2mkd.training.job import Outcome, provenance, record_outputs

ROOT = Path(__file__).parent.parent
SEEDS = (0.90, 0.92, 0.97)
"""Accuracy of each seed, unless a test gives its own: mean 0.93, sample standard deviation sqrt(0.0013)."""

Accuracy = Callable[[Run, int], float]
"""Of a run, by its seed; 0 where all seeds share it."""


def by_seed(run: Run, seed: int) -> float:
    return SEEDS[seed]


def plan(
    root: Path, scale: str, experiments: Sequence[str] = (), overrides: Sequence[str] = (), seeds: int | Sequence[int] | None = None
) -> Study:
    """A study whose files lie below ``root``, which must be the working directory."""
    if not (root / "config").is_dir():
        shutil.copytree(ROOT / "config", root / "config")
        shutil.copytree(ROOT / "results" / "published", root / "results" / "published")
        small = root / "config/scales/small.yaml"
        small.write_text(re.sub(r"(?m)^seeds: .*$", f"seeds: {len(SEEDS)}", small.read_text()).replace("{seeds: [16, 17]}", "{}"))
    changes = load.parse_overrides(list(overrides))
    if seeds is not None:
        changes |= {"seeds": seeds}
    return build_study(load.settings({"scale": scale, "experiments": list(experiments), "overrides": changes}))


computed_here = cache(provenance)
"""What all runs say of where they were computed; it is the same for each, and asked of git and the machine."""


def measured(config: Phase, top1: float) -> dict:
    """What a run of an accuracy has measured."""
    if isinstance(config, EvaluateDetector):
        return _detected(config.data, top1)
    if not isinstance(config, Evaluate | EvaluateTeacher | MeasureHybrid):
        return {"loss": 1.0, "val_loss": 1.0, "val_top1": top1, "val_top5": 1.0}
    share, count = seen(config.data, top1)
    found = {"top1": share, "top5": 1.0, "loss": 0.5, "count": count}
    if isinstance(config, Evaluate):
        return found | {"ood": {data.name: _out_of_distribution(data, top1) for data in config.ood}}
    if isinstance(config, MeasureHybrid):
        return {"meta": found, "hybrids": {str(index): found for index in range(config.meta.modules)}}
    return found


def finish(
    study: Study,
    accuracy: Accuracy = by_seed,
    *,
    metrics: Callable[[Phase, float], dict] = measured,
    computed: Mapping[str, Any] | None = None,
) -> None:
    """Publish every run of a study, as a job would."""
    for run in study.runs.values():
        publish(study, run, accuracy(run, run.seed or 0), metrics=metrics, computed=computed)


def publish(
    study: Study,
    run: Run,
    top1: float,
    *,
    metrics: Callable[[Phase, float], dict] = measured,
    computed: Mapping[str, Any] | None = None,
) -> None:
    folder = Path(study.folder(run.id))
    folder.mkdir(parents=True, exist_ok=True)
    if WEIGHTS in run.config.OUTPUTS:
        (folder / WEIGHTS).write_bytes(b"weights")
    if CURVES in run.config.OUTPUTS:
        (folder / CURVES).unlink(missing_ok=True)
        curves = Curves(folder / CURVES)
        for epoch in (1, 2, 3):
            line = {"epoch": epoch, "step": 10 * epoch, "lr": 0.1 / epoch, "loss": 3.0 / epoch}
            if epoch > 1:  # the best epoch is not the last
                line |= {"val_loss": 1.0, "val_top1": top1 + (0.01 if epoch == 2 else 0.0), "val_top5": 1.0}
            curves.append(line)
    pretend_data(run.config)
    record_outputs(run, folder, Outcome(metrics(run.config, top1)), time.time() - 5, computed=computed or computed_here())


def pretend_data(config: Phase) -> None:
    """Put a manifest where each data set of a run would lie, unless one is there; the files that it names are not there."""
    for data in config.data_sets:
        if Path(data.manifest).is_file():
            continue
        classes = [str(number) for number in range(data.classes)]
        facts = {"format": PREPARE_FORMAT, "name": data.name, "image_size": data.image_size, "synthetic": False, "classes": classes}
        manifest = facts | {"splits": {}, "source": {}, "files": {"train.labels.npy": {"bytes": 1, "sha256": "0" * 64}}}
        write_json(Path(data.manifest), manifest | {"digest": manifest_digest(manifest)})


def images_of(share: float) -> int:
    """How many images this can be a share of; the digits have 359."""
    counts = (359, 718, 1000, 2000, 10_000, 10**6, 10**9)
    return next(count for count in counts if abs(count * share - round(count * share)) < 1e-9 * count)


def seen(data: Data, share: float) -> tuple[float, int]:
    """A share of images that the set has, and how many these are; of a set that is only pretended, as many as it needs."""
    splits = json.loads(Path(data.manifest).read_text())["splits"]
    if not splits:
        return share, images_of(share)
    count = splits["val"]["images"]
    return round(share * count) / count, count


def _out_of_distribution(data: Data, top1: float) -> dict:
    share, count = seen(data, top1 / 2)
    found = {"top1": share, "top5": 1.0, "loss": 2.0, "count": count, "classes": 6, "left_out": 0 if count == 860 else 12}
    return found | {"renditions": {"edges": share / 2, "rotated": 3 * share / 2}}


def _detected(data: Data, share: float) -> dict:
    """AP50 of boxes is the share and of masks a tenth less; there is no large instance, and none of the last class."""
    found: dict[str, Any] = {"count": seen(data, share)[1], "per_class": {}, "precision_recall": {"recall": [0.0, 0.5, 1.0]}}
    for kind, factor in (("boxes", 1.0), ("masks", 0.9)):
        numbers: dict[str, float | None] = dict.fromkeys(PRECISIONS, share * factor / 2)
        found[kind] = numbers | {"AP50": share * factor, "APl": None, "ARl": None}
        found["per_class"][kind] = {str(label): share * factor / 2 for label in range(data.classes - 1)} | {str(data.classes - 1): None}
        found["precision_recall"][kind] = {"0.5": [1.0, share * factor, 0.0], "0.75": [1.0, share * factor / 2, 0.0]}
    box = {"boxes": [[1.0, 2.0, 30.0, 40.0]], "scores": [share], "classes": [3], "masks": [""]}
    return found | {"examples": [{"image": 0, "size": [64, 64], **box}]}


def edit_record(study: Study, run: Run, change: Callable[[dict], object]) -> Path:
    """Change the record of a run as who means to, and give its path."""
    path = Path(study.folder(run.id), "run.json")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(sealed(content)))
    return path


def first(study: Study, phase: str) -> Run:
    return next(run for run in study.runs.values() if run.phase == phase)
