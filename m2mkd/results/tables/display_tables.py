"""Tables only for people, in addition to the results: cost, data, recipes, switches, environment, commands, runs behind numbers."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from m2mkd.config import load
from m2mkd.config.detection import DetectorConfig
from m2mkd.config.detection_recipe import DetectionRecipe
from m2mkd.config.family import Architecture
from m2mkd.config.registered_families import family_of
from m2mkd.planning.cost import Cost
from m2mkd.results.judge.results import Results
from m2mkd.results.read.collect import Collected
from m2mkd.results.read.lookup import ROW
from m2mkd.results.tables.commands import Commands
from m2mkd.results.tables.hybrids import hybrids_anchor
from m2mkd.results.tables.layout import DisplayTable, percent
from m2mkd.statistics import mean
from m2mkd.study.lineage import anchor_of, title_of
from m2mkd.study.phase import METRICS, PHASES
from m2mkd.study.phases import AssembleTeacher, MeasureHybrid, PretrainMeta, TrainDetector, TrainStudent
from m2mkd.study.run import Row, RowName
from m2mkd.study.study import Study

SPLITS = ("iid", "ood", "fewshot")
NETWORKS = {
    "pretrain_meta": "meta model",
    "assemble_teacher": "teacher",
    "train_student": "student",
    "train_detector": "detector",
}
"""Kind of network that a phase trains."""


def commands_table(study: Study, commands: Commands) -> DisplayTable:
    """Command that repeats each experiment."""
    names = dict.fromkeys(row.experiment for row in study.rows)
    rows = tuple((name, title_of(study, name), commands.to(name)) for name in names)
    caption = "Each command computes what is missing of one experiment, including everything that it builds on."
    return DisplayTable("commands", caption, ("experiment", "reproduces, at its published scale", "command"), rows)


def cost_table(results: Results) -> DisplayTable:
    """Planned and measured cost of each phase."""
    seconds: dict[str, list[float]] = {}
    for record in results.records:
        seconds.setdefault(record.run.phase, []).append(float(record.provenance["seconds"]))
    planned: dict[str, list[Cost]] = {}
    for run_id, cost in results.costs.items():
        planned.setdefault(results.study.runs[run_id].phase, []).append(cost)
    rows = [_cost_line(phase, planned[phase], seconds.get(phase, [])) for phase in PHASES if phase in planned]
    every = [cost for costs in planned.values() for cost in costs]
    rows.append(_cost_line("all", every, [spent for group in seconds.values() for spent in group]))
    caption = (
        "Planned: GPU-hours by the count of operations, on H200 at 40 % of their peak (m2mkd plan). Spent: wall time as each run "
        "measured it on its own machine (see Environment), with or without other jobs; it excludes the start of a process and, for an "
        "interrupted session, the work after the checkpoint from which the next one resumed."
    )
    header = ("phase", "planned GPU-hours", "runs", "spent hours", "mean seconds", "longest")
    return DisplayTable("cost", caption, header, tuple(rows))


def _cost_line(phase: str, planned: list[Cost], spent: list[float]) -> tuple[str, ...]:
    hours = f"{sum(cost.gpu_hours for cost in planned):.3g}"
    if not spent:
        return (phase, hours, "0", "", "", "")
    return (phase, hours, str(len(spent)), f"{sum(spent) / 3600:.3f}", f"{mean(spent):.2f}", f"{max(spent):.2f}")


def quoted_table(collected: Collected) -> DisplayTable:
    """Sources of the published numbers next to this suite's."""
    lines = []
    for row in collected.study.rows:
        for split in SPLITS:
            if cell := collected.published.find(row.experiment, row.variant, split):
                value = "" if cell.value is None else f"{cell.value:g}"
                lines.append((row.experiment, row.variant, split, value, cell.paper, cell.status, cell.source))
    caption = "Published numbers that are shown next to ours, with their sources. An empty value is not known here."
    header = ("experiment", "variant", "split", "value", "paper", "status", "source")
    return DisplayTable("published", caption, header, tuple(dict.fromkeys(lines)))


def evidence(collected: Collected, commands: Commands) -> list[tuple[list[str], str, DisplayTable]]:
    """Runs behind the rows of the tables, rows with equal runs merged: anchors, title, a line per seed with its digests and one command."""
    study, every = collected.study, collected.measurements
    top1 = (every["metric"] == "top1") & (every["rendition"] == "") & every["split"].isin(SPLITS)
    accuracies = every[top1 | (every["metric"] == "boxes_AP")]
    by_run = {row: _by_run(of_row) for row, of_row in accuracies.groupby(ROW)}
    alike: dict[tuple[str, ...], list[Row]] = {}
    for row in study.rows:
        alike.setdefault(row.measured, []).append(row)
    found = []
    for row, *others in alike.values():
        shares = by_run.get(row.name, pd.DataFrame())
        names = tuple(f"{column[0]}, {column[1]}, %" for column in shares.columns)
        lines = []
        for run_id in row.measured:
            seed, record = study.runs[run_id].seed, collected.by_run.get(run_id)
            cells = map(percent, shares.loc[run_id]) if run_id in shares.index else [""] * len(names)
            state = record.digest[:16] if record else "absent"
            target = commands.to(f"{study.folder(run_id)}/{METRICS}")
            lines.append(("all" if seed is None else str(seed), *cells, run_id, state, target))
        header = ("seed", *names, "run and digest of its configuration", "sha256 of its record", "command")
        title = "; ".join(str(one.name) for one in (row, *others))
        table = DisplayTable(f"{anchor_of(row)}-table", f"Runs behind {title}.", header, tuple(lines))
        found.append(([anchor_of(one) for one in (row, *others)], title, table))
    return [*found, *_hybrids_evidence(collected, commands)]


