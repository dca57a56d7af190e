"""The tables of a study, and their files."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pandas as pd

from m2mkd.config.phases import TrainProbe
from m2mkd.config.study import Row, Study
from m2mkd.files import sha256, write_atomically, write_json, write_text
from m2mkd.results.collect import Collected, collect
from m2mkd.results.layout import Table, as_csv, percent, percent_over_seeds
from m2mkd.results.lineage import place_of
from m2mkd.results.lookup import Cell, Numbers, rows_measured_by
from m2mkd.results.published import PublishedNumbers

NAMES = ("results", "ood", "renditions", "teacher", "fewshot")


def results_table(rows: Iterable[Row], numbers: Numbers, published: PublishedNumbers, name: str = "results") -> Table:
    """Accuracy of students: a line for each row, or for each of its out-of-distribution sets where there are several."""
    exact, shown = [], []
    for row in rows:
        (iid,) = numbers.cells(row, "iid", "top1")
        outside: list[Cell | None] = list(numbers.cells(row, "ood", "top1"))
        for ood in outside or [None]:
            paper = {split: published.find(row.experiment, row.variant, split) for split in ("iid", "ood")}
            if ood is None:
                paper["ood"] = None
            line = {**place_of(row)._asdict(), "n": iid.over_seeds.n, "iid_data": iid.data, **_exact("iid_top1", iid)}
            line |= {"ood_data": ood.data if ood else None, **_exact("ood_top1", ood)}
            for split, cell in paper.items():
                line |= {
                    f"published_{split}": cell and cell.value,
                    f"published_{split}_paper": cell and cell.paper,
                    f"published_{split}_unit": cell and cell.unit,
                    f"published_{split}_status": cell and cell.status,
                }
            exact.append(line)
            accuracies = (iid.data, _shown(iid), ood.data if ood else "", _shown(ood))
            shown.append((*place_of(row), str(iid.over_seeds.n), *accuracies, *(str(cell or "") for cell in paper.values())))
    header = (
        *("experiment", "variant", "profile", "seeds", "IID set", "IID top-1 %"),
        *("OOD set", "OOD top-1 %", "published IID", "published OOD"),
    )
    caption = (
        "Top-1 accuracy in percent, mean ± sample standard deviation over seeds. "
        "Published numbers are of the published scale and data, whatever was run here."
    )
    return Table(name, caption, header, tuple(shown), pd.DataFrame(exact))


def ood_table(rows: Iterable[Row], numbers: Numbers) -> Table:
    """What the class mask kept and left out."""
    exact, shown = [], []
    for row in rows:
        top1, top5 = numbers.cells(row, "ood", "top1"), numbers.cells(row, "ood", "top5")
        classes, left_out = numbers.cells(row, "ood", "classes"), numbers.cells(row, "ood", "left_out")
        for one, five, common, out in zip(top1, top5, classes, left_out, strict=True):
            facts = {"classes": int(common.over_seeds.mean), "images": one.count, "images_left_out": int(out.over_seeds.mean)}
            found = {"data": one.data, **facts, "n": one.over_seeds.n}
            exact.append(place_of(row)._asdict() | found | _exact("top1", one) | _exact("top5", five))
            counts = (str(fact) for fact in facts.values())
            shown.append((*place_of(row), one.data, *counts, str(one.over_seeds.n), _shown(one), _shown(five)))
    header = ("experiment", "variant", "profile", "OOD set", "classes", "images", "left out", "seeds", "top-1 %", "top-5 %")
    caption = (
        "Out-of-distribution accuracy in percent over the classes that the model and the set share: "
        "logits are cut to these classes, and images of any other class are left out."
    )
    return Table("ood", caption, header, tuple(shown), pd.DataFrame(exact))


def renditions_table(rows: Iterable[Row], numbers: Numbers) -> Table:
    """Accuracy on each rendition of the out-of-distribution sets that tell them apart; exact a line each, shown a column each."""
    exact: list[dict[str, object]] = []
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        for rendition in numbers.renditions(row):
            for cell in numbers.cells(row, "ood", "top1", rendition):
                facts = {"data": cell.data, "rendition": rendition, "n": cell.over_seeds.n}
                exact.append(place_of(row)._asdict() | facts | _exact("top1", cell))
                found.setdefault((*place_of(row), cell.data, str(cell.over_seeds.n)), {})[rendition] = _shown(cell)
    renditions = sorted({rendition for cells in found.values() for rendition in cells})
    shown = tuple((*names, *(cells.get(rendition, "") for rendition in renditions)) for names, cells in found.items())
    header = ("experiment", "variant", "profile", "OOD set", "seeds", *renditions)
    return Table("renditions", "Out-of-distribution top-1 accuracy in percent by rendition.", header, shown, pd.DataFrame(exact))


def teacher_table(rows: Iterable[Row], numbers: Numbers, published: PublishedNumbers) -> Table:
    """Accuracy of the teachers, of which there is one each."""
    exact, shown = [], []
    for row in rows:
        (one,), (five,) = numbers.cells(row, "iid", "top1"), numbers.cells(row, "iid", "top5")
        paper = published.find(row.experiment, row.variant, "iid")
        values = {"top1": one.over_seeds.mean, "top5": five.over_seeds.mean}
        found = {"published": paper and paper.value, "published_paper": paper and paper.paper, "published_status": paper and paper.status}
        exact.append({"experiment": row.experiment, "profile": row.profile, "data": one.data, "images": one.count, **values, **found})
        accuracies = (percent(value) for value in values.values())
        shown.append((row.experiment, row.profile, one.data, str(one.count), *accuracies, str(paper or "")))
    header = ("experiment", "profile", "set", "images", "top-1 %", "top-5 %", "published")
    caption = "Accuracy of the teacher in percent. There is one teacher, which all seeds share, and so no deviation."
    return Table("teacher", caption, header, tuple(shown), pd.DataFrame(exact))


def fewshot_table(study: Study, rows: Iterable[Row], numbers: Numbers, published: PublishedNumbers) -> Table:
    """Accuracy of few-shot linear probes."""
    exact, shown = [], []
    for row in rows:
        config = study.runs[row.measured[0]].config
        assert isinstance(config, TrainProbe)
        (cell,) = numbers.cells(row, "fewshot", "top1")
        paper = published.find(row.experiment, row.variant, "fewshot")
        facts = {"data": cell.data, "way": config.way, "shots": config.shots, "n": cell.over_seeds.n}
        found = {"published": paper and paper.value, "published_paper": paper and paper.paper, "published_status": paper and paper.status}
        exact.append(place_of(row)._asdict() | facts | _exact("top1", cell) | found)
        shown.append((*place_of(row), *(str(fact) for fact in facts.values()), _shown(cell), str(paper or "")))
    header = ("experiment", "variant", "profile", "set", "way", "shots", "seeds", "top-1 %", "published")
    caption = (
        "Few-shot top-1 accuracy in percent of a new head on the frozen student, mean ± sample standard deviation over seeds; "
        "each seed is an episode."
    )
    return Table("fewshot", caption, header, tuple(shown), pd.DataFrame(exact))


def _exact(name: str, cell: Cell | None) -> dict[str, float | None]:
    return {f"{name}_mean": cell.over_seeds.mean if cell else None, f"{name}_std": cell.over_seeds.std if cell else None}


def _shown(cell: Cell | None) -> str:
    return percent_over_seeds(cell.over_seeds if cell else None)


def all_tables(study: Study, collected: Collected, published: PublishedNumbers) -> list[Table]:
    """The tables of a study that have a line."""
    numbers = Numbers(collected.measurements)
    students = rows_measured_by(study, "evaluate")
    tables = [
        results_table(students, numbers, published),
        ood_table(students, numbers),
        renditions_table(students, numbers),
        teacher_table(rows_measured_by(study, "evaluate_teacher"), numbers, published),
        fewshot_table(study, rows_measured_by(study, "train_probe"), numbers, published),
    ]
    return [table for table in tables if table.rows]


def final_metrics(study: Study, collected: Collected) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Mean (and deviation, where there are several seeds) of every accuracy by experiment, variant and profile."""
    numbers = Numbers(collected.measurements)
    metrics: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for row in study.rows:
        found = metrics.setdefault(row.experiment, {}).setdefault(row.variant, {}).setdefault(row.profile, {})
        for split in ("iid", "ood", "fewshot"):
            for metric in ("top1", "top5"):
                cells = numbers.cells(row, split, metric)
                for cell in cells:
                    name = f"{split}_{metric}" if len(cells) == 1 else f"{split}_{metric} {cell.data}"
                    found[name] = cell.over_seeds.mean
                    if cell.over_seeds.std is not None:
                        found[f"{name}_std"] = cell.over_seeds.std
    return metrics


