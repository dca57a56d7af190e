"""The report of a study: one page that needs nothing but itself."""

import json
import shlex
from collections.abc import Iterable
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from m2mkd.config import load
from m2mkd.config.phases import PHASES
from m2mkd.config.study import Row, Study
from m2mkd.files import write_atomically, write_text
from m2mkd.results.collect import Collected, collect, data_name
from m2mkd.results.figures import accuracy_figures, curve_figures
from m2mkd.results.layout import Sheet
from m2mkd.results.lineage import student_of, title_of
from m2mkd.results.lookup import Numbers, rows_measured_by
from m2mkd.results.published import PublishedNumbers
from m2mkd.results.statistics import mean
from m2mkd.results.svg import inline_svg, write_png
from m2mkd.results.tables import fewshot_table, ood_table, renditions_table, results_table, teacher_table

PAPER_SCALE = "paper"
"""The only scale at which a claim of the paper can be judged."""


def write_report(study: Study) -> None:
    """Write ``report.html`` and ``overview.png`` into the study's folder.

    Raises
    ------
    InputError
        If a run is missing, damaged, or of another configuration than the study's.
    """
    collected = collect(study)
    numbers = Numbers(collected.measurements)
    students = rows_measured_by(study, "evaluate")
    overview = accuracy_figures(study, students, numbers)
    curves = curve_figures(study, collected.curves)
    template = resources.files("m2mkd.results").joinpath("report.html.j2").read_text()
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(template)
    text = page.render(
        study=study,
        reduced=study.scale_name != PAPER_SCALE,
        overrides=load.as_assignments(overrides_of(study)),
        sheets=result_sheets(study, numbers, PublishedNumbers()),
        overview=[(figure, inline_svg(figure.figure, figure.name, figure.description)) for figure in overview],
        curves=[(figure, inline_svg(figure.figure, figure.name, figure.description)) for figure in curves],
        cost=cost_sheet(collected),
        data=data_sheet(study),
        training=training_sheet(study),
        switches=switches_sheet(study),
        environment=environment_sheet(collected),
        commands=commands_sheet(study),
    )
    write_text(Path(study.root) / "report.html", text)
    for figure in overview[:1]:
        write_atomically(Path(study.root) / "overview.png", partial(write_png, figure.figure))


def result_sheets(study: Study, numbers: Numbers, published: PublishedNumbers) -> list[tuple[str, Sheet]]:
    """Tables of results, each below its heading; those without a line are left out."""
    families: dict[str, list[Row]] = {"vmoe": [], "nac": [], "transfer": []}
    rows = rows_measured_by(study, "evaluate")
    for row in rows:
        config: Any = study.runs[row.measured[0]].config
        own = student_of(study, row.experiment, row.variant) == (row.experiment, row.variant)
        families[config.student.family if own else "transfer"].append(row)
    # A row of a transfer experiment that repeats a student's says nothing new on its single sets.
    once = list({row.measured: row for row in reversed(rows)}.values())[::-1]
    sheets = [
        ("Teachers", teacher_table(rows_measured_by(study, "evaluate_teacher"), numbers, published)),
        ("V-MoE", results_table(families["vmoe"], numbers, published, "vmoe")),
        ("Neural Attentive Circuits, by graph prior", results_table(families["nac"], numbers, published, "nac")),
        ("Comparisons across experiments", results_table(families["transfer"], numbers, published, "transfer")),
        ("Out of distribution, with the class mask", ood_table(once, numbers)),
        ("Out of distribution, by rendition", renditions_table(once, numbers)),
        ("Few-shot adaptation", fewshot_table(study, rows_measured_by(study, "train_probe"), numbers, published)),
    ]
    idle = ("profile",) if len(study.scale.profiles) == 1 else ()
    return [(title, sheet.without(*idle)) for title, sheet in sheets if sheet.rows]


def overrides_of(study: Study) -> dict[str, Any]:
    """Fields in which the study's scale differs from its file."""
    plain = load.scale(study.scale_name, {}).model_dump(mode="json")
    return _changes(plain, study.scale.model_dump(mode="json"))


