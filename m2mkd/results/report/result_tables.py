"""Tables of results in the report of a study."""

from collections.abc import Iterable
from typing import Any

from m2mkd.config.registered_families import student_families, student_family_named
from m2mkd.results.judge.results import Results
from m2mkd.results.read.collect import once_each
from m2mkd.results.tables.accuracies import PAPER_SCALE, fewshot_table, ood_table, renditions_table, results_table, teacher_table
from m2mkd.results.tables.detection import detection_classes_table, detection_sizes_table, detection_table
from m2mkd.results.tables.hybrids import hybrids_table
from m2mkd.results.tables.labelled import labelled_table
from m2mkd.results.tables.layout import DisplayTable
from m2mkd.results.tables.other_metrics import other_metrics_table
from m2mkd.study.lineage import student_of
from m2mkd.study.run import Row
from m2mkd.study.study import Study

PRINTED = ("published", "difference", "published IID", "difference IID", "published OOD", "difference OOD")
"""Columns with published numbers."""
TRANSFER = "transfer"
"""Group of students that are measured again for another experiment."""


def result_tables(results: Results) -> list[tuple[str, DisplayTable]]:
    """Tables of results with their headings; empty tables are left out."""
    study, families = results.study, {name: list[Row]() for name in (*student_families(), TRANSFER)}
    once = once_each(results.students)
    for row in once:
        config: Any = study.runs[row.measured[0]].config
        own = student_of(study, row.experiment, row.variant) == (row.experiment, row.variant)
        families[config.student.family if own else TRANSFER].append(row)
    tables = [
        ("Teachers", teacher_table(results)),
        *((_heading(name), results_table(results, rows, name)) for name, rows in families.items() if rows),
        ("Few-shot adaptation", fewshot_table(results)),
        ("Detection and instance segmentation", detection_table(results)),
        ("Labelled images that each arm has seen", labelled_table(results, once)),
    ]
    return _shown(study, tables)


def detail_tables(results: Results) -> list[tuple[str, DisplayTable]]:
    """Tables with details of the same numbers."""
    once = once_each(results.students)
    tables = [
        ("Teacher's modules in the meta model", hybrids_table(results)),
        ("Out of distribution, with the class mask", ood_table(results, once).without("top-1 %")),
        ("Out of distribution, by rendition", renditions_table(results, once)),
        ("Detection by size of the instances", detection_sizes_table(results)),
        ("Detection by class", detection_classes_table(results)),
        ("Metrics of other packages", other_metrics_table(results, once)),
    ]
    return _shown(results.study, tables)


def _heading(name: str) -> str:
    """Heading of the results of a family."""
    if name == TRANSFER:
        return "Comparisons across experiments"
    family = student_family_named(name)
    return family.HEADING or family.LABEL


def _shown(study: Study, tables: Iterable[tuple[str, DisplayTable]]) -> list[tuple[str, DisplayTable]]:
    # Published numbers are of another scale and of other data.
    left_out = idle_columns(study) + (() if study.scale_name == PAPER_SCALE else PRINTED)
    return [(title, table.without(*left_out).filled()) for title, table in tables if table.rows]


def idle_columns(study: Study) -> tuple[str, ...]:
    """Columns that are the same in every line."""
    return ("profile",) if len(study.scale.profiles) == 1 else ()
