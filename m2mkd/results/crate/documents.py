"""Documents for readers of a crate: ``ARTIFACT.md`` for its reviewers, and a model card for each student."""

from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

from m2mkd.config import load
from m2mkd.planning.summary import gpu_hours
from m2mkd.results.crate.people import Citation
from m2mkd.results.judge.results import Results
from m2mkd.results.read.collect import Collected
from m2mkd.results.read.lookup import Cell
from m2mkd.results.read.records import Record
from m2mkd.results.tables.accuracies import PAPER_SCALE
from m2mkd.results.tables.claims_table import claims_table, commands_of
from m2mkd.results.tables.commands import Commands
from m2mkd.results.tables.display_tables import commands_table, cost_table, data_table, environment_table
from m2mkd.results.tables.layout import markdown_cell, percent
from m2mkd.study.lineage import title_of
from m2mkd.study.phase import WEIGHTS
from m2mkd.study.phases import TrainStudent
from m2mkd.study.run import Row


def artifact(results: Results, citation: Citation) -> str:
    """Text of ``ARTIFACT.md``: claims, the evidence for each badge of the ACM, and the cost of repeating the study."""
    study, commands = results.study, Commands(results.study, results.study.selected)
    judged = [finding for finding in results.findings if finding.verdict.interval]
    return _template("artifact.md.j2").render(
        study=study,
        citation=citation,
        reduced=study.scale_name != PAPER_SCALE,
        overrides=load.as_assignments(study.overrides),
        commits=sorted({_commit(record) for record in results.records}),
        hardware=sorted({str(record.provenance.get("hardware") or record.provenance.get("machine")) for record in results.records}),
        hours=sum(float(record.provenance["seconds"]) for record in results.records) / 3600,
        planned=gpu_hours(results.costs, study.runs),
        judged=[(finding, commands_of(commands, finding)) for finding in judged],
        about_paper=[finding for finding in judged if finding.claim.subject == "paper"],
        claims=claims_table(results.findings).without("claimed", "seeds", "exact p").to_markdown(),
        everything=commands.to("all"),
        claims_command=commands.of("claims"),
        cost=cost_table(results).to_markdown(),
        data=data_table(study).to_markdown(),
        environment=environment_table(results).to_markdown(),
        commands=commands_table(study, commands).to_markdown(),
    )


def _commit(record: Record) -> str:
    found = record.provenance.get("git_commit") or "none"
    return f"{found}, with uncommitted changes" if record.provenance.get("git_dirty") else str(found)


def card_name(row: Row) -> str:
    """Path of the card of a row's student in the crate."""
    return f"cards/{row.experiment}-{row.variant}-{row.profile}.md"


def model_cards(collected: Collected, citation: Citation) -> dict[str, str]:
    """Texts of the cards by path: one for each trained student, over its seeds."""
    study = collected.study
    rows = [row for row in study.rows if isinstance(study.runs[row.trained[0]].config, TrainStudent) and row.measured]
    students = {row.trained: row for row in reversed(rows)}  # a row of a transfer experiment comes after its student's own
    commands = Commands(study, study.selected)
    return {card_name(row): _card(collected, row, citation, commands) for row in reversed(students.values())}


def _card(collected: Collected, row: Row, citation: Citation, commands: Commands) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    study = collected.study
    config: Any = study.runs[row.trained[0]].config
    found = [(split, cell) for split in ("iid", "ood", "fewshot") for cell in collected.numbers.cells(row, split, "top1")]
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=cell.data.replace("@", "-"),
            dataset_name=cell.data,
            metric_type="accuracy",
            metric_name=f"top-1, {split}, mean of {cell.over_seeds.n} seeds",
            metric_value=round(cell.over_seeds.mean, 6),
        )
        for split, cell in found
    ]
    data = ModelCardData(
        model_name=str(row.name),
        license=citation.licence.lower(),
        library_name="m2mkd",
        tags=["image-classification", *citation.keywords],
        datasets=[config.data.name],
        eval_results=results or None,
        ignore_metadata_errors=False,
    )
    weights = [
        (record.run.seed, f"{study.folder(record.run.id)}/{WEIGHTS}", record.outputs[WEIGHTS])
        for record in collected.records
        if record.run.id in row.trained
    ]
    return _template("card.md.j2").render(
        front=data.to_yaml(),
        study=study,
        row=row,
        title=title_of(study, row.experiment),
        config=config,
        reduced=study.scale_name != PAPER_SCALE,
        measured=[(split, cell, _seeds(cell)) for split, cell in found],
        data=[(str(data), load.datasets()[data.name]) for data in config.data_sets],
        weights=weights,
        command=commands.to(row.experiment),
        citation=citation,
        percent=percent,
    )


def _seeds(cell: Cell) -> str:
    return ", ".join(f"{seed}: {percent(value)}" for seed, value in zip(cell.seeds, cell.per_seed, strict=True))


def _template(name: str) -> Any:
    text = resources.files("m2mkd.results.crate").joinpath(name).read_text()
    environment = Environment(autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = markdown_cell
    return environment.from_string(text)
