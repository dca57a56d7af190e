"""``m2mkd claims``: verdicts and their evidence."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2mkd.cli.options import ExperimentOption, ScaleOption, SetOption, read_study

if TYPE_CHECKING:
    from m2mkd.results.judge.board import Finding

app = typer.Typer()


@app.command()
def claims(
    claim: Annotated[str | None, typer.Argument(metavar="[ID]", help="Claim of config/claims.tsv; default: all of them.")] = None,
    scale: ScaleOption = None,
    experiment: ExperimentOption = None,
    overrides: SetOption = None,
    full: Annotated[bool, typer.Option("--full", help="Print why, and what would decide the open ones, of claims of all scales.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print verdicts and numbers as JSON.")] = False,
) -> None:
    """Judge every claim of a scale by the finished runs; with an ID, explain one verdict with its runs, digests and commands."""
    from m2mkd.config.claims import load_claims
    from m2mkd.errors import InputError
    from m2mkd.results.judge.results import Results
    from m2mkd.results.tables.claims_json import claim_records
    from m2mkd.results.tables.claims_table import explanation

    # Looked up first, so that a typo is reported before all runs are read.
    known = load_claims()
    if claim is not None and claim not in {found.id for found in known}:
        raise InputError(f"{claim}: not a claim in config/claims.tsv; it has {', '.join(found.id for found in known)}")
    study = read_study(scale, experiment, overrides, ablations=True)
    # All claims even if one was asked for, because they are judged together.
    chosen = [finding for finding in Results.read(study, partial=True).findings if claim in (None, finding.claim.id)]
    if as_json:
        import json

        typer.echo(json.dumps(claim_records(chosen), indent=1))
    elif claim is not None:
        typer.echo(explanation(study, chosen[0]))
    elif full:
        _show_all(chosen, study.scale_name)
    else:
        _show_summary(claim_records(chosen), study.scale_name)


def _show_summary(records: dict[str, dict[str, Any]], scale: str) -> None:
    """Print the verdicts of a scale, the number of each first."""
    from collections import Counter

    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from m2mkd.results.report.contrasts import contrasts
    from m2mkd.study.labels import family_label

    own = contrasts(records, scale)
    words = ", ".join(f"{count} {word}" for word, count in Counter(one.word for one in own).most_common())
    typer.echo(f"Scale {scale}: {len(own)} claims{f': {words}' if own else ''}; {len(records) - len(own)} claims of other scales")
    table = Table("claim", "what", "95 % at once", "verdict", box=SIMPLE, padding=(0, 1, 0, 0))
    for one in own:
        table.add_row(one.id, f"{family_label(one.family)}: {one.label if one.arms else one.claim}", one.numbers, one.word)
    if own:
        Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False, highlight=False).print(table)
    typer.echo("'m2mkd claims ID' explains a verdict; --full adds why, and what would decide the open ones.")


def _show_all(chosen: "list[Finding]", scale: str) -> None:
    """Print the whole board."""
    from rich.console import Console
    from rich.table import Table

    table = Table("claim", "verdict", "why", "what would decide it", show_lines=True, title=f"Claims by the runs of scale {scale}")
    for finding in chosen:
        table.add_row(finding.claim.id, finding.verdict.word, finding.why, finding.verdict.needs)
    Console(markup=False, emoji=False).print(table)
