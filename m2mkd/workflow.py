"""Planning for the workflow: everything that Snakemake and its jobs read is written once, before any of them starts."""

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from m2mkd.config.experiment import Settings
from m2mkd.containers.image import for_workflow
from m2mkd.errors import InputError
from m2mkd.files import read_note, require_writable, write_json
from m2mkd.marks import clear_marks
from m2mkd.planning.cost import Assumptions, cost_of
from m2mkd.planning.request import Terms, requests
from m2mkd.planning.summary import compute_in_words
from m2mkd.study.code import code_of
from m2mkd.study.differences import plan_differences
from m2mkd.study.files import plan_folder, read_study, redo_mark, write_plan, write_unless_there
from m2mkd.study.graph import as_graph
from m2mkd.study.keys import digest
from m2mkd.study.phase import PHASES
from m2mkd.study.plan import build_study
from m2mkd.study.receipt import disagreements, remove_receipts
from m2mkd.study.record import Finished, code_in_words, finished_runs
from m2mkd.study.state import NORMAL_MTIME, is_done, normalise_all_mtimes
from m2mkd.study.study import Study
from m2mkd.tracking.address import check_address, set_default_tracking_uri, store_uri


def plan_workflow(
    settings: Settings,
    terms: Terms | None,
    say: Callable[[str], object],
    *,
    in_container: bool = False,
    storage: Path | None = None,
) -> Path:
    """Plan a study with all else that its scale has, and write the plan.

    Parameters
    ----------
    settings
        Scale, experiments and overrides.
    terms
        What the machine offers to every job; none: jobs ask for nothing.
    say
        Told what differs from the last plan of the scale, and what there is to compute.
    in_container
        Whether jobs are to run in the image, which must be there.
    storage
        Folder of Snakemake's copies of what it sends to an object storage, where it does. The scale's folder then lies there; checkpoints
        and plans, which no rule declares, stay on the volume ``data`` that every job sees.

    Returns
    -------
    Path
        The graph of runs as JSON (see `m2mkd.study.graph.as_graph`), with ``container``, ``tracking``, ``requests`` and ``lengths`` of the
        jobs.
    """
    tracking = set_default_tracking_uri(settings.tracking_uri)
    check_address(store_uri())
    study = build_study(settings)
    beside = {"ablations": build_study(settings, ablations=True), "detection": build_study(settings, detection=True)}
    parts = {name: part for name, part in beside.items() if part.rows and part.key != study.key}
    whole = build_study(settings, ablations=True, detection=True) if parts else study
    container = for_workflow(settings, study.scale.threads, enter=in_container)
    require_writable(Path(study.root))
    if storage is not None:
        for path, target in ((Path(study.root), storage), *((Path(study.root, name), Path("data", name)) for name in ("work", "plan"))):
            _link(path, target / study.root)
    clear_marks(whole)
    normalise_all_mtimes(whole)
    uri = _without_secret(settings.tracking_uri)
    for planned in (study, *parts.values(), *([whole] if parts else [])):
        write_plan(planned, uri, settings.code)
    finished = finished_runs(whole)
    outdated = {run_id: one for run_id, one in finished.items() if one.is_outdated}
    again = _mark_again(whole, outdated) if settings.code == "strict" else []
    _note(whole, outdated, again, say)
    _say_cost(study, again, terms, say)
    for pages in (study, *parts.values()):
        _check_shown(pages, finished, say)
    for phase in PHASES:  # outputs of DVC's stages, whether the study has such runs or not
        Path(study.root, "runs", phase).mkdir(parents=True, exist_ok=True)
    jobs = {"container": container, "tracking": tracking, "requests": requests(whole, terms) if terms else None}
    graph = as_graph(study, whole, parts, again) | jobs
    graph["lengths"] = _lengths(whole, graph["groups"], terms)
    _check_receipts(study, graph["raw"])
    path = plan_folder(study.scale_name) / f"graph-{digest(graph)}.json"
    write_unless_there(path, graph)
    return path


