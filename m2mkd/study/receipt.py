"""Receipts: from which runs everything that is shown of a study was made, and its digests, so that nothing else can stand in its place."""

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
"""Name of the receipt of the report and its pictures, beside that of the tables."""
REPORT = ("report.html", "overview.png")
"""What the report consists of; a study without students has no overview."""


def report_receipt(study: Study) -> Path:
    """Where the receipt of the report lies."""
    return Path(study.receipt).with_name(REPORT_RECEIPT.format(study.key))


def write_receipt(study: Study, files: Iterable[str], runs: Mapping[str, str | None], outdated: Mapping[str, Finished]) -> None:
    """Write the receipt of the tables; earlier ones, of whichever study, go.

    Parameters
    ----------
    study
        What was compiled.
    files
        What was made, relative to the study's pages.
    runs
        What each run of the study published, as a digest; none, where the tables say nothing of it.
    outdated
        Those that other code computed, as the tables say.
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
    """Write the receipt of the report, which says of which tables it is; earlier ones go."""
    content = {"study": study.key, "tables": sha256(Path(study.receipt)), "shown": _digests(study, REPORT)}
    _replace(report_receipt(study), REPORT_RECEIPT, sealed(content))


def remove_receipts(study: Study) -> None:
    """Remove the receipts of tables and report, of whichever study, before something else takes the place of these."""
    for name in (RECEIPT, REPORT_RECEIPT):
        for receipt in Path(study.receipt).parent.glob(name.format("*")):
            receipt.unlink(missing_ok=True)


def read_receipt(path: Path) -> dict[str, Any]:
    """A receipt.

    Raises
    ------
    OSError
        If it cannot be read.
    InputError
        If it is not whole; the line has no fix.
    """
    content = parse_json(path.read_bytes(), str(path))
    if not is_sealed(content):
        raise InputError(f"{path}: is damaged, or of an earlier version: its content is not what its digest says")
    shown = content.get("shown")
    if not isinstance(shown, dict) or any(Path(name).is_absolute() or ".." in Path(name).parts for name in shown):
        raise InputError(f"{path}: is no receipt of what lies beside it")
    return content


def disagreements(study: Study, finished: Mapping[str, Finished]) -> Iterator[str]:
    """What of the tables and the report of a study is not as its receipt says, in a few words each; nothing where there is no receipt.

    Parameters
    ----------
    study
        The graph of runs.
    finished
        Its finished runs as they are now.
    """
    receipt, page = Path(study.receipt), Path(study.pages, REPORT[0])
    if not receipt.is_file():
        return
    try:
        content = read_receipt(receipt)
        yield from changed_files(Path(study.pages), content)
        runs, known = content["runs"], {run_id: found.outputs for run_id, found in finished.items()}
        yield from (f"{run_id}: is not the run that the tables are of" for run_id in runs if _differs(runs[run_id], known.get(run_id)))
        if content["outdated"] != _outdated({run_id: found for run_id, found in finished.items() if run_id in runs}):
            yield f"{receipt}: other runs than it says were computed by other code"
        if page.is_file() and not report_receipt(study).is_file():
            yield f"{page}: has no receipt"
        elif page.is_file():
            report = read_receipt(report_receipt(study))
            yield from changed_files(Path(study.pages), report)
            if report["tables"] != sha256(receipt):
                yield f"{page}: is of other tables"
    except (OSError, InputError, KeyError, TypeError, AttributeError) as error:
        yield str(error) if isinstance(error, InputError) else f"{receipt}: does not say how tables and report were made"


def changed_files(pages: Path, receipt: Mapping[str, Any]) -> Iterator[str]:
    """Files that are not what a receipt says."""
    for name, digest in receipt["shown"].items():
        path = pages / name
        if not path.is_file():
            yield f"{path}: is gone"
        elif sha256(path) != digest:
            yield f"{path}: is not as it was made"


def _differs(recorded: str | None, now: str | None) -> bool:
    """Whether a run is another one; one that is not here, or of which the tables say nothing, cannot be compared."""
    return recorded is not None and now is not None and recorded != now


def _outdated(finished: Mapping[str, Finished]) -> dict[str, list[str]]:
    """What differs from runs that other code computed, by run."""
    return {run_id: [*(one.changed or ()), *one.replaced] for run_id, one in sorted(finished.items()) if one.is_outdated}


def _digests(study: Study, files: Iterable[str]) -> dict[str, str]:
    there = (name for name in sorted(files) if Path(study.pages, name).is_file())
    return {name: sha256(Path(study.pages, name)) for name in there}


def _replace(path: Path, pattern: str, content: Mapping[str, Any]) -> None:
    for earlier in path.parent.glob(pattern.format("*")):
        if earlier != path:
            earlier.unlink(missing_ok=True)
    write_json(path, content)
