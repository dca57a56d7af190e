"""Computing a study, and what comes out of it."""

from typing import Annotated

import typer

from m2mkd.cli.options import DeviceOption, ExperimentOption, ScaleOption, SetOption, read_settings, read_study

app = typer.Typer()
track = typer.Typer(no_args_is_help=True, help="Fill the MLflow store.")


@app.command()
def run(
    run: str,
    scale: ScaleOption = None,
    experiment: ExperimentOption = None,
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    workers: Annotated[int, typer.Option(help="Processes that load data.", min=0, envvar="M2MKD_WORKERS")] = 0,
) -> None:
    """Compute one run, written phase/key; an interrupted one goes on where it stopped."""
    from m2mkd.training.job import execute
    from m2mkd.training.machine import machine_for

    study = read_study(scale, experiment, overrides)
    found = study.find(run)
    execute(study, found, machine_for(device, workers, found.config.threads), lambda news: typer.echo(news, err=True))


@app.command("compile")
def compile_(scale: ScaleOption = None, experiment: ExperimentOption = None, overrides: SetOption = None) -> None:
    """Collect the runs of a study into tables."""
    from m2mkd.results.tables import compile_tables

    compile_tables(read_study(scale, experiment, overrides))


@app.command()
def report(scale: ScaleOption = None, experiment: ExperimentOption = None, overrides: SetOption = None) -> None:
    """Write the report of a study from its tables."""
    from m2mkd.results.report import write_report

    write_report(read_study(scale, experiment, overrides))


@track.command()
def sync(scale: ScaleOption = None, experiment: ExperimentOption = None, overrides: SetOption = None) -> None:
    """Bring every finished run of a study into the MLflow store, once."""
    from m2mkd.tracking import mlflow_sink

    mlflow_sink.sync(read_study(scale, experiment, overrides))


@app.command()
def reproduce(scale: ScaleOption = None, cores: Annotated[str, typer.Option(help="CPU cores to use.")] = "all") -> None:
    """Run the whole study of a scale, after clearing away what an interrupted one left."""
    from m2mkd.reproduce import reproduce as run_workflow

    raise typer.Exit(run_workflow(read_settings(scale, None, None), cores))
