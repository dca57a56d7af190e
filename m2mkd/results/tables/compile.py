"""The tables of a study, and their files."""

import io
from collections.abc import Callable
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import BinaryIO

from m2mkd.files import as_json, write_atomically
from m2mkd.results.judge.results import Results
from m2mkd.results.read.collect import Collected
from m2mkd.results.read.runs_table import write_runs
from m2mkd.results.tables.ablations import ablations_table
from m2mkd.results.tables.accuracies import fewshot_table, ood_table, renditions_table, results_table, teacher_table
from m2mkd.results.tables.claims_json import claim_records
from m2mkd.results.tables.claims_table import claims_table
from m2mkd.results.tables.detection import AP_METRICS, detection_classes_table, detection_sizes_table, detection_table
from m2mkd.results.tables.graphs import graphs_table
from m2mkd.results.tables.hybrids import hybrids_table
from m2mkd.results.tables.labelled import labelled_table
from m2mkd.results.tables.layout import Table, as_csv
from m2mkd.study.receipt import remove_receipts, write_receipt
from m2mkd.study.record import outputs_digest

NAMES = (
    *("claims", "ablations", "results", "labelled", "ood", "renditions", "graphs", "teacher", "hybrids", "fewshot"),
    *("detection", "detection_sizes", "detection_classes"),
)
MEASURED_ON = {**dict.fromkeys(("iid", "ood", "fewshot"), ("top1", "top5")), "detection": AP_METRICS}
"""What is measured on each kind of set."""
FORMS = (("csv", Table.to_csv), ("md", Table.to_markdown), ("tex", Table.to_latex), ("html", Table.to_html))


def all_tables(results: Results) -> list[Table]:
    """The tables of a study that have a line."""
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
    ]
    return [table for table in tables if table.rows]


def final_metrics(collected: Collected) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Mean of every accuracy by experiment, variant and profile; where there are several seeds, deviation and 95 % interval too."""
    metrics: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for row in collected.study.rows:
        found = metrics.setdefault(row.experiment, {}).setdefault(row.variant, {}).setdefault(row.profile, {})
        for split, measured in MEASURED_ON.items():
            for metric in measured:
                cells = collected.numbers.cells(row, split, metric)
                for cell in cells:
                    name = f"{split}_{metric}" if len(cells) == 1 else f"{split}_{metric} {cell.data}"
                    over = cell.over_seeds
                    found[name] = over.mean
                    if over.std is not None and over.half_width is not None:
                        found[f"{name}_std"] = over.std
                        found |= {f"{name}_low": over.mean - over.half_width, f"{name}_high": over.mean + over.half_width}
    return metrics


def compiled(results: Results) -> dict[str, bytes]:
    """Contents of all files that are made of a study's runs beside the report, by their names relative to its pages.

    Two studies with equal runs on equal machines, looked at by equal code, give the same bytes: no times, no paths.
    """
    tables = all_tables(results)
    texts = {f"tables/{table.name}.{suffix}": write(table) for table in tables for suffix, write in FORMS}
    texts["tables/curves.csv"] = as_csv(results.curves)
    texts["tables/claims.json"] = as_json(claim_records(results.findings))
    texts["metrics.json"] = as_json(final_metrics(results))
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
        What is there. If it is partial, claims that need more say so, and no receipt is written, so that the workflow compiles again
        when all is there.
    """
    study, pages = results.study, Path(results.study.pages)
    made = compiled(results)
    # First of all, so that an interruption leaves no receipt of tables that are no longer there.
    remove_receipts(study)
    for name in (f"tables/{name}.{suffix}" for name in NAMES for suffix, _ in FORMS):
        if name not in made:  # left by another study
            (pages / name).unlink(missing_ok=True)
    for name, content in made.items():
        write_atomically(pages / name, methodcaller("write", content))
    if not results.partial:
        runs = {run_id: outputs_digest({"outputs": record.outputs}) for run_id, record in results.by_run.items()}
        write_receipt(study, made, dict.fromkeys(study.runs) | runs, results.outdated)
