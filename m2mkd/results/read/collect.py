"""Finished runs of a study, read and checked once, as tidy frames."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd

from m2mkd.config import load
from m2mkd.config.experiment import AblationExperiment
from m2mkd.errors import InputError
from m2mkd.evaluation.plateau import Plateau, plateau
from m2mkd.results.read.lookup import Numbers
from m2mkd.results.read.published import PublishedNumbers
from m2mkd.results.read.records import Record, read_record
from m2mkd.results.read.runs_table import runs_frame
from m2mkd.study.code import SOURCES_HERE
from m2mkd.study.lineage import ablations_of, display_rows, served_rows
from m2mkd.study.phases import DistillModule, Evaluate, ImportWeights, TrainProbe
from m2mkd.study.record import Finished, finished_runs
from m2mkd.study.run import Row, RowName
from m2mkd.study.study import Study

MEASUREMENT_COLUMNS = ["experiment", "variant", "profile", "run", "seed", "split", "data", "rendition", "metric", "value", "count"]
EPOCH_COLUMNS = ["epoch", "step", "lr", "loss", "cross_entropy", "divergence", "regulariser", "val_loss", "val_top1", "val_top5"]
CURVE_COLUMNS = ["phase", "experiment", "variant", "profile", "run", "module", "seed", *EPOCH_COLUMNS]


@dataclass(frozen=True, eq=False)
class Collected:
    """Measurements of a study. Frames are made at their first use."""

    study: Study
    records: tuple[Record, ...]
    """Records of the runs that measure something, upstream before downstream."""
    problems: dict[str, str] = field(default_factory=dict)
    """Reason for leaving out a run, by id. Empty unless ``partial``."""
    partial: bool = False
    """True if missing or wrong runs, and all that build on them, are left out instead of refused."""
    package: Path = SOURCES_HERE
    """Sources of this suite that the runs' code is compared with."""

    @classmethod
    def read(cls, study: Study, *, partial: bool = False, package: Path = SOURCES_HERE) -> Self:
        """Read every run of a study that measures something.

        Parameters
        ----------
        study
            The graph of runs.
        partial
            Leave out missing or wrong runs, and all that build on them, instead of refusing them.
        package
            Sources of this suite that the runs' code is compared with.

        Raises
        ------
        InputError
            If one is missing, damaged, or of another configuration than the study's, unless ``partial``; names the file. If there is none.
        """
        if not study.runs:
            raise InputError(f"scale {study.scale_name}: its study has no run; name experiments in config/scales/{study.scale_name}.yaml")
        problems: dict[str, str] = {}
        if partial:
            return cls(study, tuple(_usable_records(study, problems)), problems, partial, package)
        records = tuple(read_record(study, run) for run in study.runs.values() if run.config.measures())
        return cls(study, records, package=package)

    @cached_property
    def by_run(self) -> dict[str, Record]:
        """Records of the runs that measure something, by id."""
        return {record.run.id: record for record in self.records}

    @cached_property
    def every_record(self) -> tuple[Record, ...]:
        """Records of all runs, also of those that measure nothing, upstream before downstream; if ``partial``, of the finished ones.

        Raises
        ------
        InputError
            As `read`, for a run that measures nothing.
        """
        return tuple(self._every_record())

    def _every_record(self) -> Iterator[Record]:
        for run in self.study.runs.values():
            try:
                yield self.by_run.get(run.id) or read_record(self.study, run)
            except InputError:
                if not self.partial:
                    raise

    @cached_property
    def finished(self) -> dict[str, Finished]:
        """Origin of each finished run, by id, also of those that measure nothing."""
        return finished_runs(self.study, self.package)

    @cached_property
    def outdated(self) -> dict[str, Finished]:
        """Runs that other code computed, or that were built on other outputs than the present ones."""
        return {run_id: one for run_id, one in self.finished.items() if one.is_outdated}

    @cached_property
    def served(self) -> dict[str, tuple[Row, ...]]:
        """Rows that need each run, by run id."""
        return served_rows(self.study)

    @cached_property
    def shown_under(self) -> dict[str, RowName]:
        """Row under which each run is shown, by run id."""
        return display_rows(self.study, self.served)

    @cached_property
    def ablations(self) -> dict[str, AblationExperiment]:
        """The ablations that have rows, by name."""
        return ablations_of(self.study)

    @cached_property
    def published(self) -> PublishedNumbers:
        """Published numbers."""
        return PublishedNumbers()

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A line for each record: see `m2mkd.results.read.runs_table.COLUMNS`."""
        return runs_frame(self.records, self.shown_under, self.served)

    @cached_property
    def measurements(self) -> pd.DataFrame:
        """A line for each number.

        Columns: experiment, variant, profile, run, seed, split (iid, ood, fewshot, graph), data, rendition (empty: all images), metric
        (top1, top5, loss, classes, left_out, density), value (shares from 0 to 1), count (images).
        """
        measured: list[dict[str, Any]] = []
        for row in self.study.rows:
            for record in self.counted(row):
                where = row.name._asdict() | {"run": record.run.id, "seed": record.run.seed}
                measured += [where | asdict(one) for one in record.measurements]
        return pd.DataFrame(measured, columns=MEASUREMENT_COLUMNS).astype({"count": "Int64", "seed": "Int64", "value": "float64"})

    def counted(self, row: Row) -> list[Record]:
        """Records of a row; only one for an imported student, which has the same weights under every seed."""
        records = [self.by_run[run_id] for run_id in row.measured if run_id in self.by_run]
        imported = isinstance(self.study.runs[row.trained[0]].config, ImportWeights)
        return records[:1] if imported and records and isinstance(records[0].run.config, Evaluate) else records

    @cached_property
    def curves(self) -> pd.DataFrame:
        """A line for each epoch of each training: see CURVE_COLUMNS; ``module`` is missing where a whole network trains.

        Terms of objectives that have no column there have one each at the end.
        """
        terms = _curves_of_terms(self.study)
        lines: list[tuple[Any, ...]] = []
        for record in self.records:
            run = record.run
            where = run.phase, *self.shown_under[run.id], run.id, getattr(run.config, "index", None), run.seed
            lines += [(*where, *map(line.get, [*EPOCH_COLUMNS, *terms])) for line in record.curves]
        floats = dict.fromkeys([*EPOCH_COLUMNS[2:], *terms], "float64")
        return pd.DataFrame(lines, columns=[*CURVE_COLUMNS, *terms]).astype({"module": "Int64", "seed": "Int64"} | floats)

    @cached_property
    def plateaus(self) -> dict[str, Plateau]:
        """Longest plateau at chance of each training that has one, by run id."""
        found = {record.run.id: _plateau(record) for record in self.records if record.curves}
        return {run_id: one for run_id, one in found.items() if one}

    def at_chance(self, row: Row) -> str:
        """Trainings of a row, including its modules', that stay at chance for several measurements, in words; empty if there are none."""
        found = []
        for run_id, runs in ((run_id, self.study.with_upstream([run_id])) for run_id in row.trained):
            seed = self.study.runs[run_id].seed
            for stuck in (one for one in self.study.runs if one in runs and one in self.plateaus):
                config, (first, last) = self.study.runs[stuck].config, self.plateaus[stuck]
                if not config.of_teacher:
                    module = f", module {config.index}" if isinstance(config, DistillModule) else ""
                    found.append(f"seed {seed}{module} (epochs {first} to {last})")
        return "; ".join(found)

    @cached_property
    def numbers(self) -> Numbers:
        """The measurements over seeds."""
        return Numbers(self.measurements)

    def rows_measured_by(self, phase: str) -> list[Row]:
        """Rows that have numbers from that phase."""
        rows = self.study.rows
        return [row for row in rows if self.study.runs[row.measured[0]].phase == phase and row.name in self.numbers.rows]

    @cached_property
    def students(self) -> list[Row]:
        """Rows of students that have numbers, without ablations."""
        return [row for row in self.rows_measured_by("evaluate") if row.experiment not in self.ablations]


