"""Separate file for one stage of the fine-tuned teacher (specification vmoe.md 3.1). It moves tensors and needs no torch."""

from safetensors.numpy import load_file

from m2mkd.models.weights import checked_weights, stage_state
from m2mkd.study.phases import SplitTeacher
from m2mkd.training.job import Job, Outcome


def run(job: Job[SplitTeacher]) -> Outcome:
    """Cut the stage out of the teacher's weights."""
    teacher = load_file(checked_weights(job.upstream["teacher"][0]))
    return Outcome({}, stage_state(teacher, job.config.index))
