"""What the training loop costs beside the training: an update, a checkpoint, a second rank, a second job.

``update`` times the loop's updates against a bare PyTorch loop of the same network on the same batches. ``checkpoint`` times how long a
save holds up the training, and what it takes from the updates while it is written. ``ranks`` times two ranks of one thread against one rank
of one thread on the same global batch, and ``jobs`` two module jobs of one thread, one after the other and side by side.

``python benchmarks/engine.py`` runs all four, each in turn with its reference, and prints medians and their ratios.
"""

import json
import multiprocessing
import os
import platform
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, cast

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from m2mkd.config.models import ViTConfig, VMoEConfig
from m2mkd.config.recipe import Augmentation, Distillation, Recipe
from m2mkd.data.pack import Split
from m2mkd.data.stream import Batch, EvalBatch, TrainStream
from m2mkd.distill.hybrid import DistillationHybrid
from m2mkd.distill.losses import distillation_loss, soft_cross_entropy
from m2mkd.models.vit import StagedViT, build_stage
from m2mkd.models.vmoe import build_vmoe_module
from m2mkd.ranks import ALONE, Ranks
from m2mkd.training.checkpoint import Checkpoints
from m2mkd.training.device import join
from m2mkd.training.loop import Task, Trainee, fit
from m2mkd.training.machine import Machine, Policy
from m2mkd.training.optim import LearningRate, build_optimizer

What = StrEnum("What", ["update", "checkpoint", "ranks", "jobs"])
CPU = torch.device("cpu")
SIDE, CLASSES = 32, 10
MODEL = ViTConfig(patch_size=4, width=128, heads=4, depths=(2, 2, 2))
STUDENT = VMoEConfig(patch_size=4, width=96, heads=3, depths=(1, 1, 1), experts=4)
LARGE = ViTConfig(patch_size=4, width=384, heads=6, depths=(2, 2, 1))
"""With AdamW's moments a checkpoint of about 100 MB."""
WANTED = {"update": "<= 1.03", "checkpoint": "<= 0.2 s", "ranks": ">= 1.7", "jobs": ">= 1.8"}


def recipe(batch: int) -> Recipe:
    """One epoch, measured at its end."""
    return Recipe(epochs=1, batch_size=batch, lr=1e-3, lr_batch=None, clip_norm=1.0, schedule_step="update", augmentation=Augmentation())


@dataclass
class Stream:
    """The same batch again and again; notes when each was asked for."""

    batch: Batch
    steps_per_epoch: int
    clock: Callable[[], float]
    asked: list[float] = field(default_factory=list)

    def epoch(self, _: int, start_step: int = 0) -> Iterator[Batch]:
        """Give the batches from ``start_step`` on."""
        for _step in range(start_step, self.steps_per_epoch):
            self.asked.append(self.clock())
            yield self.batch
        self.asked.append(self.clock())


def vit_task(model: ViTConfig = MODEL) -> Task:
    """A ViT on labels."""
    torch.manual_seed(0)
    network = StagedViT(model, image_size=SIDE, num_classes=CLASSES)
    return Task(network, network, lambda images, targets, _: soft_cross_entropy(network(images), targets), network)


def module_task() -> Task:
    """A module of a V-MoE, taught by labels and teacher in the place of its meta stage."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"image_size": SIDE, "num_classes": CLASSES}
    meta, teacher = StagedViT(MODEL.model_copy(update={"depths": (1, 1, 1)}), **sizes), build_stage(MODEL, 1, **sizes)
    student = build_vmoe_module(STUDENT, 1, stitch_width=MODEL.width, **sizes)
    hybrid = DistillationHybrid(meta, 1, student, teacher)

    def loss(images: Tensor, targets: Tensor, _: torch.Generator) -> Tensor:
        logits = hybrid(images)
        return distillation_loss(logits.student, targets, logits.teacher, Distillation(), "batch")

    return Task(student, hybrid, loss, hybrid.student_logits)


def random_batch(count: int) -> Batch:
    """Images and soft targets of noise."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, SIDE, SIDE, generator=generator)
    targets = torch.rand(count, CLASSES, generator=generator).softmax(1)
    return Batch(images, targets, torch.zeros(count, dtype=torch.long), torch.arange(count))


