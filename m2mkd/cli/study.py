"""Commands that compute a study, its tables and its report."""

import sys
from typing import Annotated

import typer

from m2mkd.cli.options import (
    AblationsOption,
    DeviceOption,
    ExperimentOption,
    ExperimentsArgument,
    PlannedOption,
    ScaleOption,
    SetOption,
    read_settings,
    read_study,
)

app = typer.Typer()
CodeOption = Annotated[
    str | None, typer.Option(help="Results of other code: strict computes them again; named (default) keeps and lists them.")
]
PartialOption = Annotated[bool, typer.Option("--partial", help="Use the finished runs; claims list the runs that they still need.")]
track = typer.Typer(no_args_is_help=True, help="Fill the MLflow store.")


@app.command()
def run(
    runs: Annotated[
        list[str],
        typer.Argument(help="Runs as phase/key; the key may be shortened. Several only if they differ in nothing but seed or module."),
    ],
    scale: ScaleOption = None,
    experiment: ExperimentOption = None,
    overrides: SetOption = None,
    device: DeviceOption = "auto",
    workers: Annotated[int, typer.Option(help="Data loading processes per rank.", min=0, envvar="M2MKD_WORKERS")] = 0,
    gpus: Annotated[int, typer.Option(help="GPUs to reserve, waiting until they are free; 0: share the visible ones.", min=0)] = 0,
    ranks: Annotated[
        int | None,
        typer.Option(help="Processes that share a training, one device each; default: --gpus, or 1.", min=1, envvar="M2MKD_RANKS"),
    ] = None,
    device_batch: Annotated[
        int | None,
        typer.Option(help="Most images on a device at a time; larger batches are accumulated.", min=2, envvar="M2MKD_DEVICE_BATCH"),
    ] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile networks with torch.compile.", envvar="M2MKD_COMPILE")] = False,
    code: CodeOption = None,
) -> None:
    """Compute a run, or several that differ only in seed or module; an interrupted run resumes."""
    from dataclasses import replace

    from m2mkd.ranks import started_by_launcher
    from m2mkd.study.lookup import find_runs
    from m2mkd.tracking.address import set_default_tracking_uri
    from m2mkd.training import launch
    from m2mkd.training.gpus import reserve_gpus
    from m2mkd.training.job import execute
    from m2mkd.training.machine import Policy, machine_for

    def say(news: str) -> None:
        typer.echo(news, err=True)

    settings = read_settings(scale, experiment, overrides, code=code)
    planned = find_runs(runs, settings)
    if code is not None:
        planned = [replace(one, code=settings.code) for one in planned]
    first = planned[0]
    set_default_tracking_uri(first.tracking_uri)
    if gpus and device != "cpu" and not started_by_launcher():  # for ranks of torchrun, the process that started them reserves
        reserve_gpus(gpus, say)
    here = launch.ranks_for(first.run.config, ranks or max(1, gpus), device_batch, sys.argv[1:])
    policy = Policy(first.checkpoint_minutes, first.checkpoint_updates)
    options = {"device_batch": device_batch, "compiled": compiled, "checkpoints": policy}
    machine = machine_for(device, first.run.config.threads, workers, ranks=here, **options)
    execute(planned, machine, say, here)


@app.command("compile")
def compile_(
    experiments: ExperimentsArgument = None,
    scale: ScaleOption = None,
    overrides: SetOption = None,
    ablations: AblationsOption = False,
    planned: PlannedOption = None,
    partial: PartialOption = False,
) -> None:
    """Collect the runs of a study into tables and judge the claims."""
    from m2mkd.marks import clear_marks
    from m2mkd.results.judge.results import Results
    from m2mkd.results.tables.compile import compile_tables
    from m2mkd.study.state import normalise_all_mtimes

    study = read_study(scale, experiments, overrides, ablations=ablations, planned=planned)
    normalise_all_mtimes(study)
    compile_tables(Results.read(study, partial=partial))
    clear_marks(study)  # Snakemake has seen all jobs end


@app.command()
def report(
    experiments: ExperimentsArgument = None,
    scale: ScaleOption = None,
    overrides: SetOption = None,
    ablations: AblationsOption = False,
    planned: PlannedOption = None,
    partial: PartialOption = False,
) -> None:
    """Write the report of a study from its runs."""
    from m2mkd.results.judge.results import Results
    from m2mkd.results.report.write import write_report
    from m2mkd.study.state import normalise_all_mtimes

    study = read_study(scale, experiments, overrides, ablations=ablations, planned=planned)
    normalise_all_mtimes(study)
    write_report(Results.read(study, partial=partial))


@track.command()
def sync(
    experiments: ExperimentsArgument = None,
    scale: ScaleOption = None,
    overrides: SetOption = None,
    ablations: AblationsOption = False,
    planned: PlannedOption = None,
    partial: Annotated[bool, typer.Option("--partial", help="Use the finished runs, without tables.")] = False,
) -> None:
    """Record every finished run of a study in the MLflow store, once."""
    from m2mkd.results.judge.results import Results
    from m2mkd.study.state import normalise_all_mtimes
    from m2mkd.tracking import mlflow_export
    from m2mkd.tracking.address import set_default_tracking_uri

    set_default_tracking_uri(read_settings(scale, experiments, overrides).tracking_uri)
    study = read_study(scale, experiments, overrides, ablations=ablations, planned=planned)
    normalise_all_mtimes(study)
    mlflow_export.sync(Results.read(study, partial=partial))


@app.command("mlflow-ui")
def mlflow_ui(port: Annotated[int, typer.Option(help="Port of this machine.", min=1, max=65535)] = 5000) -> None:
    """Serve MLflow's pages on the runs, and print where the rows by accuracy and the learning curves are."""
    from m2mkd.tracking.address import set_default_tracking_uri
    from m2mkd.tracking.serve import serve

    set_default_tracking_uri(read_settings(None, None, None).tracking_uri)
    raise typer.Exit(serve(port, typer.echo))


@app.command()
def reproduce(
    experiments: ExperimentsArgument = None,
    scale: ScaleOption = None,
    cores: Annotated[str, typer.Option(help="CPU cores to use.")] = "all",
    code: CodeOption = None,
) -> None:
    """Run the whole study of a scale and show its progress; re-running resumes an interrupted one and repeats nothing."""
    from m2mkd.reproduce import reproduce as run_workflow

    raise typer.Exit(run_workflow(read_settings(scale, experiments, None, code=code), cores))


@app.command()
def restore(
    remote: Annotated[str | None, typer.Option(help="DVC remote; default: DVC's own default.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Files to transfer at once.")] = None,
) -> None:
    """Pull data sets, runs and results with DVC, so that the workflow does not compute them again."""
    from m2mkd.restore import restore

    pull = [*(["--remote", remote] if remote else []), *(["--jobs", str(jobs)] if jobs else [])]
    restore(read_settings(None, None, None), pull, typer.echo)
