"""``m2mkd config``: configurations."""

from pathlib import Path
from typing import Annotated

import typer

from m2mkd.cli.options import ScaleOption, SetOption, read_study

app = typer.Typer(no_args_is_help=True, help="Show, check and export configurations.")


@app.command()
def show(experiment: str, scale: ScaleOption = None, overrides: SetOption = None) -> None:
    """Print the resolved configuration and key of every run of an experiment."""
    import yaml

    study = read_study(scale, [experiment], overrides)
    for run in study.runs.values():
        typer.echo(f"# {run.id}")
        typer.echo(
            yaml.safe_dump(
                {"config": run.config.model_dump(mode="json"), "upstream": {role: list(ids) for role, ids in run.upstream.items()}},
                sort_keys=False,
            )
        )
    typer.echo(f"# study {study.key}")


@app.command()
def validate(experiment: str, scale: ScaleOption = None, overrides: SetOption = None) -> None:
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
