"""Third-party weights as the output of a run, so that runs that build on them see no difference."""

from pathlib import Path

import torch
from torch import nn

from m2mkd.config.family import Sizes, StudentFamily
from m2mkd.config.registered_families import family_of
from m2mkd.distill.transfer import check_state
from m2mkd.errors import InputError
from m2mkd.families.build import build_module, build_student
from m2mkd.files import sha256
from m2mkd.models.names.nac import MODULE_CONSTANTS
from m2mkd.study.phases import ImportWeights
from m2mkd.training.job import Job, Outcome
from m2mkd.upstream.description import Description
from m2mkd.upstream.imported import open_weights


def run(job: Job[ImportWeights]) -> Outcome:
    """Check that the file matches the configuration, and take its weights.

    Raises
    ------
    InputError
        If its kind, architecture, size or shapes differ, or it has changed since the workflow was planned.
    """
    config, path = job.config, Path(job.config.file)
    found = open_weights(path, None, None)
    if sha256(path) != config.sha256:
        raise InputError(f"{path}: has changed since the workflow was planned; run the workflow again")
    check_description(found.description, config)
    with torch.device("meta"):
        wanted = {name: tensor for name, tensor in _network(config).state_dict().items() if name not in MODULE_CONSTANTS}
    state = found.state()
    check_state(wanted, {name: tensor for name, tensor in state.items() if name not in MODULE_CONSTANTS}, str(path))
    return Outcome({}, {name: tensor.to(wanted[name].dtype) if name in wanted else tensor for name, tensor in state.items()})


def check_description(found: Description, config: ImportWeights) -> None:
    """Raise `InputError` if a file's header does not match the configuration."""

    def refuse(what: str, there: object, here: object) -> None:
        if there != here:
            raise InputError(f"{config.file}: {what} is {there}, but {here} is expected; import another file, or change the model")

    wanted, index = config.model, config.index
    family = family_of(wanted)
    first, last = index in (None, 0), index in (None, wanted.modules - 1)
    refuse("kind", found.kind, family.imported_kind(wanted, index))
    refuse("the single stage", found.stage, None)
    if index is not None:
        refuse("whether it reads images", found.first, first)
        refuse("whether it gives logits", found.last, last)
    there, here = found.architecture.model_dump(mode="json"), wanted.model_dump(mode="json")
    for field in sorted((there.keys() | here.keys()) - family.undetermined(wanted, index)):
        refuse(field, there.get(field), here.get(field))
    if first:
        refuse("image size", found.image_size, config.image_size)
    if last:
        refuse("number of classes", found.num_classes, config.classes)
    refuse("stitch width", found.stitch_width, config.stitch_width)
    refuse("layers with other heads", tuple(name for name, *_ in found.layer_heads), ())


def _network(config: ImportWeights) -> nn.Module:
    model, family, sizes = config.model, family_of(config.model), Sizes(config.image_size, config.classes)
    if not isinstance(family, StudentFamily):
        return family.timm_network(model, sizes, None)
    if config.index is None:
        return build_student(model, prior=None, stitch_width=config.stitch_width, compat={}, **sizes._asdict())
    assert config.stitch_width is not None, "a module is planned with the width of its meta model"
    return build_module(model, config.index, stitch_width=config.stitch_width, drop_path=0.0, state_seed=0, compat={}, **sizes._asdict())
