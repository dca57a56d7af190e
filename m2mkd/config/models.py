"""Architectures of models, without image size and number of classes, which come from the data set."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PlainValidator,
    PositiveFloat,
    PositiveInt,
    SerializationInfo,
    TypeAdapter,
    field_validator,
    model_validator,
)

from m2mkd.config.base import Config
from m2mkd.config.family import Architecture
from m2mkd.config.registered_families import STUDENT_GROUP, TEACHERS, family_named, student_families
from m2mkd.errors import InputError
from m2mkd.plugins import find_plugin

Prior = Literal["scale_free", "planted_partition", "ring_of_cliques", "erdos_renyi"]


class ViTConfig(Architecture):
    """A ViT whose blocks are grouped in stages, one stage a module (vmoe.md 1.1)."""

    family: Literal["vit"] = "vit"
    patch_size: PositiveInt
    """Side of a patch in pixels."""
    width: PositiveInt
    """Token width d."""
    heads: PositiveInt
    """Attention heads; the width is a multiple of it."""
    depths: tuple[PositiveInt, ...] = Field(min_length=1)
    """Blocks in each stage; one stage is one module."""
    mlp_ratio: PositiveFloat = 4.0
    """Hidden width of the MLP over the token width."""
    qkv_bias: bool = True
    """True if the q, k and v projections have a bias (DeiT-Huge has none)."""
    norm_eps: PositiveFloat = 1e-6
    """Epsilon of the layer norms (DeiT-Huge: 1e-5)."""

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    @property
    def modules(self) -> int:
        return len(self.depths)

    @property
    def stride(self) -> int:
        """Number that the image size must be a multiple of."""
        return self.patch_size


class VMoEConfig(ViTConfig):
    """A staged ViT with a mixture of experts instead of the MLP in some blocks (vmoe.md 1.2 to 1.5)."""

    family: Literal["vmoe"] = "vmoe"  # type: ignore[assignment]
    experts: PositiveInt = 8
    """Experts in each MoE layer."""
    top_k: PositiveInt = 2
    """Experts that each token is sent to."""
    moe_blocks: Literal["all", "every_2"] | Annotated[str, Field(pattern=r"^last_[1-9][0-9]*$")] | tuple[NonNegativeInt, ...] = "all"
    """Blocks with experts: all (m2mKD), the odd ones (original V-MoE), the last n odd ones (last_n), or those of a list, from 0."""
    stitch: Literal["dropped", "kept"] = "dropped"
    """Treatment of the distilled modules' stitch layers in the assembled model: dropped or kept."""
    router: Literal["naive", "vmoe"] = "naive"
    """Routing of the released code (top-k, then softmax over the k) or of the original V-MoE (vmoe.md 2), which has the fields below."""
    capacity_ratio: PositiveFloat = 1.05
    """Capacity of an expert in training, as a multiple of an even share of the tokens; further tokens skip it."""
    eval_capacity_ratio: PositiveFloat | None = None
    """Capacity in evaluation; none: as in training."""
    group_size: PositiveInt = 8
    """Images that share an expert's capacity, and over which the auxiliary losses measure the balance."""
    batch_priority: bool = False
    """Batch Priority Routing: a group's tokens are served by decreasing weight of their best expert, not one after the other."""
    router_noise: NonNegativeFloat = 1.0
    """Standard deviation of the noise on the logits in training, in units of 1 / experts."""
    importance_weight: NonNegativeFloat = 0.005
    """Weight of the importance loss of each MoE layer."""
    load_weight: NonNegativeFloat = 0.005
    """Weight of the load loss of each MoE layer."""

    @model_validator(mode="after")
    def _enough_experts(self):
        if self.top_k > self.experts:
            raise ValueError(f"top_k {self.top_k} is more than the {self.experts} experts; lower top_k or raise experts")
        return self

    @model_validator(mode="after")
    def _blocks_exist(self):
        depth = sum(self.depths)
        if isinstance(self.moe_blocks, tuple):
            beyond = sorted(position for position in self.moe_blocks if position >= depth)
            if beyond:
                raise ValueError(f"moe_blocks names block {beyond[0]}, but there are blocks 0 to {depth - 1}; name one of these")
        elif self.moe_blocks.startswith("last_") and int(self.moe_blocks[5:]) > depth // 2:
            raise ValueError(f"moe_blocks {self.moe_blocks} asks for more than the {depth // 2} odd blocks of {depth}; lower it")
        return self

    @model_validator(mode="after")
    def _settings_have_their_router(self):
        settings = ("capacity_ratio", "eval_capacity_ratio", "group_size", "batch_priority", "router_noise", "importance_weight")
        for name in (*settings, "load_weight"):
            if self.router == "naive" and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} {getattr(self, name)} has no effect with router naive; remove it or set router: vmoe")
        return self

    @property
    def moe_positions(self) -> tuple[int, ...]:
        """Positions in the whole network of the blocks that hold experts, from 0."""
        if isinstance(self.moe_blocks, tuple):
            return self.moe_blocks
        depth = sum(self.depths)
        odd = tuple(range(1, depth, 2))
        if self.moe_blocks.startswith("last_"):
            return odd[-int(self.moe_blocks[5:]) :]
        return tuple(range(depth)) if self.moe_blocks == "all" else odd


