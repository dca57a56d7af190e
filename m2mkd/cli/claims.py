"""``m2mkd claims``: verdicts and their evidence."""

from typing import Annotated

import typer

from m2mkd.cli.options import ExperimentOption, ScaleOption, SetOption, read_study

app = typer.Typer()


@app.command()
def claims(
    claim: Annotated[str | None, typer.Argument(metavar="[ID]", help="Claim of config/claims.tsv; default: all of them.")] = None,
    scale: ScaleOption = None,
    experiment: ExperimentOption = None,
    overrides: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print verdicts and numbers as JSON.")] = False,
) -> None:
    """Judge every claim by the finished runs; with an ID, explain one verdict with its runs, digests and commands."""
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
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table(
            "claim", "verdict", "why", "what would decide it", show_lines=True, title=f"Claims by the runs of scale {study.scale_name}"
        )
        for finding in chosen:
            table.add_row(finding.claim.id, finding.verdict.word, finding.why, finding.verdict.needs)
        Console(markup=False, emoji=False).print(table)
