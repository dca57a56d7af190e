"""The graph of runs as the workflow and people see it."""

import os
import shlex
import shutil
from pathlib import Path
from typing import Any

from m2mkd.config.experiment import Settings
from m2mkd.config.load import as_assignments, datasets
from m2mkd.study.phases import PHASES, DistillModule, Evaluate, Phase, TrainProbe, TrainStudent, digest
from m2mkd.study.study import Run, Study

SETTLED = 1_708_905_600.0
"""Time of modification of every keyed file, in seconds: the day of the paper's first version."""
REPLICATED = (DistillModule, TrainStudent, TrainProbe, Evaluate)
"""Phases that every replicate redoes; the others are shared."""


def command_arguments(settings: Settings) -> str:
    """Arguments that give another command the same settings."""
    words = ["--scale", settings.scale]
    for name in settings.experiments:
        words += ["--experiment", name]
    for assignment in as_assignments(settings.overrides):
        words += ["--set", assignment]
    return shlex.join(words)


def as_graph(study: Study, settings: Settings, whole: Study | None = None) -> dict[str, Any]:
    """What the workflow must know of a study.

    Parameters
    ----------
    study, settings
        The study, and what it was built from.
    whole
        The same with the scale's ablations; none: without any.

    Returns
    -------
    dict
        ``root`` (folder of results), ``arguments`` (for the jobs' commands), ``threads``, ``study`` (its key), ``ablations`` (key of the
        whole, and folder of its tables and report; none where the scale has no ablation), ``phases`` (for each the names of a run's outputs
        relative to its folder), ``runs`` (for each id of the whole its input files, those of them whose age does not matter, experiments,
        and whether the study needs it), ``groups`` (by the key of the first, runs that one job computes together), ``data`` (name@size of
        each prepared by its folder), ``raw`` (source files that each of them is made from).
    """
    whole = whole or study
    data = {item.folder: f"{item.name}@{item.image_size}" for run in whole.runs.values() for item in run.config.data_sets}
    return {
        "root": study.root,
        "arguments": command_arguments(settings),
        "threads": study.scale.threads,
        "study": study.key,
        "ablations": {"study": whole.key, "pages": whole.pages} if len(whole.rows) > len(study.rows) else None,
        "phases": {name: _outputs(study, cls) for name, cls in PHASES.items()},
        "runs": {
            run.id: {
                "inputs": _inputs(whole, run),
                "ancient": _foreign(whole, run),
                "experiments": sorted(run.users),
                "study": run.id in study.runs,
            }
            for run in whole.runs.values()
        },
        "groups": {members[0].key: [run.id for run in members] for members in module_groups(whole)},
        "data": data,
        "raw": {
            name: [f"data/raw/{file.name}" for file in datasets()[name.partition("@")[0]].fetched] for name in sorted(set(data.values()))
        },
    }


def _outputs(study: Study, phase: type[Phase]) -> list[str]:
    slots = study.scale.replicates_per_job if phase in REPLICATED else 1
    return [f"{slot}/{name}" for slot in range(slots) for name in phase.OUTPUTS]


def _inputs(study: Study, run: Run) -> list[str]:
    manifests = [f"{data.folder}/manifest.json" for data in run.config.data_sets]
    upstream = (study.runs[id_] for ids in run.upstream.values() for id_ in ids)
    return manifests + [
        output for parent in upstream for slot in range(len(parent.config.replicates)) for output in study.outputs(parent, slot)
    ]


def _foreign(study: Study, run: Run) -> list[str]:
    """Files of others, whose digests are in the key. One among this scale's results is left out: Snakemake would want to make it."""
    return [file for file in run.config.files if not Path(file).resolve().is_relative_to(Path(study.root).resolve())]


def module_groups(study: Study) -> list[list[Run]]:
    """Unfinished modules that one job distills in lock step, as many of one student as the scale's ``modules_per_job``.

    Finished ones are left out, so that a module whose input was lost is redone alone.
    """
    students: dict[str, list[Run]] = {}
    for run in study.runs.values():
        if isinstance(run.config, DistillModule):
            student = digest([run.config.model_dump(mode="json", exclude={"index"}), run.upstream["meta"]])
            students.setdefault(student, []).append(run)
    groups = []
    for modules in students.values():
        modules.sort(key=lambda run: run.config.index)  # type: ignore[attr-defined]
        for first in range(0, len(modules), study.scale.modules_per_job):
            pending = [run for run in modules[first : first + study.scale.modules_per_job] if not is_done(study, run)]
            groups += [pending] if len(pending) > 1 else []
    return groups


def normalise_mtimes(study: Study) -> None:
    """Give all outputs of runs, and all prepared sets, one and the same time of modification.

    They lie under the digest of what decides them, so a file that is there is right. Snakemake, however, takes an output for outdated when
    an input is newer, as it may well be after a clone, a ``dvc checkout`` or a copy.
    """
    manifests = {f"{data.folder}/manifest.json" for run in study.runs.values() for data in run.config.data_sets}
    outputs = {output for run in study.runs.values() for slot in range(len(run.config.replicates)) for output in study.outputs(run, slot)}
    for path in manifests | outputs:
        try:
            if not Path(path).is_symlink() and Path(path).stat().st_mtime != SETTLED:
                os.utime(path, (SETTLED, SETTLED))
        except (FileNotFoundError, PermissionError):
            continue  # not there yet, or somebody else's


def is_done(study: Study, run: Run) -> bool:
    """Whether all outputs of a run are there."""
    return all(Path(output).is_file() for slot in range(len(run.config.replicates)) for output in study.outputs(run, slot))


def show_runs(study: Study) -> None:
    """Print the runs of a study, phase by phase."""
    from rich.console import Console
    from rich.table import Table

    table = Table("run", "what", "done", "experiments")
    for run in sorted(study.runs.values(), key=lambda run: list(PHASES).index(run.phase)):
        table.add_row(run.id, describe(run), "yes" if is_done(study, run) else "no", ", ".join(sorted(run.users)), end_section=False)
    Console().print(table)


def describe(run: Run) -> str:
    """What tells a run from the others of its phase, in a few words."""
    config: Any = run.config
    parts = [getattr(config, "student", None) or getattr(config, "model", None)]
    words = [parts[0].family] if parts[0] is not None else []
    if getattr(config, "index", None) is not None:
        words.append(f"module {config.index}")
    for name in ("prior", "init"):
        if getattr(config, name, None):
            words.append(str(getattr(config, name)))
    if getattr(config, "distillation", None):
        words.append("pure KD")
    return " ".join(words)


def collect_garbage(study: Study, *, delete: bool) -> None:
    """List, or remove, the run folders of the study's scale that it does not need."""
    import typer

    wanted = {study.folder(id_) for id_ in study.runs}
    surplus = [folder for folder in sorted(Path(study.root, "runs").glob("*/*")) if folder.as_posix() not in wanted]
    for folder in surplus:
        if delete:
            shutil.rmtree(folder)
        typer.echo(f"{'removed' if delete else 'not needed'}: {folder}")
    if not surplus:
        typer.echo("every run folder is needed")
