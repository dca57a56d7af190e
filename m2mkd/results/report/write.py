"""The report of a study: one page that needs nothing but itself."""

from collections.abc import Iterable
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from m2mkd.config import load
from m2mkd.files import write_atomically, write_text
from m2mkd.results.judge.arms import members_of
from m2mkd.results.judge.board import verdict_board
from m2mkd.results.read.collect import collect
from m2mkd.results.read.lookup import Numbers, rows_measured_by
from m2mkd.results.read.published import PublishedNumbers
from m2mkd.results.read.records import Record
from m2mkd.results.report.experience import what_was_difficult, what_was_easy
from m2mkd.results.report.figures import Illustration, accuracy_figures, curve_figures, rendition_figures
from m2mkd.results.report.graph_figures import diagnosis_illustrations
from m2mkd.results.report.pictures import data_pictures
from m2mkd.results.report.svg import inline_svg, marks_json, write_png
from m2mkd.results.tables.ablations import ablations_figure, ablations_table, student_rows
from m2mkd.results.tables.accuracies import PAPER_SCALE, fewshot_table, ood_table, renditions_table, results_table, teacher_table
from m2mkd.results.tables.claims_table import claim_anchor, claims_table, commands_of, in_words
from m2mkd.results.tables.commands import Commands
from m2mkd.results.tables.display_tables import (
    commands_table,
    cost_table,
    data_table,
    environment_table,
    evidence,
    models_table,
    quoted_table,
    switches_table,
    training_table,
)
from m2mkd.results.tables.graphs import graphs_table
from m2mkd.results.tables.hybrids import hybrids_table
from m2mkd.results.tables.layout import DisplayTable, Linked
from m2mkd.study.lineage import ablations_of, anchor_of, student_of
from m2mkd.study.run import Row
from m2mkd.study.study import Study


def write_report(study: Study, *, incomplete: bool = False) -> None:
    """Write ``report.html`` and ``overview.png`` into the study's folder.

    Parameters
    ----------
    study
        The graph of runs.
    incomplete
        Report what is there; the page says what is not.

    Raises
    ------
    InputError
        If a run is missing, damaged, or of another configuration than the study's, unless ``incomplete``.
    """
    collected, published = collect(study, partial=incomplete), PublishedNumbers()
    numbers = collected.numbers
    students = student_rows(study, numbers)
    findings, commands = verdict_board(study, collected), Commands(study)
    overview = accuracy_figures(study, students, numbers)
    curves = curve_figures(study, collected.curves[~collected.curves["experiment"].isin(list(ablations_of(study)))])
    parts = diagnosis_illustrations(study, students, collected.records)
    template = resources.files("m2mkd.results.report").joinpath("report.html.j2").read_text()
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(template)
    text = page.render(
        study=study,
        reduced=study.scale_name != PAPER_SCALE,
        overrides=load.as_assignments(study.overrides),
        script=resources.files("m2mkd.results.report").joinpath("report.js").read_text(),
        problems=list(dict.fromkeys(collected.problems.values())),
        absent=len(collected.problems),
        claims=claims_table(findings).without("what is claimed"),
        findings=[
            (claim_anchor(finding.claim), finding, [Linked(in_words(arm), anchor_of(arm)) for arm in members_of(finding.comparisons)])
            for finding in findings
        ],
        commands_of=partial(commands_of, commands),
        tables=result_tables(study, numbers, published, collected.records),
        overview=_drawn(overview),
        renditions=_drawn(rendition_figures(study, students, numbers)),
        ablations=ablations_table(study, numbers).without(*idle_columns(study)).filled(),
        ablations_drawn=_drawn(ablations_figure(study, numbers)),
        curves=_drawn(curves),
        parts=_drawn(parts),
        graphs=graphs_table(study, students, collected.records).without(*idle_columns(study)),
        evidence=evidence(study, collected, numbers, commands),
        quoted=quoted_table(study.rows, published),
        cost=cost_table(study, collected),
        data=data_table(study),
        pictures=data_pictures(study),
        models=models_table(study),
        training=training_table(study),
        switches=switches_table(study),
        environment=environment_table(collected),
        commands=commands_table(study, commands),
        easy=what_was_easy(study, collected),
        difficult=what_was_difficult(study, collected, published, findings),
    )
    write_text(Path(study.pages) / "report.html", text)
    for figure in overview[:1]:
        write_atomically(Path(study.pages) / "overview.png", partial(write_png, figure.figure))


def _drawn(illustrations: Iterable[Illustration]) -> list[tuple[Illustration, str, str]]:
    """Figures with their drawings, and what stands where in them, which is known only once they are drawn."""
    return [(one, inline_svg(one.figure, one.name, one.description), marks_json(one.figure)) for one in illustrations]


def result_tables(study: Study, numbers: Numbers, published: PublishedNumbers, records: Iterable[Record]) -> list[tuple[str, DisplayTable]]:
    """Tables of results, each below its heading; those without a line are left out."""
    families: dict[str, list[Row]] = {"vmoe": [], "nac": [], "transfer": []}
    rows = student_rows(study, numbers)
    for row in rows:
        config: Any = study.runs[row.measured[0]].config
        own = student_of(study, row.experiment, row.variant) == (row.experiment, row.variant)
        families[config.student.family if own else "transfer"].append(row)
    # A row of a transfer experiment that repeats a student's says nothing new on its single sets.
    once = list({row.measured: row for row in reversed(rows)}.values())[::-1]
    tables = [
        ("Teachers", teacher_table(study, rows_measured_by(study, "evaluate_teacher", numbers), numbers, published)),
        ("Teacher's modules in the meta model", hybrids_table(study, records)),
        ("V-MoE", results_table(study, families["vmoe"], numbers, published, "vmoe")),
        ("Neural Attentive Circuits, by graph prior", results_table(study, families["nac"], numbers, published, "nac")),
        ("Comparisons across experiments", results_table(study, families["transfer"], numbers, published, "transfer")),
        ("Out of distribution, with the class mask", ood_table(once, numbers)),
        ("Out of distribution, by rendition", renditions_table(once, numbers)),
        ("Few-shot adaptation", fewshot_table(study, rows_measured_by(study, "train_probe", numbers), numbers, published)),
    ]
    return [(title, table.without(*idle_columns(study)).filled()) for title, table in tables if table.rows]


def idle_columns(study: Study) -> tuple[str, ...]:
    """Columns that are the same in every line."""
    return ("profile",) if len(study.scale.profiles) == 1 else ()
