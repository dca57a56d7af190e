"""Tables of accuracies: ours as mean and 95 % interval over seeds, and beside it what the papers print."""

from collections.abc import Iterable

import pandas as pd

from m2mkd.results.read.lookup import Cell, Numbers
from m2mkd.results.read.published import Published, PublishedNumbers
from m2mkd.results.tables.layout import Linked, Table, percent, percent_over_seeds
from m2mkd.study.lineage import anchor_of
from m2mkd.study.phases import TrainProbe
from m2mkd.study.run import Row
from m2mkd.study.study import Study

OVER_SEEDS = "mean ± half of the 95 % interval by Student's t over seeds"
PAPER_SCALE = "paper"
"""The only scale whose numbers can be compared with the papers'."""


def results_table(study: Study, rows: Iterable[Row], numbers: Numbers, published: PublishedNumbers, name: str = "results") -> Table:
    """Accuracy of students: a line for each row, or for each of its out-of-distribution sets where there are several."""
    exact, shown = [], []
    for row in rows:
        (iid,) = numbers.cells(row, "iid", "top1")
        outside: list[Cell | None] = list(numbers.cells(row, "ood", "top1"))
        for ood in outside or [None]:
            paper = {split: published.find(row.experiment, row.variant, split) for split in ("iid", "ood")}
            if ood is None:
                paper["ood"] = None
            line = {"row": str(row.name), **row.name._asdict(), "n": iid.over_seeds.n}
            line |= {"iid_data": iid.data, **_exact("iid_top1", iid)}
            line |= {"ood_data": ood.data if ood else None, **_exact("ood_top1", ood)}
            beyond = {split: _difference(study, own, paper[split]) for split, own in (("iid", iid), ("ood", ood))}
            for split, cell in paper.items():
                line |= {
                    f"published_{split}": cell and cell.value,
                    f"published_{split}_paper": cell and cell.paper,
                    f"published_{split}_unit": cell and cell.unit,
                    f"published_{split}_status": cell and cell.status,
                    f"difference_{split}": beyond[split],
                }
            exact.append(line)
            accuracies = (iid.data, _shown(row, iid), ood.data if ood else "", _shown(row, ood))
            compared = [text for split, cell in paper.items() for text in (str(cell or ""), _signed(beyond[split]))]
            shown.append((*row.name, str(iid.over_seeds.n), *accuracies, *compared))
    header = (
        *("experiment", "variant", "profile", "seeds", "IID set", "IID top-1 %"),
        *("OOD set", "OOD top-1 %", "published IID", "difference IID", "published OOD", "difference OOD"),
    )
    caption = (
        f"Top-1 accuracy in percent, {OVER_SEEDS}. Published numbers are of the published scale and data; "
        f"a difference, ours minus theirs in points, is taken at scale {PAPER_SCALE} alone."
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
            exact.append(row.name._asdict() | found | _exact("top1", one) | _exact("top5", five))
            counts = (str(fact) for fact in facts.values())
            shown.append((*row.name, one.data, *counts, str(one.over_seeds.n), _shown(row, one), _shown(row, five)))
    header = ("experiment", "variant", "profile", "OOD set", "classes", "images", "left out", "seeds", "top-1 %", "top-5 %")
    caption = (
        "Out-of-distribution accuracy in percent over the classes that the model and the set share: "
        f"logits are cut to these classes, and images of any other class are left out; {OVER_SEEDS}."
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
                exact.append(row.name._asdict() | facts | _exact("top1", cell))
                found.setdefault((*row.name, cell.data, str(cell.over_seeds.n)), {})[rendition] = _shown(row, cell)
    renditions = sorted({rendition for cells in found.values() for rendition in cells})
    shown = tuple((*names, *(cells.get(rendition, "") for rendition in renditions)) for names, cells in found.items())
    header = ("experiment", "variant", "profile", "OOD set", "seeds", *renditions)
    caption = f"Out-of-distribution top-1 accuracy in percent by rendition, {OVER_SEEDS}."
    return Table("renditions", caption, header, shown, pd.DataFrame(exact))


def teacher_table(study: Study, rows: Iterable[Row], numbers: Numbers, published: PublishedNumbers) -> Table:
    """Accuracy of the teachers, of which there is one each."""
    exact, shown = [], []
    for row in rows:
        (one,), (five,) = numbers.cells(row, "iid", "top1"), numbers.cells(row, "iid", "top5")
        paper = published.find(row.experiment, row.variant, "iid")
        values = {"top1": one.over_seeds.mean, "top5": five.over_seeds.mean}
        beyond = _difference(study, one, paper)
        found = _quoted(paper) | {"difference": beyond}
        exact.append({"experiment": row.experiment, "profile": row.profile, "data": one.data, "images": one.count, **values, **found})
        accuracies = (Linked(percent(value), anchor_of(row)) for value in values.values())
        shown.append((row.experiment, row.profile, one.data, str(one.count), *accuracies, str(paper or ""), _signed(beyond)))
    header = ("experiment", "profile", "set", "images", "top-1 %", "top-5 %", "published", "difference")
    caption = "Accuracy of the teacher in percent. There is one teacher, which all seeds share, and so no interval."
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
        beyond = _difference(study, cell, paper)
        found = _quoted(paper) | {"difference": beyond}
        exact.append(row.name._asdict() | facts | _exact("top1", cell) | found)
        shown.append((*row.name, *(str(fact) for fact in facts.values()), _shown(row, cell), str(paper or ""), _signed(beyond)))
    header = ("experiment", "variant", "profile", "set", "way", "shots", "seeds", "top-1 %", "published", "difference")
    caption = f"Few-shot top-1 accuracy in percent of a new head on the frozen student, {OVER_SEEDS}; each seed is an episode."
    return Table("fewshot", caption, header, tuple(shown), pd.DataFrame(exact))


def _exact(name: str, cell: Cell | None) -> dict[str, float | None]:
    names = (f"{name}_mean", f"{name}_std", f"{name}_half_width")
    if cell is None:
        return dict.fromkeys(names)
    over = cell.over_seeds
    return dict(zip(names, (over.mean, over.std, over.half_width), strict=True))


def _shown(row: Row, cell: Cell | None) -> str:
    text = percent_over_seeds(cell.over_seeds if cell else None)
    return Linked(text, anchor_of(row)) if text else ""


def _quoted(paper: Published | None) -> dict[str, object]:
    return {"published": paper and paper.value, "published_paper": paper and paper.paper, "published_status": paper and paper.status}


def _difference(study: Study, cell: Cell | None, paper: Published | None) -> float | None:
    """Our mean minus the published accuracy in points, where both are of the same scale and the paper's is known."""
    if study.scale_name != PAPER_SCALE or cell is None or paper is None or paper.value is None or not paper.unit.startswith("percent"):
        return None
    return 100 * cell.over_seeds.mean - paper.value


def _signed(points: float | None) -> str:
    return "" if points is None else f"{points:+.2f}"
