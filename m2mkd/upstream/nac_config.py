"""Configurations of the released NAC and of its students (specification nac.md 1 to 8, 14)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, ConfigDict, Field, NonNegativeFloat, PositiveFloat

from m2mkd.config.load import checked
from m2mkd.config.models import Latents, NACConfig, TokenizerConfig
from m2mkd.errors import InputError
from m2mkd.upstream.description import Description, DisabledNoise, Shapes
from m2mkd.upstream.kinds import ReleasedKind
from m2mkd.upstream.vocabulary import Layers, Ratio, SquareSide, Vocabulary, Width

PRESETS = {
    "tiny": (3, 3, 9),
    "mini": (3, 3, 6),
    "micro": (3, 3, 3),
    "nano": (1, 1, 1),
    "pico": (1, 1, 0),
    "femto": (1, 0, 0),
    "atto": (0, 0, 0),
}
"""Blocks in the tokenizer's stages by capacity preset."""
UNKNOWN_PRESET = (3, 3, 27)
STEM_STRIDE = 4


class Grid(Vocabulary):
    dim: Width
    grid_size: SquareSide


class ReleasedImageTokenizer(Vocabulary):
    capacity_preset: str | None = "tiny"
    num_stages: int = Field(3, ge=1, le=3)
    positional_grid_kwargs: Grid

    def ours(self) -> TokenizerConfig:
        depths = PRESETS.get(self.capacity_preset or "", UNKNOWN_PRESET)[: self.num_stages]
        return TokenizerConfig(depths=depths, stem_stride=STEM_STRIDE, grid_dim=self.positional_grid_kwargs.dim)

    @property
    def image_size(self) -> int:
        return self.positional_grid_kwargs.grid_size * self.ours().stride


class ReleasedModFC(Vocabulary):
    WITHOUT_EFFECT: ClassVar = frozenset({"scale_gain"})
    add_one_to_scale: Literal[True]
    learnable_scale_gain: Literal[True] = True


class Kernel(Vocabulary):
    truncation: float | None = Field(None, gt=0, le=2)
    stochastic_kernel: bool = False
    stochastic_sampling_temperature: PositiveFloat = 0.5


class ReleasedLatentAttention(Vocabulary):
    kernel_kwargs: Kernel | None = None
    kernel_type: Literal["DotProductKernel"] = "DotProductKernel"
    share_layernorm: Literal[True]


class ReleasedPropagator(Vocabulary):
    latent_attention_kwargs: ReleasedLatentAttention
    path_drop_prob: float | None = Field(None, ge=0, lt=1)


class ReleasedLayer(Vocabulary):
    """Common keys of read-in and read-out; only these layers may have other heads than the circuit."""

    WITHOUT_EFFECT: ClassVar = frozenset({"path_drop_prob", "pre_output_layernorm"})
    num_heads: Width | None = None
    head_dim: Width | None = None


class ReleasedReadIn(ReleasedLayer):
    include_residual_in_read_in_attention: Literal[True]


class ReleasedReadOut(ReleasedLayer):
    include_residual_in_latent_attention: Literal[False]
    use_head: Literal[False]


class GraphGenerator(Vocabulary):
    """Parameters of any prior graph; other arguments of its generator have no effect on trained weights."""

    model_config = ConfigDict(extra="ignore")
    m: Width = 2
    groups: Width = Field(8, validation_alias=AliasChoices("l", "num_cliques"))
    p: float = Field(0.1, ge=0, le=1)
    p_in: float = Field(0.9, ge=0, le=1)
    p_out: float = Field(0.2, ge=0, le=1)


class MediatorLatents(Vocabulary):
    graph_preset: str | None = None
    graph_generator_kwargs: GraphGenerator | None = None


class OutputPooling(Vocabulary):
    softmax_type: Literal["gumbel", "vanilla"] = "gumbel"
    temperature: Literal[1] = 1


class LatentGraph(Vocabulary):
    WITHOUT_EFFECT: ClassVar = frozenset({"input_latent_kwargs", "output_latent_kwargs"})
    code_dim: Width
    signature_dim: Width
    num_heads: Width
    head_dim: Width
    num_input_latents: Width
    num_mediator_latents: Width
    num_output_latents: Width
    num_iterations: Layers
    ffn_capacity_factor: Ratio
    code_noise_scale: NonNegativeFloat = 0.05
    use_code_noise_in_latent_seeder: bool = True
    layer_scale_initial_value: NonNegativeFloat = 0.1
    path_drop_prob: float = Field(0.0, ge=0, lt=1)
    mediator_latent_kwargs: MediatorLatents | None = None
    mod_fc_kwargs: ReleasedModFC
    propagator_kwargs: ReleasedPropagator
    read_in_kwargs: ReleasedReadIn
    read_out_kwargs: ReleasedReadOut
    qkv_bias_in_attention: Literal[False]
    share_propagator_weights: Literal[False] = False
    share_codes_between_iterations: Literal[True] = True
    use_geglu: Literal[True]


