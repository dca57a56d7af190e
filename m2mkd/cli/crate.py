"""``m2mkd crate``: a study as a Workflow Run RO-Crate."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from m2mkd.cli.options import ExperimentOption, PlannedOption, ScaleOption, SetOption, read_study

app = typer.Typer(invoke_without_command=True, help="Write a study as a Workflow Run RO-Crate, or check one.")


@app.callback()
def crate(
    context: typer.Context,
    scale: ScaleOption = None,
    experiment: ExperimentOption = None,
    overrides: SetOption = None,
    planned: PlannedOption = None,
    weights: Annotated[
        Literal["all", "students", "none"], typer.Option(help="Runs whose weights are included; other weights are recorded by digest.")
    ] = "students",
) -> None:
    """Write the crate of a whole study into results/<scale>/crate."""
    if context.invoked_subcommand is None:
        from m2mkd.results.crate.write import write_crate
        from m2mkd.results.judge.results import Results

        folder = write_crate(Results.read(read_study(scale, experiment, overrides, planned=planned)), weights)
        typer.echo(f"{folder}: written; 'm2mkd crate check {folder}' checks it, also after it was moved")


@app.command()
def check(folder: Annotated[Path, typer.Argument(help="Folder of the crate.")]) -> None:
    """Check every digest of a crate, each run's key against its configuration, and the tables against the runs."""
    from m2mkd.errors import printable
    from m2mkd.results.crate.check import check_crate

    found = check_crate(folder)
    typer.echo(
        f"{printable(found.name)}: {found.files} files and {found.records} records of runs match their digests; "
        f"{found.left_out} outputs are recorded by digest only; {found.compiled} files compiled again from the runs are the same"
    )
    if found.beside:
        typer.echo(f"{len(found.beside)} further files do not belong to the crate, such as {printable(found.beside[0])}")