def _by_run(measurements: pd.DataFrame) -> pd.DataFrame:
    """A line for each run, and a column for each split and data set, in the order in which they were measured."""
    columns = measurements[["split", "data"]].drop_duplicates().itertuples(index=False, name=None)
    return measurements.pivot_table("value", "run", ["split", "data"])[list(columns)]


def _hybrids_evidence(collected: Collected, commands: Commands) -> list[tuple[list[str], str, DisplayTable]]:
    """Runs behind the measurements of the teachers' modules, which do not have a row."""
    study = collected.study
    lines: dict[RowName, list[tuple[str, ...]]] = {}
    for record in collected.records:
        if isinstance(record.run.config, MeasureHybrid):
            target = f"{study.folder(record.run.id)}/{METRICS}"
            line = (str(record.run.config.data), record.run.id, record.digest[:16], commands.to(target))
            lines.setdefault(collected.shown_under[record.run.id], []).append(line)
    header = ("set", "run and digest of its configuration", "sha256 of its record", "command")
    found = []
    for name, rows in lines.items():
        title, anchor = f"Modules of {name.experiment} in the meta model ({name.profile})", hybrids_anchor(name)
        found.append(([anchor], title, DisplayTable(f"{anchor}-table", f"Runs behind {title.lower()}.", header, tuple(rows))))
    return found


def data_table(study: Study) -> DisplayTable:
    """Data sets that the runs read."""
    used = {str(data): data for run in study.runs.values() for data in run.config.data_sets}
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
    return DisplayTable("data", caption, ("set", "what it is", "classes", "kind", "licence"), rows)


def models_table(results: Results) -> DisplayTable:
    """Sizes of the networks that are trained."""
    rows: dict[tuple[str, str, str], str] = {}
    for run in results.study.runs.values():
        config: Any = run.config
        trained = isinstance(config, PretrainMeta | AssembleTeacher | TrainStudent | TrainDetector)
        if trained and getattr(config, "teacher", None) is None:
            model = config.student if isinstance(config, TrainStudent) else config.model
            what = NETWORKS[run.phase]
            rows[(what, model.family, _sizes(model))] = f"{results.costs[run.id].parameters / 1e6:.3g}"
    caption = "All networks that the runs train, and their parameters in millions."
    return DisplayTable(
        "models", caption, ("network", "family", "sizes", "parameters"), tuple((*names, count) for names, count in rows.items())
    )


def _sizes(model: Architecture | DetectorConfig) -> str:
    if isinstance(model, DetectorConfig):
        return f"{model.image_size} pixels, {model.channels} channels on {_sizes(model.backbone)}"
    return family_of(model).sizes(model)


def training_table(study: Study) -> DisplayTable:
    """Duration and recipe of each phase's training."""
    rows = []
    for run in study.runs.values():
        config: Any = run.config
        if recipe := getattr(config, "recipe", None):
            model = getattr(config, "student", None) or config.model
            counted = isinstance(recipe, DetectionRecipe)
            length, share = (f"{recipe.updates} updates", 1.0) if counted else (str(recipe.epochs), recipe.train_share)
            how = (length, str(recipe.batch_size), f"{recipe.lr:g}", f"{share:g}", recipe.precision)
            rows.append((run.phase, model.family, str(config.data), *how))
    rows = sorted(dict.fromkeys(rows), key=lambda row: list(PHASES).index(row[0]))
    caption = (
        "Recipes; batch sizes are global, and of a probe the whole episode is one batch. Every value: m2mkd config show EXPERIMENT --full."
    )
    header = ("phase", "family", "training set", "epochs", "batch", "lr", "share of the set", "precision")
    return DisplayTable("training", caption, header, tuple(rows))


def switches_table(study: Study) -> DisplayTable:
    """Values of the compat switches that have an effect on the study."""
    used: dict[str, set[str]] = {}
    for run in study.runs.values():
        for name, value in run.config.compat.items():
            used.setdefault(name, set()).add(str(value))
    rows = tuple((name, " and ".join(sorted(values)), load.switches()[name].about) for name, values in sorted(used.items()))
    caption = "Known defects of the released code that could matter here, and the value that was used."
    return DisplayTable("switches", caption, ("switch", "value", "what the released code does"), rows)


def environment_table(collected: Collected) -> DisplayTable:
    """Software and hardware that computed the runs; several values if they differ."""
    facts: dict[str, list[str]] = {}
    for record in collected.records:
        source = record.provenance
        commit = str(source.get("git_commit") or "none") + (" with uncommitted changes" if source.get("git_dirty") else "")
        found = {"git commit": commit, "python": source.get("python"), "system": f"{source.get('system')} {source.get('machine')}"}
        found |= {"hardware": source.get("hardware") or source.get("machine")}
        image = source.get("container") or {}
        found["container image"] = " ".join(filter(None, (image.get("image"), image.get("digest")))) or "none"
        for name, value in (found | source.get("packages", {})).items():
            facts.setdefault(name, []).append(str(value))
    rows = tuple((name, _distinct(values)) for name, values in facts.items())
    return DisplayTable("environment", "Recorded by every run in its run.json.", ("part", "version"), rows)


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))
