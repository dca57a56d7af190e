"""Accuracy of weights from elsewhere on a prepared set."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from m2mkd.data.pack import Pack
from m2mkd.data.stream import eval_batches
from m2mkd.errors import InputError
from m2mkd.evaluation.accuracy import measure
from m2mkd.evaluation.ood import measure_masked
from m2mkd.families.build import evaluation
from m2mkd.seeds import derive_seed
from m2mkd.study.phase import EVAL_BATCH
from m2mkd.upstream.imported import Imported

if TYPE_CHECKING:
    from m2mkd.config.models import NACConfig


def measure_imported(
    imported: Imported,
    pack: Pack,
    device: torch.device,
    classes: tuple[str, ...] | None = None,
    draws: int = 0,
    *,
    network: nn.Module | None = None,
) -> dict[str, Any]:
    """Measure a whole network on the validation split of a prepared set.

    Parameters
    ----------
    imported
        Network to measure.
    pack
        Prepared set. A NAC also takes images of another size, if its tokenizer's stride divides it; its grid is interpolated.
    device
        Device of the computation.
    classes
        Names of the network's classes in the order of its logits, if the set shares only some of them; the logits are then restricted to
        the shared classes. None: the network has the set's classes.
    draws
        Number of additional passes with the noise of the released evaluation (a NAC's states and Gumbel noise), each with its own
        seed.
    network
        The network itself on the device, in evaluation mode; None: it is built from the weights.

    Returns
    -------
    dict
        ``top1``, ``top5`` (shares, 0 to 1), ``loss`` (nats) and ``count`` without noise, those of ``measure_masked`` if ``classes`` are
        given, and ``draws``: the same measurements of each noisy pass.

    Raises
    ------
    InputError
        If it is not a whole network, expects images of another size, or has another number of classes than there are names; if
        ``draws`` is given for a network without random draws.
    """
    if not imported.description.whole:
        raise InputError(f"a {imported.kind} does not map images to logits; only whole classifiers have an accuracy")
    interpolated = imported.kind == "nac" and pack.image_size % imported.architecture.stride == 0
    if imported.image_size != pack.image_size and not interpolated:
        found, name = pack.image_size, f"{pack.name}@{imported.image_size}"
        raise InputError(f"the network expects images of {imported.image_size} pixels, but the set has {found}; use --data {name}")
    if imported.num_classes != (count := len(classes or pack.classes)):
        raise InputError(
            f"the network has {imported.num_classes} classes, but {count} names are given; name its classes with --classes-from"
        )
    if draws and imported.kind != "nac":
        raise InputError(f"a {imported.kind} draws no random numbers in evaluation; leave out --eval-draws")
    network = imported.build().to(device) if network is None else network
    result = _measure(network, pack, device, classes)
    if draws:
        noisy = (_noisy(network, imported.architecture, draw) for draw in range(draws))  # type: ignore[arg-type]
        result["draws"] = [_measure(predict, pack, device, classes) for predict in noisy]
    return result


def _measure(predict: Callable[[Tensor], Tensor], pack: Pack, device: torch.device, classes: tuple[str, ...] | None) -> dict[str, Any]:
    if classes is not None:
        return measure_masked(predict, pack, classes, EVAL_BATCH, device)
    return measure(predict, eval_batches(pack.split("val"), pack.image_size, EVAL_BATCH), device).summary()


def _noisy(network: nn.Module, architecture: "NACConfig", draw: int) -> Callable[[Tensor], Tensor]:
    return evaluation(network, architecture, {"eval_noise": "upstream"}, derive_seed("evaluation noise", draw))
