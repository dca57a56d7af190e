"""What one thing changes: the settings of every ablation, each paired by seed with the setting that it is compared with."""

from typing import Any

import pandas as pd

from m2mkd.config.experiment import AblationExperiment
from m2mkd.results.read.lookup import Cell, Numbers, rows_measured_by
from m2mkd.results.report.figures import Illustration
from m2mkd.results.report.plots import Estimate, intervals_figure
from m2mkd.results.tables.layout import Linked, Table, percent, percent_over_seeds
from m2mkd.statistics import Summary, summarise
from m2mkd.study.lineage import ablations_of, anchor_of
from m2mkd.study.run import Row
from m2mkd.study.study import Study

SPLITS = {"iid": "IID", "ood": "OOD"}


def student_rows(study: Study, numbers: Numbers) -> list[Row]:
    """Rows of students that have numbers, ablations left out."""
    ablations = ablations_of(study)
    return [row for row in rows_measured_by(study, "evaluate", numbers) if row.experiment not in ablations]


def ablation_rows(study: Study, numbers: Numbers) -> list[tuple[AblationExperiment, Row, Row]]:
    """Rows of ablations that have numbers, each with the row that it is compared with; with itself, where it is compared with none."""
    ablations = ablations_of(study)
    rows = {(row.experiment, row.variant, row.profile): row for row in rows_measured_by(study, "evaluate", numbers)}
    found = []
    for (experiment, variant, profile), row in rows.items():
        if ablation := ablations.get(experiment):
            found.append((ablation, row, rows.get((experiment, ablation.reference(variant), profile), row)))
    return found


def ablations_table(study: Study, numbers: Numbers) -> Table:
    """A line for each setting: accuracies over seeds, and its differences from the setting that it is compared with."""
    exact, shown = [], []
    for ablation, row, reference in ablation_rows(study, numbers):
        names = (row.experiment, row.variant, ablation.student(row.variant), row.profile)
        compared = "" if row is reference else reference.variant
        line: dict[str, Any] = dict(zip(("ablation", "setting", "student", "profile"), names, strict=True)) | {"reference": compared}
        cells = []
        for split in SPLITS:
            one, other = _cell(numbers, row, split), _cell(numbers, reference, split)
            over, gain = one.over_seeds if one else None, _gain(one, other) if compared else None
            line |= {} if split != "iid" else {"n": over and over.n}
            line |= {
                f"{split}_top1_mean": over and over.mean,
                f"{split}_top1_half_width": over and over.half_width,
                f"{split}_difference": gain and gain.mean,
                f"{split}_difference_half_width": gain and gain.half_width,
            }
            cells += [percent_over_seeds(over), _signed(gain)]
        density = next(iter(numbers.cells(row, "graph", "density")), None)
        line["graph_density_mean"] = density.over_seeds.mean if density else None
        cells.append(percent(line["graph_density_mean"]))
        exact.append(line)
        shown.append((*names, compared, str(line["n"]), *(Linked(cell, anchor_of(row)) if cell else "" for cell in cells)))
    accuracies = tuple(heading for name in SPLITS.values() for heading in (f"{name} top-1 %", f"{name} difference"))
    header = ("ablation", "setting", "student", "profile", "compared with", "seeds", *accuracies, "graph %")
    caption = (
        "Ablations: top-1 accuracy in percent, mean ± half of the 95 % interval by Student's t over seeds, and the difference in points "
        "from the setting that it is compared with, paired by seed, ± half of its 95 % interval. The intervals are not corrected for "
        "their number; claims about ablations are on the verdict board. Graph: density of a NAC's graph in use, in percent."
    )
    return Table("ablations", caption, header, tuple(shown), pd.DataFrame(exact))


def ablations_figure(study: Study, numbers: Numbers) -> list[Illustration]:
    """The differences of all settings, with their intervals; none where there is nothing to compare."""
    groups: dict[str, list[Estimate]] = {}
    for ablation, row, reference in ablation_rows(study, numbers):
        if row is reference:
            continue
        heading = ablation.title + (f" ({row.profile})" if len(study.scale.profiles) > 1 else "")
        for split, name in SPLITS.items():
            if gain := _gain(_cell(numbers, row, split), _cell(numbers, reference, split)):
                groups.setdefault(heading, []).append(Estimate(row.variant, name, gain.mean, gain.half_width))
    if not groups:
        return []
    said = "; ".join(
        f"{heading}: " + ", ".join(f"{one.label} {one.series} {one.centre:+.2f}" for one in estimates)
        for heading, estimates in groups.items()
    )
    caption = (
        "Dots: mean difference in points of accuracy from the setting that it is compared with (see the table), paired by seed. Whiskers: "
        "95 % interval by Student's t, where there are several seeds."
    )
    figure = intervals_figure(groups, "difference in top-1, points", zero=True)
    return [Illustration("ablations", "What one thing changes", caption, f"Differences in top-1 points. {said}.", figure)]


def _cell(numbers: Numbers, row: Row, split: str) -> Cell | None:
    return next(iter(numbers.cells(row, split, "top1")), None)


def _gain(one: Cell | None, other: Cell | None) -> Summary | None:
    """One minus the other in points, over the seeds that both have; none where there is no such seed."""
    if one is None or other is None:
        return None
    controls = dict(zip(other.seeds, other.per_seed, strict=True))
    pairs = [(value, controls[seed]) for seed, value in zip(one.seeds, one.per_seed, strict=True) if seed in controls]
    return summarise(100 * (value - control) for value, control in pairs) if pairs else None


def _signed(gain: Summary | None) -> str:
    if gain is None:
        return ""
    return f"{gain.mean:+.2f}" + ("" if gain.half_width is None else f" ± {gain.half_width:.2f}")
