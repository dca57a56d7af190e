"""``m2mkd``: every rule of the workflow is one of these commands, and a person can type it."""

import errno
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from m2mkd.errors import InputError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help="Reproduce m2mKD at any scale.")
config_app = typer.Typer(no_args_is_help=True, help="Look at configurations.")
runs_app = typer.Typer(no_args_is_help=True, help="Look at runs and their keys.")
data_app = typer.Typer(no_args_is_help=True, help="Prepare data sets.")
track_app = typer.Typer(no_args_is_help=True, help="Fill the MLflow store.")
app.add_typer(config_app, name="config")
app.add_typer(runs_app, name="runs")
app.add_typer(data_app, name="data")
app.add_typer(track_app, name="track")

ScaleOption = Annotated[
    str | None, typer.Option("--scale", help="Scale in config/scales, taken as it is; default: what config/config.yaml says.")
]
ExperimentOption = Annotated[
    list[str] | None, typer.Option("--experiment", help="Experiment, or experiment/variant; default: the scale's study.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override, as dotted.field=value, for example recipes.vmoe_finetune.epochs=3.")
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, cuda:N, or auto.", envvar="M2MKD_DEVICE")]


def _settings(scale: str | None, experiments: list[str] | None, overrides: list[str] | None, config: str | None = None) -> Any:
    from m2mkd.config import load

    changes = load.parse_json(config, "--config") if config is not None else {}
    if scale is not None:
        changes["scale"] = scale
    if experiments:
        changes["experiments"] = experiments
    if overrides:
        changes = load.merged(changes, {"overrides": load.parse_overrides(overrides)})
    return load.settings(changes)


def _study(scale: str | None, experiments: list[str] | None, overrides: list[str] | None) -> Any:
    from m2mkd.config.plan import build_study

    return build_study(_settings(scale, experiments, overrides))


@config_app.command("show")
def config_show(experiment: str, scale: ScaleOption = None, overrides: SetOption = None) -> None:
    """Print the resolved configuration and key of every run of an experiment."""
    import yaml

    study = _study(scale, [experiment], overrides)
    for run in study.runs.values():
        typer.echo(f"# {run.id}")
        typer.echo(yaml.safe_dump({"config": run.config.model_dump(mode="json"), "upstream": run.upstream_lists}, sort_keys=False))
    typer.echo(f"# study {study.key}")


@config_app.command("validate")
def config_validate(experiment: str, scale: ScaleOption = None, overrides: SetOption = None) -> None:
    """Check an experiment at a scale and print its key."""
    study = _study(scale, [experiment], overrides)
    typer.echo(f"{experiment} at scale {study.scale_name}: valid, {len(study.runs)} runs, key {study.key}")


@config_app.command("schema")
def config_schema(check: Annotated[bool, typer.Option("--check", help="Only say whether the files are current.")] = False) -> None:
    """Export the JSON schemas of the configuration files to workflow/schemas."""
    from m2mkd.config.schemas import export_schemas

    export_schemas(Path("workflow/schemas"), check=check)


@runs_app.command("plan", hidden=True)
def runs_plan(config: Annotated[str, typer.Option(help="The workflow's configuration as JSON.")]) -> None:
    """Print the graph of runs as JSON, for the workflow, and settle the times of what is there."""
    from m2mkd.config.plan import build_study
    from m2mkd.config.runs import as_graph, settle_times

    settings = _settings(None, None, None, config)
    study = build_study(settings)
    settle_times(study)
    typer.echo(json.dumps(as_graph(study, settings)))


@runs_app.command("list")
def runs_list(scale: ScaleOption = None, experiment: ExperimentOption = None, overrides: SetOption = None) -> None:
    """List the runs of a study, and whether they are done."""
    from m2mkd.config.runs import show_runs

    show_runs(_study(scale, experiment, overrides))


@runs_app.command("show")
def runs_show(run: str, scale: ScaleOption = None, experiment: ExperimentOption = None, overrides: SetOption = None) -> None:
    """Print the configuration of one run."""
    import yaml

    study = _study(scale, experiment, overrides)
    found = study.find(run)
    typer.echo(f"# {study.folder(found.id)}\n# needed by {', '.join(sorted(found.users))}")
    typer.echo(yaml.safe_dump({"config": found.config.model_dump(mode="json"), "upstream": found.upstream_lists}, sort_keys=False))


@runs_app.command("gc")
def runs_gc(
    scale: ScaleOption = None,
    experiment: ExperimentOption = None,
    overrides: SetOption = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove them; without it they are only listed.")] = False,
) -> None:
    """List or remove run folders that the study does not need."""
    from m2mkd.config.runs import collect_garbage

    collect_garbage(_study(scale, experiment, overrides), delete=delete)


@data_app.command("prepare")
def data_prepare(data: str) -> None:
    """Prepare a data set at an image size, written name@size."""
    from m2mkd.config.plan import resolve_data
    from m2mkd.data.prepare import prepare

    resolved, dataset = resolve_data(data, "data prepare")
    prepare(resolved.name, dataset, resolved.image_size, Path(resolved.folder))


@data_app.command("list")
def data_list() -> None:
    """List the data sets and their terms."""
    from rich.console import Console
    from rich.table import Table

    from m2mkd.config import load

    table = Table("name", "title", "classes", "licence")
    for name, dataset in load.datasets().items():
        table.add_row(name, dataset.title, str(dataset.classes), dataset.licence)
    Console().print(table)


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

    study = _study(scale, experiment, overrides)
    found = study.find(run)
    execute(study, found, machine_for(device, workers, found.config.threads), lambda news: typer.echo(news, err=True))


@app.command("compile")
def compile_(scale: ScaleOption = None, experiment: ExperimentOption = None, overrides: SetOption = None) -> None:
    """Collect the runs of a study into tables."""
    from m2mkd.results.tables import compile_tables

    compile_tables(_study(scale, experiment, overrides))


@app.command()
def report(scale: ScaleOption = None, experiment: ExperimentOption = None, overrides: SetOption = None) -> None:
    """Write the report of a study from its tables."""
    from m2mkd.results.report import write_report

    write_report(_study(scale, experiment, overrides))


@track_app.command("sync")
def track_sync(scale: ScaleOption = None, experiment: ExperimentOption = None, overrides: SetOption = None) -> None:
    """Bring every finished run of a study into the MLflow store, once."""
    from m2mkd.tracking.mlflow_sink import sync

    sync(_study(scale, experiment, overrides))


@app.command()
def reproduce(scale: ScaleOption = None, cores: Annotated[str, typer.Option(help="CPU cores to use.")] = "all") -> None:
    """Run the whole study of a scale, after clearing away what an interrupted one left."""
    from m2mkd.reproduce import reproduce as run_workflow

    raise typer.Exit(run_workflow(_settings(scale, None, None), cores))


def main() -> None:
    """Run the command line; bad input gives one line and exit code 2."""
    try:
        app()
    except InputError as error:
        sys.exit(_refuse(str(error)))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        mend = "make it writable" if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else "free some space"
        sys.exit(_refuse(f"{error.filename or 'a file'}: {error.strerror}; {mend} and run the same command again"))
    except KeyboardInterrupt:
        sys.stderr.write("m2mkd: interrupted; the same command goes on where this one stopped\n")
        sys.exit(130)


def _refuse(message: str) -> int:
    sys.stderr.write(f"m2mkd: {' '.join(message.split())}\n")
    return 2
