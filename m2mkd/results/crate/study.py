"""Check of the study in a crate: its runs are read as strictly as in the project, and its tables are compiled again from them."""

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from m2mkd.config.strict import parse_json
from m2mkd.errors import InputError
from m2mkd.results.crate.contents import data_files
from m2mkd.results.judge.results import Results
from m2mkd.results.read.records import read_record
from m2mkd.results.tables.compile import compiled
from m2mkd.study.files import study_file, study_from
from m2mkd.study.keys import is_sealed
from m2mkd.study.phase import RECORD, phase_from
from m2mkd.study.receipt import read_receipt, report_receipt
from m2mkd.study.record import outputs_digest, read_run_json
from m2mkd.study.run import Run
from m2mkd.study.study import RECEIPT, RESULTS_FORMAT, Study, scale_root

RECEIPT_PATH = re.compile(rf"results/([^/]+)/tables/{RECEIPT.format('([0-9a-f]{16})')}")
RECORD_PATH = re.compile(rf"results/[^/]+/runs/([^/]+/[^/]+)/{re.escape(RECORD)}")
PROVENANCE = ("git_commit", "python", "machine", "system", "packages", "started", "seconds")
"""Fields that a record's provenance must have: time, place and software of its run."""


@dataclass(frozen=True)
class CrateStudy:
    """Study in a crate, which is the working directory."""

    digests: Mapping[str, str]
    """Digests (sha256) of the files of the crate."""
    receipt: dict[str, Any]
    study: Study

    @classmethod
    def read(cls, digests: Mapping[str, str]) -> Self:
        """The study whose receipt is in the crate.

        Raises
        ------
        InputError
            If there is not exactly one, or it lists other runs than the crate has.
        """
        found = [match for path in digests if (match := RECEIPT_PATH.fullmatch(path))]
        if len(found) != 1:
            raise InputError(f"results: has {len(found)} receipts of tables (SCALE/tables/{RECEIPT.format('KEY')}), but a crate has one")
        path, (scale_name, key) = Path(found[0][0]), found[0].groups()
        receipt = _readable(path, read_receipt)
        if receipt.get("format") != RESULTS_FORMAT:
            raise InputError(f"{path}: is of tables of format {receipt.get('format')}, but this version compiles format {RESULTS_FORMAT}")
        plan = study_file(scale_name, key)
        content = _readable(plan, lambda file: parse_json(file.read_bytes(), str(file)))
        if plan.as_posix() not in digests or not is_sealed(content):
            raise InputError(f"{plan}: its content does not match its digest")
        runs = {match[1] for name in digests if (match := RECORD_PATH.fullmatch(name))}

        def run_of(run_id: str) -> Run:
            if run_id not in runs:
                raise InputError(f"{path}: lists {run_id}, which is not in the crate")
            return _run(Path(scale_root(scale_name), "runs", run_id))

        study = study_from(scale_name, key, content, run_of)
        if surplus := sorted(runs - study.runs.keys()):
            raise InputError(f"{study.folder(surplus[0])}/{RECORD}: does not belong to the study, by its plan")
        listed = receipt.get("runs")
        if receipt.get("study") != key or not isinstance(listed, dict) or listed.keys() != study.runs.keys():
            raise InputError(f"{path}: is not the receipt of this study")
        return cls(digests, receipt, study)

    @cached_property
    def left_out(self) -> set[str]:
        """Outputs of runs that are recorded by digest only."""
        return {output for run in self.study.runs.values() for output in self.study.outputs(run)} - self.digests.keys()

    def problems(self, actions: set[str]) -> Iterator[str]:
        """Describe faults of its runs.

        Parameters
        ----------
        actions
            Ids of the actions in the crate's metadata.
        """
        for path in data_files(self.study):
            if path not in self.digests:
                yield f"{path}: is not in the crate, but its runs used that set"
        for run in self.study.runs.values():
            folder = self.study.folder(run.id)
            try:
                record = read_record(self.study, run)
            except InputError as error:
                yield str(error).partition("; ")[0]
                continue
            for name, digest in record.outputs.items():
                if self.digests.get(f"{folder}/{name}", digest) != digest:
                    yield f"{folder}/{name}: not the file that {RECORD} next to it records"
            yield from (f"{folder}/{RECORD}: provenance has no {name}" for name in PROVENANCE if name not in record.provenance)
            if f"#run/{run.id}" not in actions:
                yield f"{folder}/{RECORD}: the metadata has no action for this run"
            if self.receipt["runs"][run.id] not in (None, outputs_digest({"outputs": record.outputs})):
                yield f"{folder}/{RECORD}: not the run that the tables show"

    def tables_problems(self) -> Iterator[str]:
        """Describe faults of its tables and report: tables and metrics are compiled again by the present code."""
        pages = self.study.pages
        try:
            made = compiled(Results.read(self.study, package=Path("m2mkd").absolute()))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            yield f"m2mkd: has a file that is not valid Python ({error})"
            return
        for name in sorted(made.keys() | self.receipt["shown"].keys()):
            path = f"{pages}/{name}"
            if name not in self.receipt["shown"] or self.digests.get(path) != self.receipt["shown"][name]:
                yield f"{path}: differs from its digest in {Path(self.study.receipt).name}"
            elif name not in made or not _equal(name, Path(path).read_bytes(), made[name]):
                yield f"{path}: differs from what its runs give when they are compiled again"
        report = report_receipt(self.study)
        content = _readable(report, read_receipt)
        if content.get("tables") != self.digests[Path(self.study.receipt).as_posix()]:
            yield f"{report}: is of other tables"
        for name, digest in content["shown"].items():
            if self.digests.get(f"{pages}/{name}") != digest:
                yield f"{pages}/{name}: differs from its digest in {report.name}"


def _readable(path: Path, read: Any) -> dict[str, Any]:
    try:
        return read(path)
    except OSError as error:
        raise InputError(f"{path}: {'absent' if isinstance(error, FileNotFoundError) else error.strerror}") from None


def _run(folder: Path) -> Run:
    """Read a run from its own record; its id must match its folder."""
    path = folder / RECORD
    try:
        record = read_run_json(folder)
        run = Run(phase_from(record["config"]), {role: tuple(ids) for role, ids in dict(record["upstream"]).items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: not a complete record of a run of this version ({type(error).__name__}: {reason})") from None
    if run.id != "/".join(folder.parts[-2:]):
        raise InputError(f"{path}: its key does not follow from its configuration")
    return run


def _equal(name: str, one: bytes, other: bytes) -> bool:
    """True if two files have equal content; the bytes of Parquet files differ with the version that wrote them."""
    if one == other or not name.endswith(".parquet"):
        return one == other
    try:
        tables = [pq.read_table(io.BytesIO(content)) for content in (one, other)]
    except (OSError, pa.ArrowException):
        return False
    return tables[0].equals(tables[1], check_metadata=False)
