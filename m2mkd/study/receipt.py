"""Receipts: the runs from which a study's tables and report were made, and their digests, so that a replaced file is noticed."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from m2mkd.config.strict import parse_json
from m2mkd.errors import InputError
from m2mkd.files import sha256, write_json
from m2mkd.study.keys import is_sealed, sealed
from m2mkd.study.record import Finished
from m2mkd.study.study import RECEIPT, RESULTS_FORMAT, Study

REPORT_RECEIPT = "report-{}.json"
"""Name of the receipt of the report and its pictures, next to that of the tables."""
REPORT = ("report.html", "overview.png")
"""Files of the report; a study without students has no overview."""


def report_receipt(study: Study) -> Path:
    """Path of the receipt of the report."""
    return Path(study.receipt).with_name(REPORT_RECEIPT.format(study.key))


def write_receipt(study: Study, files: Iterable[str], runs: Mapping[str, str | None], outdated: Mapping[str, Finished]) -> None:
    """Write the receipt of the tables; remove earlier ones of any study.

    Parameters
    ----------
    study
        Compiled study.
    files
        Files that were made, relative to the study's pages.
    runs
        Digest of what each run of the study published; none if the tables do not show it.
    outdated
        Runs that other code computed, as in the tables.
    """
    content = {
        "format": RESULTS_FORMAT,
        "study": study.key,
        "scale": study.scale_name,
        "ablations": study.ablations,
        "experiments": list(study.selected),
        "overrides": study.overrides,
        "runs": dict(sorted(runs.items())),
        "outdated": _outdated(outdated),
        "shown": _digests(study, files),
    }
    _replace(Path(study.receipt), RECEIPT, sealed(content))


def write_report_receipt(study: Study) -> None:
    """Write the receipt of the report, which names its tables; remove earlier ones."""
    content = {"study": study.key, "tables": sha256(Path(study.receipt)), "shown": _digests(study, REPORT)}
    _replace(report_receipt(study), REPORT_RECEIPT, sealed(content))


def remove_receipts(study: Study) -> None:
    """Remove the receipts of tables and report of any study, before these files are replaced."""
    for name in (RECEIPT, REPORT_RECEIPT):
        for receipt in Path(study.receipt).parent.glob(name.format("*")):
            receipt.unlink(missing_ok=True)


def read_receipt(path: Path) -> dict[str, Any]:
    """Read a receipt.

    Raises
    ------
    OSError
        If it cannot be read.
    InputError
        If it is not complete; the message has no fix.
    """
    content = parse_json(path.read_bytes(), str(path))
    if not is_sealed(content):
        raise InputError(f"{path}: is damaged, or of an earlier version: its content does not match its digest")
    shown = content.get("shown")
    if not isinstance(shown, dict) or any(Path(name).is_absolute() or ".." in Path(name).parts for name in shown):
        raise InputError(f"{path}: is not a receipt of the files next to it")
    return content


def disagreements(study: Study, finished: Mapping[str, Finished]) -> Iterator[str]:
    """Describe each difference between the tables and report of a study and their receipts; nothing if there is no receipt.

    Parameters
    ----------
    study
        The graph of runs.
    finished
        Its finished runs in their present state.
    """
    receipt, page = Path(study.receipt), Path(study.pages, REPORT[0])
    if not receipt.is_file():
        return
    try:
        content = read_receipt(receipt)
        yield from changed_files(Path(study.pages), content)
        runs, known = content["runs"], {run_id: found.outputs for run_id, found in finished.items()}
        yield from (f"{run_id}: differs from the run that the tables show" for run_id in runs if _differs(runs[run_id], known.get(run_id)))
        if content["outdated"] != _outdated({run_id: found for run_id, found in finished.items() if run_id in runs}):
            yield f"{receipt}: the runs computed by other code differ from those that it lists"
        if page.is_file() and not report_receipt(study).is_file():
            yield f"{page}: has no receipt"
        elif page.is_file():
            report = read_receipt(report_receipt(study))
            yield from changed_files(Path(study.pages), report)
            if report["tables"] != sha256(receipt):
                yield f"{page}: is of other tables"
    except (OSError, InputError, KeyError, TypeError, AttributeError) as error:
        yield str(error) if isinstance(error, InputError) else f"{receipt}: does not record how tables and report were made"


def changed_files(pages: Path, receipt: Mapping[str, Any]) -> Iterator[str]:
    """Files that differ from a receipt."""
    for name, digest in receipt["shown"].items():
        path = pages / name
        if not path.is_file():
            yield f"{path}: is missing"
        elif sha256(path) != digest:
            yield f"{path}: has been changed"


def _differs(recorded: str | None, now: str | None) -> bool:
    """True if a run is another one; a run that is missing here or in the tables cannot be compared."""
    return recorded is not None and now is not None and recorded != now


def _outdated(finished: Mapping[str, Finished]) -> dict[str, list[str]]:
    """Changed modules and replaced upstream runs of runs that other code computed, by run."""
    return {run_id: [*(one.changed or ()), *one.replaced] for run_id, one in sorted(finished.items()) if one.is_outdated}


def _digests(study: Study, files: Iterable[str]) -> dict[str, str]:
    there = (name for name in sorted(files) if Path(study.pages, name).is_file())
    return {name: sha256(Path(study.pages, name)) for name in there}


def _replace(path: Path, pattern: str, content: Mapping[str, Any]) -> None:
    for earlier in path.parent.glob(pattern.format("*")):
        if earlier != path:
            earlier.unlink(missing_ok=True)
    write_json(path, content)