def compile_tables(study: Study) -> None:
    """Write the tables of a study, and last the receipt that names the runs in them.

    Two studies with equal runs give the same bytes: no times, no paths.

    Raises
    ------
    InputError
        If a run is missing, damaged, or of another configuration than the study's.
    """
    folder = Path(study.root) / "tables"
    collected = collect(study)
    # First of all, so that an interruption leaves no receipt of tables that are no longer there.
    for receipt in folder.glob("study-*.json"):
        receipt.unlink()
    tables = {table.name: table for table in all_tables(study, collected, PublishedNumbers())}
    texts = {"curves.csv": as_csv(collected.curves)}
    for name in NAMES:
        for suffix, write in (("csv", Table.to_csv), ("md", Table.to_markdown), ("tex", Table.to_latex)):
            if name in tables:
                texts[f"{name}.{suffix}"] = write(tables[name])
            else:  # left by another study
                (folder / f"{name}.{suffix}").unlink(missing_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    frames = {"runs.parquet": collected.runs.drop(columns="seconds"), "measurements.parquet": collected.measurements}
    for name, frame in frames.items():
        write_atomically(folder / name, partial(frame.to_parquet, index=False))
    write_json(Path(study.root) / "metrics.json", final_metrics(study, collected))
    digests = {name: sha256(folder / name) for name in sorted([*texts, *frames])}
    content = {"study": study.key, "scale": study.scale_name, "runs": sorted(study.runs), "tables": digests}
    write_json(folder / f"study-{study.key}.json", content)
