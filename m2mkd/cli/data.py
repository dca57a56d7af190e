"""``m2mkd data``: data sets."""

from pathlib import Path

import typer

app = typer.Typer(no_args_is_help=True, help="Prepare data sets.")


@app.command()
def prepare(data: str) -> None:
    """Prepare a data set at an image size, written name@size."""
    from m2mkd.config.plan import resolve_data
    from m2mkd.data.prepare import prepare

    resolved, dataset = resolve_data(data, "data prepare")
    prepare(resolved.name, dataset, resolved.image_size, Path(resolved.folder))


@app.command("list")
def list_() -> None:
    """List the data sets and their terms."""
    from rich.console import Console
    from rich.table import Table

    from m2mkd.config import load

    table = Table("name", "title", "classes", "licence")
    for name, dataset in load.datasets().items():
        table.add_row(name, dataset.title, str(dataset.classes), dataset.licence)
    Console().print(table)
