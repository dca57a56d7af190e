"""Use that a student makes of its parts on a batch of images: effective graph, latents and attention of a NAC, routing of a V-MoE.

Everything is measured in evaluation mode without noise, as plain numbers that fit into a JSON file.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from m2mkd.config.family import Architecture
from m2mkd.config.registered_families import student_family
from m2mkd.errors import InputError
from m2mkd.evaluation.attention import attention_weights, watched
from m2mkd.evaluation.graph import trained_graph
from m2mkd.models.moe import MoE
from m2mkd.models.nac.circuit import NAC

IMAGES = 32
"""Number of images to diagnose on: the first ones of a validation set."""
AT_A_TIME = 8
"""Images at a time: the attention weights of a published NAC take 24 MB per image."""


@torch.no_grad()
def diagnose(config: Architecture, student: nn.Module, images: Tensor) -> dict[str, Any]:
    """Measure how a student uses its parts.

    Parameters
    ----------
    config
        Architecture of the student.
    student
        Put into evaluation mode for the call.
    images
        (B, 3, S, S), on the student's device.

    Returns
    -------
    dict
        ``images`` (B) and ``layers``, a list from the first layer to the last. Entropies are in nats; an effective number is the
        exponential of an entropy.

        NAC: of each layer its ``name``, ``entropy`` (of each head's weights, mean over images and receivers), ``effective_senders`` (of the
        weights averaged over images and heads: mean over receivers and the quantiles 0, 0.25, 0.5, 0.75, 1) and, after the read-in,
        ``from_inputs`` and ``from_self`` (shares of a mediator's attention that go to the input latents and to itself; of the read-out only
        the first). Also ``mediator_share`` (attention that each mediator receives over the propagators and the read-out, sums
        to 1), ``output_weights`` (weight of each output latent in the pooling, sums to 1) and ``graph`` (of the mediators: ``density``,
        ``input_density``, ``clustering``, ``mean_degree``, and ``bandwidths`` of the propagators).

        V-MoE: of each MoE layer its ``name``, ``tokens`` (share of the token-expert pairs that each expert gets, sums to 1) and
        ``router_entropy`` (of the softmax over all gate logits, mean over tokens) and, if the capacity of experts is limited, ``dropped``
        (share of the pairs that exceed it).

        Another family gives the layers as a V-MoE does, or nothing: then the diagnosis is empty.

    Raises
    ------
    InputError
        If a family of another package gives anything else.
    """
    training = student.training
    student.eval()
    try:
        found = student_family(config).diagnose(student, images)
    finally:
        student.train(training)
    if not found.get("layers"):
        return {}
    if "mediator_share" not in found and not _tells_of_experts(found):
        raise InputError(
            f"diagnose of family {config.family}: gives other layers than those of experts; give name, tokens and router_entropy"
        )
    return {"images": len(images), **_rounded(found)}


def scalars(diagnosis: dict[str, Any]) -> dict[str, float]:
    """Key numbers of a diagnosis, worth a line in every epoch, by names like ``propagators.0/effective_senders``."""
    lines: dict[str, float] = {}
    for layer in diagnosis.get("layers", ()):
        if "tokens" in layer:
            chosen = {"router_entropy": layer["router_entropy"], "effective_experts": effective_number(layer["tokens"])}
            chosen |= {"dropped_share": layer["dropped"]} if "dropped" in layer else {}
        else:
            heads = layer["entropy"]
            chosen = {"entropy": sum(heads) / len(heads), "effective_senders": layer["effective_senders"]["mean"]}
        lines |= {f"{layer['name']}/{name}": value for name, value in chosen.items()}
    if "graph" in diagnosis:
        lines["graph/density"] = diagnosis["graph"]["density"]
        lines["output/effective_latents"] = effective_number(diagnosis["output_weights"])
    return lines


def effective_number(shares: list[float]) -> float:
    """Exponential of the entropy of shares that sum to 1."""
    return torch.special.entr(torch.tensor(shares)).sum().exp().item()


def use_of_latents(student: NAC, images: Tensor) -> dict[str, Any]:
    """Diagnosis of a NAC in evaluation mode, not yet rounded; see `diagnose`."""
    layers: dict[str, nn.Module] = {"read_in": student.read_in.read_in_attention}
    for index, propagator in enumerate(student.propagators):
        layers[f"propagators.{index}"] = propagator.get_submodule("latent_attention")
    layers["read_out"] = student.read_out.latent_attention
    entropy: dict[str, Tensor] = dict.fromkeys(layers, torch.zeros(()))
    mass: dict[str, Tensor] = dict.fromkeys(layers, torch.zeros(()))
    confidence: list[Tensor] = []

    def see(name: str, layer: Any, arguments: dict[str, Any], _: Tensor) -> None:
        if name == "pooling":
            confidence.append(layer.confidence_scorer(arguments["states"]).squeeze(-1).softmax(dim=-1).cpu())
            return
        weights = attention_weights(layer, arguments)[0].float()
        entropy[name] = entropy[name] + torch.special.entr(weights).sum(-1).mean(-1).sum(0).cpu()
        mass[name] = mass[name] + weights.mean(1).sum(0).cpu()

    with watched(layers | {"pooling": student.output_tokenizer}, see):
        for images_now in images.split(AT_A_TIME):
            student(images_now)

    inputs, mediators = student.config.latents.input, student.config.latents.mediator
    found = [_layer(name, entropy[name] / len(images), mass[name] / len(images), inputs) for name in layers]
    received = torch.stack([mass[name].sum(0)[inputs:] / mass[name][:, inputs:].sum() for name in layers if name != "read_in"]).mean(0)
    state = {name: tensor.detach().cpu() for name, tensor in student.state_dict().items()}
    graph = trained_graph(state, student.config.truncation, None)
    realised = graph.realised[-1]
    return {
        "layers": found,
        "mediator_share": received.tolist(),
        "output_weights": torch.cat(confidence).mean(0).tolist(),
        "graph": {
            "density": realised.density,
            "input_density": graph.input_density,
            "clustering": realised.clustering,
            "mean_degree": realised.density * (mediators - 1),
            "bandwidths": [kernel.bandwidth for kernel in graph.kernels],
        },
    }


def _layer(name: str, entropy: Tensor, mass: Tensor, inputs: int) -> dict[str, Any]:
    """Summary of one layer: ``mass`` (U, V) is its mean weights."""
    senders = torch.special.entr(mass).sum(-1).exp()
    quantiles = senders.quantile(torch.tensor([0, 0.25, 0.5, 0.75, 1])).tolist()
    found: dict[str, Any] = {"name": name, "entropy": entropy.tolist()}
    found["effective_senders"] = {"mean": senders.mean().item(), "quantiles": quantiles}
    if name != "read_in":
        found["from_inputs"] = mass[:, :inputs].sum(-1).mean().item()
    if name.startswith("propagators"):
        found["from_self"] = mass[:, inputs:].diagonal().mean().item()
    return found


def _tells_of_experts(found: dict[str, Any]) -> bool:
    """True if each layer has what figures and curves of experts show."""
    return all({"name", "tokens", "router_entropy"} <= layer.keys() and layer["tokens"] for layer in found["layers"])


def use_of_experts(student: nn.Module, images: Tensor) -> dict[str, Any]:
    """Diagnosis of a network with MoE layers in evaluation mode, not yet rounded; see `diagnose`."""
    return {"layers": _experts(student, [partial(student, few) for few in images.split(AT_A_TIME)], len(images))}


def expert_use(network: nn.Module, calls: Iterable[Callable[[], object]], images: int) -> dict[str, Any]:
    """Measure expert use as in `diagnose`, for any network with MoE layers.

    Parameters
    ----------
    network
        Network that holds the layers, in evaluation mode.
    calls
        Each call runs the network on some images.
    images
        Total number of images.
    """
    return {"images": images, **_rounded({"layers": _experts(network, calls, images)})}


def _experts(network: nn.Module, calls: Iterable[Callable[[], object]], images: int) -> list[dict[str, Any]]:
    layers = {name: module for name, module in network.named_modules() if isinstance(module, MoE)}
    tokens: dict[str, Tensor] = dict.fromkeys(layers, torch.zeros(()))
    means: dict[str, Tensor] = dict.fromkeys(layers, torch.zeros(2))

    def see(name: str, layer: Any, arguments: dict[str, Any], _: Tensor) -> None:
        tokens[name] = tokens[name] + layer.tokens_per_expert.cpu()
        measured = torch.stack([layer.router_entropy, layer.dropped_share]).float().cpu()
        means[name] = means[name] + measured * len(arguments["x"]) / images

    with watched(layers, see):
        for call in calls:
            call()
    found = []
    for name, layer in layers.items():
        entropy, dropped = means[name].tolist()
        shares = (tokens[name] / tokens[name].sum()).tolist()
        limited = {} if layer.router is None else {"dropped": dropped}
        found.append({"name": name, "tokens": shares, "router_entropy": entropy, **limited})
    return found


def _rounded(value: Any) -> Any:
    """Value rounded to six significant digits, which is more than the precision of a diagnosis."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
