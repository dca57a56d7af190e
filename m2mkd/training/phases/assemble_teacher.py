"""FT: the incubated modules in one network, fine-tuned on labels (specification vmoe.md 5)."""

from m2mkd.distill.losses import soft_cross_entropy
from m2mkd.distill.transfer import assemble
from m2mkd.models.vit import StagedViT
from m2mkd.study.phases import AssembleTeacher
from m2mkd.training.job import Job, Outcome
from m2mkd.training.loop import Task
from m2mkd.training.phases.common import late_schedule, train


def run(job: Job[AssembleTeacher]) -> Outcome:
    """Assemble the modules and train all of them together."""
    config = job.config
    teacher = StagedViT(config.model, image_size=config.data.image_size, num_classes=config.data.classes, drop_path=config.recipe.drop_path)
    assemble(job.modules("modules", range(config.model.modules)), teacher)
    task = Task(
        trained=teacher,
        network=teacher,
        loss=lambda images, targets, _: soft_cross_entropy(teacher(images), targets),
        predict=teacher,
        no_weight_decay=teacher.no_weight_decay(),
        late_schedule=late_schedule(config),
    )
    return Outcome(train(job, task, config.data, config.recipe), teacher.state_dict())
