"""Time and memory of compiling a study of many runs: reading and checking them, tables, verdicts, report.

``python benchmarks/results.py --runs 10000`` invents finished runs of the small study with so many seeds that there are at least as many
runs, then plans, compiles and reports them in a fresh process each, and prints seconds and the peak of memory;
on a shared machine the CPU seconds say more. The reference is the least
that could be done: reading and parsing every file that the runs consist of.
"""

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

SCALE = "small"
STEPS = ("read", "plan", "compile", "report")
WANTED = {"seconds": 20.0, "gibibytes": 1.0}
"""Of compiling 10,000 runs."""


def study_of(seeds: int, root: Path):
    """The small study with so many seeds, a run for each."""
    from tests.fabricated import plan

    return plan(root, SCALE, seeds=seeds)


def invent(seeds: int, epochs: int, root: Path) -> int:
    """Publish every run with accuracies around 90 %, and give their number."""
    from m2mkd.files import sha256
    from m2mkd.study.phase import CURVES
    from m2mkd.training import job
    from tests.fabricated import edit_record, publish

    job.provenance = cache(job.provenance)
    os.fsync = lambda _: None  # what is invented need not survive a power cut
    study, draw = study_of(seeds, root), random.Random(0)
    for run in study.runs.values():
        publish(study, run, round(draw.gauss(0.9, 0.01), 4))
        if CURVES in run.config.OUTPUTS:
            path = Path(study.folder(run.id), CURVES)
            line = {"step": 1, "lr": 0.1, "loss": 1.0, "val_loss": 1.0, "val_top1": 0.9, "val_top5": 1.0}
            path.write_text("".join(json.dumps({"epoch": epoch} | line) + "\n" for epoch in range(1, epochs + 1)))
            digest = {CURVES: sha256(path)}
            edit_record(study, run, lambda record, digest=digest: record["outputs"].update(digest))
    return len(study.runs)


def measure(step: str, seeds: int, root: Path) -> dict[str, float]:
    """Do one step in this process, and give its seconds and the process's peak of memory in GiB."""
    from m2mkd.results.judge.results import Results
    from m2mkd.results.report.write import write_report
    from m2mkd.results.tables.compile import compile_tables

    if step == "read":
        started, worked = time.perf_counter(), time.process_time()
        for path in Path("results", SCALE, "runs").rglob("*.json*"):
            for line in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
                json.loads(line)
    else:
        planned = None if step == "plan" else study_of(seeds, root)
        started, worked = time.perf_counter(), time.process_time()
        if planned is None:
            study_of(seeds, root)
        else:
            {"compile": compile_tables, "report": write_report}[step](Results.read(planned))
    spent = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - worked}
    return spent | {"gibibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def main(
    runs: Annotated[int, typer.Option(help="Fewest runs.")] = 10_000,
    epochs: Annotated[int, typer.Option(help="Lines of each learning curve.")] = 28,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measurements as JSON.")] = False,
    step: Annotated[str, typer.Option(hidden=True)] = "",
    seeds: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Compile many invented runs, and print how long it took."""
    if step:
        typer.echo(json.dumps(measure(step, seeds, Path.cwd())))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        root = Path(folder)
        few = [len(study_of(seeds, root).runs) for seeds in (1, 2)]
        seeds = -(-(runs - few[0]) // (few[1] - few[0])) + 1
        found = invent(seeds, epochs, root)
        command = [sys.executable, str(Path(__file__).resolve()), "--seeds", str(seeds), "--step"]
        measured = {name: json.loads(subprocess.run([*command, name], check=True, capture_output=True).stdout) for name in STEPS}
        os.chdir(ROOT)
    if as_json:
        typer.echo(json.dumps({"runs": found, "seeds": seeds, "epochs": epochs, "wanted": WANTED, "steps": measured}))
        return
    table = Table(
        "step", "seconds", "CPU seconds", "of reading alone", "peak GiB", title=f"{found} runs, {seeds} seeds, {epochs} epochs each"
    )
    for name, values in measured.items():
        ratio = values["cpu_seconds"] / measured["read"]["cpu_seconds"]
        table.add_row(name, f"{values['seconds']:.2f}", f"{values['cpu_seconds']:.2f}", f"{ratio:.1f}", f"{values['gibibytes']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
