"""The graph of runs as the workflow needs it."""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from m2mkd.config.datasets import DatasetConfig
from m2mkd.config.load import datasets
from m2mkd.study.files import redo_mark
from m2mkd.study.groups import job_groups
from m2mkd.study.lineage import display_rows
from m2mkd.study.phase import PHASES, Phase
from m2mkd.study.run import Run
from m2mkd.study.study import Study
from m2mkd.study.titles import job_titles


def as_graph(study: Study, whole: Study, parts: Mapping[str, Study] = MappingProxyType({}), again: Collection[str] = ()) -> dict[str, Any]:
    """Facts that the workflow needs about a study.

    Parameters
    ----------
    study
        The workflow's default target.
    whole
        The study together with everything else at the scale.
    parts
        Further targets by name: ``ablations``, the study with them, and ``detection``, detectors; each has tables and a report.
    again
        Ids of finished runs that are to be computed again.

    Returns
    -------
    dict
        ``scale``, ``root`` (folder of results), ``threads``, ``study`` (its key), ``parts`` (by name the key of each, and the folder of its
        tables and report), ``phases`` (by name, see `_declared`), ``runs`` (for each id of the whole its input files, those whose
        age does not matter, experiments, whether the study needs it, and which parts do), ``groups`` (runs that one job computes together,
        by the key of the first), ``titles`` (see `m2mkd.study.titles.job_titles`), ``data`` (name@size of each prepared by its folder),
        ``raw`` (source files that each is made from).
    """
    data = {item.folder: str(item) for run in whole.runs.values() for item in run.config.data_sets}
    groups = job_groups(whole, again)
    return {
        "scale": study.scale_name,
        "root": study.root,
        "threads": study.scale.threads,
        "study": study.key,
        "parts": {name: {"study": part.key, "pages": part.pages} for name, part in parts.items()},
        "phases": {name: _declared(phase) for name, phase in PHASES.items()},
        "runs": {
            run.id: {
                "inputs": _inputs(whole, run) + ([redo_mark(study.scale_name, run.id).as_posix()] if run.id in again else []),
                "ancient": _foreign(whole, run),
                "experiments": sorted(run.users),
                "study": run.id in study.runs,
                "parts": [name for name, part in parts.items() if run.id in part.runs],
            }
            for run in whole.runs.values()
        },
        "groups": {members[0].key: [run.id for run in members] for members in groups},
        "titles": job_titles(whole, display_rows(whole), groups),
        "data": data,
        "raw": {
            name: [f"data/raw/{file.name}" for file in _registered(name).fetched] for name in sorted(set(data.values()), key=_whole_last)
        },
    }


def _registered(name: str) -> DatasetConfig:
    return datasets()[name.partition("@")[0]]


def _whole_last(name: str) -> tuple[bool, str]:
    """Sort key that puts whole sets after subsets: of sets that share a file the last one fetches it, and a pack serves subsets only."""
    return _registered(name).subset is None, name


def _declared(phase: type[Phase]) -> dict[str, Any]:
    """Facts from which a phase's rule is made."""
    return {
        "outputs": list(phase.OUTPUTS),
        "priority": phase.PRIORITY,
        "head_node": phase.HEAD_NODE,
        "measures": phase.measures(),
        "stage": phase.STAGE,
    }


def _inputs(study: Study, run: Run) -> list[str]:
    manifests = [data.manifest for data in run.config.data_sets]
    return manifests + [output for run_id in run.parents for output in study.outputs(study.runs[run_id])]


def _foreign(study: Study, run: Run) -> list[str]:
    """Third-party files, whose digests are in the key. A file among this scale's results is left out: Snakemake would try to make it."""
    return [file for file in run.config.files if not Path(file).resolve().is_relative_to(Path(study.root).resolve())]
