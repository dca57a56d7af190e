"""Time of the MoE layer against a dense layer of equal active FLOPs, the limit, and against other ways to write it.

``python benchmarks/moe.py --threads 2`` times a forward and backward pass of all of them in turn, in one process, with
balanced routing and with 80 % of the pairs of token and expert at two experts. They share gate, routing and weights.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from enum import StrEnum
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from m2mkd.models.moe import MoE

Device = StrEnum("Device", ["cpu", "cuda"])
Precision = StrEnum("Precision", ["fp32", "bf16"])
SIZES = {"cpu": (3152, 384, 1536), "cuda": (128 * 197, 768, 3072)}
"""Default tokens, width and hidden width: 16 images in V-MoE-Small, and a GPU's batch of V-MoE-Base."""
SKEWED_SHARE = 0.8
"""Share of the pairs that the first two experts get where routing is skewed."""
CROWDED = 2


class MaskedLoop(MoE):
    """One expert after the other on the tokens that chose it, added to the result."""

    def forward(self, x: Tensor) -> Tensor:
        chosen, weights = self.route(x)
        outputs = torch.zeros_like(x)
        for expert, (w1, b1, w2, b2) in enumerate(zip(*experts_of(self), strict=True)):
            tokens, slots = (chosen == expert).nonzero(as_tuple=True)
            rows = F.linear(F.gelu(F.linear(x[tokens], w1, b1)), w2, b2) * weights[tokens, slots, None]
            outputs.index_add_(0, tokens, rows.to(outputs.dtype))
        return outputs


class SortAndSplit(MoE):
    """Pairs sorted by expert, split into one tensor an expert, and left to autograd."""

    def forward(self, x: Tensor) -> Tensor:
        chosen, weights = self.route(x)
        order = chosen.flatten().argsort(stable=True)
        tokens = order // self.top_k
        groups = x.index_select(0, tokens).split(chosen.flatten().bincount(minlength=self.gate.out_features).tolist())
        parts = zip(groups, *(parameter.unbind() for parameter in experts_of(self)), strict=True)
        rows = torch.cat([F.linear(F.gelu(F.linear(group, w1, b1)), w2, b2) for group, w1, b1, w2, b2 in parts])
        rows = rows * weights.flatten().index_select(0, order).unsqueeze(1)
        return rows.new_zeros(x.shape).index_add(0, tokens, rows)


class Grouped(MoE):
    """Pairs sorted by expert, torch's grouped product, and left to autograd."""

    def forward(self, x: Tensor) -> Tensor:
        chosen, weights = self.route(x)
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        w1, b1, w2, b2 = (parameter.to(dtype) for parameter in experts_of(self))
        owners, order = chosen.flatten().sort(stable=True)
        tokens = order // self.top_k
        ends = torch.searchsorted(owners, torch.arange(len(w1), device=x.device), right=True).to(torch.int32)
        members = F.one_hot(owners, len(w1)).to(dtype)
        hidden = F.grouped_mm(x.to(dtype).index_select(0, tokens), w1.mT, offs=ends) + members @ b1
        rows = F.grouped_mm(F.gelu(hidden), w2.mT, offs=ends) + members @ b2
        rows = rows * weights.flatten().index_select(0, order).unsqueeze(1)
        return rows.new_zeros(x.shape).index_add(0, tokens, rows)


LAYERS: dict[str, type[MoE]] = {"m2mkd": MoE, "masked loop": MaskedLoop, "sort and split": SortAndSplit, "grouped product": Grouped}


def experts_of(layer: MoE) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Stacked weights and biases of both layers of the experts."""
    return layer.fc1.weight, layer.fc1.bias, layer.fc2.weight, layer.fc2.bias


def build(width: int, hidden: int, experts: int, top_k: int, device: str) -> dict[str, nn.Module]:
    """The dense layer, and every MoE layer with the same parameters."""
    torch.manual_seed(0)
    first = MoE(width, hidden, experts=experts, top_k=top_k).to(device)
    dense = nn.Sequential(nn.Linear(width, top_k * hidden), nn.GELU(), nn.Linear(top_k * hidden, width))
    layers: dict[str, nn.Module] = {"dense": dense.to(device)}
    for name, layer in LAYERS.items():
        layers[name] = layer(width, hidden, experts=experts, top_k=top_k).to(device)
        layers[name].load_state_dict(first.state_dict())
    return layers


def crowd(layers: dict[str, nn.Module], x: Tensor, share: float) -> list[float]:
    """Set the gates' biases so that the first two experts get ``share`` of the pairs; what each expert then gets."""
    moes = [layer for layer in layers.values() if isinstance(layer, MoE)]
    low, high = -20.0, 20.0
    counts = torch.zeros(0)
    for _ in range(40):
        middle = (low + high) / 2
        for layer in moes:
            nn.init.zeros_(layer.gate.bias)
            nn.init.constant_(layer.gate.bias[:CROWDED], middle)
        with torch.no_grad():
            counts = moes[0].route(x)[0].flatten().bincount(minlength=moes[0].gate.out_features).float()
        low, high = (middle, high) if counts[:CROWDED].sum() < share * counts.sum() else (low, middle)
    return (counts / counts.sum()).tolist()


