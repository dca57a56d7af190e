"""The tables of a study, and their files."""

from functools import partial
from pathlib import Path

from m2mkd.files import sha256, write_atomically, write_json, write_text
from m2mkd.results.judge.results import Results
from m2mkd.results.read.runs_table import write_runs
from m2mkd.results.tables.ablations import ablations_table
from m2mkd.results.tables.accuracies import fewshot_table, ood_table, renditions_table, results_table, teacher_table
from m2mkd.results.tables.claims_table import claims_metrics, claims_table
from m2mkd.results.tables.graphs import graphs_table
from m2mkd.results.tables.hybrids import hybrids_table
from m2mkd.results.tables.labelled import labelled_table
from m2mkd.results.tables.layout import Table, as_csv
from m2mkd.results.tables.mean_curves import mean_curves
from m2mkd.results.tables.metrics import means_and_gains
from m2mkd.study.study import RECEIPT

NAMES = ("claims", "ablations", "results", "labelled", "ood", "renditions", "graphs", "teacher", "hybrids", "fewshot")
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
    ]
    return [table for table in tables if table.rows]


def compile_tables(results: Results) -> None:
    """Write the tables of a study, the verdict board among them, and last the receipt that names the runs in them.

    Two studies with equal runs on equal machines give the same bytes: no times, no paths.

    Parameters
    ----------
    results
        What is there. If it is partial, claims that need more say so, and no receipt is written, so that the workflow compiles again
        when all is there.
    """
    study = results.study
    folder = Path(study.pages) / "tables"
    tables = {table.name: table for table in all_tables(results)}
    # First of all, so that an interruption leaves no receipt of tables that are no longer there.
    for receipt in folder.glob(RECEIPT.format("*")):
        receipt.unlink()
    wide = mean_curves(results.curves, results.ablations, len(study.scale.profiles))
    texts = {"curves.csv": as_csv(results.curves), "mean_curves.csv": as_csv(wide)}
    for name in NAMES:
        for suffix, write in FORMS:
            if name in tables:
                texts[f"{name}.{suffix}"] = write(tables[name])
            else:  # left by another study
                (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    write_json(folder / "claims.json", claims_metrics(results.findings))
    write_atomically(folder / "runs.parquet", partial(write_runs, results.runs))
    write_atomically(folder / "measurements.parquet", partial(results.measurements.to_parquet, index=False))
    write_json(Path(study.pages) / "metrics.json", means_and_gains(results))
    if results.partial:
        return
    digests = {name: sha256(folder / name) for name in sorted([*texts, "claims.json", "runs.parquet", "measurements.parquet"])}
    content = {"study": study.key, "scale": study.scale_name, "runs": sorted(study.runs), "tables": digests}
    write_json(Path(study.receipt), content)
