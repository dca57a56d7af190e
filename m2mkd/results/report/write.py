"""Writing the report of a study: a single self-contained page."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from m2mkd.config import load
from m2mkd.files import write_atomically, write_text
from m2mkd.results.judge.arms import members_of
from m2mkd.results.judge.results import Results
from m2mkd.results.report.board import board_table, trainings_to_look_at
from m2mkd.results.report.contrasts import Contrast, contrasts
from m2mkd.results.report.curve_figures import curve_figures
from m2mkd.results.report.detection_figures import detection_illustrations
from m2mkd.results.report.detection_pictures import detection_pictures
from m2mkd.results.report.elsewhere import about_the_paper, elsewhere, workflow_check
from m2mkd.results.report.experience import what_was_difficult, what_was_easy
from m2mkd.results.report.figures import Illustration, ablations_figure, accuracy_figures, rendition_figures
from m2mkd.results.report.forest import forest_illustrations
from m2mkd.results.report.graph_figures import diagnosis_illustrations
from m2mkd.results.report.pictures import data_pictures
from m2mkd.results.report.result_tables import detail_tables, idle_columns, result_tables
from m2mkd.results.report.sentences import answer_of
from m2mkd.results.report.svg import inline_svg, marks_json, write_png
from m2mkd.results.tables.ablations import ablations_table
from m2mkd.results.tables.claims_json import claim_records
from m2mkd.results.tables.claims_table import claim_anchor, commands_of, in_words
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
from m2mkd.results.tables.layout import Linked
from m2mkd.study.lineage import anchor_of
from m2mkd.study.receipt import REPORT, report_receipt, write_report_receipt
from m2mkd.study.record import code_in_words
from m2mkd.study.study import Study


def write_report(results: Results) -> None:
    """Write ``report.html`` and ``overview.png`` into the study's folder, and their receipt if the tables have one.

    Parameters
    ----------
    results
        Results of the study; if they are partial, the page lists what is missing.
    """
    study = results.study
    told = contrasts(claim_records(results.findings), study.scale_name)
    forest, overview = forest_illustrations(told), accuracy_figures(results)
    facts = _answer(results, told) | _methodology(results) | _results(results)
    loader = PackageLoader("m2mkd.results.report", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("report.html.j2")
    text = page.render(study=study, forest=_drawn(forest), overview=_drawn(overview), **facts)
    page_file, overview_file = (Path(study.pages, name) for name in REPORT)
    report_receipt(study).unlink(missing_ok=True)
    write_text(page_file, text)
    for figure in [*forest, *overview][:1]:
        write_atomically(overview_file, partial(write_png, figure.figure))
    if not [*forest, *overview]:  # left by another study
        overview_file.unlink(missing_ok=True)
    if not results.partial and Path(study.receipt).is_file():
        write_report_receipt(study)


def _answer(results: Results, told: Sequence[Contrast]) -> dict[str, Any]:
    """Findings, and their meaning for the paper."""
    study, commands = results.study, Commands(results.study)
    here = [finding for finding in results.findings if finding.claim.scale == study.scale_name]
    return {
        "overrides": load.as_assignments(study.overrides),
        "problems": list(dict.fromkeys(results.problems.values())),
        "absent": len(results.problems),
        "outdated": [(run_id, code_in_words(one)) for run_id, one in results.outdated.items()],
        "unknown_code": sum(one.changed is None for one in results.finished.values()),
        "answer": answer_of(told, study.scale_name),
        "about_paper": about_the_paper(results),
        "elsewhere": elsewhere(results.findings, study.scale_name),
        "quoted": quoted_table(results),
        "claims": board_table(results.findings, told),
        "apart": trainings_to_look_at(results),
        "workflow_check": workflow_check(results.findings),
        "findings": [
            (claim_anchor(finding.claim), finding, [Linked(in_words(arm), anchor_of(arm)) for arm in members_of(finding.comparisons)])
            for finding in here
        ],
        "commands_of": partial(commands_of, commands),
        "easy": what_was_easy(results),
        "difficult": what_was_difficult(results),
    }


def _methodology(results: Results) -> dict[str, Any]:
    study = results.study
    return {
        "cost": cost_table(results),
        "data": data_table(study),
        "pictures": data_pictures(study),
        "models": models_table(results),
        "training": training_table(study),
        "switches": switches_table(study),
        "environment": environment_table(results),
        "more_seeds": _more_seeds(study),
        "commands": commands_table(study, Commands(study)),
    }


def _more_seeds(study: Study) -> dict[tuple[int, ...], list[str]]:
    """Seeds that some rows have beyond the study's own, with these rows."""
    found: dict[tuple[int, ...], list[str]] = {}
    for row in study.rows:
        seeds = {seed for run_id in row.measured if (seed := study.runs[run_id].seed) is not None}
        if more := tuple(sorted(seeds.difference(study.seeds))):
            found.setdefault(more, []).append(f"{row.experiment}/{row.variant}")
    return {seeds: list(dict.fromkeys(rows)) for seeds, rows in found.items()}


def _results(results: Results) -> dict[str, Any]:
    """Numbers, drawings of them, and the runs behind them."""
    idle = idle_columns(results.study)
    return {
        "tables": result_tables(results),
        "details": detail_tables(results),
        "renditions": _drawn(rendition_figures(results)),
        "detection": _drawn(detection_illustrations(results)),
        "detections": detection_pictures(results),
        "ablations": ablations_table(results).without(*idle).filled(),
        "ablations_drawn": _drawn(ablations_figure(results)),
        "curves": _drawn(curve_figures(results)),
        "parts": _drawn(diagnosis_illustrations(results)),
        "graphs": graphs_table(results, results.students).without(*idle),
        "evidence": evidence(results, Commands(results.study)),
    }


def _drawn(illustrations: Iterable[Illustration]) -> list[tuple[Illustration, str, str]]:
    """Figures with their drawings and marks, whose positions are known only after drawing."""
    return [(one, inline_svg(one.figure, one.name, one.description), marks_json(one.figure)) for one in illustrations]