class Latents(Config):
    """Number of latents in each group of a NAC."""

    input: PositiveInt
    mediator: PositiveInt
    output: PositiveInt


class TokenizerConfig(Config):
    """ConvNeXt tokenizer with a learned positional grid on the channel axis (nac.md 3)."""

    depths: tuple[NonNegativeInt, ...] = Field((3, 3), min_length=1)
    """ConvNeXt blocks in each of one to three stages; widths are state_dim / 4, / 2, / 1, cut to the number of stages."""
    stem_stride: PositiveInt = 4
    """Side and stride of the patchify stem; each further stage halves the resolution."""
    grid_dim: PositiveInt = 64
    """Channels of the positional grid."""

    @property
    def stride(self) -> int:
        """Total stride of stem and stages."""
        return self.stem_stride * 2 ** (len(self.depths) - 1)


class GraphPriors(Config):
    """Parameters of the four priors on the mediators' graph (nac.md 9)."""

    edges_per_node: PositiveInt = 2
    """Barabasi-Albert: edges that each new node brings."""
    groups: PositiveInt = 8
    """Planted partition and ring of cliques: number of groups; the number of mediators is a multiple of it."""
    p_in: float = Field(0.9, ge=0, le=1)
    """Planted partition: edge probability inside a group."""
    p_out: float = Field(0.2, ge=0, le=1)
    """Planted partition: edge probability between groups."""
    edge_probability: float = Field(0.1, ge=0, le=1)
    """Erdos-Renyi: edge probability."""
    regulariser_groups: PositiveInt | None = None
    """Groups that the stochastic block model regulariser assumes; none: as many as ``groups``."""
    fit_steps: PositiveInt = 1000
    """Adam steps that fit the signatures to the graph."""