def _mark_again(study: Study, outdated: Mapping[str, Finished]) -> list[str]:
    """Mark finished runs that are to be computed again, and give their ids.

    A mark is an input that is newer than what the run published; Snakemake compares its content, too. The job gives it their time.
    """
    again = [run_id for run_id in outdated if is_done(study, study.runs[run_id])]
    for run_id in again:
        path = redo_mark(study.scale_name, run_id)
        write_json(path, {"run": run_id, "code": dict(code_of(study.runs[run_id].phase)), "inputs": outdated[run_id].replaced})
        os.utime(path, (wanted := max(time.time(), NORMAL_MTIME + 1), wanted))
    return again


def _say_cost(study: Study, again: Collection[str], terms: Terms | None, say: Callable[[str], object]) -> None:
    """Say how many runs are to be computed, and in how many GPU-hours; nothing where there are none, or that cannot be known."""
    pending = [run.id for run in study.runs.values() if run.id in again or not is_done(study, run)]
    if not pending:
        return
    with suppress(InputError):
        say(f"m2mkd plan: {compute_in_words(study, pending, terms.assumptions if terms else Assumptions())}")


def _lengths(study: Study, groups: Mapping[str, Sequence[str]], terms: Terms | None) -> dict[str, int]:
    """Planned length of each job of several runs, in hundredths of the longest one; 0 for all where that cannot be known.

    A long job that starts last leaves the other cores without work.
    """
    try:
        costs = cost_of(study, terms.assumptions if terms else Assumptions())
    except InputError:
        return dict.fromkeys(groups, 0)
    hours = {first: sum(costs[run_id].gpu_hours for run_id in members) for first, members in groups.items()}
    longest = max(hours.values(), default=0.0) or 1.0
    return {first: round(99 * value / longest) for first, value in hours.items()}


def _check_shown(study: Study, finished: Mapping[str, Finished], say: Callable[[str], object]) -> None:
    """Remove the receipts of tables or a report that are not as they were made, or not of these runs, so that they are made again."""
    if wrong := next(disagreements(study, finished), None):
        say(f"m2mkd: {wrong}; tables and report are made again")
        remove_receipts(study)


def _link(path: Path, target: Path) -> None:
    """Let a folder that jobs write to lie elsewhere.

    Raises
    ------
    InputError
        If it is there already.
    """
    target.mkdir(parents=True, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink() and not path.exists():
        path.symlink_to(target.absolute())
    if not path.samefile(target):
        raise InputError(f"{path} is there already, but outputs are to be stored elsewhere; move it away")


def _check_receipts(study: Study, raw: Mapping[str, Iterable[str]]) -> None:
    """Remove receipts of source files that are gone, so that these are fetched again where they are needed."""
    for file in {Path(file) for files in raw.values() for file in files}:
        if not file.exists():
            Path(study.root, "fetched", file.name).unlink(missing_ok=True)


def _without_secret(uri: str | None) -> str | None:
    """The address, unless it holds a password: it does not belong in a file, and jobs get it from the environment."""
    return uri if uri and "@" not in urlsplit(uri).netloc else None


def _note(study: Study, outdated: Mapping[str, Finished], again: Sequence[str], say: Callable[[str], object]) -> None:
    """Say in what the plan, and the code of finished runs, differ from the last plan, and remember it as the last."""
    current = plan_folder(study.scale_name) / "current.json"
    note = read_note(current)
    last = note if isinstance(note, dict) else {}
    code = {run_id: code_in_words(one) for run_id, one in sorted(outdated.items())}
    if last.get("study") != study.key and "study" in last:
        try:
            news = plan_differences(read_study(study.scale_name, str(last["study"])), study)
        except InputError:  # there was none, or none of this version
            news = ""
        if news:
            say(f"m2mkd: {news}")
    if again:
        say(f"m2mkd: {len(again)} finished runs are computed again, for other code computed them; {again[0]}: {code[again[0]]}")
    elif code and last.get("code") != digest(code):
        first, fix = next(iter(code.items())), "snakemake --cores all --config code=strict"
        say(f"m2mkd: other code computed {len(code)} finished runs, which stay ({first[0]}: {first[1]}); '{fix}' computes them again")
    write_unless_there(current, {"study": study.key, "code": digest(code)})
