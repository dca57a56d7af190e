"""Accuracy of a student on its validation set and on out-of-distribution sets."""

from m2mkd.data.stream import eval_batches
from m2mkd.distill.transfer import load_strictly
from m2mkd.evaluation.accuracy import measure
from m2mkd.evaluation.calibration import class_accuracies, confusion
from m2mkd.evaluation.diagnostics import IMAGES, diagnose
from m2mkd.evaluation.logits import Recorder
from m2mkd.evaluation.ood import measure_masked
from m2mkd.evaluation.released import metered
from m2mkd.families.build import build_student, evaluation
from m2mkd.seeds import derive_seed
from m2mkd.study.phase import EVAL_BATCH
from m2mkd.study.phases import Evaluate
from m2mkd.training.job import Job, Outcome
from m2mkd.training.phases.common import (
    RELEASED_PROCESSES,
    RELEASED_VAL_FACTOR,
    measured_subset,
    meter,
    released_batch,
)


def run(job: Job[Evaluate]) -> Outcome:
    """Measure every image of every set."""
    config, device, workers = job.config, job.machine().device, job.machine().workers
    student = build_student(
        config.student,
        image_size=config.data.image_size,
        num_classes=config.data.classes,
        prior=None,  # the signatures come with the weights
        stitch_width=config.stitch_width,
        compat=config.compat,
    )
    load_strictly(student, job.weights("student"), "student")
    student.to(device).eval()
    predict = evaluation(student, config.student, config.compat, derive_seed("evaluation noise", job.seed))
    pack, batch = job.pack(config.data), released_batch(config.batch_size)
    count = meter(config, RELEASED_VAL_FACTOR * batch, RELEASED_PROCESSES)
    val = measured_subset(config, pack.split("val"), batch)
    recorder = Recorder(predict)
    iid = measure(recorder, eval_batches(val, pack.image_size, EVAL_BATCH, workers=workers), device)
    ood = {
        data.name: measure_masked(
            predict,
            job.pack(data),
            pack.classes,
            EVAL_BATCH,
            device,
            masked=config.compat.get("ood_mask") != "ignored",
            subset=lambda split: measured_subset(config, split, batch),
            meter=count,
            workers=workers,
        )
        for data in config.ood
    }
    few = next(iter(eval_batches(pack.split("val"), pack.image_size, IMAGES))).images.to(device)
    by_class = {
        "per_class": class_accuracies(iid.correct, iid.labels, pack.classes),
        "confusion": confusion(iid.predicted, iid.labels, pack.classes),
    }
    diagnosis = diagnose(config.student, student, few)
    metrics = metered(iid, count).summary() | by_class | {"ood": ood} | ({"diagnostics": diagnosis} if diagnosis else {})
    return Outcome(metrics, logits=recorder.kept(iid.labels))
