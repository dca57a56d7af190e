"""Tables of detectors: average precision of boxes and masks, of instances of each size, and of each class."""

import pandas as pd

from m2mkd.results.read.collect import Collected
from m2mkd.results.read.lookup import ROW, SUMMARY, row_names
from m2mkd.results.tables.accuracies import OVER_SEEDS, ROW_SHOWN
from m2mkd.results.tables.layout import Table, accuracy, column, percent_with_interval, table_of
from m2mkd.statistics import summarise
from m2mkd.study.measurements import DETECTED, PRECISIONS
from m2mkd.study.run import Row

PHASE = "evaluate_detector"
HEADLINE = ("AP", "AP50", "AP75", "AR100")
BY_SIZE = {"APs": "small", "APm": "medium", "APl": "large"}
"""Metrics of instances of each size, with its name: below 32 x 32 pixels, below 96 x 96, and above."""
AP_METRICS = tuple(f"{kind}_{name}" for kind in DETECTED for name in PRECISIONS)
"""Measured parts of a detector's output."""


def detectors(collected: Collected) -> list[Row]:
    """Rows of detectors that have numbers."""
    return collected.rows_measured_by(PHASE)


def detection_table(collected: Collected) -> Table:
    """All of COCO's numbers of every detector; the first of them are shown."""
    lines = row_names(detectors(collected))
    for metric in AP_METRICS:
        found = collected.numbers.of("detection", metric)
        keys = [*ROW, *(name for name in ("data", "count", "n") if name in lines)]
        lines = lines.merge(found, "left", on=keys)
    exact = [*ROW, "data", "count", "n", *(f"{metric}_{part}" for metric in AP_METRICS for part in SUMMARY)]
    shown = ROW_SHOWN | {"set": column("data"), "images": column("count"), "seeds": column("n")}
    shown |= {f"{kind} {name} %": accuracy(f"{kind}_{name}") for kind in DETECTED for name in HEADLINE}
    caption = (
        f"Average precision of detectors in percent, {OVER_SEEDS}. AP is the mean over overlaps of 0.50 to 0.95, AP50 and AP75 are at one "
        "of them, AR100 is the recall with 100 detections an image."
    )
    return table_of("detection", caption, lines, exact, shown)


def detection_sizes_table(collected: Collected) -> Table:
    """Average precision of small, medium and large instances, except sizes that the set does not have."""
    found = [
        (*row.name, cell.data, kind, size, cell.over_seeds.n, cell.over_seeds.mean, cell.over_seeds.half_width)
        for row in detectors(collected)
        for kind in DETECTED
        for name, size in BY_SIZE.items()
        for cell in collected.numbers.cells(row, "detection", f"{kind}_{name}")
    ]
    exact = [*ROW, "data", "kind", "size", "n", "AP_mean", "AP_half_width"]
    lines = pd.DataFrame(found, columns=exact).astype({"AP_half_width": "float64"})
    shown = ROW_SHOWN | {"set": column("data"), "of": column("kind"), "size": column("size"), "seeds": column("n"), "AP %": accuracy("AP")}
    caption = (
        f"Average precision by size of the instances in percent, {OVER_SEEDS}: small is below 32 x 32 pixels, large from 96 x 96 on. A "
        "size that the set has no instance of is left out."
    )
    return table_of("detection_sizes", caption, lines, exact, shown)


def detection_classes_table(collected: Collected) -> Table:
    """Average precision of each class; a line each in the exact table, a column for each detector as shown."""
    found, texts = [], dict[tuple[str, str], dict[str, str]]()
    names = []
    for row in detectors(collected):
        measured = [collected.by_run[run_id].metrics["per_class"] for run_id in row.measured if run_id in collected.by_run]
        for kind in DETECTED:
            names.append(name := f"{row.variant} ({row.profile}), {kind}")
            for label in measured[0][kind]:
                known = [value for seed in measured if (value := seed[kind][label]) is not None]
                if known:
                    over = summarise(known)
                    found.append((*row.name, kind, label, over.n, over.mean, over.half_width))
                    texts.setdefault((row.experiment, label), {})[name] = percent_with_interval(over.mean, over.half_width)
    header = ("experiment", "class", *dict.fromkeys(names))
    shown = tuple((*where, *(cells.get(name, "") for name in header[2:])) for where, cells in texts.items())
    exact = pd.DataFrame(found, columns=[*ROW, "kind", "class", "n", "AP_mean", "AP_half_width"])
    caption = f"Average precision of each class in percent, {OVER_SEEDS}."
    return Table("detection_classes", caption, header, shown, exact)
