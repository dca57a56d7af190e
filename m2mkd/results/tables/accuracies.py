"""Tables of accuracies: mean and 95 % interval over seeds, next to the published numbers."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from m2mkd.results.read.collect import Collected
from m2mkd.results.read.lookup import ROW, SUMMARY, row_names
from m2mkd.results.tables.layout import Column, Linked, Table, accuracy, column, percent, signed, table_of
from m2mkd.study.labelled import unlike_first
from m2mkd.study.lineage import anchor_of
from m2mkd.study.phases import TrainProbe
from m2mkd.study.run import Row

OVER_SEEDS = "mean ± half of the 95 % interval by Student's t over seeds"
PAPER_SCALE = "paper"
"""The only scale whose numbers can be compared with the papers'."""
ROW_SHOWN = {name: column(name) for name in ROW}
PUBLISHED = ("published", "published_paper", "published_status", "difference")
PUBLISHED_SHOWN = {"published": column("quoted"), "difference": signed("difference")}


def results_table(collected: Collected, rows: Sequence[Row], name: str = "results") -> Table:
    """Accuracy of students: a line for each row, or for each of its out-of-distribution sets if it has several."""
    lines = row_names(rows).merge(_of_split(collected, "iid"), on=ROW).merge(_of_split(collected, "ood").drop(columns="n"), "left", on=ROW)
    lines.insert(0, "row", [f"{line.experiment}/{line.variant} ({line.profile})" for line in lines.itertuples()])
    unlike = {tuple(row.name): unlike for row, unlike in zip(rows, unlike_first(collected.study, rows), strict=True)}
    lines["labelled_images"] = ["unequal" if unlike[name] else "equal" for name in lines[ROW].itertuples(index=False, name=None)]
    at_chance = {tuple(row.name): collected.at_chance(row) for row in rows}
    lines["at_chance"] = [at_chance[name] for name in lines[ROW].itertuples(index=False, name=None)]
    for split in ("iid", "ood"):
        lines = _beside_published(collected, lines, split, f"{split}_top1_mean", f"_{split}")
    exact = ["row", *ROW, "n"]
    for split in ("iid", "ood"):
        exact += [f"{split}_data", *_columns(f"{split}_top1")]
    exact += ["at_chance", "labelled_images"]
    for split in ("iid", "ood"):
        exact += [f"published_{split}", *(f"published_{split}_{fact}" for fact in ("paper", "unit", "status")), f"difference_{split}"]
    shown = ROW_SHOWN | {
        "seeds": column("n"),
        "IID set": column("iid_data"),
        "IID top-1 %": accuracy("iid_top1"),
        "OOD set": column("ood_data"),
        "OOD top-1 %": accuracy("ood_top1"),
        "stays at chance": column("at_chance"),
        "labelled images": mark_unequal,
        "published IID": column("quoted_iid"),
        "difference IID": signed("difference_iid"),
        "published OOD": column("quoted_ood"),
        "difference OOD": signed("difference_ood"),
    }
    caption = (
        f"Top-1 accuracy in percent, {OVER_SEEDS}. Published numbers are of the published scale and data; "
        f"a difference, ours minus theirs in points, is shown only at scale {PAPER_SCALE}. "
        "Labelled images are marked where they are not those that the experiment's first arm has seen."
    )
    return table_of(name, caption, lines, exact, shown)


def mark_unequal(line: Any) -> str:
    """A mark on a line whose arm has seen other labelled images than what it is compared with."""
    return "unequal" if line.labelled_images == "unequal" else ""


def ood_table(collected: Collected, rows: Sequence[Row]) -> Table:
    """Classes and images that the class mask kept and left out."""
    numbers, found = collected.numbers, row_names(rows)
    found = found.merge(numbers.of("ood", "top1"), on=ROW)
    for metric in ("top5", "classes", "left_out"):
        found = found.merge(numbers.of("ood", metric).drop(columns=["count", "n"]), on=[*ROW, "data"])
    facts = {"classes": found["classes_mean"].astype("int64"), "images_left_out": found["left_out_mean"].astype("int64")}
    lines = found.assign(**facts).rename(columns={"count": "images"})
    exact = [*ROW, "data", "classes", "images", "images_left_out", "n", *_columns("top1"), *_columns("top5")]
    shown = ROW_SHOWN | {"OOD set": column("data"), "classes": column("classes"), "images": column("images")}
    shown |= {"left out": column("images_left_out"), "seeds": column("n"), "top-1 %": accuracy("top1"), "top-5 %": accuracy("top5")}
    caption = (
        "Out-of-distribution accuracy in percent over the classes that the model and the set share: "
        f"logits are cut to these classes, and images of any other class are left out; {OVER_SEEDS}."
    )
    return table_of("ood", caption, lines, exact, shown)


