"""A plan as tables for people."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 170
"""Columns of a table if there is no terminal to ask."""


def show_plan(plan: Mapping[str, Any], *, runs: bool) -> None:
    """Print a plan: runs, phases and variants in detail, or one line per experiment.

    Parameters
    ----------
    plan
        Result of `m2mkd.planning.summary.plan`.
    runs
        True: list runs, phases and variants. False: list experiments.
    """
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(width=WIDTH, markup=False, emoji=False)
    # Costs do not depend on the compat profile, which changes values but not sizes.
    profile, first = next(iter(plan["profiles"].items()))
    console.print(_assumptions(plan))
    console.print(f"Tables: profile {profile}, one seed.")
    if runs:
        console.print(_arithmetic(first["runs"]))
        console.print(_space(first["runs"]))
        console.print(_phases(first["phases"]))
        console.print(_variants(first["variants"]))
    else:
        console.print(_experiments(first["experiments"], first["gpu_hours"]))
    too_large = [run for run in first["runs"] if run["peak_memory"] > 1e9 * plan["assumptions"]["peak"]["memory"]]
    if too_large:
        held = plan["assumptions"]["peak"]
        console.print(
            f"{len(too_large)} runs do not fit in the {held['memory']} GB of one {held['title']}: lower --device-batch, or raise --gpus."
        )
    console.print(_storage(plan))
    whole = plan["study"]
    others = " and ".join(f"profile {name} {content['gpu_hours']:,.1f}" for name, content in plan["profiles"].items())
    console.print(
        f"GPU-hours of one seed, shared runs once: {others}. "
        f"All {len(whole['profiles'])} profiles and {whole['seeds']} seeds, {whole['runs']} runs: {whole['gpu_hours']:,.1f}."
    )


def _assumptions(plan: Mapping[str, Any]) -> str:
    given, peak = plan["assumptions"], plan["assumptions"]["peak"]
    nac = "the published code's, one image alone" if given["nac"] == "released" else "this suite's, on a GPU's batch"
    return (
        f"Scale {plan['scale']}; {given['gpus']} x {peak['title']}, {given['mfu']:.0%} of its peak: fp16 and bf16 {peak['half']:g}, "
        f"fp32 {peak['fp32']:g} TFLOP/s dense ({peak['source']}); NACs by {nac}. FLOPs are those of matrix products."
    )


def _arithmetic(runs: list[dict[str, Any]]) -> Table:
    heads = ["phase", "run", "GFLOP of an image: forward passes x part", "sum", "images M", "GPU-h", "hours", "img/s/GPU"]
    table = _table("Arithmetic", heads, left=(0, 1, 2))
    for run in runs:
        if run["gpu_hours"]:
            terms = " + ".join(f"{f'{passes}x' if passes > 1 else ''}{flops / 1e9:.1f} {name}" for name, passes, flops in run["terms"])
            table.add_row(
                *_name(run),
                terms or "forward only",
                f"{run['flops_per_image'] / 1e9:.1f}" if run["terms"] else "",
                f"{(run['images'] or run['measured_images']) / 1e6:.3g}",
                _hours(run["gpu_hours"]),
                _hours(run["hours"]),
                f"{run['images_per_second']:,.0f}" if run["terms"] else "",
            )
    return table


def _space(runs: list[dict[str, Any]]) -> Table:
    heads = [
        "phase", "run", "params M", "active", "trained", "GB/GPU", "params", "copies", "grads", "moments", "saved", "working", "images",
        "weights GB", "ckpt GB",
    ]  # fmt: skip
    table = _table("Parameters, peak memory of a GPU in its parts, and files", heads, left=(0, 1))
    for run in runs:
        if not run["gpu_hours"]:
            continue
        memory = run["memory"]
        parts = "parameters", "copies", "gradients", "moments", "activations", "working"
        table.add_row(
            *_name(run),
            *(f"{run[field] / 1e6:.1f}" for field in ("parameters", "active_parameters", "trained_parameters")),
            f"{run['peak_memory'] / 1e9:.1f}",
            *(f"{memory[part] / 1e9:.1f}" for part in parts),
            str(memory["images"]),
            f"{run['weights'] / 1e9:.2f}",
            f"{run['checkpoint'] / 1e9:.2f}",
        )
    return table


def _name(run: Mapping[str, Any]) -> tuple[str, str]:
    return run["phase"], f"{run['id'].partition('/')[2][:8]} {run['what']}"


def _phases(phases: Mapping[str, dict[str, Any]]) -> Table:
    table = _table("Phases", ["phase", "runs", "GPU-h training", "GPU-h with measuring", "peak GB/GPU"])
    for name, phase in phases.items():
        table.add_row(
            name, str(phase["runs"]), _hours(phase["training_hours"]), _hours(phase["gpu_hours"]), f"{phase['peak_memory'] / 1e9:.1f}"
        )
    return table


def _variants(variants: list[dict[str, Any]]) -> Table:
    heads = ["experiment", "variant", "GPU-h training", "GPU-h with measuring", "its teacher, shared", "all"]
    table = _table("Variants", heads, left=(0, 1))
    for row in variants:
        hours = row["training_hours"], row["gpu_hours"], row["teacher_hours"], row["gpu_hours"] + row["teacher_hours"]
        table.add_row(row["experiment"], row["variant"], *map(_hours, hours))
    return table


def _experiments(experiments: list[dict[str, Any]], total: float) -> Table:
    table = _table("Experiments", ["experiment", "runs", "GPU-h of all it needs", "GPU-h that it adds", "peak GB/GPU", "weights GB"])
    for row in experiments:
        table.add_row(row["experiment"], str(row["runs"]), _hours(row["gpu_hours"]), _hours(row["added_hours"]), *_space_of(row))
    table.add_section()
    table.add_row("all, shared runs once", "", "", _hours(total))
    return table


def _space_of(row: Mapping[str, Any]) -> tuple[str, str]:
    return f"{row['peak_memory'] / 1e9:.1f}", f"{row['weights'] / 1e9:,.1f}"


def _storage(plan: Mapping[str, Any]) -> str:
    sets = ", ".join(f"{name} {size / 1e9:,.2f} GB" for name, size in plan["data"].items())
    whole = plan["study"]
    return (
        f"Packed data: {sets}. Weights of all runs, profiles and seeds: {whole['weights'] / 1e9:,.1f} GB; "
        f"largest checkpoint {whole['largest_checkpoint'] / 1e9:,.2f} GB."
    )


def _table(title: str, heads: list[str], left: tuple[int, ...] = (0,)) -> Table:
    table = Table(title=title, title_justify="left")
    for index, head in enumerate(heads):
        table.add_column(head, justify="left" if index in left else "right", no_wrap=index < 2)
    return table


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 0.1 or not hours else f"{hours:.2g}"
