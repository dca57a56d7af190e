"""Accuracy of each hybrid of meta model and teacher module, measured before it teaches a student (specification vmoe.md 5)."""

from m2mkd.data.stream import eval_batches
from m2mkd.distill.hybrid import DistillationHybrid, SharedPrefix
from m2mkd.distill.transfer import assemble
from m2mkd.evaluation.accuracy import measure_together
from m2mkd.models.vit import StagedViT
from m2mkd.models.weights import stages_of
from m2mkd.study.phase import EVAL_BATCH
from m2mkd.study.phases import MeasureHybrid
from m2mkd.training.job import Job, Outcome


def run(job: Job[MeasureHybrid]) -> Outcome:
    """Measure the meta model, and then the meta model with each teacher module in turn, in one pass over the validation set."""
    config, device = job.config, job.machine().device
    sizes = {"image_size": config.data.image_size, "num_classes": config.data.classes}
    meta = assemble(stages_of(job.weights("meta")), StagedViT(config.meta, **sizes)).eval()
    teacher = assemble(stages_of(job.weights("teacher")), StagedViT(config.model, **sizes)).eval()
    shared = SharedPrefix(meta)
    hybrids = [DistillationHybrid(meta, index, stage, shared=shared) for index, stage in enumerate(teacher.stages)]
    for network in (meta, *hybrids):
        network.to(device).eval()
    pack = job.pack(config.data)
    batches = eval_batches(pack.split("val"), pack.image_size, EVAL_BATCH, workers=job.machine().workers)
    own, *found = (accuracy.summary() for accuracy in measure_together([meta, *(h.student_logits for h in hybrids)], batches, device))
    return Outcome({"meta": own, "hybrids": {str(index): summary for index, summary in enumerate(found)}})
