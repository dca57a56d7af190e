"""Speed and memory of the NAC against the plain reference of ``reference_nac.py``.

``python benchmarks/nac.py --size tiny --batch 8 --threads 2`` times evaluation and a training step of both models in turn,
in one process, and reports medians and their ratio; the peak of memory is that of a fresh process for each.
"""

import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from reference_nac import ReferenceNAC
from rich.console import Console
from rich.table import Table

from m2mkd.config.models import Latents, NACConfig
from m2mkd.models.nac.circuit import NAC
from m2mkd.models.nac.noise import Noise

Size = StrEnum("Size", ["tiny", "imagenet"])
Device = StrEnum("Device", ["cpu", "cuda"])
Precision = StrEnum("Precision", ["fp32", "bf16"])
MODELS = ("reference", "m2mkd")
STEPS = ("forward", "forward+backward")

TINY = NACConfig(state_dim=384, code_dim=384, heads=6, latents=Latents(input=64, mediator=256, output=64))
IMAGENET = NACConfig(state_dim=512, code_dim=512, heads=8, latents=Latents(input=192, mediator=768, output=64), ffn_capacity=1.0)
SIZES: dict[str, tuple[NACConfig, int, int]] = {"tiny": (TINY, 64, 200), "imagenet": (IMAGENET, 224, 1000)}
"""Architecture, image size and classes (nac.md 1.1)."""


def build(model: str, size: str, device: str) -> NAC | ReferenceNAC:
    """One of the two models with the weights of seed 0."""
    config, image_size, classes = SIZES[size]
    torch.manual_seed(0)
    if model == "reference":
        return ReferenceNAC(config, image_size, classes).to(device)
    return NAC(config, image_size=image_size, num_classes=classes, prior=None).to(device)


def step(model: NAC | ReferenceNAC, kind: str, size: str, batch: int, device: str, precision: str) -> Callable[[], None]:
    """A call that does one step: evaluation with noise as released, or training with cross entropy and repulsion."""
    _, image_size, classes = SIZES[size]
    generator = torch.Generator(device).manual_seed(1)
    images = torch.randn(batch, 3, image_size, image_size, generator=generator, device=device)
    labels = torch.randint(classes, (batch,), generator=generator, device=device)
    noise = Noise.from_generator(generator)

    def cast() -> Any:
        return torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()

    @torch.no_grad()
    def forward() -> None:
        model.eval()
        with cast():
            model(images, noise)

    def forward_backward() -> None:
        model.train()
        model.zero_grad(set_to_none=True)
        with cast():
            loss = F.cross_entropy(model(images, noise), labels) + model.regularisation()
        loss.backward()

    return {"forward": forward, "forward+backward": forward_backward}[kind]


def timed(call: Callable[[], None], device: str) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(model: str, kind: str, size: str, batch: int, device: str, precision: str, threads: int) -> float:
    """GB at the peak of three steps in this process: resident memory, or what is allocated on the GPU."""
    torch.set_num_threads(threads)
    call = step(build(model, size, device), kind, size, batch, device, precision)
    for _ in range(3):
        call()
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    # Unlike the maximum of getrusage, that of the status file does not count the memory of the parent before exec.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e9


def in_fresh_process(function: Callable[..., float], *arguments: Any) -> float:
    """What ``function`` returns in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure(size: str, batch: int, device: str, precision: str, threads: int, rounds: int) -> list[dict[str, Any]]:
    """Rows of the table for one size and batch."""
    memory = {
        (model, kind): in_fresh_process(peak_memory, model, kind, size, batch, device, precision, threads)
        for kind in STEPS
        for model in MODELS
    }
    models = {model: build(model, size, device) for model in MODELS}
    models["reference"].load_state_dict(models["m2mkd"].state_dict())
    rows = []
    for kind in STEPS:
        calls = {name: step(model, kind, size, batch, device, precision) for name, model in models.items()}
        for call in calls.values():
            timed(call, device)
            timed(call, device)
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                seconds[name].append(timed(call, device))
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        row = {"size": size, "batch": batch, "step": kind, "device": device, "precision": precision, "threads": threads, "rounds": rounds}
        row |= {f"{name}_seconds": medians[name] for name in MODELS}
        row |= {"speedup": medians["reference"] / medians["m2mkd"]}
        row |= {f"{name}_peak_gb": memory[name, kind] for name in MODELS}
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]], title: str) -> Table:
    """The measurements, one line for each size, batch and step."""
    result = Table("size", "batch", "step", "reference (s)", "m2mkd (s)", "speed-up", "reference (GB)", "m2mkd (GB)", title=title)
    for row in rows:
        numbers = f"{row['reference_seconds']:.3f}", f"{row['m2mkd_seconds']:.3f}", f"{row['speedup']:.2f}x"
        peaks = f"{row['reference_peak_gb']:.2f}", f"{row['m2mkd_peak_gb']:.2f}"
        result.add_row(row["size"], str(row["batch"]), row["step"], *numbers, *peaks)
    return result


def main(
    size: Annotated[list[Size], typer.Option(help="Size of the model; may be repeated.")] = [Size.tiny, Size.imagenet],  # noqa: B006
    batch: Annotated[list[int], typer.Option(min=1, help="Batch size; may be repeated. [default: 8 and 32 (tiny), 1 and 2]")] = [],  # noqa: B006
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch on the CPU.")] = 2,
    device: Annotated[Device, typer.Option()] = Device.cpu,
    precision: Annotated[Precision, typer.Option(help="bf16 means autocast.")] = Precision.fp32,
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps of each model.")] = 9,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measurements as JSON.")] = False,
) -> None:
    """Compare the NAC with the plain reference, in turn and in one run."""
    torch.set_num_threads(threads)
    rows = []
    for name in size:
        for count in batch or {"tiny": (8, 32), "imagenet": (1, 2)}[name]:
            rows += measure(str(name), count, str(device), str(precision), threads, rounds)
    if as_json:
        machine = {"torch": torch.__version__, "machine": platform.machine(), "cores": os.cpu_count()}
        json.dump({"machine": machine, "measurements": rows}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        title = f"NAC on {device}, {precision}, {threads} threads, medians of {rounds} steps"
        # Beyond a terminal, rich assumes a width at which the names of the columns would be cut.
        Console(width=None if sys.stdout.isatty() else 110).print(table(rows, title))


if __name__ == "__main__":
    typer.run(main)
