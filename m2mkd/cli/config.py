"""``m2mkd config``: configurations."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2mkd.cli.options import ExperimentArgument, ScaleOption, SetOption, read_study

if TYPE_CHECKING:
    from m2mkd.study.study import Study

app = typer.Typer(no_args_is_help=True, help="Show, check and export configurations.")


@app.command()
def show(
    experiment: ExperimentArgument,
    scale: ScaleOption = None,
    overrides: SetOption = None,
    full: Annotated[bool, typer.Option("--full", help="Print every resolved value of every run, as YAML.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON, by run.")] = False,
) -> None:
    """Print an outline of an experiment: its rows, and for each phase runs, data and recipe; --full prints every value."""
    study = read_study(scale, [experiment], overrides)
    if as_json:
        import json

        typer.echo(json.dumps({"study": study.key, "runs": {run.id: run.content for run in study.runs.values()}}, indent=1))
    elif full:
        import yaml

        for run in study.runs.values():
            typer.echo(f"# {run.id}")
            typer.echo(yaml.safe_dump(run.content, sort_keys=False))
        typer.echo(f"# study {study.key}")
    else:
        _show_outline(study)


def _show_outline(study: "Study") -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from m2mkd.study.outline import OutlineLine, outline

    for name in dict.fromkeys(row.experiment for row in study.rows):
        variants = ", ".join(dict.fromkeys(row.variant for row in study.rows if row.experiment == name))
        typer.echo(f"{name}: {study.experiments[name].title}\n  variants: {variants}")
    profiles, seeds = ", ".join(study.scale.profiles), ", ".join(map(str, study.seeds))
    typer.echo(f"  scale {study.scale_name}, profiles: {profiles}, seeds: {seeds}\n  {len(study.runs)} runs, key {study.key}")
    table = Table(*OutlineLine._fields, box=SIMPLE, padding=(0, 1, 0, 0))
    for line in outline(study):
        table.add_row(*map(str, line))
    shown = sys.stdout.isatty()
    Console(width=None if shown else 140, markup=False, emoji=False, highlight=False).print(table)
    typer.echo("--full prints every value of every run, and 'm2mkd runs show RUN' those of one.")


@app.command()
def validate(experiment: ExperimentArgument, scale: ScaleOption = None, overrides: SetOption = None) -> None:
    """Check an experiment at a scale and print its key."""
    study = read_study(scale, [experiment], overrides)
    typer.echo(f"{experiment} at scale {study.scale_name}: valid, {len(study.runs)} runs, key {study.key}")


@app.command()
def export(check: Annotated[bool, typer.Option("--check", help="Only check that the files are current.")] = False) -> None:
    """Write the files derived from the package: JSON schemas of the configuration (workflow/schemas), and the folders in dvc.yaml."""
    from m2mkd.config.schemas import export_schemas
    from m2mkd.study.dvc import export_stages

    export_schemas(Path("workflow/schemas"), check=check)
    export_stages(Path("dvc.yaml"), check=check)
