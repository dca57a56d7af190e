"""Detector and segmenter on a V-MoE, from random weights or from a student's (specification detection.md 3.6)."""

from collections.abc import Iterator, Sequence
from contextlib import closing

import torch
from torch import Tensor

from m2mkd.data.detection_pack import detection_split
from m2mkd.data.detection_stream import DetectionEvalBatch, DetectionStream, Target, detection_eval_batches
from m2mkd.detection.layer_decay import rate_factors, spared_by_decay
from m2mkd.detection.sampling import RandomSampler
from m2mkd.detection.start import start_from
from m2mkd.distill.losses import Loss
from m2mkd.families.build import regularisation
from m2mkd.seeds import forked_rng
from m2mkd.study.phase import DETECTION_BATCH
from m2mkd.study.phases import TrainDetector
from m2mkd.training.job import Job, Outcome
from m2mkd.training.loop import Task, Trainee, fit
from m2mkd.training.phases.detecting import Validation, detector_of

FVCORE_SLACK = 1e-6
"""Share of the training by which the published schedule is early."""


def run(job: Job[TrainDetector]) -> Outcome:
    """Train the detector; weights that the student does not provide start as from scratch, in every variant.

    Each image has the same weight in the loss, and its random draws depend on no other image, so a batch may be divided in any way.
    """
    config, machine = job.config, job.machine()
    recipe = config.recipe
    with forked_rng("init", "detector", job.seed):
        detector = detector_of(config, recipe.drop_path)
    if config.init == "student":
        start_from(detector, job.weights("student"), "student")
    pack = job.pack(config.data)
    train, val = (detection_split(pack, split) for split in ("train", "val"))
    names = (config.data.name, config.phase, job.seed)
    ranks = machine.ranks.rank, machine.ranks.count

    def loss(images: Sequence[Tensor], targets: Sequence[Target], noise: torch.Generator) -> Loss:
        sampler = RandomSampler([torch.Generator().manual_seed(target.seed) for target in targets])
        found = detector.losses(images, targets, sampler, noise=noise)
        parts = {f"{name}_loss": part for name, part in found._asdict().items()}
        return Loss(found.total, parts).with_regulariser(regularisation(config.model.backbone, detector, config.compat))

    def validation() -> Iterator[DetectionEvalBatch]:
        return detection_eval_batches(val, recipe.input, DETECTION_BATCH, *ranks, machine.workers)

    task = Task(
        trained=detector,
        network=detector,
        loss=loss,
        measure=Validation(detector, val, pack.classes, machine.device),
        no_weight_decay=spared_by_decay(detector, channel_norms=recipe.norm_decay == "spared"),
        decay_vectors=True,
        rate_factors=rate_factors(detector, recipe.layer_decay),
        schedule_slack=FVCORE_SLACK * recipe.updates if config.compat.get("schedule_slack") == "fvcore" else 0.0,
    )
    stream = DetectionStream(
        train,
        train.trainable,
        recipe.batch_size,
        recipe.input,
        ("data", *names),
        machine.workers,
        machine.device,
        *ranks,
        updates=recipe.updates,
    )
    with closing(stream):
        (measured,) = fit([Trainee(task, job.work, job.title, job.usage)], recipe, stream, validation, names, machine)
    return Outcome(measured, detector.state_dict())