def step(layer: nn.Module, x: Tensor, probe: Tensor, precision: str) -> Callable[[], None]:
    """A call that does one forward and backward pass, with gradients for tokens and parameters."""

    def call() -> None:
        layer.zero_grad(set_to_none=True)
        x.grad = None
        with torch.autocast(x.device.type, torch.bfloat16) if precision == "bf16" else nullcontext():
            output = layer(x)
        output.backward(probe.to(output.dtype))

    return call


def timed(call: Callable[[], None], device: str) -> float:
    """Seconds that a call takes."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(calls: dict[str, Callable[[], None]], rounds: int, device: str) -> dict[str, float]:
    """Median seconds of each call; they take turns, and every other round runs backwards."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-2, rounds):
        for name in list(calls)[:: 1 if turn % 2 else -1]:
            passed = timed(calls[name], device)
            if turn >= 0:  # the first two rounds warm up
                seconds[name].append(passed)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main(
    tokens: Annotated[int | None, typer.Option(min=1, help="Tokens T. [default: 3152; cuda: 25216]")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Token width d. [default: 384; cuda: 768]")] = None,
    hidden: Annotated[int | None, typer.Option(min=1, help="Hidden width of an expert. [default: 1536; cuda: 3072]")] = None,
    experts: Annotated[int, typer.Option(min=2, help="Experts E.")] = 8,
    top_k: Annotated[int, typer.Option(min=1, help="Experts for each token.")] = 2,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch on the CPU.")] = 2,
    device: Annotated[Device, typer.Option()] = Device.cpu,
    precision: Annotated[Precision | None, typer.Option("--dtype", help="bf16 means autocast. [default: fp32; cuda: bf16]")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed passes of each layer.")] = 15,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measurements as JSON.")] = False,
) -> None:
    """Compare the MoE layer with a dense layer of equal active FLOPs and with plainer MoE layers."""
    torch.set_num_threads(threads)
    defaults = SIZES[str(device)]
    count, d, h = tokens or defaults[0], width or defaults[1], hidden or defaults[2]
    kind = str(precision or ("bf16" if device == Device.cuda else "fp32"))
    layers = build(d, h, experts, top_k, str(device))
    x, probe = torch.randn(2, count, d, device=str(device)).unbind()
    x.requires_grad_()
    results = {}
    for routing, share in {"balanced": min(1.0, CROWDED / experts), "skewed": SKEWED_SHARE}.items():
        shares = crowd(layers, x, share)
        medians = measure({name: step(layer, x, probe, kind) for name, layer in layers.items()}, rounds, str(device))
        ratios = {name: value / medians["dense"] for name, value in medians.items()}
        results[routing] = {"shares": shares, "seconds": medians, "ratio_to_dense": ratios}
    settings: dict[str, Any] = {"tokens": count, "width": d, "hidden": h, "experts": experts, "top_k": top_k}
    settings |= {"device": str(device), "dtype": kind, "threads": threads, "rounds": rounds}
    if as_json:
        machine = {"torch": torch.__version__, "machine": platform.machine(), "cores": os.cpu_count()}
        json.dump({"machine": machine, "settings": settings, "routing": results}, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    title = ", ".join(f"{name} {value}" for name, value in settings.items())
    table = Table("layer", *(f"{name} {unit}" for name in results for unit in ("(ms)", "/ dense")), title=title)
    for name in layers:
        numbers = [(result["seconds"][name] * 1e3, result["ratio_to_dense"][name]) for result in results.values()]
        table.add_row(name, *(text for time_, ratio in numbers for text in (f"{time_:.1f}", f"{ratio:.3f}")))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
