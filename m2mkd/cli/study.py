"""Computing a study, and what comes out of it."""

from typing import Annotated

import typer

from m2mkd.cli.options import (
    AblationsOption,
    DeviceOption,
    ExperimentOption,
    ScaleOption,
    SetOption,
    read_settings,
    read_study,
    study_with,
)

app = typer.Typer()
PartialOption = Annotated[bool, typer.Option("--partial", help="Take the runs that are there; claims that need more say which.")]
track = typer.Typer(no_args_is_help=True, help="Fill the MLflow store.")


@app.command()
def run(
    runs: Annotated[list[str], typer.Argument(help="Runs, written phase/key; several only if they are modules of one student.")],
    scale: ScaleOption = None,
    experiment: ExperimentOption = None,
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    workers: Annotated[int, typer.Option(help="Processes that load data.", min=0, envvar="M2MKD_WORKERS")] = 0,
) -> None:
    """Compute a run, or several modules of one student in lock step; an interrupted one goes on where it stopped."""
    from m2mkd.training.job import execute
    from m2mkd.training.machine import machine_for

    study = study_with(runs, scale, experiment, overrides)
    found = [study.find(run) for run in runs]
    execute(study, found, machine_for(device, workers, found[0].config.threads), lambda news: typer.echo(news, err=True))


@app.command("compile")
def compile_(
    scale: ScaleOption = None,
    experiment: ExperimentOption = None,
    overrides: SetOption = None,
    ablations: AblationsOption = False,
    incomplete: PartialOption = False,
) -> None:
    """Collect the runs of a study into tables and judge the claims."""
    from m2mkd.results.tables import compile_tables

    compile_tables(read_study(scale, experiment, overrides, ablations=ablations), incomplete=incomplete)


@app.command()
def report(
    scale: ScaleOption = None,
    experiment: ExperimentOption = None,
    overrides: SetOption = None,
    ablations: AblationsOption = False,
    incomplete: PartialOption = False,
) -> None:
    """Write the report of a study from its runs."""
    from m2mkd.results.report import write_report

    write_report(read_study(scale, experiment, overrides, ablations=ablations), incomplete=incomplete)


@track.command()
def sync(
    scale: ScaleOption = None, experiment: ExperimentOption = None, overrides: SetOption = None, ablations: AblationsOption = False
) -> None:
    """Bring every finished run of a study into the MLflow store, once."""
    from m2mkd.tracking import mlflow_sink

    mlflow_sink.sync(read_study(scale, experiment, overrides, ablations=ablations))


@app.command()
def reproduce(scale: ScaleOption = None, cores: Annotated[str, typer.Option(help="CPU cores to use.")] = "all") -> None:
    """Run the whole study of a scale, after clearing away what an interrupted one left."""
    from m2mkd.reproduce import reproduce as run_workflow

    raise typer.Exit(run_workflow(read_settings(scale, None, None), cores))
