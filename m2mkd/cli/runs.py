"""``m2mkd runs``: runs and their keys."""

from pathlib import Path
from typing import Annotated

import typer

from m2mkd.cli.options import AblationsOption, ExperimentOption, ExperimentsArgument, ScaleOption, SetOption, read_settings, read_study

app = typer.Typer(no_args_is_help=True, help="Inspect and manage runs and their keys.")


@app.command(hidden=True)
def plan(
    config: Annotated[str, typer.Option(help="The workflow's configuration as JSON.")],
    in_container: Annotated[bool, typer.Option("--in-container", help="Run jobs in the image, which must exist.")] = False,
    gpu: Annotated[str | None, typer.Option(help="GPU, as in m2mkd plan; default: jobs request no resources.")] = None,
    mfu: float = 0.4,
    gpus: Annotated[int, typer.Option(help="GPUs per training job.")] = 1,
    workers: Annotated[int, typer.Option(help="Data loading processes.", min=0, envvar="M2MKD_WORKERS")] = 0,
    longest: Annotated[float, typer.Option(help="Longest run time of a job, in hours.")] = 24,
    storage: Annotated[Path | None, typer.Option(help="Folder in which Snakemake keeps copies of outputs in object storage.")] = None,
    read: Annotated[list[Path] | None, typer.Option(help="Configuration files that Snakemake has read.")] = None,
) -> None:
    """Plan the study: write the plan of every job, and print the path of the graph of runs, which the workflow reads."""
    from m2mkd.config import load
    from m2mkd.planning.cost import Assumptions
    from m2mkd.planning.request import Terms
    from m2mkd.workflow import plan_workflow

    for file in read or ():
        load.read_config(file)
    if load.CONFIG.joinpath("config.yaml").is_file():
        load.settings()
    terms = Terms(Assumptions(gpu, mfu, gpus), workers, longest) if gpu else None

    def say(news: str) -> None:
        typer.echo(news, err=True)

    settings = read_settings(None, None, None, config)
    typer.echo(plan_workflow(settings, terms, say, in_container=in_container, storage=storage))


@app.command("list")
def list_(
    experiments: ExperimentsArgument = None,
    scale: ScaleOption = None,
    overrides: SetOption = None,
    ablations: AblationsOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print phase, key, seed, state and further facts as JSON.")] = False,
) -> None:
    """List the runs of a study and their state."""
    from m2mkd.study.listing import as_lines, listed, show

    runs = listed(read_study(scale, experiments, overrides, ablations=ablations))
    if as_json:
        import json

        typer.echo(json.dumps(runs, indent=1))
    elif not show(runs):
        typer.echo("\n".join(as_lines(runs)))


@app.command()
def verify(
    experiments: ExperimentsArgument = None, scale: ScaleOption = None, overrides: SetOption = None, ablations: AblationsOption = False
) -> None:
    """Compare every output of the finished runs of a study with its digest, and each run with its configuration, data and code."""
    from m2mkd.results.read.verify import verify_runs

    for line in verify_runs(read_study(scale, experiments, overrides, ablations=ablations)):
        typer.echo(line)


@app.command("show")
def show_run(run: str, scale: ScaleOption = None, experiment: ExperimentOption = None, overrides: SetOption = None) -> None:
    """Print the configuration of one run."""
    import yaml

    from m2mkd.study.lookup import find_runs

    (found,) = find_runs([run], read_settings(scale, experiment, overrides))
    typer.echo(f"# {found.folder}\n# needed by {', '.join(sorted(found.run.users))}")
    typer.echo(yaml.safe_dump(found.run.content, sort_keys=False))


@app.command()
def gc(
    experiments: ExperimentsArgument = None,
    scale: ScaleOption = None,
    overrides: SetOption = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove them instead of only listing them.")] = False,
) -> None:
    """List or remove run folders and plans that neither the study nor the scale's ablations and detectors need."""
    from m2mkd.study.plan import build_study
    from m2mkd.study.state import surplus, surplus_plans
    from m2mkd.surplus import remove
    from m2mkd.workflows import require_none

    settings = read_settings(scale, experiments, overrides)
    studies = [
        build_study(settings, ablations=ablations, detection=detection) for ablations in (True, False) for detection in (True, False)
    ]
    whole = studies[0]
    if delete:
        require_none("runs gc --delete")
    found = [*surplus(whole), *surplus_plans(whole, {study.key for study in studies})]
    for path in found:
        state = "not needed" if not delete else "removed" if remove(path) else "kept, because a job holds it"
        typer.echo(f"{state}: {path}")
    if not found:
        typer.echo("every run folder and plan is needed")


@app.command()
def migrate(scale: ScaleOption = None) -> None:
    """Move finished runs of the old layout, with several seeds per run, to their current keys."""
    from m2mkd.study.migrate import migrate as move
    from m2mkd.study.study import scale_root
    from m2mkd.workflows import require_none

    require_none("runs migrate")
    for line in move(Path(scale_root(read_settings(scale, None, None).scale))):
        typer.echo(line)