class ReleasedCircuit(Vocabulary):
    WITHOUT_EFFECT: ClassVar = frozenset({"simplified_interface", "student_state_dict_dir", "student_type", "predefined_codes_dir"})
    input_dim: Literal[3] = 3
    output_dim: Width
    state_dim: Width
    input_tokenizer_type: Literal["ConvNeXtImageTokenizer"] = "ConvNeXtImageTokenizer"
    input_tokenizer_kwargs: ReleasedImageTokenizer
    latent_graph_type: Literal["LatentGraph"] = "LatentGraph"
    latent_graph_kwargs: LatentGraph
    output_tokenizer_type: Literal["OutputLatentPooling"] = "OutputLatentPooling"
    output_tokenizer_kwargs: OutputPooling | None = None
    stitch_ckpt_path: None = None
    predefined_states_dir: None = None


class ReleasedStudent(Vocabulary):
    """Sizes of any student: the section ``share_kwargs``, overridden by that of the student."""

    state_dim: Width
    code_dim: Width
    num_heads: Width
    head_dim: Width
    ffn_capacity_factor: Ratio
    layer_scale_initial_value: NonNegativeFloat = 0.1
    path_drop_prob: float = Field(0.0, ge=0, lt=1)
    mod_fc_kwargs: ReleasedModFC
    qkv_bias_in_attention: Literal[False]
    use_geglu: Literal[True]
    stitch_dim: Width | None = None


class ReadInStudent(ReleasedStudent):
    input_dim: Literal[3] = 3
    tokenizer_type: Literal["ConvNeXtImageTokenizer"] = "ConvNeXtImageTokenizer"
    tokenizer_kwargs: ReleasedImageTokenizer
    include_residual_in_read_in_attention: Literal[True]


class MediatorStudent(ReleasedStudent):
    latent_attention_kwargs: ReleasedLatentAttention


class ReadOutStudent(ReleasedStudent):
    WITHOUT_EFFECT: ClassVar = frozenset({"pre_output_layernorm"})
    output_dim: Width
    tokenizer_type: Literal["OutputLatentPooling"] = "OutputLatentPooling"
    tokenizer_kwargs: OutputPooling | None = None
    include_residual_in_latent_attention: Literal[False]
    use_head: Literal[False]


STUDENTS: dict[str, tuple[str, type[ReleasedStudent]]] = {
    "nac_readin": ("readin", ReadInStudent),
    "nac_mediator": ("mediator", MediatorStudent),
    "nac_readout": ("readout", ReadOutStudent),
}
"""Section of the student configuration, and its keys, by kind."""


def describe_circuit(config: Mapping[str, Any], where: str) -> Description:
    """Describe a whole circuit by the released model's keyword arguments, at any depth of ``config``."""
    content = _model_section(config)
    if content is None:
        raise InputError(f"{where}: latent_graph_kwargs is missing; give the model's keyword arguments of the released YAML")
    released: ReleasedCircuit = checked(ReleasedCircuit, content, where)
    graph, tokenizer = released.latent_graph_kwargs, released.input_tokenizer_kwargs
    propagator = graph.propagator_kwargs
    kernel = propagator.latent_attention_kwargs.kernel_kwargs or Kernel()
    architecture = {
        "state_dim": released.state_dim,
        "code_dim": graph.code_dim,
        "signature_dim": graph.signature_dim,
        "heads": graph.num_heads,
        "head_dim": graph.head_dim,
        "latents": {"input": graph.num_input_latents, "mediator": graph.num_mediator_latents, "output": graph.num_output_latents},
        "iterations": graph.num_iterations,
        "ffn_capacity": graph.ffn_capacity_factor,
        "tokenizer": tokenizer.ours(),
        "graph": _graph(graph),
        "truncation": 2.0 if kernel.truncation is None else kernel.truncation,  # no cosine distance is above 2
        "temperature": kernel.stochastic_sampling_temperature,
        "code_noise": graph.code_noise_scale,
        "layer_scale": graph.layer_scale_initial_value,
        "drop_path": graph.path_drop_prob if propagator.path_drop_prob is None else propagator.path_drop_prob,
    }
    heads = tuple(
        (name, layer.num_heads or graph.num_heads, layer.head_dim or graph.head_dim)
        for name, layer in (("read_in", graph.read_in_kwargs), ("read_out", graph.read_out_kwargs))
        if (layer.num_heads or graph.num_heads, layer.head_dim or graph.head_dim) != (graph.num_heads, graph.head_dim)
    )
    return Description(
        kind="nac",
        architecture=checked(NACConfig, architecture, where),
        image_size=tokenizer.image_size,
        num_classes=released.output_dim,
        config=dict(content),
        layer_heads=heads,
        disabled_noise=_disabled_noise(released),
    )


