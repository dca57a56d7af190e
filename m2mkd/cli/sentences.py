"""``m2mkd sentences``: what a study found, in words."""

from pathlib import Path
from typing import Annotated

import typer

from m2mkd.cli.options import AblationsOption, ScaleOption, read_study

app = typer.Typer()


@app.command()
def sentences(
    pages: Annotated[list[Path] | None, typer.Argument(help="Pages in Markdown whose blocks are made anew; default: print.")] = None,
    scale: ScaleOption = None,
    ablations: AblationsOption = False,
) -> None:
    """Say what the verdicts of a study mean; or fill the blocks of pages that speak of results, by the boards that they name."""
    from m2mkd.results.report.pages import fill, sentences

    for page in pages or ():
        typer.echo(f"{page}: {'made anew' if fill(page) else 'as it was'}")
    if not pages:
        study = read_study(scale, None, None, ablations=ablations)
        typer.echo(sentences(Path(study.pages) / "tables/claims.json", study.scale_name))
