"""Family of Neural Attentive Circuits (specification nac.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from m2mkd.config.family import Sizes, StudentFamily
from m2mkd.config.models import NACConfig

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

IN_TRAINING = frozenset({"graph", "temperature", "code_noise", "layer_scale", "drop_path", "hinge", "graph_weight", "block_model_weight"})
"""Fields that have no effect on a trained circuit in evaluation."""
_OF_A_MODULE = frozenset({"latents", "iterations", "signature_dim", "truncation"})
"""Fields that a single module does not determine; the shapes of its tensors are compared nevertheless."""


def graph_fit_cut(compat: Mapping[str, Any]) -> float | None:
    """Distance within which the released fit brings the neighbours of a NAC's graph; None: corrected, between hinge and truncation."""
    cut = compat.get("graph_fit_cut", "hinge_to_truncation")
    return None if cut == "hinge_to_truncation" else float(cut)


class NACFamily(StudentFamily[NACConfig]):
    """Neural Attentive Circuits."""

    CONFIG: ClassVar = NACConfig
    LABEL: ClassVar[str] = "NAC"
    HEADING: ClassVar[str] = "Neural Attentive Circuits, by graph prior"
    STRIDE: ClassVar[str] = "tokenizer's total stride"
    TAKES_PRIOR: ClassVar[bool] = True
    HAS_CODES: ClassVar[bool] = True
    SAME_DATA: ClassVar[bool] = False

    def build(
        self,
        config: NACConfig,
        *,
        image_size: int,
        num_classes: int,
        prior: Any,
        stitch_width: int | None,
        drop_path: float,
        graph_seed: int,
        compat: Mapping[str, Any],
    ) -> nn.Module:
        """Build a whole circuit; its stochastic depth is part of the architecture."""
        from m2mkd.models.nac.circuit import NAC

        if compat.get("block_model_groups", "graph") == "graph":
            config = config.model_copy(update={"graph": config.graph.model_copy(update={"regulariser_groups": None})})
        return NAC(
            config,
            image_size=image_size,
            num_classes=num_classes,
            prior=prior,
            graph_seed=graph_seed,
            graph_fit_cut=graph_fit_cut(compat),
            half_distance=compat.get("distance_precision") == "half",
        )

    def build_module(
        self,
        config: NACConfig,
        index: int,
        *,
        image_size: int,
        num_classes: int,
        stitch_width: int,
        drop_path: float,
        state_seed: int,
        batch_size: int,
        compat: Mapping[str, Any],
    ) -> nn.Module:
        """Build one module; each sample of a batch has a state of its own if ``module_states`` says so."""
        from m2mkd.models.nac.students import build_nac_module

        scale = compat.get("readin_ffn_layer_scale", "config")
        return build_nac_module(
            config,
            index,
            image_size=image_size,
            num_classes=num_classes,
            stitch_width=stitch_width,
            readin_ffn_layer_scale=None if scale == "config" else float(scale),
            state_seed=state_seed,
            num_states=batch_size if compat.get("module_states") == "per_place" else 1,
        )

    def noise(self, config: NACConfig, generator: Generator) -> dict[str, Any]:
        from m2mkd.models.nac.noise import Noise

        return {"noise": Noise.from_generator(generator)}

    def regularisation(self, student: Any, compat: Mapping[str, Any]) -> Tensor | float:
        """Regulariser of the signatures; a module alone has none."""
        from m2mkd.models.nac.circuit import NAC

        return student.regularisation(compat.get("block_model_permutation", "graph")) if isinstance(student, NAC) else 0.0

    def transfer(
        self,
        student: Any,
        modules: Mapping[int, Mapping[str, Tensor]],
        *,
        same_data: bool,
        only: Sequence[int] | None,
        compat: Mapping[str, Any],
    ) -> None:
        """Load modules; positional grid and classifier fit only if modules and student see the same set at the same size."""
        from m2mkd.distill.nac_transfer import transfer_modules

        scorer: Any = compat.get("scorer_transfer", "fresh")
        transfer_modules(student, list(modules.values()), same_geometry=same_data, scorer=scorer, only=only)

    def start_codes(self, student: Any, how: Any, modules: Mapping[int, Mapping[str, Tensor]]) -> None:
        from m2mkd.distill.nac_codes import start_codes

        start_codes(student, how, modules)

    def replace_head(self, student: Any, classes: int) -> nn.Linear:
        from torch import nn

        head = nn.Linear(student.output_tokenizer.to_logits.in_features, classes)
        student.output_tokenizer.to_logits = head
        return head

    def feature_width(self, config: NACConfig) -> int:
        return config.state_dim

    def diagnose(self, student: Any, images: Tensor) -> dict[str, Any]:
        from m2mkd.evaluation.diagnostics import use_of_latents

        return use_of_latents(student, images)

    def sizes(self, config: NACConfig) -> str:
        latents = f"{config.latents.input} + {config.latents.mediator} + {config.latents.output} latents"
        return (
            f"{config.iterations} propagators, {latents} of width {config.state_dim}, "
            f"{config.heads} heads, signatures of width {config.signature_dim}"
        )

    def cost(self, config: NACConfig, sizes: Sizes, *, stitch_width: int | None, count: Any, drawn: bool) -> Any:
        from m2mkd.planning import circuit

        return circuit.circuit(config, *sizes, count=count, drawn=drawn)

    def module_cost(self, config: NACConfig, index: int, sizes: Sizes, *, stitch_width: int, tokens: int, count: Any) -> Any:
        from m2mkd.planning import circuit

        return circuit.module(config, index, *sizes, stitch_width=stitch_width, tokens=tokens, count=count)

    def passed_tokens(self, config: NACConfig, index: int, tokens: int) -> int:
        """Number of tokens; the read-in passes on a single one, which the later stages take for the class token."""
        return 1 if index == 0 else tokens

    def sources(self, config: NACConfig, name: str, shape: tuple[int, ...]) -> tuple[Any, ...]:
        from m2mkd.models.names import nac

        return nac.nac_sources(name, shape, whole=True)

    def first_and_last(self, config: NACConfig) -> tuple[str, str]:
        return "input_tokenizer.backbone.stem.0", "output_tokenizer.to_logits"

    def timm_network(self, config: NACConfig, sizes: Sizes, drop_path: float | None, *, prior: Any = None, **arguments: Any) -> nn.Module:
        from m2mkd.models.timm_nac import TimmNAC

        if drop_path is not None:
            config = config.model_copy(update={"drop_path": drop_path})
        return TimmNAC(config, prior=prior, **sizes._asdict(), **arguments)

    def imported_kind(self, config: NACConfig, index: int | None) -> str | None:
        if index is None:
            return "nac"
        return "nac_readin" if index == 0 else "nac_readout" if index == config.modules - 1 else "nac_mediator"

    def undetermined(self, config: NACConfig, index: int | None) -> frozenset[str]:
        if index is None:
            return IN_TRAINING
        return IN_TRAINING | _OF_A_MODULE | (frozenset() if index == 0 else {"tokenizer"})
