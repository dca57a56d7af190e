"""Which figures the report of a study has."""

from dataclasses import dataclass

import pandas as pd

from m2mkd.results.read.collect import Collected
from m2mkd.results.read.lookup import ROW
from m2mkd.results.report.plots import (
    Bar,
    Drawing,
    Estimate,
    Line,
    bars_figure,
    colours,
    curves_figure,
    intervals_figure,
    values_by_epoch,
    variant_label,
)
from m2mkd.results.tables.ablations import SHOWN_SPLITS, settings_of
from m2mkd.study.lineage import student_of
from m2mkd.study.run import RowName
from m2mkd.study.study import Study

ACCURACY = "validation top-1 %"
PANELS = {"training loss": "loss", ACCURACY: "val_top1"}
"""Column of the learning curves that each panel shows."""


@dataclass(frozen=True)
class Illustration:
    """A figure and the words that go with it."""

    name: str
    title: str
    caption: str
    description: str
    """What it shows, for those who do not see it."""
    figure: Drawing


def student_bars(collected: Collected, split: str) -> dict[str, list[Bar]]:
    """Accuracies of every student once, by student; a row of a transfer experiment that repeats one is left out."""
    study, groups = collected.study, dict[str, dict[str, Bar]]()
    for row in collected.students:
        student, variant = student_of(study, row.experiment, row.variant)
        for cell in collected.numbers.cells(row, split, "top1"):
            bar = Bar(variant_label(variant), variant, cell.per_seed)
            groups.setdefault(f"{student}{_profile(study, row.profile)}, {cell.data}", {}).setdefault(variant, bar)
    return {name: list(bars.values()) for name, bars in groups.items()}


def accuracy_figures(collected: Collected) -> list[Illustration]:
    """Bars of in-distribution and of out-of-distribution accuracy."""
    found = []
    for split, title in (("iid", "In-distribution accuracy"), ("ood", "Out-of-distribution accuracy")):
        groups = student_bars(collected, split)
        if groups:
            caption = "Bars: mean over seeds. Whiskers: one sample standard deviation. Dots: single seeds."
            described = "; ".join(
                f"{name}: " + ", ".join(f"{bar.label} {100 * sum(bar.seeds) / len(bar.seeds):.1f}" for bar in bars)
                for name, bars in groups.items()
            )
            figure = bars_figure(groups, f"{'IID' if split == 'iid' else 'OOD'} top-1 %")
            found.append(Illustration(f"bars-{split}", title, caption, f"{title}, mean top-1 in percent. {described}.", figure))
    return found


def rendition_figures(collected: Collected) -> list[Illustration]:
    """Accuracy on each rendition of the out-of-distribution sets that tell them apart, one figure; none where there is no such set."""
    study, numbers, groups = collected.study, collected.numbers, dict[str, list[Estimate]]()
    seen = set()
    for row in collected.students:
        student, variant = student_of(study, row.experiment, row.variant)
        for rendition in numbers.renditions(row):
            for cell in numbers.cells(row, "ood", "top1", rendition):
                heading = f"{student}{_profile(study, row.profile)}, {cell.data}"
                if (heading, variant, rendition) in seen:
                    continue
                seen.add((heading, variant, rendition))
                over, half = cell.over_seeds, cell.over_seeds.half_width
                estimate = Estimate(rendition, variant, 100 * over.mean, None if half is None else 100 * half)
                groups.setdefault(heading, []).append(estimate)
    if not groups:
        return []
    title = "Out-of-distribution accuracy by rendition"
    said = "; ".join(
        f"{heading}: " + ", ".join(f"{one.label} {variant_label(one.series)} {one.centre:.1f}" for one in estimates)
        for heading, estimates in groups.items()
    )
    caption = "Dots: mean over seeds. Whiskers: 95 % interval by Student's t."
    return [Illustration("renditions", title, caption, f"{title}, mean top-1 in percent. {said}.", intervals_figure(groups, "OOD top-1 %"))]


def ablations_figure(collected: Collected) -> list[Illustration]:
    """The differences of all settings, with their intervals; none where there is nothing to compare."""
    groups: dict[str, list[Estimate]] = {}
    for setting in settings_of(collected):
        row, heading = setting.row, setting.ablation.title + _profile(collected.study, setting.row.profile)
        for split, name in SHOWN_SPLITS.items():
            if gain := setting.gain(collected, split):
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


