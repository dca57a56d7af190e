"""Verification of every output of finished runs, also of those that no table uses."""

from collections.abc import Iterator
from pathlib import Path

from m2mkd.errors import InputError
from m2mkd.files import sha256
from m2mkd.results.read.records import read_kept, read_record
from m2mkd.study.record import code_in_words, finished_runs
from m2mkd.study.run import Run
from m2mkd.study.state import is_done
from m2mkd.study.study import Study


def verify_runs(study: Study) -> Iterator[str]:
    """Compare every finished run with its record, its configuration and the present data.

    Yields
    ------
    str
        A line for each run that other code computed, and a summary.

    Raises
    ------
    InputError
        If an output differs from its record, or a record from the study or the data; names the first, and the number of others.
    """
    done = [run for run in study.runs.values() if is_done(study, run)]
    problems = [problem for run in done if (problem := _problem(study, run))]
    if problems:
        more = f" ({len(problems) - 1} more runs are wrong)" if len(problems) > 1 else ""
        raise InputError(f"{problems[0]}{more}")
    finished = finished_runs(study)
    yield from (f"{run_id}: {code_in_words(one)}" for run_id, one in finished.items() if one.is_outdated)
    unknown = sum(one.changed is None for one in finished.values())
    words = f"; {unknown} do not record which code computed them" if unknown else ""
    yield f"{study.root}: {len(done)} of {len(study.runs)} runs are finished and complete{words}"


def _problem(study: Study, run: Run) -> str:
    """First fault of a run, in one line; empty if there is none."""
    folder = study.folder(run.id)
    try:
        record = read_record(study, run)
        for name in record.kept:
            read_kept(study, record, name)
        for name, digest in record.outputs.items():
            if (actual := sha256(Path(folder, name))) != digest:
                fix = f"remove {folder} and run the workflow again"
                return f"{folder}/{name}: sha256 is {actual[:12]}..., but the run recorded {digest[:12]}...; {fix}"
    except InputError as error:
        return str(error)
    return ""
