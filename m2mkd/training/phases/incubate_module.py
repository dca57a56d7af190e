"""MT: one teacher module replaces its meta stage, with the rest of the meta model frozen (specification vmoe.md 5)."""

from typing import cast

from m2mkd.distill.hybrid import IncubationHybrid
from m2mkd.distill.losses import soft_cross_entropy
from m2mkd.distill.transfer import load_strictly
from m2mkd.models.vit import Stage, StagedViT, incubation_config
from m2mkd.models.weights import stage_state
from m2mkd.seeds import forked_rng
from m2mkd.study.phases import IncubateModule
from m2mkd.training.job import Job, Outcome
from m2mkd.training.loop import Task
from m2mkd.training.phases.common import late_schedule, train


def run(job: Job[IncubateModule]) -> Outcome:
    """Train the module; gradients flow through the frozen stages after it, none through those before."""
    config = job.config
    with forked_rng("init", "teacher module", config.index, job.seed):
        network = StagedViT(
            incubation_config(config.meta, config.model, config.index),
            image_size=config.data.image_size,
            num_classes=config.data.classes,
            drop_path=config.recipe.drop_path,
        )
    meta = job.weights("meta")
    for index, stage in enumerate(network.stages):
        if index != config.index:
            load_strictly(stage, stage_state(meta, index), f"stage {index} of the meta model")
    hybrid = IncubationHybrid(network, config.index)
    module = cast(Stage, hybrid.target)
    task = Task(
        trained=module,
        network=hybrid,
        loss=lambda images, targets, _: soft_cross_entropy(hybrid(images), targets),
        predict=hybrid,
        no_weight_decay=() if config.compat.get("position_decay") == "decayed" else module.no_weight_decay(),
        late_schedule=late_schedule(config),
    )
    return Outcome(train(job, task, config.data, config.recipe), module.state_dict())