def _changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    changes = {}
    for name, value in after.items():
        old = before.get(name)
        if value != old:
            changes[name] = _changes(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return changes


def commands_sheet(study: Study) -> Sheet:
    """The command that redoes each experiment."""
    config = [f"scale={study.scale_name}"]
    if overrides := overrides_of(study):
        config.append(f"overrides={json.dumps(overrides)}")
    rows = tuple(
        (name, title_of(study, name), shlex.join(["snakemake", "--cores", "all", name, "--config", *config]))
        for name in dict.fromkeys(row.experiment for row in study.rows)
    )
    caption = "Each command computes what is missing of one experiment, all that it builds on included."
    return Sheet("commands", caption, ("experiment", "reproduces, at its published scale", "command"), rows)


def cost_sheet(collected: Collected) -> Sheet:
    """Time that each phase took."""
    seconds: dict[str, list[float]] = {}
    for record in collected.records:
        seconds.setdefault(record.run.phase, []).append(float(record.provenance["seconds"]))
    rows = [
        (phase, str(len(spent)), f"{sum(spent):.1f}", f"{mean(spent):.2f}", f"{max(spent):.2f}")
        for phase in PHASES
        if (spent := seconds.get(phase))
    ]
    together = [spent for group in seconds.values() for spent in group]
    rows.append(("all", str(len(together)), f"{sum(together):.1f}", f"{mean(together):.2f}", f"{max(together):.2f}"))
    caption = (
        "Seconds of wall time, as each run measured them on its own machine (see Environment), other jobs beside it or not; the start of a "
        "process is not in it, and for a run that was interrupted only its last session counts."
    )
    return Sheet("cost", caption, ("phase", "runs × seeds", "seconds", "mean", "longest"), tuple(rows))


def data_sheet(study: Study) -> Sheet:
    """Data sets that the runs read."""
    used = {data_name(data): data for run in study.runs.values() for data in run.config.data_sets}
    registry = load.datasets()
    rows = tuple(
        (
            name,
            registry[data.name].title,
            str(data.classes),
            "synthetic" if registry[data.name].synthetic else "natural",
            registry[data.name].licence,
        )
        for name, data in sorted(used.items())
    )
    caption = "Data sets of this study, as name@pixels. A synthetic set is made by image operations and stands in for a natural one."
    return Sheet("data", caption, ("set", "what it is", "classes", "kind", "licence"), rows)


def training_sheet(study: Study) -> Sheet:
    """How long and with what each phase trains."""
    rows = []
    for run in study.runs.values():
        config: Any = run.config
        if recipe := getattr(config, "recipe", None):
            model = getattr(config, "student", None) or config.model
            how = (str(recipe.epochs), str(recipe.batch_size), f"{recipe.lr:g}", f"{recipe.train_share:g}", recipe.precision)
            rows.append((run.phase, model.family, data_name(config.data), *how))
    rows = sorted(dict.fromkeys(rows), key=lambda row: list(PHASES).index(row[0]))
    caption = "Recipes; batch sizes are global, and of a probe the whole episode is one batch. Every value: m2mkd config show EXPERIMENT."
    header = ("phase", "family", "training set", "epochs", "batch", "lr", "share of the set", "precision")
    return Sheet("training", caption, header, tuple(rows))


def switches_sheet(study: Study) -> Sheet:
    """Values of the compat switches that have an effect on the study."""
    used: dict[str, set[str]] = {}
    for run in study.runs.values():
        for name, value in run.config.compat.items():
            used.setdefault(name, set()).add(str(value))
    rows = tuple((name, " and ".join(sorted(values)), load.switches()[name].about) for name, values in sorted(used.items()))
    caption = "Known defects of the released code that could matter here, and which value was taken."
    return Sheet("switches", caption, ("switch", "value", "what the released code does"), rows)


def environment_sheet(collected: Collected) -> Sheet:
    """With what the runs were computed; several values where they differ."""
    facts: dict[str, list[str]] = {}
    for record in collected.records:
        source = record.provenance
        commit = str(source.get("git_commit") or "none") + (" with uncommitted changes" if source.get("git_dirty") else "")
        found = {"git commit": commit, "python": source.get("python"), "system": f"{source.get('system')} {source.get('machine')}"}
        for name, value in (found | source.get("packages", {})).items():
            facts.setdefault(name, []).append(str(value))
    rows = tuple((name, _distinct(values)) for name, values in facts.items())
    return Sheet("environment", "Recorded by every run in its run.json.", ("part", "version"), rows)


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))
