"""Effects of the compat switches that follow from architectures and recipes, without training anything."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from m2mkd.config import load
from m2mkd.config.recipe import Recipe
from m2mkd.data.pack import Split
from m2mkd.distill.losses import kd_divergence
from m2mkd.evaluation.released import twice_counted, whole_batches
from m2mkd.families.build import build_module, build_student
from m2mkd.families.nac import graph_fit_cut as cut_of_the_fit
from m2mkd.models.moe import MoE
from m2mkd.models.nac.graphs import adjacency_matrix, prior_graph, prior_signatures
from m2mkd.models.nac.kernel import cosine_distance
from m2mkd.models.nac.regularisers import block_model, block_model_loss
from m2mkd.seeds import forked_rng
from m2mkd.training.optim import LearningRate, build_optimizer

PAPER = load.catalogue(load.scale("paper", {}))
IMAGENET, TINY_IMAGENET = 1_281_167, 100_000


class Effect(NamedTuple):
    """What one switch changes."""

    measured: str
    """The quantity, and the sizes at which it is measured."""
    released: str
    corrected: str


def both(switch: str, measured: str, measure: Callable[[dict], float | int], form: str = "{:.3g}") -> Effect:
    """Measure with the released and the corrected value of a switch, which ``measure`` gets as a compat dictionary."""
    entry = load.switches()[switch]
    released, corrected = (form.format(measure({switch: value})) for value in (entry.released, entry.corrected))
    return Effect(measured, released, corrected)


def rms(x: Tensor) -> float:
    """Root of the mean square."""
    return x.square().mean().sqrt().item()


def kl_norm() -> Effect:
    """The distillation term against the labels' (V1)."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 256, 1000, generator=generator)
    labels = torch.randint(1000, (256,), generator=generator)
    student.requires_grad_()
    (by_labels,) = torch.autograd.grad(F.cross_entropy(student, labels), student)

    def measure(compat: dict) -> float:
        (by_teacher,) = torch.autograd.grad(kd_divergence(student, teacher, 1.0, compat["kl_norm"]), student)
        return (by_teacher.norm() / by_labels.norm()).item()

    return both("kl_norm", "gradient of the term over that of cross-entropy, 1000 classes, random logits, batch 256", measure)


def expert_init() -> Effect:
    """Size of the expert branch at the start (V2)."""
    tokens = torch.randn(1024, 768, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def measure(compat: dict) -> float:
        with forked_rng("experts"):
            return rms(MoE(768, 3072, experts=8, top_k=2, expert_init=compat["expert_init"])(tokens))

    return both("expert_init", "rms of the expert branch at the start, width 768, 8 experts, tokens of rms 1", measure)


def readin_ffn_layer_scale() -> Effect:
    """Share of the feed-forward branch in the read-in's output at the start (N20)."""
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def measure(compat: dict) -> float:
        with forked_rng("readin"):
            module = nac_module(0, compat).eval()
        output = module(images)
        module.read_in.ffn.layer_scale.gamma.zero_()  # type: ignore[union-attr,operator]
        without = module(images)
        return rms(output - without) / rms(without)

    return both("readin_ffn_layer_scale", "change of the read-in's output by its feed-forward at the start, ImageNet size", measure)


def module_states() -> Effect:
    """How much the output of a module depends on the place in the batch (N18, N54)."""
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)).expand(8, -1, -1, -1)

    @torch.no_grad()
    def measure(compat: dict) -> float:
        with forked_rng("readin"):
            output = nac_module(0, compat).eval()(image)
        return rms(output - output.mean(0)) / rms(output)

    return both(
        "module_states", "spread over 8 places of the read-in's output for one image at the start, ImageNet size", measure, "{:.2g}"
    )


def nac_module(index: int, compat: dict) -> nn.Module:
    """A module of the NAC for ImageNet, between stitch layers of the published width."""
    sizes = {"image_size": 224, "num_classes": 1000, "stitch_width": 1280, "drop_path": 0.0, "state_seed": 0, "batch_size": 8}
    return build_module(PAPER.models["nac_imagenet"], index, compat=compat, **sizes)  # type: ignore[arg-type]


