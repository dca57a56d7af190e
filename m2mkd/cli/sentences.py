"""``m2mkd sentences``: the findings of a study, in words."""

from pathlib import Path
from typing import Annotated

import typer

from m2mkd.cli.options import AblationsOption, ScaleOption, read_study

app = typer.Typer()


@app.command()
def sentences(
    pages: Annotated[list[Path] | None, typer.Argument(help="Markdown pages to update; default: print the sentences.")] = None,
    scale: ScaleOption = None,
    ablations: AblationsOption = False,
) -> None:
    """Print the verdicts of a study as sentences; or update the marked blocks of pages from the boards that they name."""
    from m2mkd.results.report.pages import fill, sentences

    for page in pages or ():
        typer.echo(f"{page}: {'updated' if fill(page) else 'unchanged'}")
    if not pages:
        study = read_study(scale, None, None, ablations=ablations)
        typer.echo(sentences(Path(study.pages) / "tables/claims.json", study.scale_name))