def trained(task: Task, batch: int, updates: int, clock: Callable[[], float] = time.perf_counter, ranks: Ranks = ALONE) -> list[float]:
    """Seconds of each update in the loop, all between two batches included."""
    stream = Stream(random_batch(batch // ranks.count), updates, clock)
    with tempfile.TemporaryDirectory() as folder:
        few = EvalBatch(torch.zeros(2, 3, SIDE, SIDE), torch.zeros(2, dtype=torch.long), torch.arange(2))
        fit([Trainee(task, Path(folder), "")], recipe(batch), cast(Any, stream), lambda: [few], ("benchmark",), Machine(CPU, ranks=ranks))
    return np.diff(stream.asked).tolist()


def bare(task: Task, batch: int, updates: int, clock: Callable[[], float]) -> list[float]:
    """Seconds of each update of a plain loop: forward, backward, clipping, optimiser, and the loss as a number."""
    given, how = random_batch(batch), recipe(batch)
    optimizer = build_optimizer(task.trained, how)
    rate, asked = LearningRate(optimizer, how, updates), []
    task.network.train()
    for step in range(updates):
        asked.append(clock())
        rate.set(0, step)
        optimizer.zero_grad(set_to_none=True)
        loss = task.loss(given.images, given.targets, torch.default_generator)
        loss.backward()
        nn.utils.clip_grad_norm_(task.trained.parameters(), 1.0)
        optimizer.step()
        loss.item()
    asked.append(clock())
    return np.diff(asked).tolist()


def measure_update(batch: int, updates: int, rounds: int, clock: str) -> dict[str, float]:
    """The loop against a bare one, in turn."""
    ways: dict[str, Callable[..., list[float]]] = {"loop": trained, "bare": bare}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in sorted(ways, reverse=bool(number % 2)):
            seconds[name].append(statistics.median(ways[name](vit_task(), batch, updates, getattr(time, clock))[2:]))
    ratio = statistics.median(a / b for a, b in zip(seconds["loop"], seconds["bare"], strict=True))
    return {"loop": statistics.median(seconds["loop"]), "bare": statistics.median(seconds["bare"]), "ratio": ratio}


def measure_checkpoint(rounds: int) -> dict[str, float]:
    """How long a save blocks, and what the updates lose while it is written."""
    task, given = vit_task(LARGE), random_batch(8)
    optimizer = build_optimizer(task.trained, recipe(8))

    def update() -> float:
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        task.loss(given.images, given.targets, torch.default_generator).backward()
        optimizer.step()
        return time.perf_counter() - start

    usual = statistics.median([update() for _ in range(30)][5:])
    blocked, lost, size = [], [], 0
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), Policy(minutes=1e9, updates=1), print)
        for number in range(1, rounds + 1):
            start = time.perf_counter()
            checkpoints.save(number, {"module": task.trained.state_dict(), "optimizer": optimizer.state_dict()})
            blocked.append(time.perf_counter() - start)
            during = [update()]
            while not checkpoints.due(number + 1):
                during.append(update())
            lost.append(sum(during) - len(during) * usual)
        size = max(path.stat().st_size for path in Path(folder).iterdir())
    return {"megabytes": size / 1e6, "blocked": statistics.median(blocked), "lost": statistics.median(lost)}


def quietly() -> None:
    """Without the lines of the loop, in this process and those that it starts."""
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    sys.stderr = SimpleNamespace(write=lambda _: 0, flush=lambda: None, isatty=lambda: False)


