"""Learning curves of teachers, distilled modules and students, with a panel for each part of a loss."""

from collections.abc import Callable, Mapping

import pandas as pd

from m2mkd.results.judge.results import Results
from m2mkd.results.read.collect import CURVE_COLUMNS
from m2mkd.results.read.lookup import ROW
from m2mkd.results.report.figures import Illustration, with_profile
from m2mkd.results.report.plots import INTERVAL, Line, colours, curves_figure, values_by_epoch
from m2mkd.study.labels import variant_label
from m2mkd.study.lineage import student_of
from m2mkd.study.run import RowName
from m2mkd.study.study import Study

ACCURACY = "validation top-1 %"
PANELS = {"cross-entropy": "cross_entropy", "divergence": "divergence", "regulariser": "regulariser", ACCURACY: "val_top1"}
"""Column of the learning curves that each panel shows; other terms of an objective have a panel each. Losses are those of training."""
CURVES_CAPTION = f"Lines: mean over seeds; bands: {INTERVAL}, where there are several of one network."
Lines = Callable[[str], list[Line]]
"""The lines of a panel, by its column."""


def curve_figures(results: Results) -> list[Illustration]:
    """Learning curves of everything that trains, ablations left out."""
    every = results.curves[~results.curves["experiment"].isin(list(results.ablations))]
    # A loss with one part is logged without the part's name; it is the labels' loss.
    curves = every.assign(cross_entropy=every["cross_entropy"].fillna(every["loss"]))
    study = results.study
    return [*_teacher_curves(study, curves), *_module_curves(study, curves), *_student_curves(results, curves)]


def singled_out(results: Results) -> dict[str, str]:
    """Trainings with a separate line, by run id, and the reason: at chance for long, or weak at the end."""
    found = {run_id: f"at chance in epochs {first} to {last}" for run_id, (first, last) in results.plateaus.items()}
    rows = {(row.experiment, row.variant, row.profile): row for row in results.study.rows}
    for finding in results.findings:
        for arm in (arm for arms in finding.comparisons for arm in arms if arm.weak):
            trained = {results.study.runs[run_id].seed: run_id for run_id in rows[arm.experiment, arm.variant, arm.profile].trained}
            for seed, accuracy in arm.weak:
                if seed in trained:
                    found.setdefault(trained[seed], f"weak, {100 * accuracy:.1f} % in the end")
    return found


def curves_anchor(student: str, profile: str) -> str:
    """Name of the figure of a student's trainings."""
    return f"curves-{student}-{profile}"


def _by_row(curves: pd.DataFrame, *phases: str) -> list[tuple[RowName, pd.DataFrame]]:
    """Curves of some phases, separated by the rows of the tables under which they are shown."""
    chosen = curves[curves["phase"].isin(phases)]
    names = chosen[ROW]
    found = [RowName(*map(str, values)) for values in names.drop_duplicates().itertuples(index=False)]  # type: ignore[arg-type]
    return [(name, chosen[(names == list(name)).all(axis=1)]) for name in found]


def _student_curves(results: Results, curves: pd.DataFrame) -> list[Illustration]:
    study, alone = results.study, singled_out(results)
    trained: dict[tuple[str, str], dict[str, pd.DataFrame]] = {}
    for name, of_row in _by_row(curves, "train_student"):
        student, variant = student_of(study, name.experiment, name.variant)
        trained.setdefault((student, name.profile), {})[variant] = of_row
    found = []
    for (student, profile), variants in trained.items():
        apart = [(variant, run_id) for variant, of_row in variants.items() for run_id in of_row["run"].unique() if run_id in alone]
        names = [f"{variant_label(variant)}, seed {study.runs[run_id].seed}: {alone[run_id]}" for variant, run_id in apart]
        title = f"{student}{with_profile(study, profile)}: end-to-end training of the student"
        caption = f"{CURVES_CAPTION} Thin lines: {'; '.join(names)}." if names else CURVES_CAPTION
        found.append(_illustration(curves_anchor(student, profile), title, _student_lines(variants, apart, names), caption, curves))
    return found


def _student_lines(variants: Mapping[str, pd.DataFrame], apart: list[tuple[str, str]], names: list[str]) -> Lines:
    colour = colours(variants)

    def lines(column: str) -> list[Line]:
        means = [Line(variant_label(variant), values_by_epoch(found, column), colour[variant]) for variant, found in variants.items()]
        for (variant, run_id), name in zip(apart, names, strict=True):
            of_run = variants[variant][variants[variant]["run"] == run_id]
            means.append(Line("", values_by_epoch(of_run, column), colour[variant], thin=True, name=name))
        return means

    return lines


def _teacher_curves(study: Study, curves: pd.DataFrame) -> list[Illustration]:
    found = []
    for name, of_row in _by_row(curves, "pretrain_meta", "incubate_module", "assemble_teacher"):
        title = f"{name.experiment}{with_profile(study, name.profile)}: Deep Incubation"
        found.append(_illustration(curves_anchor(name.experiment, name.profile), title, _teacher_lines(of_row), CURVES_CAPTION, curves))
    return found


def _teacher_lines(of_row: pd.DataFrame) -> Lines:
    meta, assembled = (of_row[of_row["phase"] == phase] for phase in ("pretrain_meta", "assemble_teacher"))

    def lines(column: str) -> list[Line]:
        modules = [
            Line("" if index else "each module, incubated", values_by_epoch(single, column), 1, thin=True, name=f"module {index}")
            for index, single in _modules(of_row)
        ]
        first, last = Line("meta model", values_by_epoch(meta, column), 0), Line("assembled teacher", values_by_epoch(assembled, column), 2)
        return [first, *modules, last]

    return lines


def _module_curves(study: Study, curves: pd.DataFrame) -> list[Illustration]:
    found = []
    for name, of_row in _by_row(curves, "distill_module"):
        student, variant = student_of(study, name.experiment, name.variant)
        title = f"{student}, {variant_label(variant)}{with_profile(study, name.profile)}: distillation of the modules"
        caption = "Lines: mean over seeds of each module."
        found.append(_illustration(f"modules-{student}-{variant}-{name.profile}", title, _module_lines(of_row), caption, curves))
    return found


def _module_lines(of_row: pd.DataFrame) -> Lines:
    modules = _modules(of_row)
    return lambda column: [
        Line(f"module {index}", values_by_epoch(single, column), number, thin=True) for number, (index, single) in enumerate(modules)
    ]


def _modules(curves: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    """The curves of single modules, first to last."""
    indices = sorted({int(index) for index in curves["module"].dropna()})
    return [(index, curves[curves["module"] == index]) for index in indices]


def _illustration(name: str, title: str, lines: Lines, caption: str, curves: pd.DataFrame) -> Illustration:
    terms = {column: column for column in curves.columns if column not in CURVE_COLUMNS}
    shown = {panel: column for panel, column in PANELS.items() if panel != ACCURACY} | terms | {ACCURACY: PANELS[ACCURACY]}
    panels = {panel: [line for line in lines(column) if line.points] for panel, column in shown.items()}
    panels = {panel: drawn for panel, drawn in panels.items() if drawn}
    last = [
        f"{line.label} {100 * sum(values) / len(values):.1f}"
        for line in panels.get(ACCURACY, [])
        if line.label
        for values in [line.points[max(line.points)]]
    ]
    description = f"Learning curves, {title}. {ACCURACY} at the end: {', '.join(last) or 'none'}."
    return Illustration(name, title, caption, description, curves_figure(panels, percent=(ACCURACY,)))
