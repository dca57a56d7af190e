"""Accuracy of the assembled teacher on its validation set."""

from m2mkd.data.stream import eval_batches
from m2mkd.distill.transfer import assemble
from m2mkd.evaluation.accuracy import measure
from m2mkd.models.vit import StagedViT
from m2mkd.models.weights import stages_of
from m2mkd.study.phase import EVAL_BATCH
from m2mkd.study.phases import EvaluateTeacher
from m2mkd.training.job import Job, Outcome
from m2mkd.training.phases.common import measured_subset, released_batch


def run(job: Job[EvaluateTeacher]) -> Outcome:
    """Measure every image of the validation set."""
    config, device = job.config, job.machine().device
    teacher = StagedViT(config.model, image_size=config.data.image_size, num_classes=config.data.classes)
    assemble(stages_of(job.weights("teacher")), teacher)
    teacher.to(device).eval()
    pack = job.pack(config.data)
    val = measured_subset(config, pack.split("val"), released_batch(config.batch_size))
    batches = eval_batches(val, pack.image_size, EVAL_BATCH, workers=job.machine().workers)
    return Outcome(measure(teacher, batches, device).summary())