def describe_module(kind: ReleasedKind, config: Mapping[str, Any], shapes: Shapes, where: str) -> Description:
    """Describe a module that was distilled alone.

    ``config`` is the released student configuration with its section for the module (at the top, or under
    ``students``), or that section merged with ``share_kwargs``.
    """
    section, vocabulary = STUDENTS[kind]
    content = _student_section(config, section, where)
    released: Any = checked(vocabulary, content, where)
    # The width is in the released command line, not in the released file.
    width = released.stitch_dim or _stitch_width(shapes, where)
    tokenizer: ReleasedImageTokenizer | None = released.tokenizer_kwargs if kind == "nac_readin" else None
    architecture = {
        "state_dim": released.state_dim,
        "code_dim": released.code_dim,
        "heads": released.num_heads,
        "head_dim": released.head_dim,
        "latents": Latents(input=1, mediator=8, output=1),
        "iterations": 1,
        "ffn_capacity": released.ffn_capacity_factor,
        "tokenizer": tokenizer.ours() if tokenizer else TokenizerConfig(),
        "layer_scale": released.layer_scale_initial_value,
        "drop_path": released.path_drop_prob,
    }
    return Description(
        kind=kind,
        architecture=checked(NACConfig, architecture, where),
        image_size=tokenizer.image_size if tokenizer else TokenizerConfig().stride,
        num_classes=released.output_dim if kind == "nac_readout" else 1,
        config={**content, "stitch_dim": width},
        stitch_width=width,
        first=kind == "nac_readin",
        last=kind == "nac_readout",
    )


def _disabled_noise(released: ReleasedCircuit) -> frozenset[DisabledNoise]:
    graph, pooling = released.latent_graph_kwargs, released.output_tokenizer_kwargs
    kernel = graph.propagator_kwargs.latent_attention_kwargs.kernel_kwargs or Kernel()
    switches: dict[DisabledNoise, bool] = {
        "seeder": graph.use_code_noise_in_latent_seeder,
        "edge": kernel.stochastic_kernel,
        "gumbel": (pooling or OutputPooling()).softmax_type == "gumbel",
    }
    return frozenset(noise for noise, on in switches.items() if not on)


def _model_section(config: Any) -> Mapping[str, Any] | None:
    """First mapping in a released YAML that holds the circuit's arguments."""
    if not isinstance(config, Mapping):
        return None
    if "latent_graph_kwargs" in config:
        return config
    return next((found for value in config.values() if (found := _model_section(value)) is not None), None)


def _student_section(config: Mapping[str, Any], section: str, where: str) -> dict[str, Any]:
    if "share_kwargs" not in config:
        return dict(config)
    sections = config.get("students", config)
    if not isinstance(sections, Mapping) or section not in sections:
        raise InputError(f"{where}: {section} is missing next to share_kwargs; add the student's section")
    for name, content in (("share_kwargs", config["share_kwargs"]), (section, sections[section])):
        if not isinstance(content, Mapping):
            raise InputError(f"{where}: {name} holds a {type(content).__name__}, but a mapping of names to values is needed")
    content = {**config["share_kwargs"], **sections[section]}
    return content | ({"stitch_dim": config["stitch_dim"]} if "stitch_dim" in config else {})


def _stitch_width(shapes: Shapes, where: str) -> int:
    for name, axis in (("post_stitch.weight", 0), ("pre_stitch.weight", 1)):
        if len(shapes.get(name, ())) == 2:
            return shapes[name][axis]
    raise InputError(f"{where}: stitch_dim is missing, and the checkpoint has no stitch layer to infer it from; add it")


def _graph(graph: LatentGraph) -> dict[str, Any]:
    """Parameters of the prior graph; only a regulariser uses them, because the signatures come with the weights."""
    latents = graph.mediator_latent_kwargs or MediatorLatents()
    given = latents.graph_generator_kwargs or GraphGenerator()
    mediators = graph.num_mediator_latents
    return {
        "edges_per_node": min(given.m, max(mediators - 1, 1)),
        "groups": given.groups if mediators % given.groups == 0 else 1,
        "p_in": given.p_in,
        "p_out": given.p_out,
        "edge_probability": given.p if latents.graph_preset == "erdos-renyi" else 0.1,
    }
