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
from typing import Annotated, Any

import psutil
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


def train(path: Path, steps: int) -> list[tuple[float, float]]:
    """Seconds, and seconds of processor time, of each step, those included that append an epoch's line."""
    from m2mkd.training.curves import Curves

    torch.manual_seed(0)
    model, curves, seconds = network(), Curves(path), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    images = torch.randn(256, 512)
    for step in range(1, steps + 1):
        start, worked = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        loss = (model(images) - images).square().mean()
        loss.backward()
        optimizer.step()
        if step % EPOCH == 0:
            epoch = step // EPOCH
            curves.append({"epoch": epoch, "step": step, "lr": 1e-4, "loss": loss.item(), "val_top1": 1 / epoch, "val_loss": 1.0})
        seconds.append((time.perf_counter() - start, time.process_time() - worked))
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
    rounds_of: dict[str, list[list[tuple[float, float]]]] = {"alone": [], "mirrored": []}
    mirrors = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        study = plan(Path(folder), "smoke")
        run = first(study, "pretrain_meta")
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        train(Path("warm/metrics.jsonl"), EPOCH)
        for number in range(rounds):
            for name in sorted(rounds_of, reverse=bool(number % 2)):
                path = Path(study.root, "work", run.id, "0", "metrics.jsonl")
                path.unlink(missing_ok=True)
                with mirrored(study, [run]) if name == "mirrored" else nullcontext():
                    rounds_of[name].append(train(path, steps))
                    mirrors += [sum(child.cpu_times()[:2]) for child in psutil.Process().children() if name == "mirrored"][-1:]
        # On a busy core a mirror, which takes only time that nobody wants, may come to its work after the training.
        psutil.wait_procs(psutil.Process().children(), timeout=120)
        points = _points(Path("mlflow.db"))
        os.chdir(ROOT)
    found: dict[str, Any] = {"wanted": WANTED, "points_in_the_store": points, "mirror_processor_seconds": statistics.median(mirrors)}
    for place, what in enumerate(("seconds", "processor_seconds")):
        found[what] = {name: statistics.median(step[place] for one in taken for step in one) for name, taken in rounds_of.items()}
        whole = {name: [sum(step[place] for step in one) for one in taken] for name, taken in rounds_of.items()}
        ratios = [one / other for one, other in zip(whole["mirrored"], whole["alone"], strict=True)]
        found[f"ratio_of_{what}"] = {
            "median_step": found[what]["mirrored"] / found[what]["alone"],
            "whole_round": statistics.median(ratios),
        }
    if as_json:
        typer.echo(json.dumps(found))
        return
    table = Table("", "step (ms)", "of processor time", title=f"{rounds} rounds of {steps} steps each; {points} points came into the store")
    for name in rounds_of:
        table.add_row(name, f"{1000 * found['seconds'][name]:.2f}", f"{1000 * found['processor_seconds'][name]:.2f}")
    for name, title in (("median_step", "ratio of median steps"), ("whole_round", f"ratio of whole rounds (wanted <= {WANTED})")):
        table.add_row(title, *(f"{found[f'ratio_of_{what}'][name]:.4f}" for what in ("seconds", "processor_seconds")))
    Console().print(table)
    Console().print(f"The mirror took {found['mirror_processor_seconds']:.2f} s of processor time in a round, its start included.")


def _points(database: Path) -> int:
    """Points that arrived; a mirror that sends nothing would cost nothing."""
    import sqlite3

    try:
        with sqlite3.connect(database) as connection:
            return int(connection.execute("select count(*) from metrics").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


if __name__ == "__main__":
    typer.run(main)
