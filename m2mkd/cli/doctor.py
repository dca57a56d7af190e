"""``m2mkd doctor``: checks that the suite can run here."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from m2mkd.cli.options import read_settings

app = typer.Typer()


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of the table.")] = False) -> None:
    """Check the machine, the project and the image, and print a fix for each fault. Exit code 1 if a check fails."""
    from m2mkd.doctor.examine import examine

    findings = examine(read_settings(None, None, None))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        _show(findings)
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)


def _show(findings: list) -> None:
    from rich.console import Console
    from rich.table import Table

    colours = {"pass": "green", "warn": "yellow", "fail": "red"}
    table = Table("check", "status", "found", "fix")
    for finding in findings:
        table.add_row(finding.check, f"[{colours[finding.status]}]{finding.status}[/]", _plain(finding.found), _plain(finding.fix))
    Console().print(table)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
