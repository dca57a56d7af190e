"""Writing the report of a study: one page that needs nothing but itself."""

from collections.abc import Iterable
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from m2mkd.config import load
from m2mkd.files import write_atomically, write_text
from m2mkd.results.judge.arms import members_of
from m2mkd.results.judge.results import Results
from m2mkd.results.read.collect import once_each
from m2mkd.results.report.detection_figures import detection_illustrations
from m2mkd.results.report.detection_pictures import detection_pictures
from m2mkd.results.report.experience import what_was_difficult, what_was_easy
from m2mkd.results.report.figures import Illustration, ablations_figure, accuracy_figures, curve_figures, rendition_figures
from m2mkd.results.report.graph_figures import diagnosis_illustrations
from m2mkd.results.report.pictures import data_pictures
from m2mkd.results.report.svg import inline_svg, marks_json, write_png
from m2mkd.results.tables.ablations import ablations_table
from m2mkd.results.tables.accuracies import PAPER_SCALE, fewshot_table, ood_table, renditions_table, results_table, teacher_table
from m2mkd.results.tables.claims_table import claim_anchor, claims_table, commands_of, in_words
from m2mkd.results.tables.commands import Commands
from m2mkd.results.tables.detection import detection_classes_table, detection_sizes_table, detection_table
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
from m2mkd.study.lineage import anchor_of, student_of
from m2mkd.study.receipt import REPORT, report_receipt, write_report_receipt
from m2mkd.study.record import code_in_words
from m2mkd.study.run import Row
from m2mkd.study.study import Study


def write_report(results: Results) -> None:
    """Write ``report.html`` and ``overview.png`` into the study's folder, and their receipt where there is one of the tables.

    Parameters
    ----------
    results
        What is there; where that is only a part, the page says what is not.
    """
    study, commands = results.study, Commands(results.study)
    overview, idle = accuracy_figures(results), idle_columns(study)
    template = resources.files("m2mkd.results.report").joinpath("report.html.j2").read_text()
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(template)
    text = page.render(
        study=study,
        reduced=study.scale_name != PAPER_SCALE,
        overrides=load.as_assignments(study.overrides),
        script=resources.files("m2mkd.results.report").joinpath("report.js").read_text(),
        problems=list(dict.fromkeys(results.problems.values())),
        absent=len(results.problems),
        outdated=[(run_id, code_in_words(one)) for run_id, one in results.outdated.items()],
        unknown_code=sum(one.changed is None for one in results.finished.values()),
        claims=claims_table(results.findings).without("what is claimed"),
        findings=[
            (claim_anchor(finding.claim), finding, [Linked(in_words(arm), anchor_of(arm)) for arm in members_of(finding.comparisons)])
            for finding in results.findings
        ],
        commands_of=partial(commands_of, commands),
        tables=result_tables(results),
        overview=_drawn(overview),
        renditions=_drawn(rendition_figures(results)),
        detection=_drawn(detection_illustrations(results)),
        detections=detection_pictures(results),
        ablations=ablations_table(results).without(*idle).filled(),
        ablations_drawn=_drawn(ablations_figure(results)),
        curves=_drawn(curve_figures(results)),
        parts=_drawn(diagnosis_illustrations(results)),
        graphs=graphs_table(results, results.students).without(*idle),
        evidence=evidence(results, commands),
        quoted=quoted_table(results),
        cost=cost_table(results),
        data=data_table(study),
        pictures=data_pictures(study),
        models=models_table(results),
        training=training_table(study),
        switches=switches_table(study),
        environment=environment_table(results),
        commands=commands_table(study, commands),
        easy=what_was_easy(results),
        difficult=what_was_difficult(results),
    )
    page_file, overview_file = (Path(study.pages, name) for name in REPORT)
    report_receipt(study).unlink(missing_ok=True)
    write_text(page_file, text)
    for figure in overview[:1]:
        write_atomically(overview_file, partial(write_png, figure.figure))
    if not overview:  # left by another study
        overview_file.unlink(missing_ok=True)
    if not results.partial and Path(study.receipt).is_file():
        write_report_receipt(study)


def _drawn(illustrations: Iterable[Illustration]) -> list[tuple[Illustration, str, str]]:
    """Figures with their drawings, and what stands where in them, which is known only once they are drawn."""
    return [(one, inline_svg(one.figure, one.name, one.description), marks_json(one.figure)) for one in illustrations]


def result_tables(results: Results) -> list[tuple[str, DisplayTable]]:
    """Tables of results, each below its heading; those without a line are left out."""
    study, families = results.study, dict[str, list[Row]](vmoe=[], nac=[], transfer=[])
    for row in results.students:
        config: Any = study.runs[row.measured[0]].config
        own = student_of(study, row.experiment, row.variant) == (row.experiment, row.variant)
        families[config.student.family if own else "transfer"].append(row)
    # A row of a transfer experiment that repeats a student's says nothing new on its single sets.
    once = once_each(results.students)
    tables = [
        ("Teachers", teacher_table(results)),
        ("Teacher's modules in the meta model", hybrids_table(results)),
        ("V-MoE", results_table(results, families["vmoe"], "vmoe")),
        ("Neural Attentive Circuits, by graph prior", results_table(results, families["nac"], "nac")),
        ("Comparisons across experiments", results_table(results, families["transfer"], "transfer")),
        ("Out of distribution, with the class mask", ood_table(results, once)),
        ("Out of distribution, by rendition", renditions_table(results, once)),
        ("Few-shot adaptation", fewshot_table(results)),
        ("Detection and instance segmentation", detection_table(results)),
        ("Detection by size of the instances", detection_sizes_table(results)),
        ("Detection by class", detection_classes_table(results)),
    ]
    return [(title, table.without(*idle_columns(study)).filled()) for title, table in tables if table.rows]


def idle_columns(study: Study) -> tuple[str, ...]:
    """Columns that are the same in every line."""
    return ("profile",) if len(study.scale.profiles) == 1 else ()
