"""``m2mkd plugins``: parts that packages add through entry points."""

import json
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def plugins(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of the table.")] = False) -> None:
    """List objectives, students, layouts and metrics with their package and its version, and what is wrong with any of them."""
    from m2mkd.config.layout import LAYOUT_GROUP, layout_class
    from m2mkd.config.objective import GROUP, term_class
    from m2mkd.config.registered_families import STUDENT_GROUP, student_family_named
    from m2mkd.evaluation.metrics import METRIC_GROUP, metric_named
    from m2mkd.plugins import listed_plugins

    groups = ((GROUP, term_class), (STUDENT_GROUP, student_family_named), (LAYOUT_GROUP, layout_class), (METRIC_GROUP, metric_named))
    found = [one for group, load in groups for one in listed_plugins(group, load)]
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        _show(found)


def _show(found: list[dict[str, str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    columns = ("group", "name", "package", "version", "warning")
    table = Table(*columns)
    for one in found:
        table.add_row(*(escape(one[column]) for column in columns))
    Console().print(table)
