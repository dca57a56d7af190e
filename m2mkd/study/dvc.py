"""Stages of ``dvc.yaml``: their folders of runs are derived from the phases' declarations."""

import re
from pathlib import Path
from typing import get_args

from m2mkd.errors import InputError
from m2mkd.files import write_text
from m2mkd.study.phase import PHASES, DvcStage, Phase

RUNS_FOLDER = re.compile(r"      - results/\$\{scale\}/runs/.*\n")
STAGES: tuple[DvcStage, ...] = get_args(DvcStage)


def with_folders(text: str) -> str:
    """Text of ``dvc.yaml`` with the folders of runs that the phases declare.

    A stage depends on the folders of the stages before it, and publishes its own; tables are made from the phases that measure something.
    """
    head, *parts = re.split(r"(?m)^(?=  \w+:\n)", text)
    for index, part in enumerate(parts):
        name = part.split(":")[0].strip()
        if name in STAGES:
            before = [phase for phase in PHASES.values() if STAGES.index(phase.STAGE) < STAGES.index(name)]
            parts[index] = _with(part, before, [phase for phase in PHASES.values() if name == phase.STAGE])
        elif name == "results":
            parts[index] = _with(part, [phase for phase in PHASES.values() if phase.measures()], [])
    return head + "".join(parts)


def _with(part: str, needed: list[type[Phase]], published: list[type[Phase]]) -> str:
    """Stage with these folders as the last of its dependencies and the first of its outputs."""
    part = RUNS_FOLDER.sub("", part)
    folders = [f"      - results/${{scale}}/runs/{phase.name()}" for phase in needed]
    part = part.replace("    params:", "".join(f"{folder}\n" for folder in folders) + "    params:", 1)
    outputs = [f"      - results/${{scale}}/runs/{phase.name()}: {{persist: true}}\n" for phase in published]
    return part.replace("    outs:\n", "    outs:\n" + "".join(outputs), 1)


def export_stages(path: Path, *, check: bool) -> None:
    """Update the folders in ``dvc.yaml``, or only check that they are current.

    Raises
    ------
    InputError
        With ``check``, if they are not current.
    """
    text = path.read_text(encoding="utf-8")
    wanted = with_folders(text)
    if not check:
        write_text(path, wanted)
    elif text != wanted:
        raise InputError(f"{path}: its folders of runs are not those that the phases declare; run 'm2mkd config export'")