def _plateau(record: Record) -> Plateau | None:
    """The plateau of a training that measures on all classes of its data set."""
    config = record.run.config
    data = config.data_sets[0]
    images = None if isinstance(config, TrainProbe) else load.datasets()[data.name].val_images
    measured = [(line["epoch"], line["val_top1"]) for line in record.curves if "val_top1" in line]
    return plateau(measured, images, data.classes) if images else None


def _usable_records(study: Study, problems: dict[str, str]) -> Iterator[Record]:
    """Valid runs, upstream before downstream; the reasons for the others go into ``problems``."""
    for run in study.runs.values():
        problem = next((problems[run_id] for run_id in run.parents if run_id in problems), None)
        if problem is None and run.config.measures():
            try:
                yield read_record(study, run)
            except InputError as error:
                problem = str(error).partition("; ")[0]
        if problem is not None:
            problems[run.id] = problem


def once_each(rows: Iterable[Row]) -> list[Row]:
    """Rows without those that repeat the measurements of an earlier one, as rows of transfer experiments do."""
    return list({row.measured: row for row in reversed(list(rows))}.values())[::-1]


def _curves_of_terms(study: Study) -> list[str]:
    """Names of the curves that objectives have beside those of today's losses, in alphabetical order."""
    objectives = (getattr(run.config, "objective", None) for run in study.runs.values())
    return sorted({name for objective in objectives if objective for name in objective.curves} - set(EPOCH_COLUMNS))