class NACConfig(Architecture):
    """Neural Attentive Circuit (nac.md)."""

    family: Literal["nac"] = "nac"
    state_dim: PositiveInt
    """Width D of a latent's state."""
    code_dim: PositiveInt
    """Width K of a latent's code."""
    signature_dim: PositiveInt = 64
    """Width G of a latent's signature."""
    heads: PositiveInt
    """Attention heads H."""
    head_dim: PositiveInt = 64
    """Width of a head; the inner width is heads x head_dim."""
    latents: Latents
    iterations: PositiveInt = 8
    """Propagator layers L; a NAC has L + 2 modules."""
    ffn_capacity: PositiveFloat = 2.0
    """Hidden width of the feed-forward layers over the state width."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    graph: GraphPriors = GraphPriors()
    truncation: float = Field(0.9, gt=0, le=2)
    """Cosine distance above which an edge is cut."""
    temperature: PositiveFloat = 0.5
    """Temperature of the Concrete distribution that samples edges in training."""
    code_noise: NonNegativeFloat = 0.05
    """Relative amplitude of the uniform noise on codes in training."""
    layer_scale: NonNegativeFloat = 0.1
    """Initial value of LayerScale in the propagators and the read-out."""
    drop_path: float = Field(0.1, ge=0, lt=1)
    """Drop path rate of the propagators."""
    hinge: NonNegativeFloat = 0.4
    """Signature repulsion: pairs closer than this distance are pushed apart."""
    graph_weight: NonNegativeFloat = 0.1
    """Weight of signature repulsion (all priors but planted partition)."""
    block_model_weight: NonNegativeFloat = 1.0
    """Weight of the stochastic block model regulariser (planted partition)."""

    @field_validator("tokenizer")
    @classmethod
    def _three_stages_at_most(cls, tokenizer: TokenizerConfig) -> TokenizerConfig:
        if len(tokenizer.depths) > 3:
            raise ValueError(f"depths has {len(tokenizer.depths)} stages; a NAC's tokenizer has one to three")
        return tokenizer

    @model_validator(mode="after")
    def _graph_fits_mediators(self):
        mediators, graph = self.latents.mediator, self.graph
        for name, groups in (("groups", graph.groups), ("regulariser_groups", graph.regulariser_groups)):
            if groups and mediators % groups:
                raise ValueError(f"latents.mediator {mediators} is not a multiple of graph.{name} {groups}; change either")
        if graph.edges_per_node >= mediators:
            raise ValueError(f"graph.edges_per_node {graph.edges_per_node} is not below latents.mediator {mediators}; lower it")
        return self

    @property
    def modules(self) -> int:
        return self.iterations + 2

    @property
    def stride(self) -> int:
        """Number that the image size must be a multiple of."""
        return self.tokenizer.stride


def _model(value: Any) -> Architecture:
    """An architecture of any family, from what people write, or from its stored form."""
    if isinstance(value, Architecture):
        return value
    if not isinstance(value, Mapping) or not isinstance(name := value.get("family"), str):
        known = ", ".join((*TEACHERS, *student_families()))
        raise ValueError(f"a model is a mapping with a family; there are {known}")  # noqa: TRY004  pydantic's line
    stored = value.get("plugin")
    try:
        config = family_named(name).CONFIG
        if stored is not None:
            find_plugin(STUDENT_GROUP, name).require_same(stored, f"family {name}")
    except InputError as error:
        if stored is not None:  # read from a plan, in which nothing can be mended
            raise
        raise ValueError(f"family: {error}") from None
    return config.model_validate({field: given for field, given in value.items() if field != "plugin"})


def _student(value: Any) -> Architecture:
    config = _model(value)
    if config.family in TEACHERS:
        raise ValueError(f"{config.family} is no family of students; there are {', '.join(student_families())}")
    return config


def _stored(config: Architecture, info: SerializationInfo) -> dict[str, Any]:
    """Its fields; of another package also its name, version and digest."""
    fields = config.model_dump(mode=info.mode)
    if config.family in TEACHERS or (plugin := find_plugin(STUDENT_GROUP, config.family)).is_ours:
        return fields
    return fields | {"plugin": plugin.provenance()}


class _KnownFamilies:
    """JSON schema of an architecture: ours with their fields; of any other family, or like another model, whatever it has."""

    def __init__(self, *ours: type[Architecture], like: bool) -> None:
        self.ours, self.like = ours, like

    def __get_pydantic_json_schema__(self, _schema: Any, handler: Any) -> dict[str, Any]:
        ours = [handler(TypeAdapter(config).core_schema) for config in self.ours]
        names = [config.model_fields["family"].default for config in self.ours]
        family = {"type": "string", "not": {"enum": names}}
        others: list[dict[str, Any]] = [_at_least("Of another package", "family", family)]
        if self.like:
            others.append(_at_least("Like another model", "like", {"type": "string"}))
        return {"anyOf": [*ours, *others]}


def _at_least(title: str, field: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"title": title, "type": "object", "properties": {field: schema}, "required": [field]}


Model = Annotated[
    Architecture, PlainValidator(_model), PlainSerializer(_stored), _KnownFamilies(ViTConfig, VMoEConfig, NACConfig, like=True)
]
"""An architecture of any family, by its ``family``."""
StudentConfig = Annotated[
    Architecture, PlainValidator(_student), PlainSerializer(_stored), _KnownFamilies(VMoEConfig, NACConfig, like=False)
]
"""An architecture of any family of students."""