def graph(cut: str | float) -> tuple[Tensor, Tensor]:
    """Scale-free graph of 256 mediators, and the signatures fitted to it."""
    config = PAPER.models["nac_tiny_imagenet"]
    adjacency = adjacency_matrix(prior_graph("scale_free", config.graph, 256, 0))
    return adjacency, prior_signatures(config, "scale_free", 0, cut_of_the_fit({"graph_fit_cut": cut}))


def graph_fit_cut() -> Effect:
    """Density and precision of the graph in use (N13)."""
    found = []
    for value in (load.switches()["graph_fit_cut"].released, load.switches()["graph_fit_cut"].corrected):
        adjacency, signatures = graph(value)
        used = cosine_distance(signatures, signatures).fill_diagonal_(2) <= 0.9
        precision = adjacency[used].mean().item()
        found.append(f"density {used.float().mean().item():.3f}, precision {precision:.2f}")
    intended = adjacency.mean().item()
    return Effect(f"scale-free graph of 256 mediators, intended density {intended:.3f}, after 1000 steps of fitting", *found)


def distance_precision() -> Effect:
    """Edges that rounding decides otherwise (N34)."""
    config = PAPER.models["nac_tiny_imagenet"]
    _, mediators = graph(load.switches()["graph_fit_cut"].released)
    senders = torch.cat([torch.randn(config.latents.input, config.signature_dim, generator=torch.Generator().manual_seed(1)), mediators])
    exact = cosine_distance(mediators, senders) <= config.truncation

    def measure(compat: dict) -> int:
        half = compat["distance_precision"] == "half"
        return ((cosine_distance(mediators, senders, half) <= config.truncation) != exact).sum().item()

    return both(
        "distance_precision",
        f"edges of {exact.numel()} that are cut or kept otherwise, scale-free at the start, Tiny-ImageNet size",
        measure,
    )


def block_model_permutation() -> Effect:
    """Loss of a graph that is the block model, its mediators in another order (N22)."""
    target = block_model(256, 8, 0.9, 0.2)
    order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    links = target[order][:, order]

    def measure(compat: dict) -> float:
        return block_model_loss(links, target, compat["block_model_permutation"]).item()

    return both("block_model_permutation", "loss of a block model of 8 x 32 mediators in random order, which should be 0", measure)


def block_model_groups() -> Effect:
    """Pairs of mediators that are pulled to the wrong probability (N23)."""
    config = PAPER.models["nac_imagenet"]
    graph_model = block_model(768, config.graph.groups, config.graph.p_in, config.graph.p_out)

    def measure(compat: dict) -> float:
        with torch.device("meta"):
            sizes = {"image_size": 224, "num_classes": 1000, "stitch_width": None}
            student = build_student(config, prior=None, compat=compat, **sizes)  # type: ignore[arg-type]
        used = student.config.graph
        target = block_model(768, used.regulariser_groups or used.groups, used.p_in, used.p_out)
        return 100 * (target != graph_model).float().mean().item()

    return both("block_model_groups", "pairs of 768 mediators whose target is not that of their graph", measure, "{:.1f} %")


def decay_factor(recipe: Recipe, images: int, **options: object) -> float:
    """What weight decay leaves of a parameter without gradient over a training, from one step of the optimiser in each epoch."""
    parameter = nn.Parameter(torch.ones((), dtype=torch.float64))
    module = nn.Module()
    module.register_parameter("gain", parameter)
    optimizer = build_optimizer(module, recipe, **options)  # type: ignore[arg-type]
    steps, left = images // recipe.batch_size, 1.0
    rate = LearningRate(optimizer, recipe, steps)
    for epoch in range(recipe.epochs):
        rate.set(epoch, 0)
        before = parameter.item()
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        left *= (parameter.item() / before) ** steps
    return left


def gain_decay() -> Effect:
    """Gains of a distilled NAC module (N53)."""
    recipe = PAPER.recipes["distill_module"]
    measured = "factor on a gain without gradient over 100 epochs of distillation on ImageNet"
    return both(
        "gain_decay", measured, lambda compat: decay_factor(recipe, IMAGENET, decay_scalars=compat["gain_decay"] == "decayed"), "{:.2g}"
    )


