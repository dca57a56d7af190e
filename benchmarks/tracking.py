"""What mirroring to MLflow costs a training: time of its steps with the mirror against without, in turn.

``python benchmarks/tracking.py`` trains a small network on one thread, about 50 ms a step and an epoch every ten steps, which is far more
often than any recipe here, and appends each epoch to a ``metrics.jsonl`` as the training loop does. Rounds with and without a mirror to a
fresh sqlite store alternate; a mirrored round begins with the start of its process. ``--one-core`` binds everything to one core, where
nothing is idle.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

EPOCH = 10
"""Steps of an epoch."""
WANTED = 1.01


def network() -> torch.nn.Sequential:
    """A network whose step takes about 50 ms on one thread."""
    return torch.nn.Sequential(
        torch.nn.Linear(512, 2048), torch.nn.GELU(), torch.nn.Linear(2048, 2048), torch.nn.GELU(), torch.nn.Linear(2048, 512)
    )


def train(path: Path, steps: int) -> list[float]:
    """Seconds of each step, those included that append an epoch's line."""
    from m2mkd.training.curves import Curves

    torch.manual_seed(0)
    model, curves, seconds = network(), Curves(path), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    images = torch.randn(256, 512)
    for step in range(1, steps + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = (model(images) - images).square().mean()
        loss.backward()
        optimizer.step()
        if step % EPOCH == 0:
            epoch = step // EPOCH
            curves.append({"epoch": epoch, "step": step, "lr": 1e-4, "loss": loss.item(), "val_top1": 1 / epoch, "val_loss": 1.0})
        seconds.append(time.perf_counter() - start)
    return seconds


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds with and without a mirror each.")] = 5,
    steps: Annotated[int, typer.Option(min=EPOCH, help="Steps of a round.")] = 200,
    one_core: Annotated[bool, typer.Option("--one-core", help="Bind training and mirror to the same core.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measurements as JSON.")] = False,
) -> None:
    """Time of a step with the mirror against without."""
    from m2mkd.tracking.live import mirrored
    from tests.fabricated import first, plan

    torch.set_num_threads(1)
    if one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    seconds: dict[str, list[float]] = {"alone": [], "mirrored": []}
    taken: dict[str, list[float]] = {"alone": [], "mirrored": []}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        study = plan(Path(folder), "smoke")
        run = first(study, "pretrain_meta")
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        train(Path("warm/metrics.jsonl"), EPOCH)
        for number in range(rounds):
            for name in sorted(seconds, reverse=bool(number % 2)):
                path = Path(study.root, "work", run.id, "0", "metrics.jsonl")
                path.unlink(missing_ok=True)
                with mirrored(study, [run]) if name == "mirrored" else nullcontext():
                    steps_of_round = train(path, steps)
                seconds[name] += steps_of_round
                taken[name].append(sum(steps_of_round))
        points = _points(Path("mlflow.db"))
        os.chdir(ROOT)
    ratios = [one / other for one, other in zip(taken["mirrored"], taken["alone"], strict=True)]
    median = {name: statistics.median(values) for name, values in seconds.items()}
    found = {"step_seconds": median, "ratio_of_medians": median["mirrored"] / median["alone"], "ratio": statistics.median(ratios)}
    found |= {"ratios": ratios, "wanted": WANTED, "points_in_the_store": points}
    if as_json:
        typer.echo(json.dumps(found))
        return
    table = Table("", "step (ms)", title=f"{rounds} rounds of {steps} steps each; {points} points came into the store")
    for name, value in median.items():
        table.add_row(name, f"{1000 * value:.2f}")
    table.add_row("ratio of the medians", f"{found['ratio_of_medians']:.4f}")
    table.add_row(f"ratio of whole rounds (wanted <= {WANTED})", f"{found['ratio']:.4f}")
    Console().print(table)


def _points(database: Path) -> int:
    """Points that arrived; a mirror that sends nothing would cost nothing."""
    import sqlite3

    time.sleep(5)
    try:
        with sqlite3.connect(database) as connection:
            return int(connection.execute("select count(*) from metrics").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


if __name__ == "__main__":
    typer.run(main)
