"""Figures of a study's report."""

from dataclasses import dataclass

from m2mkd.results.read.collect import Collected
from m2mkd.results.report.plots import INTERVAL, Bar, Drawing, Estimate, bars_figure, intervals_figure
from m2mkd.results.tables.ablations import SHOWN_SPLITS, settings_of
from m2mkd.study.labels import variant_label
from m2mkd.study.lineage import student_of
from m2mkd.study.study import Study


@dataclass(frozen=True)
class Illustration:
    """Figure with its title, caption and description."""

    name: str
    title: str
    caption: str
    description: str
    """Description for readers who do not see it."""
    figure: Drawing


def student_bars(collected: Collected, split: str) -> dict[str, list[Bar]]:
    """Accuracies by student, each once; a row of a transfer experiment that repeats one is left out."""
    study, groups = collected.study, dict[str, dict[str, Bar]]()
    for row in collected.students:
        student, variant = student_of(study, row.experiment, row.variant)
        for cell in collected.numbers.cells(row, split, "top1"):
            bar = Bar(variant_label(variant), variant, cell.per_seed)
            groups.setdefault(f"{student}{with_profile(study, row.profile)}, {cell.data}", {}).setdefault(variant, bar)
    return {name: list(bars.values()) for name, bars in groups.items()}


def accuracy_figures(collected: Collected) -> list[Illustration]:
    """Bars of in-distribution and of out-of-distribution accuracy."""
    found = []
    for split, title in (("iid", "In-distribution accuracy"), ("ood", "Out-of-distribution accuracy")):
        groups = student_bars(collected, split)
        if groups:
            caption = f"Bars: mean over seeds. Whiskers: {INTERVAL}. Dots: single seeds."
            described = "; ".join(
                f"{name}: " + ", ".join(f"{bar.label} {100 * sum(bar.seeds) / len(bar.seeds):.1f}" for bar in bars)
                for name, bars in groups.items()
            )
            figure = bars_figure(groups, f"{split.upper()} top-1 %, mean and 95 % interval")
            found.append(Illustration(f"bars-{split}", title, caption, f"{title}, mean top-1 in percent. {described}.", figure))
    return found


def rendition_figures(collected: Collected) -> list[Illustration]:
    """Figure of the accuracy on each rendition of the out-of-distribution sets that list renditions; none if there is no such set."""
    study, numbers, groups = collected.study, collected.numbers, dict[str, list[Estimate]]()
    seen = set()
    for row in collected.students:
        student, variant = student_of(study, row.experiment, row.variant)
        for rendition in numbers.renditions(row):
            for cell in numbers.cells(row, "ood", "top1", rendition):
                heading = f"{student}{with_profile(study, row.profile)}, {cell.data}"
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
    caption = f"Dots: mean over seeds. Whiskers: {INTERVAL}."
    figure = intervals_figure(groups, "OOD top-1 %, mean and 95 % interval")
    return [Illustration("renditions", title, caption, f"{title}, mean top-1 in percent. {said}.", figure)]


def ablations_figure(collected: Collected) -> list[Illustration]:
    """Differences of all settings, with their intervals; none if there is nothing to compare."""
    groups: dict[str, list[Estimate]] = {}
    for setting in settings_of(collected):
        row, heading = setting.row, setting.ablation.title + with_profile(collected.study, setting.row.profile)
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
        "Dots: mean difference in points of accuracy from the setting that it is compared with (see the table), paired by seed. "
        f"Whiskers: {INTERVAL}, where there are several."
    )
    figure = intervals_figure(groups, "difference in top-1, points, and 95 % interval", zero=True)
    return [Illustration("ablations", "What one thing changes", caption, f"Differences in top-1 points. {said}.", figure)]


def with_profile(study: Study, profile: str) -> str:
    """Profile, if a study has several."""
    return f" ({profile})" if len(study.scale.profiles) > 1 else ""
