"""Architectures: what a model is, apart from image size and number of classes, which come from its data set."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from m2mkd.config.base import Config

Prior = Literal["scale_free", "planted_partition", "ring_of_cliques", "erdos_renyi"]


class ViT(Config):
    """A ViT whose blocks are grouped in stages, one stage a module (vmoe.md 1.1)."""

    family: Literal["vit"] = "vit"
    patch_size: PositiveInt
    """Side of a patch in pixels."""
    width: PositiveInt
    """Token width d."""
    heads: PositiveInt
    """Attention heads; the width is a multiple of it."""
    depths: tuple[PositiveInt, ...]
    """Blocks in each stage; one stage is one module."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP over the token width."""
    qkv_bias: bool = True
    """Whether the q, k and v projections have a bias (DeiT-Huge has none)."""
    norm_eps: float = 1e-6
    """Epsilon of the layer norms (DeiT-Huge: 1e-5)."""

    @model_validator(mode="after")
    def _heads_divide_width(self):
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    @property
    def modules(self) -> int:
        return len(self.depths)


class VMoE(ViT):
    """A staged ViT whose chosen blocks hold a mixture of experts in place of the MLP (vmoe.md 1.2 to 1.5)."""

    family: Literal["vmoe"] = "vmoe"  # type: ignore[assignment]
    experts: PositiveInt = 8
    """Experts in each MoE layer."""
    top_k: PositiveInt = 2
    """Experts that each token is sent to."""
    moe_blocks: Literal["all", "every_2", "last_2"] = "all"
    """Which blocks hold experts: all (m2mKD), odd ones (the original V-MoE), or the last two odd ones."""
    stitch: Literal["dropped", "kept"] = "dropped"
    """Whether the stitch layers of the distilled modules stay in the assembled model."""


class Latents(Config):
    """Number of latents in each group of a NAC."""

    input: PositiveInt
    mediator: PositiveInt
    output: PositiveInt


class Tokenizer(Config):
    """ConvNeXt tokenizer with a learned positional grid on the channel axis (nac.md 3)."""

    depths: tuple[int, ...] = (3, 3)
    """ConvNeXt blocks in each stage; widths are state_dim / 4, / 2, / 1, cut to the number of stages."""
    stem_stride: PositiveInt = 4
    """Side and stride of the patchify stem; each further stage halves the resolution."""
    grid_dim: PositiveInt = 64
    """Channels of the positional grid."""


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
    """Groups that the stochastic block model regulariser assumes; none: the same as groups."""
    fit_steps: PositiveInt = 1000
    """Adam steps that fit the signatures to the graph."""


class NAC(Config):
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
    ffn_capacity: float = 2.0
    """Hidden width of the feed-forward layers over the state width."""
    tokenizer: Tokenizer = Tokenizer()
    graph: GraphPriors = GraphPriors()
    truncation: float = 0.9
    """Cosine distance above which an edge is cut."""
    temperature: float = 0.5
    """Temperature of the Concrete distribution that samples edges in training."""
    code_noise: float = 0.05
    """Relative amplitude of the uniform noise on codes in training."""
    layer_scale: float = 0.1
    """Initial value of LayerScale in the propagators and the read-out."""
    drop_path: float = 0.1
    """Drop path rate of the propagators."""
    hinge: float = 0.4
    """Signature repulsion: pairs closer than this distance are pushed apart."""
    graph_weight: float = 0.1
    """Weight of signature repulsion (all priors but planted partition)."""
    block_model_weight: float = 1.0
    """Weight of the stochastic block model regulariser (planted partition)."""

    @property
    def modules(self) -> int:
        return self.iterations + 2


Model = Annotated[ViT | VMoE | NAC, Field(discriminator="family")]
Student = Annotated[VMoE | NAC, Field(discriminator="family")]
