"""The tables of a study, and their files."""

from functools import partial
from pathlib import Path

from m2mkd.files import sha256, write_atomically, write_json, write_text
from m2mkd.results.judge.board import verdict_board
from m2mkd.results.read.collect import Collected, collect
from m2mkd.results.read.lookup import rows_measured_by
from m2mkd.results.read.published import PublishedNumbers
from m2mkd.results.read.runs_table import write_runs
from m2mkd.results.tables.ablations import ablations_table, student_rows
from m2mkd.results.tables.accuracies import fewshot_table, ood_table, renditions_table, results_table, teacher_table
from m2mkd.results.tables.claims_table import claims_metrics, claims_table
from m2mkd.results.tables.graphs import graphs_table
from m2mkd.results.tables.hybrids import hybrids_table
from m2mkd.results.tables.layout import Table, as_csv
from m2mkd.study.study import Study

NAMES = ("claims", "ablations", "results", "ood", "renditions", "graphs", "teacher", "hybrids", "fewshot")
FORMS = (("csv", Table.to_csv), ("md", Table.to_markdown), ("tex", Table.to_latex), ("html", Table.to_html))


def all_tables(study: Study, collected: Collected, published: PublishedNumbers) -> list[Table]:
    """The tables of a study that have a line."""
    numbers = collected.numbers
    students = student_rows(study, numbers)
    tables = [
        ablations_table(study, numbers),
        results_table(study, students, numbers, published),
        ood_table(students, numbers),
        renditions_table(students, numbers),
        graphs_table(study, students, collected.records),
        teacher_table(study, rows_measured_by(study, "evaluate_teacher", numbers), numbers, published),
        hybrids_table(study, collected.records),
        fewshot_table(study, rows_measured_by(study, "train_probe", numbers), numbers, published),
    ]
    return [table for table in tables if table.rows]


def final_metrics(study: Study, collected: Collected) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Mean of every accuracy by experiment, variant and profile; where there are several seeds, deviation and 95 % interval too."""
    numbers = collected.numbers
    metrics: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for row in study.rows:
        found = metrics.setdefault(row.experiment, {}).setdefault(row.variant, {}).setdefault(row.profile, {})
        for split in ("iid", "ood", "fewshot"):
            for metric in ("top1", "top5"):
                cells = numbers.cells(row, split, metric)
                for cell in cells:
                    name = f"{split}_{metric}" if len(cells) == 1 else f"{split}_{metric} {cell.data}"
                    over = cell.over_seeds
                    found[name] = over.mean
                    if over.std is not None and over.half_width is not None:
                        found[f"{name}_std"] = over.std
                        found |= {f"{name}_low": over.mean - over.half_width, f"{name}_high": over.mean + over.half_width}
    return metrics


def compile_tables(study: Study, *, incomplete: bool = False) -> None:
    """Write the tables of a study, the verdict board among them, and last the receipt that names the runs in them.

    Two studies with equal runs on equal machines give the same bytes: no times, no paths.

    Parameters
    ----------
    study
        The graph of runs.
    incomplete
        Take what is there. Claims that need more say so, and no receipt is written, so that the workflow compiles again when all is there.

    Raises
    ------
    InputError
        If a run is missing, damaged, or of another configuration than the study's, unless ``incomplete``.
    """
    folder = Path(study.pages) / "tables"
    collected = collect(study, partial=incomplete)
    findings = verdict_board(study, collected)
    # First of all, so that an interruption leaves no receipt of tables that are no longer there.
    for receipt in folder.glob("study-*.json"):
        receipt.unlink()
    tables = {table.name: table for table in [claims_table(findings), *all_tables(study, collected, PublishedNumbers())]}
    texts = {"curves.csv": as_csv(collected.curves)}
    for name in NAMES:
        for suffix, write in FORMS:
            if name in tables:
                texts[f"{name}.{suffix}"] = write(tables[name])
            else:  # left by another study
                (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    write_json(folder / "claims.json", claims_metrics(findings))
    write_atomically(folder / "runs.parquet", partial(write_runs, collected.runs))
    write_atomically(folder / "measurements.parquet", partial(collected.measurements.to_parquet, index=False))
    write_json(Path(study.pages) / "metrics.json", final_metrics(study, collected))
    if incomplete:
        return
    digests = {name: sha256(folder / name) for name in sorted([*texts, "claims.json", "runs.parquet", "measurements.parquet"])}
    content = {"study": study.key, "scale": study.scale_name, "runs": sorted(study.runs), "tables": digests}
    write_json(Path(study.receipt), content)
