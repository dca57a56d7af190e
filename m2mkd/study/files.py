"""The plan as files, which jobs read instead of the configuration, so that editing it does not change what was planned.

``results/<scale>/plan/<phase>/<key>.json`` holds everything about one run; ``results/<scale>/plan/study-<key>.json`` is a study as a
whole, for tables, report and tracking.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from m2mkd.config.base import NAME
from m2mkd.config.compat import Profile
from m2mkd.config.experiment import CodeRule, Experiment, Scale
from m2mkd.config.strict import PARSERS_ERRORS, parse_json
from m2mkd.errors import InputError
from m2mkd.files import write_json
from m2mkd.study.keys import is_sealed, run_key, sealed
from m2mkd.study.lineage import display_rows
from m2mkd.study.phase import PHASES, phase_from
from m2mkd.study.run import Row, RowName, Run
from m2mkd.study.study import Study, scale_root

EXPERIMENTS: TypeAdapter[dict[str, Experiment]] = TypeAdapter(dict[str, Experiment])
PLAN_AGAIN = "run the workflow again, which makes a new plan"


@dataclass(frozen=True)
class PlannedRun:
    """Run as its job sees it."""

    run: Run
    scale_name: str
    row: RowName
    """Row of the tables under which tracking shows it."""
    checkpoint_minutes: float
    checkpoint_updates: int | None
    tracking_uri: str | None = None
    """MLflow store of the study, unless the environment names one; never with credentials."""
    code: CodeRule = "named"
    """Treatment of a result that other code computed."""

    @property
    def root(self) -> Path:
        """Folder of everything that is written at the scale."""
        return Path(scale_root(self.scale_name))

    @property
    def folder(self) -> Path:
        """Folder of its outputs."""
        return self.root / "runs" / self.run.id

    @property
    def work(self) -> Path:
        """Folder of its checkpoints, and of its outputs until all of them exist."""
        return self.root / "work" / self.run.id

    @property
    def file(self) -> Path:
        """Path of its plan."""
        return plan_folder(self.scale_name) / f"{self.run.id}.json"

    @property
    def redo_mark(self) -> Path:
        """Marker that exists while a finished run is planned again: an input that is newer than its outputs."""
        return redo_mark(self.scale_name, self.run.id)

    def content(self) -> dict[str, Any]:
        """Plain values for its file."""
        content = {
            "id": self.run.id,
            "format": self.run.config.FORMAT,
            **self.run.content,
            "file": getattr(self.run.config, "file", None),
            "experiments": sorted(self.run.users),
            "row": self.row._asdict(),
            "checkpoint_minutes": self.checkpoint_minutes,
            "checkpoint_updates": self.checkpoint_updates,
            "tracking_uri": self.tracking_uri,
            "code": self.code,
        }
        return sealed(content)


def redo_mark(scale_name: str, run_id: str) -> Path:
    """File that tells the workflow to compute a finished run again."""
    return plan_folder(scale_name) / "again" / f"{run_id.replace('/', '-')}.json"


def plan_folder(scale_name: str) -> Path:
    """Folder of the plans of a scale; its name is refused if it could lead elsewhere."""
    if not re.fullmatch(NAME, scale_name):
        raise InputError(f"{scale_name!r} cannot be the name of a scale; use the name of a file in config/scales")
    return Path(scale_root(scale_name), "plan")


def planned_runs(study: Study, tracking_uri: str | None = None, code: CodeRule = "named") -> dict[str, PlannedRun]:
    """Runs of a study as their jobs will see them, by id."""
    rows, scale = display_rows(study), study.scale
    beside = scale.checkpoint_minutes, scale.checkpoint_updates, tracking_uri, code
    return {run.id: PlannedRun(run, study.scale_name, rows[run.id], *beside) for run in study.runs.values()}


def write_plan(study: Study, tracking_uri: str | None = None, code: CodeRule = "named") -> None:
    """Write the plans of a study and of all its runs, each atomically; files that are current are left unchanged."""
    for planned in planned_runs(study, tracking_uri, code).values():
        write_unless_there(planned.file, planned.content())
    write_unless_there(study_file(study.scale_name, study.key), study_content(study))


def study_content(study: Study) -> dict[str, Any]:
    """A study without its runs as plain values, for its file."""
    content = {
        "scale_name": study.scale_name,
        "scale": study.scale.model_dump(mode="json"),
        "ablations": study.ablations,
        "detection": study.detection,
        "overrides": study.overrides,
        "selected": list(study.selected),
        "experiments": EXPERIMENTS.dump_python(study.experiments, mode="json"),
        "runs": list(study.runs),
        "rows": [[*row.name, list(row.trained), list(row.measured)] for row in study.rows],
    }
    return sealed(content)


def study_file(scale_name: str, key: str) -> Path:
    """Path of the plan of a whole study."""
    return plan_folder(scale_name) / f"study-{key}.json"


def write_unless_there(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON, unless the file has this content already."""
    try:
        if json.loads(path.read_text()) == content:
            return
    except (OSError, *PARSERS_ERRORS):
        pass
    write_json(path, content)


