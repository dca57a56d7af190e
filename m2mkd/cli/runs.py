"""``m2mkd runs``: runs and their keys."""

import json
from pathlib import Path
from typing import Annotated

import typer

from m2mkd.cli.options import AblationsOption, ExperimentOption, ScaleOption, SetOption, read_settings, read_study, study_with

app = typer.Typer(no_args_is_help=True, help="Look at runs and their keys.")


@app.command(hidden=True)
def plan(
    config: Annotated[str, typer.Option(help="The workflow's configuration as JSON.")],
    in_container: Annotated[bool, typer.Option("--in-container", help="Jobs are to run in the image; it must be there.")] = False,
    gpu: Annotated[str | None, typer.Option(help="As of m2mkd plan, like the next two; none: jobs ask for nothing.")] = None,
    mfu: float = 0.4,
    gpus: Annotated[int, typer.Option(help="GPUs of a job that trains.")] = 1,
    workers: Annotated[int, typer.Option(help="Processes that load data.", min=0, envvar="M2MKD_WORKERS")] = 0,
    longest: Annotated[float, typer.Option(help="Hours that the machine lets a job run.")] = 24,
) -> None:
    """Print the graph of runs as JSON, for the workflow, and settle the times of what is there."""
    from m2mkd.containers.image import for_workflow
    from m2mkd.files import require_writable
    from m2mkd.planning.cost import Assumptions
    from m2mkd.planning.request import Terms, requests
    from m2mkd.study.graph import as_graph, normalise_mtimes
    from m2mkd.study.plan import build_study
    from m2mkd.tracking.address import set_default_tracking_uri

    settings = read_settings(None, None, None, config)
    tracking = set_default_tracking_uri(settings.tracking_uri)
    study, whole = build_study(settings), build_study(settings, ablations=True)
    container = for_workflow(settings, study.scale.threads, enter=in_container)
    require_writable(Path(study.root))
    normalise_mtimes(whole)
    asked = requests(whole, Terms(Assumptions(gpu, mfu, gpus), workers, longest)) if gpu else None
    beside = {"container": container, "tracking": tracking, "requests": asked}
    typer.echo(json.dumps(as_graph(study, settings, whole) | beside))


@app.command("list")
def list_(
    scale: ScaleOption = None, experiment: ExperimentOption = None, overrides: SetOption = None, ablations: AblationsOption = False
) -> None:
    """List the runs of a study, and whether they are done."""
    from m2mkd.study.graph import show_runs

    show_runs(read_study(scale, experiment, overrides, ablations=ablations))


@app.command()
def show(run: str, scale: ScaleOption = None, experiment: ExperimentOption = None, overrides: SetOption = None) -> None:
    """Print the configuration of one run."""
    import yaml

    study = study_with([run], scale, experiment, overrides)
    found = study.find(run)
    typer.echo(f"# {study.folder(found.id)}\n# needed by {', '.join(sorted(found.users))}")
    typer.echo(yaml.safe_dump({"config": found.config.model_dump(mode="json"), "upstream": found.upstream_lists}, sort_keys=False))


@app.command()
def gc(
    scale: ScaleOption = None,
    experiment: ExperimentOption = None,
    overrides: SetOption = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove them; without it they are only listed.")] = False,
) -> None:
    """List or remove run folders that neither the study nor the scale's ablations need."""
    from m2mkd.study.graph import collect_garbage

    collect_garbage(read_study(scale, experiment, overrides, ablations=True), delete=delete)
