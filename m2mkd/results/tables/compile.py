"""The tables of a study, and their files."""

import io
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import BinaryIO

from m2mkd.files import as_json, write_atomically
from m2mkd.results.judge.results import Results
from m2mkd.results.read.runs_table import write_runs
from m2mkd.results.tables.ablations import ablations_table
from m2mkd.results.tables.accuracies import fewshot_table, ood_table, renditions_table, results_table, teacher_table
from m2mkd.results.tables.claims_json import claim_records
from m2mkd.results.tables.claims_table import claims_table
from m2mkd.results.tables.detection import detection_classes_table, detection_sizes_table, detection_table
from m2mkd.results.tables.graphs import graphs_table
from m2mkd.results.tables.hybrids import hybrids_table
from m2mkd.results.tables.labelled import labelled_table
from m2mkd.results.tables.layout import Table, as_csv
from m2mkd.results.tables.mean_curves import mean_curves
from m2mkd.results.tables.metrics import means_and_gains
from m2mkd.results.tables.other_metrics import other_metrics_table
from m2mkd.study.receipt import remove_receipts, write_receipt
from m2mkd.study.record import outputs_digest

NAMES = (
    *("claims", "ablations", "results", "labelled", "ood", "renditions", "graphs", "teacher", "hybrids", "fewshot"),
    *("detection", "detection_sizes", "detection_classes", "other_metrics"),
)
FORMS = (("csv", Table.to_csv), ("md", Table.to_markdown), ("tex", Table.to_latex), ("html", Table.to_html))


def all_tables(results: Results) -> list[Table]:
    """Tables of a study that are not empty."""
    tables = [
        claims_table(results.findings),
        ablations_table(results),
        results_table(results, results.students),
        labelled_table(results, results.students),
        ood_table(results, results.students),
        renditions_table(results, results.students),
        graphs_table(results, results.students),
        teacher_table(results),
        hybrids_table(results),
        fewshot_table(results),
        detection_table(results),
        detection_sizes_table(results),
        detection_classes_table(results),
        other_metrics_table(results, results.students),
    ]
    return [table for table in tables if table.rows]


def compiled(results: Results) -> dict[str, bytes]:
    """Contents of all files that are made from a study's runs, except the report, by their names relative to its pages.

    Two studies with equal runs on equal machines, compiled by equal code, give the same bytes: no times, no paths.
    """
    tables = all_tables(results)
    texts = {f"tables/{table.name}.{suffix}": write(table) for table in tables for suffix, write in FORMS}
    texts["tables/curves.csv"] = as_csv(results.curves)
    texts["tables/mean_curves.csv"] = as_csv(mean_curves(results.curves, results.ablations, len(results.study.scale.profiles)))
    texts["tables/claims.json"] = as_json(claim_records(results.findings))
    texts["metrics.json"] = as_json(means_and_gains(results))
    frames = {"tables/runs.parquet": partial(write_runs, results.runs)}
    frames["tables/measurements.parquet"] = partial(results.measurements.to_parquet, index=False)
    return {name: text.encode() for name, text in texts.items()} | {name: _filled(write) for name, write in frames.items()}


def _filled(write: Callable[[BinaryIO], object]) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def compile_tables(results: Results) -> None:
    """Write the tables of a study, the verdict board among them, and last the receipt that names the runs in them.

    Parameters
    ----------
    results
        Results of the study. If they are partial, claims that need more say so, and no receipt is written, so that the workflow compiles
        again when all runs are finished.
    """
    study, pages = results.study, Path(results.study.pages)
    made = compiled(results)
    # First, so that an interruption leaves no receipt of removed tables.
    remove_receipts(study)
    for name in (f"tables/{name}.{suffix}" for name in NAMES for suffix, _ in FORMS):
        if name not in made:  # left by another study
            (pages / name).unlink(missing_ok=True)
    for name, content in made.items():
        write_atomically(pages / name, methodcaller("write", content))
    if not results.partial:
        runs = {run_id: outputs_digest({"outputs": record.outputs}) for run_id, record in results.by_run.items()}
        write_receipt(study, made, dict.fromkeys(study.runs) | runs, results.outdated)
