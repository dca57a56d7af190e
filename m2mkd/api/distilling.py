"""Distillation of one module, for any student module, loader and objective, by the suite's own loop."""

import inspect
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from m2mkd.api.loaders import Loader, LoaderStream, as_measured
from m2mkd.config.load import checked
from m2mkd.config.objective import Objective
from m2mkd.config.recipe import Recipe
from m2mkd.distill.hybrid import DistillationHybrid
from m2mkd.distill.objective import TaughtLoss
from m2mkd.errors import InputError
from m2mkd.families.vmoe import VMoEFamily
from m2mkd.models.nac.noise import Noise
from m2mkd.models.nac.students import NACModule
from m2mkd.models.staged import StagedTransformer
from m2mkd.seeds import forked_rng
from m2mkd.study.phase import CURVES
from m2mkd.training.curves import read_curves
from m2mkd.training.device import choose_device
from m2mkd.training.hybrid import hybrid_task
from m2mkd.training.loop import Trainee, fit
from m2mkd.training.machine import Machine


def distill_module(
    meta: StagedTransformer,
    teacher_stage: nn.Module | None,
    student_module: nn.Module,
    loader: Loader,
    objective: Objective | Mapping[str, Any],
    *,
    index: int,
    recipe: Recipe | Mapping[str, Any],
    validation: Loader | None = None,
    seed: int = 0,
    device: str = "auto",
    folder: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Train a student module instead of one stage of a meta model, taught by the teacher's stage in the same place (m2mKD, vmoe.md 5).

    Parameters
    ----------
    meta
        Meta model, such as `load_network` gives for a run of ``pretrain_meta``; frozen in place.
    teacher_stage
        The teacher's stage, such as `load_network` gives for a run of ``split_teacher``; frozen in place. None where the objective needs
        no teacher.
    student_module
        Any module that maps what stage ``index`` gets, images (B, 3, S, S) or tokens (B, N, d), to what it gives, tokens (B, N, d) or
        logits (B, C). It is trained in place, and left in evaluation mode on the device.
    loader
        Training batches of preprocessed images (B, 3, S, S) and labels (B,), such as a loader of torch. It augments the images.
    objective
        Terms and their weights, as in an experiment: ``{"terms": [{"kind": "labels"}, {"kind": "soft", "temperature": 2.0}]}``.
    index
        Number of the stage, from 0.
    recipe
        Fields of a recipe: ``epochs``, ``batch_size`` (the loader's) and ``lr`` are required. Of its augmentation only ``label_smoothing``
        has an effect.
    validation
        Batches on which the hybrid network is measured after each epoch; None: it is not measured.
    seed
        Seed of the loader's shuffling, of the noise of the model, and of trained parameters of the objective.
    device
        ``cpu``, ``cuda``, ``cuda:N``, or ``auto``.
    folder
        Folder for checkpoints and ``metrics.jsonl``; the same call resumes from there. None: nothing is kept.

    Returns
    -------
    list of dict
        For each epoch ``epoch``, ``step``, ``lr``, ``loss``, each term of the objective, and ``val_loss``, ``val_top1`` and ``val_top5`` if
        there is a validation set.

    Raises
    ------
    InputError
        If the objective or the recipe is wrong, the meta model has no such stage, or the loss is not finite.

    Examples
    --------
    >>> meta, stage = m2mkd.load_network(meta_run), m2mkd.load_network(split_run)
    >>> module = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.GELU(), torch.nn.Linear(32, 64))
    >>> images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10
    >>> loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=8, shuffle=True)
    >>> terms = [{"kind": "labels", "weight": 0.5}, {"kind": "soft", "weight": 0.5, "temperature": 2.0}]
    >>> recipe = {"epochs": 2, "batch_size": 8, "lr": 0.001}
    >>> epochs = m2mkd.distill_module(meta, stage, module, loader, {"terms": terms}, index=1, recipe=recipe, device="cpu")
    >>> [line["step"] for line in epochs]
    [2, 4]
    """
    wanted: Objective = checked(Objective, objective, "objective")
    known: Recipe = checked(Recipe, recipe, "recipe")
    smoothing = known.augmentation.label_smoothing
    if wanted.needs_teacher and teacher_stage is None:
        raise InputError("objective: one of its terms needs the teacher's stage; give teacher_stage, or remove the term")
    hybrid = DistillationHybrid(meta, index, student_module, teacher_stage)
    machine = Machine(choose_device(device))
    with forked_rng("init", "objective", index, seed):
        taught = TaughtLoss(wanted, [student_module], [teacher_stage] if teacher_stage else [], smoothing=smoothing, kl_norm="batch")
    measured: dict[str, Any] = {"measure": lambda *_: {}} if validation is None else {"predict": hybrid.student_logits}
    task = hybrid_task(
        hybrid, taught, _noise_arguments(student_module), lambda: VMoEFamily().regularisation(student_module, {}), {}, **measured
    )
    stream = LoaderStream(loader, meta.num_classes, smoothing, seed)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(folder or temporary)
        trainee = Trainee(task, work, f"module {index}")
        fit([trainee], known, stream, lambda: as_measured(validation), ("distill_module", index, seed), machine)
        hybrid.eval()
        return read_curves(work / CURVES)


def _noise_arguments(module: nn.Module) -> Callable[[Any], dict[str, Any]]:
    """Arguments of a module in training, from a generator, by what it takes."""
    if isinstance(module, NACModule):
        return lambda generator: {"noise": Noise.from_generator(generator)}
    takes_noise = "noise" in inspect.signature(module.forward).parameters
    return lambda generator: {"noise": generator} if takes_noise else {}