def renditions_table(collected: Collected, rows: Sequence[Row]) -> Table:
    """Accuracy on each rendition of the out-of-distribution sets that list them; a line each in the exact table, a column each as shown."""
    lines = row_names(rows).merge(collected.numbers.of("ood", "top1", renditions=True).sort_values("rendition", kind="stable"), on=ROW)
    caption = f"Out-of-distribution top-1 accuracy in percent by rendition, {OVER_SEEDS}."
    renditions, shown = sorted(lines["rendition"].unique()), []
    for where, of_set in lines.groupby([*ROW, "data", "n"], sort=False):
        texts = {line.rendition: accuracy("top1")(line) for line in of_set.itertuples()}
        shown.append((*map(str, where), *(texts.get(rendition, "") for rendition in renditions)))
    header = (*ROW, "OOD set", "seeds", *renditions)
    return Table("renditions", caption, header, tuple(shown), lines[[*ROW, "data", "rendition", "n", *_columns("top1")]])


def teacher_table(collected: Collected) -> Table:
    """Accuracy of the teachers, each a single run."""
    lines = row_names(collected.rows_measured_by("evaluate_teacher")).merge(collected.numbers.of("iid", "top1"), on=ROW)
    lines = lines.merge(collected.numbers.of("iid", "top5").drop(columns=["count", "n"]), on=[*ROW, "data"])
    lines = _beside_published(collected, lines, "iid", "top1_mean")
    lines = lines.rename(columns={"count": "images", "top1_mean": "top1", "top5_mean": "top5"})
    exact = ["experiment", "profile", "data", "images", "top1", "top5", *PUBLISHED]
    shown = {"experiment": column("experiment"), "profile": column("profile"), "set": column("data"), "images": column("images")}
    shown |= {f"{name[:3]}-{name[3:]} %": _single(name) for name in ("top1", "top5")} | PUBLISHED_SHOWN
    caption = "Accuracy of the teacher in percent. There is one teacher, which all seeds share, and so no interval."
    return table_of("teacher", caption, lines, exact, shown)


def fewshot_table(collected: Collected) -> Table:
    """Accuracy of few-shot linear probes."""
    rows = collected.rows_measured_by("train_probe")
    configs = [collected.study.runs[row.measured[0]].config for row in rows]
    sizes = [(config.way, config.shots) for config in configs if isinstance(config, TrainProbe)]
    lines = row_names(rows).join(pd.DataFrame(sizes, columns=["way", "shots"]))
    lines = lines.merge(collected.numbers.of("fewshot", "top1"), on=ROW)
    lines = _beside_published(collected, lines, "fewshot", "top1_mean")
    exact = [*ROW, "data", "way", "shots", "n", *_columns("top1"), *PUBLISHED]
    shown = ROW_SHOWN | {"set": column("data"), "way": column("way"), "shots": column("shots"), "seeds": column("n")}
    shown |= {"top-1 %": accuracy("top1")} | PUBLISHED_SHOWN
    caption = f"Few-shot top-1 accuracy in percent of a new head on the frozen student, {OVER_SEEDS}; each seed is an episode."
    return table_of("fewshot", caption, lines, exact, shown)


def _columns(name: str) -> list[str]:
    return [f"{name}_{statistic}" for statistic in SUMMARY]


def _of_split(collected: Collected, split: str) -> pd.DataFrame:
    """Top-1 accuracies of a split in columns that begin with its name."""
    found = collected.numbers.of(split, "top1").drop(columns="count")
    return found.rename(columns={"data": f"{split}_data"} | {name: f"{split}_{name}" for name in _columns("top1")})


def _beside_published(collected: Collected, lines: pd.DataFrame, split: str, mean: str, suffix: str = "") -> pd.DataFrame:
    """Add published numbers to lines, next to the column ``mean``, if it has a value.

    The difference is ours minus theirs in points, if both are of the same scale and the paper's is known.
    """
    found = []
    for line in lines.itertuples():
        ours = getattr(line, mean)
        paper = None if pd.isna(ours) else collected.published.find(str(line.experiment), str(line.variant), split)
        comparable = collected.study.scale_name == PAPER_SCALE and paper is not None and paper.is_accuracy
        facts = (paper.value, paper.paper, paper.unit, paper.status, str(paper)) if paper else (None,) * 5
        found.append((*facts, 100 * ours - paper.value if comparable and paper and paper.value is not None else None))
    names = [f"published{suffix}", *(f"published{suffix}_{fact}" for fact in ("paper", "unit", "status")), f"quoted{suffix}"]
    return lines.join(pd.DataFrame(found, columns=[*names, f"difference{suffix}"], index=lines.index))


def _single(name: str) -> Column:
    """A share in percent, which leads to the one run behind it."""
    return lambda line: Linked(percent(getattr(line, name)), anchor_of(line))