def read_planned(path: Path) -> PlannedRun:
    """The plan of one run.

    Raises
    ------
    InputError
        If it cannot be read, is of another version, or its content does not match the digest in its name.
    """
    content = _read(path)
    scale_name, phase, key = path.parts[-4], path.parts[-2], path.stem
    try:
        upstream = {role: tuple(ids) for role, ids in content["upstream"].items()}
        if content["format"] != PHASES[phase].FORMAT:
            raise InputError(f"{path}: planned for format {content['format']} of {phase}, but this is {PHASES[phase].FORMAT}; {PLAN_AGAIN}")
        if run_key(content["format"], content["config"], content["upstream"]) != key:
            raise InputError(f"{path}: its content does not match the digest in its name; {PLAN_AGAIN}")
        config = phase_from(content["config"] | ({"file": content["file"]} if content["file"] is not None else {}))
        run = Run(config, upstream, set(content["experiments"]))
        row = RowName(**content["row"])
        beside = {name: content[name] for name in ("checkpoint_minutes", "checkpoint_updates", "tracking_uri", "code")}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: not a complete plan of a run ({type(error).__name__}); {PLAN_AGAIN}") from None
    return PlannedRun(run, scale_name, row, **beside)


def find_planned(run_id: str, scale_name: str) -> list[Path]:
    """Plans of the runs at a scale whose ids have this prefix."""
    phase, _, start = run_id.partition("/")
    if phase not in PHASES or not all(character in "0123456789abcdef" for character in start):
        return []
    return sorted((plan_folder(scale_name) / phase).glob(f"{start}*.json"))


def read_study(scale_name: str, key: str) -> Study:
    """Planned study.

    Raises
    ------
    InputError
        If there is no such plan, or it or the plan of one of its runs is not complete.
    """
    if not re.fullmatch("[0-9a-f]{16}", key):
        raise InputError(f"{key!r} is not the key of a study, which has 16 hexadecimal digits; {PLAN_AGAIN}")
    content = _read(study_file(scale_name, key))
    return study_from(scale_name, key, content, lambda run_id: read_planned(plan_folder(scale_name) / f"{run_id}.json").run)


def study_from(scale_name: str, key: str, content: Mapping[str, Any], run_of: Callable[[str], Run]) -> Study:
    """Study from the content of its file, and its runs.

    Raises
    ------
    InputError
        If it is not complete, or has another key; also what ``run_of`` raises, which is called with ids.
    """
    path = study_file(scale_name, key)
    try:
        runs = [run_of(run_id) for run_id in content["runs"]]
        study = Study(
            content["scale_name"],
            Scale.model_validate(content["scale"]),
            content["ablations"],
            content["detection"],
            content["overrides"],
            tuple(content["selected"]),
            EXPERIMENTS.validate_python(content["experiments"]),
            {run.id: run for run in runs},
            [_row(*row) for row in content["rows"]],
        )
        for row in study.rows:
            study.with_upstream(row.trained + row.measured)  # a KeyError if one is missing
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise InputError(f"{path}: not a complete plan of a study ({type(error).__name__}); {PLAN_AGAIN}") from None
    if study.key != key or study.scale_name != scale_name:
        raise InputError(f"{path}: its content does not match the digest in its name; {PLAN_AGAIN}")
    return study


def _row(experiment: str, variant: str, profile: Profile, trained: list[str], measured: list[str]) -> Row:
    return Row(experiment, variant, profile, tuple(trained), tuple(measured))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise InputError(f"{path}: absent; {PLAN_AGAIN}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); {PLAN_AGAIN}") from None
    except InputError as error:
        raise InputError(f"{error}; {PLAN_AGAIN}") from None
    if not is_sealed(content):
        raise InputError(f"{path}: its content does not match its digest, or it is of an earlier version; {PLAN_AGAIN}")
    return content