def _ranks_worker(rank: int, port: int, barrier: Any, results: Any, batch: int, updates: int, rounds: int, clock: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    quietly()
    torch.set_num_threads(1)
    both, now = Ranks(rank, 2), getattr(time, clock)
    join(CPU, both)
    for _ in range(rounds):
        barrier.wait()
        alone = statistics.median(trained(vit_task(), batch, updates, now)[2:]) if rank == 0 else 0.0
        barrier.wait()
        together = statistics.median(trained(vit_task(), batch, updates, now, both)[2:])
        if rank == 0:
            results.put((alone, together))


def _jobs_worker(rank: int, _: int, barrier: Any, results: Any, batch: int, updates: int, rounds: int) -> None:
    quietly()
    torch.set_num_threads(1)
    images = np.random.default_rng(0).integers(0, 256, (batch * updates, SIDE, SIDE, 3), dtype=np.uint8)
    split = Split(images, np.arange(len(images)) % CLASSES)

    def job() -> float:
        start = time.perf_counter()
        stream = TrainStream(split, range(len(split)), CLASSES, recipe(batch), ("benchmark", 0))
        few = EvalBatch(torch.zeros(2, 3, SIDE, SIDE), torch.zeros(2, dtype=torch.long), torch.arange(2))
        with tempfile.TemporaryDirectory() as folder:
            fit([Trainee(module_task(), Path(folder), "")], recipe(batch), stream, lambda: [few], ("benchmark",), Machine(CPU))
        return time.perf_counter() - start

    for _round in range(rounds):
        for turn in (0, 1):
            barrier.wait()
            if rank == turn:
                results.put(("alone", job()))
        barrier.wait()
        results.put(("together", job()))


def _pairs(worker: Callable[..., None], *settings: int | str) -> list[Any]:
    """What two processes of that kind put into their queue."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    barrier, results = context.Barrier(2), context.SimpleQueue()
    processes = [context.Process(target=worker, args=(rank, port, barrier, results, *settings)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = []
    while not results.empty():
        found.append(results.get())
    return found


def measure_ranks(batch: int, updates: int, rounds: int, clock: str) -> dict[str, float]:
    """Two ranks against one, in turn, with as many updates of the same batch."""
    found = _pairs(_ranks_worker, batch, updates, rounds, clock)
    one, two = (statistics.median(column) for column in zip(*found, strict=True))
    return {"one": one, "two": two, "ratio": statistics.median(a / b for a, b in found)}


def measure_jobs(batch: int, updates: int, rounds: int) -> dict[str, float]:
    """Two module jobs one after the other against side by side, in turn."""
    found = _pairs(_jobs_worker, batch, updates, rounds)
    alone = [seconds for kind, seconds in found if kind == "alone"]
    together = [seconds for kind, seconds in found if kind == "together"]
    after = [sum(alone[place : place + 2]) for place in range(0, len(alone), 2)]
    beside = [max(together[place : place + 2]) for place in range(0, len(together), 2)]
    ratio = statistics.median(a / b for a, b in zip(after, beside, strict=True))
    return {"after": statistics.median(after), "beside": statistics.median(beside), "ratio": ratio}


def main(
    what: Annotated[list[What], typer.Option(help="What to measure; may be repeated. [default: all]")] = [],  # noqa: B006
    batch: Annotated[int, typer.Option(min=4, help="Images of an update; four times as many for ranks and jobs.")] = 8,
    updates: Annotated[int, typer.Option(min=5, help="Updates in a round.")] = 30,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each.")] = 5,
    processor: Annotated[
        bool, typer.Option("--processor", help="For update and ranks: processor time, without waiting; for a busy machine.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measurements as JSON.")] = False,
) -> None:
    """Measure on CPU threads, one for each process."""
    torch.set_num_threads(1)
    quietly()
    clock = "thread_time" if processor else "perf_counter"
    chosen = [str(one) for one in what or What]
    found: dict[str, dict[str, float]] = {}
    if "update" in chosen:
        found["update"] = measure_update(batch, updates, rounds, clock)
    if "checkpoint" in chosen:
        found["checkpoint"] = measure_checkpoint(rounds)
    if "ranks" in chosen:
        found["ranks"] = measure_ranks(4 * batch, updates, rounds, clock)
    if "jobs" in chosen:
        found["jobs"] = measure_jobs(4 * batch, updates, rounds)
    if as_json:
        machine = {"torch": torch.__version__, "machine": platform.machine(), "cores": os.cpu_count()}
        json.dump({"machine": machine, "measurements": found}, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    table = Table("", "measured", "ratio", "wanted", title=f"training loop, one thread a process, medians of {rounds} rounds")
    for name, row in found.items():
        times = {key: value for key, value in row.items() if key not in ("ratio", "megabytes")}
        parts = [f"{key} {1000 * value:.1f} ms" for key, value in times.items()]
        if "megabytes" in row:
            parts.append(f"{row['megabytes']:.0f} MB")
        table.add_row(name, ", ".join(parts), f"{row['ratio']:.3f}" if "ratio" in row else "", WANTED[name])
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
