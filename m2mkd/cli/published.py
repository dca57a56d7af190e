"""``m2mkd published``: published numbers."""

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Published numbers in results/published.")


@app.callback()
def published() -> None:
    """Published numbers in results/published."""


@app.command("set")
def set_(
    paper: Annotated[str, typer.Argument(help="File of the paper in results/published, without .csv.")],
    experiment: Annotated[str, typer.Argument(help="Experiment; '' for a setting that the suite does not run.")],
    variant: Annotated[str, typer.Argument(help="Variant, or the quantity that the source measured.")],
    split: Annotated[str, typer.Argument(help="iid, ood, fewshot or train.")],
    value: Annotated[float, typer.Argument(help="The number as printed, in the unit of its cell.")],
    source: Annotated[str, typer.Option(help="Version and place in it, then the address.")],
    metric: Annotated[str, typer.Option(help="Measured quantity.")] = "top1",
    status: Annotated[str, typer.Option(help="VERIFIED (seen in the source itself) or SECONDARY (seen in a quotation).")] = "VERIFIED",
) -> None:
    """Fill one empty cell of a paper; a cell that has a value is left unchanged."""
    from m2mkd.results.read.published import fill_cell

    fill_cell(paper, (experiment, variant, split, metric), value, source, status)
