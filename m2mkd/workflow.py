"""Planning for the workflow: everything that Snakemake and its jobs read is written once, before any of them starts."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from m2mkd.config.experiment import Settings
from m2mkd.containers.image import for_workflow
from m2mkd.errors import InputError
from m2mkd.files import require_writable, write_json
from m2mkd.marks import clear_marks
from m2mkd.planning.request import Terms, requests
from m2mkd.study.differences import plan_differences
from m2mkd.study.files import plan_folder, read_study, write_plan
from m2mkd.study.graph import as_graph
from m2mkd.study.keys import digest
from m2mkd.study.phase import PHASES
from m2mkd.study.plan import build_study
from m2mkd.study.state import normalise_all_mtimes
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
        Told what differs from the last plan of the scale.
    in_container
        Whether jobs are to run in the image, which must be there.
    storage
        Folder of Snakemake's copies of what it sends to an object storage, where it does. The scale's folder then lies there; checkpoints
        and plans, which no rule declares, stay on the volume ``data`` that every job sees.

    Returns
    -------
    Path
        The graph of runs as JSON (see `m2mkd.study.graph.as_graph`), with ``container``, ``tracking`` and ``requests`` of the jobs.
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
        write_plan(planned, uri)
    _note(whole, say)
    for phase in PHASES:  # outputs of DVC's stages, whether the study has such runs or not
        Path(study.root, "runs", phase).mkdir(parents=True, exist_ok=True)
    jobs = {"container": container, "tracking": tracking, "requests": requests(whole, terms) if terms else None}
    graph = as_graph(study, whole, parts) | jobs
    _check_receipts(study, graph["raw"])
    path = plan_folder(study.scale_name) / f"graph-{digest(graph)}.json"
    if not path.is_file():
        write_json(path, graph)
    return path


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


def _note(study: Study, say: Callable[[str], object]) -> None:
    """Say in what the plan differs from the last one, and remember it as the last."""
    current = plan_folder(study.scale_name) / "current.json"
    try:
        last = str(json.loads(current.read_text())["study"])
        if last == study.key:
            return
        news = plan_differences(read_study(study.scale_name, last), study)
    except (OSError, ValueError, KeyError, TypeError, InputError):  # there was none, or none of this version
        news = ""
    if news:
        say(f"m2mkd: {news}")
    write_json(current, {"study": study.key})
