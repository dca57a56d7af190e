"""Networks and modules of finished runs, imported files and pulled students, as torch modules."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from m2mkd.api.student import Student
from m2mkd.config.models import ViTConfig
from m2mkd.distill.transfer import check_state, load_strictly
from m2mkd.errors import InputError
from m2mkd.families.build import build_module, build_student
from m2mkd.hub.layout import HUB_CONFIG, HubStudent, read_hub_folder
from m2mkd.models.vit import build_stage
from m2mkd.models.weights import load_weights
from m2mkd.study.phase import PHASES, RECORD, WEIGHTS, Phase, phase_from
from m2mkd.study.phases import DistillModule, ImportWeights, IncubateModule, SplitTeacher, TrainStudent
from m2mkd.study.record import read_run_json
from m2mkd.study.study import scale_root
from m2mkd.upstream.description import Description
from m2mkd.upstream.imported import Imported, open_imported, open_run
from m2mkd.upstream.safetensors_file import read_tensors


def load_network(run_or_file: str | Path) -> nn.Module:
    """Load a whole network, or one module of a teacher or student.

    Parameters
    ----------
    run_or_file
        A finished run: its folder, or its key, written ``phase/key`` or ``key`` and possibly shortened, which is looked for in ``results``
        of the working directory. Or a file that ``m2mkd import`` wrote, or a folder that ``m2mkd pull`` wrote.

    Returns
    -------
    torch.nn.Module
        In evaluation mode, on the CPU, float32. A whole network maps images (B, 3, S, S) to logits (B, C). A module maps images or tokens
        (B, N, d) to tokens or logits: the teacher's from ``split_teacher`` and ``incubate_module``, the student's with its stitch layers
        from ``distill_module``. A detector is a `m2mkd.detection.detector.Detector`.

    Raises
    ------
    InputError
        If there is no such run or file, it is damaged, or it has no weights.

    Examples
    --------
    >>> teacher_stage = m2mkd.load_network(split_run)
    >>> meta = m2mkd.load_network(meta_run)
    >>> len(meta.stages)
    4
    """
    folder = _folder(run_or_file)
    if folder is None:
        return open_imported(Path(run_or_file)).build()
    if not (folder / RECORD).is_file():
        pulled = read_hub_folder(folder)
        return _built(pulled.config, read_tensors(pulled.weights, "pull it again"), str(pulled.weights))
    config = _config(folder)
    if isinstance(config, TrainStudent) or _is_module(config):
        return _built(config, load_weights(folder), str(folder / WEIGHTS))
    return open_run(folder / WEIGHTS).build()


def load_student(run_or_file: str | Path) -> Student:
    """Load a whole student, with what is needed to evaluate it.

    Parameters
    ----------
    run_or_file
        As for `load_network`. A teacher and a meta model can be evaluated in the same way.

    Returns
    -------
    Student
        Its network is in evaluation mode, on the CPU.

    Raises
    ------
    InputError
        As `load_network`; or if it is not a whole classifier.

    Examples
    --------
    >>> student = m2mkd.load_student(student_run)
    >>> student.num_classes
    10
    >>> student(torch.zeros(2, 3, student.image_size, student.image_size)).shape
    torch.Size([2, 10])
    """
    folder = _folder(run_or_file)
    if folder is None:
        imported = open_imported(Path(run_or_file))
    elif (folder / RECORD).is_file():
        config = _config(folder)
        if _is_module(config):
            raise InputError(f"{folder}: a run of {config.name()} has one module, not a whole network; use m2mkd.load_network")
        imported = open_run(folder / WEIGHTS)
    else:
        imported = _described(read_hub_folder(folder))
    if not imported.description.whole:
        raise InputError(f"{run_or_file}: a {imported.kind} does not map images to logits; use m2mkd.load_network")
    return Student(load_network(run_or_file), imported)


def _folder(run_or_file: str | Path) -> Path | None:
    """Folder of a run or of a pulled student; None for a single file."""
    path = Path(run_or_file)
    if path.is_file():
        here = path.parent
        known = path.name == WEIGHTS and any((here / name).is_file() for name in (RECORD, HUB_CONFIG))
        return here if known else None
    if path.is_dir():
        if not any((path / name).is_file() for name in (RECORD, HUB_CONFIG)):
            raise InputError(f"{path}: has neither {RECORD} nor {HUB_CONFIG}; give the folder of a finished run or of a pulled student")
        return path
    return _of_key(str(run_or_file))


def _of_key(text: str) -> Path:
    found = re.fullmatch(r"(?:([a-z_]+)/)?([0-9a-f]{1,16})", text)
    if found is None:
        raise InputError(f"{text}: neither a file, nor a folder, nor the key of a run; give one of them")
    phase, key = found.groups()
    if phase is not None and phase not in PHASES:
        raise InputError(f"{text}: phase {phase} is not one of {', '.join(PHASES)}")
    folders = sorted(path.parent for path in Path().glob(f"{scale_root('*')}/runs/{phase or '*'}/{key}*/{RECORD}"))
    # A key decides everything about a run, so that runs of several scales with one key are the same.
    ids = {f"{folder.parent.name}/{folder.name}" for folder in folders}
    if len(ids) > 1:
        raise InputError(f"{text}: fits {len(ids)} finished runs, such as {' and '.join(sorted(ids)[:2])}; give more of the key")
    if not folders:
        raise InputError(f"{text}: fits no finished run of any scale here; 'm2mkd runs list' lists them")
    return folders[0]


def _config(folder: Path) -> Phase:
    try:
        config = phase_from(read_run_json(folder)["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / RECORD}: not a record of this version ({type(error).__name__}); give another run") from None
    if WEIGHTS not in config.OUTPUTS:
        made = ", ".join(name for name, phase in PHASES.items() if WEIGHTS in phase.OUTPUTS)
        raise InputError(f"{folder}: a run of {config.name()} has no weights; give one of {made}")
    return config


def _is_module(config: Phase) -> bool:
    return getattr(config, "index", None) is not None


def _described(pulled: HubStudent) -> Imported:
    config, model = pulled.config, pulled.config.student
    width = config.stitch_width if getattr(model, "stitch", "dropped") == "kept" else None
    about = Description(
        cast(Any, model.family), cast(Any, model), config.data.image_size, config.data.classes, config={}, stitch_width=width
    )
    return Imported(about, pulled.run, pulled.sha256, lambda: read_tensors(pulled.weights, "pull it again"))


def _built(config: Phase, state: Mapping[str, Tensor], name: str) -> nn.Module:
    """Network of a run with its weights; what its configuration claims is compared with them before it takes any memory."""
    with torch.device("meta"):
        network = _laid_out(config, state)
    check_state(network.state_dict(), state, name)
    network.to_empty(device="cpu")
    load_strictly(network, state, name)
    return network.eval()


def _laid_out(config: Any, state: Mapping[str, Tensor]) -> nn.Module:
    compat, index = config.compat, getattr(config, "index", None)
    if isinstance(config, SplitTeacher | IncubateModule) or (isinstance(config, ImportWeights) and config.model.family == "vit"):
        model: Any = config.model
        return build_stage(model, cast(int, index), **_sizes_of_stage(model, state))
    if isinstance(config, ImportWeights):
        imported: dict[str, Any] = {"image_size": config.image_size, "num_classes": config.classes, "stitch_width": config.stitch_width}
        return build_module(cast(Any, config.model), cast(int, index), state_seed=0, drop_path=0.0, compat=compat, **imported)
    sizes: dict[str, Any] = {"image_size": config.data.image_size, "num_classes": config.data.classes, "drop_path": config.recipe.drop_path}
    if isinstance(config, DistillModule):
        sizes |= {"stitch_width": config.meta.width, "batch_size": config.recipe.batch_size}
        return build_module(config.student, cast(int, index), state_seed=0, compat=compat, **sizes)
    # The signatures come with the weights.
    return build_student(config.student, prior=None, stitch_width=config.stitch_width, compat=compat, **sizes)


def _sizes_of_stage(model: ViTConfig, state: Mapping[str, Tensor]) -> dict[str, int]:
    """Image size and number of classes of a stage, by its tensors; those that it does not have are meaningless for it."""
    patches = state["pos_embed"].shape[1] - 1 if "pos_embed" in state else 1
    classes = len(state["head.bias"]) if "head.bias" in state else 0
    return {"image_size": model.patch_size * math.isqrt(patches), "num_classes": classes}