def curve_figures(collected: Collected) -> list[Illustration]:
    """Learning curves of teachers, distilled modules and students, ablations left out."""
    study, curves = collected.study, collected.curves[~collected.curves["experiment"].isin(list(collected.ablations))]
    return [*_teacher_curves(study, curves), *_module_curves(study, curves), *_student_curves(study, curves)]


def _by_row(curves: pd.DataFrame, *phases: str) -> list[tuple[RowName, pd.DataFrame]]:
    """The curves of some phases, apart for each row of the tables that they are shown under."""
    chosen = curves[curves["phase"].isin(phases)]
    names = chosen[ROW]
    found = [RowName(*map(str, values)) for values in names.drop_duplicates().itertuples(index=False)]  # type: ignore[arg-type]
    return [(name, chosen[(names == list(name)).all(axis=1)]) for name in found]


def _student_curves(study: Study, curves: pd.DataFrame) -> list[Illustration]:
    trained: dict[tuple[str, str], dict[str, pd.DataFrame]] = {}
    for name, of_row in _by_row(curves, "train_student"):
        student, variant = student_of(study, name.experiment, name.variant)
        trained.setdefault((student, name.profile), {})[variant] = of_row
    found = []
    for (student, profile), variants in trained.items():
        colour = colours(variants)
        panels = {
            title: [Line(variant_label(variant), values_by_epoch(found, column), colour[variant]) for variant, found in variants.items()]
            for title, column in PANELS.items()
        }
        title = f"{student}{_profile(study, profile)}: end-to-end training of the student"
        found.append(_illustration(f"curves-{student}-{profile}", title, panels))
    return found


def _teacher_curves(study: Study, curves: pd.DataFrame) -> list[Illustration]:
    found = []
    for name, of_row in _by_row(curves, "pretrain_meta", "incubate_module", "assemble_teacher"):
        meta, assembled = (of_row[of_row["phase"] == phase] for phase in ("pretrain_meta", "assemble_teacher"))
        panels = {}
        for title, column in PANELS.items():
            modules = [
                Line("" if index else "each module, incubated", values_by_epoch(single, column), 1, thin=True, name=f"module {index}")
                for index, single in _modules(of_row)
            ]
            panels[title] = [
                Line("meta model", values_by_epoch(meta, column), 0),
                *modules,
                Line("assembled teacher", values_by_epoch(assembled, column), 2),
            ]
        title = f"{name.experiment}{_profile(study, name.profile)}: Deep Incubation"
        found.append(_illustration(f"curves-{name.experiment}-{name.profile}", title, panels))
    return found


def _module_curves(study: Study, curves: pd.DataFrame) -> list[Illustration]:
    found = []
    for name, of_row in _by_row(curves, "distill_module"):
        student, variant = student_of(study, name.experiment, name.variant)
        panels = {
            title: [Line(f"module {index}", values_by_epoch(single, column), index, thin=True) for index, single in _modules(of_row)]
            for title, column in PANELS.items()
        }
        title = f"{student}, {variant_label(variant)}{_profile(study, name.profile)}: distillation of the modules"
        found.append(_illustration(f"modules-{student}-{variant}-{name.profile}", title, panels))
    return found


def _modules(curves: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    """The curves of single modules, first to last."""
    indices = sorted({int(index) for index in curves["module"].dropna()})
    return [(index, curves[curves["module"] == index]) for index in indices]


def _illustration(name: str, title: str, panels: dict[str, list[Line]]) -> Illustration:
    last = [
        f"{line.label} {100 * sum(values) / len(values):.1f}"
        for line in panels[ACCURACY]
        if line.label and line.points
        for values in [line.points[max(line.points)]]
    ]
    description = f"Learning curves, {title}. {ACCURACY} at the end: {', '.join(last) or 'none'}."
    caption = "Lines: mean over seeds. Bands, where there are several seeds of one network: one sample standard deviation to either side."
    return Illustration(name, title, caption, description, curves_figure(panels, percent=(ACCURACY,)))


def _profile(study: Study, profile: str) -> str:
    """The profile, where a study has several."""
    return f" ({profile})" if len(study.scale.profiles) > 1 else ""
