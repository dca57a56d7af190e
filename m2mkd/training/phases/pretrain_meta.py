"""PT: the meta model, end to end, on labels (specification vmoe.md 5)."""

from m2mkd.distill.losses import soft_cross_entropy
from m2mkd.models.vit import StagedViT
from m2mkd.seeds import forked_rng
from m2mkd.study.phases import PretrainMeta
from m2mkd.training.job import Job, Outcome
from m2mkd.training.loop import Task
from m2mkd.training.phases.common import late_schedule, train


def run(job: Job[PretrainMeta]) -> Outcome:
    """Train the meta model; everything trains."""
    config = job.config
    with forked_rng("init", "meta", job.seed):
        meta = StagedViT(
            config.model, image_size=config.data.image_size, num_classes=config.data.classes, drop_path=config.recipe.drop_path
        )
    task = Task(
        trained=meta,
        network=meta,
        loss=lambda images, targets, _: soft_cross_entropy(meta(images), targets),
        predict=meta,
        no_weight_decay=meta.no_weight_decay(),
        late_schedule=late_schedule(config),
    )
    return Outcome(train(job, task, config.data, config.recipe), meta.state_dict())