def position_decay() -> Effect:
    """Class token and positions of the first incubated module (V22)."""
    recipe = PAPER.recipes["incubate_module"]
    measured = "factor on positions without gradient over 100 epochs of incubation on ImageNet"
    return both(
        "position_decay", measured, lambda compat: decay_factor(recipe, IMAGENET, decay_all=compat["position_decay"] == "decayed"), "{:.2g}"
    )


def scorer_transfer() -> Effect:
    """The confidence scorer that a NAC for ImageNet starts from (N21)."""
    recipe = PAPER.recipes["distill_module"]
    measured = "factor on the confidence scorer that a NAC for ImageNet starts from, after 100 epochs of distillation with gradient 0"
    return both(
        "scorer_transfer",
        measured,
        lambda compat: decay_factor(recipe, IMAGENET, decay_all=True) if compat["scorer_transfer"] == "loaded" else 1.0,
        "{:.2g}",
    )


def weight_decay_filter() -> Effect:
    """Bandwidths, norms, codes and signatures of a NAC (N35)."""
    recipe = PAPER.recipes["nac_tiny_imagenet"]
    measured = "factor on a bandwidth, gain, code or signature without gradient over 400 epochs on Tiny-ImageNet"
    return both(
        "weight_decay_filter",
        measured,
        lambda compat: decay_factor(recipe, TINY_IMAGENET, decay_all=compat["weight_decay_filter"] == "all"),
        "{:.2g}",
    )


def schedule_offset() -> Effect:
    """Rates at the ends of the distillation (V23, N29)."""
    recipe = PAPER.recipes["distill_module"]

    def rates(late: bool) -> str:
        rate = LearningRate(torch.optim.SGD([torch.zeros(1)], lr=recipe.peak_lr), recipe, 1, late)
        series = [rate.set(epoch, 0) for epoch in range(recipe.epochs)]
        return f"{series[1]:.3g} and {series[-1]:.4g}"

    measured = "learning rate of the second and of the last of 100 epochs of distillation"
    return Effect(measured, rates(True), rates(False))


def val_remainder() -> Effect:
    """Images that are measured (V14)."""
    batch = PAPER.recipes["vmoe_finetune"].batch_size // 8
    sets = {"ImageNet": 50_000, "ImageNet-R": 30_000}

    def kept(count: int) -> int:
        blank = torch.zeros(count, dtype=torch.int64).numpy()
        return len(whole_batches(Split(blank, blank), batch))

    measured = f"images measured, {' and '.join(sets)}, batch {batch} on each GPU"
    return Effect(
        measured, " and ".join(f"{kept(count):,}" for count in sets.values()), " and ".join(f"{count:,}" for count in sets.values())
    )


def accuracy_meter() -> Effect:
    """The accuracy that is reported where every answer is right (N15)."""
    cases = {"Tiny-ImageNet": (10_000, 192, 8), "ImageNet": (50_000, 48, 8), "few-shot": (24, 6, 4)}

    def measure(compat: dict) -> str:
        if compat["accuracy_meter"] == "once":
            return "1, 1, 1"
        found = [twice_counted(torch.ones(count, dtype=torch.bool), batch, processes) for count, batch, processes in cases.values()]
        return ", ".join(f"{value:.4f}" for value in found)

    entry = load.switches()["accuracy_meter"]
    described = ", ".join(f"{name} ({count:,} images, {batch} at a time)" for name, (count, batch, _) in cases.items())
    measured = f"accuracy reported where every answer is right: {described}"
    return Effect(measured, *(measure({"accuracy_meter": value}) for value in (entry.released, entry.corrected)))


CHEAP = (
    kl_norm,
    schedule_offset,
    gain_decay,
    position_decay,
    weight_decay_filter,
    scorer_transfer,
    block_model_permutation,
    block_model_groups,
    val_remainder,
    accuracy_meter,
)
"""Below half a second each: a test runs them."""
STARTS = (expert_init, graph_fit_cut, distance_precision, readin_ffn_layer_scale, module_states)
