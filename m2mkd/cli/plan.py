"""``m2mkd plan``: the cost of a study, before anything runs."""

from typing import Annotated

import typer

from m2mkd.cli.names import complete_experiment
from m2mkd.cli.options import ScaleOption, SetOption, read_settings

app = typer.Typer()


@app.command()
def plan(
    experiment: Annotated[
        str | None,
        typer.Argument(metavar="[EXPERIMENT[/VARIANT]]", help="Experiment, or one variant of it.", autocompletion=complete_experiment),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="List every experiment of the scale, one line each.")] = False,
    scale: ScaleOption = None,
    overrides: SetOption = None,
    gpu: Annotated[str, typer.Option(help="a100, h100, h100-pcie, h200, l40s or b200.")] = "h200",
    mfu: Annotated[float, typer.Option(help="Share of the GPU's peak that a job reaches.")] = 0.4,
    gpus: Annotated[int, typer.Option(help="GPUs per job.")] = 8,
    device_batch: Annotated[int | None, typer.Option(help="Images on a GPU at a time; default: its share of the batch.")] = None,
    nac: Annotated[str, typer.Option(help="Count NACs as the published code does (released) or as this suite does (model).")] = "released",
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON: bytes, FLOPs, GPU-hours.")] = False,
) -> None:
    """Print parameters, FLOPs, GPU-hours, memory and storage of an experiment, before anything runs."""
    from m2mkd.errors import InputError
    from m2mkd.planning.cost import Assumptions
    from m2mkd.planning.show import show_plan
    from m2mkd.planning.summary import plan as plan_costs

    if (experiment is None) != all_:
        raise InputError("plan: name one experiment, or give --all for every experiment of the scale")
    if nac not in ("released", "model"):
        raise InputError(f"--nac {nac}: unknown; use released or model")
    given = Assumptions(gpu, mfu, gpus, device_batch, nac)  # type: ignore[arg-type]
    content = plan_costs(read_settings(scale, [experiment] if experiment else None, overrides), given)
    if as_json:
        import json

        typer.echo(json.dumps(content, indent=1))
    else:
        show_plan(content, runs=not all_)
