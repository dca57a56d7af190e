"""Families of networks: what the rest asks of one. `m2mkd.config.registered_families` finds them by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from m2mkd.config.base import Config
from m2mkd.errors import InputError

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn


class Architecture(Config):
    """Sizes of a network, without image size and number of classes, which come from the data set.

    A subclass gives ``family`` a literal and a default, which is the name of its family.
    """

    family: str

    @property
    def modules(self) -> int:
        """Number of modules, each of which is distilled on its own."""
        raise NotImplementedError

    @property
    def stride(self) -> int:
        """Number that the image size must be a multiple of."""
        raise NotImplementedError


ArchitectureT = TypeVar("ArchitectureT", bound=Architecture)


class Sizes(NamedTuple):
    """What a network takes from its data set."""

    image_size: int
    """Side of the square images in pixels."""
    num_classes: int
    """Number of classes C."""


class Family(Generic[ArchitectureT]):
    """Family of networks. It has no state: each method gets the architecture, an instance of ``CONFIG``."""

    CONFIG: ClassVar[type[Architecture]]
    """Configuration of an architecture; the default of its field ``family`` is the name of the family."""
    LABEL: ClassVar[str]
    """Name in tables and figures."""
    STRIDE: ClassVar[str] = "stride"
    """What ``Architecture.stride`` is, in errors."""
    HAS_STAGES: ClassVar[bool] = False
    """True if the whole network has ``stages``, whose tokens an objective may ask for."""

    @property
    def name(self) -> str:
        """Name of the family."""
        found: str = self.CONFIG.model_fields["family"].default
        return found

    def sizes(self, config: ArchitectureT) -> str:
        """The sizes in words, for a table of the networks."""
        return ", ".join(f"{name} {value}" for name, value in config.model_dump(mode="json", exclude={"family"}).items())

    def cost(self, config: ArchitectureT, sizes: Sizes, *, stitch_width: int | None, count: str, drawn: bool) -> Any:
        """Cost of the whole network, a `m2mkd.planning.layer_cost.LayerCost`; None: counted on the meta device.

        Parameters
        ----------
        config, sizes, stitch_width
            See `StudentFamily.build`.
        count
            Way to count a NAC: ``released`` or ``model``.
        drawn
            True in training.
        """
        return None

    def sources(self, config: ArchitectureT, name: str, shape: tuple[int, ...]) -> tuple[Any, ...]:
        """Forms of the tensor ``name`` in released files, as `m2mkd.models.names.sources.Source`; its own name is always known."""
        return ()

    def first_and_last(self, config: ArchitectureT) -> tuple[str, str]:
        """Names of the first layer and of the classifier."""
        raise NotImplementedError

    def timm_network(self, config: ArchitectureT, sizes: Sizes, drop_path: float | None, **arguments: Any) -> nn.Module:
        """Network with the interface of timm; for families whose names `m2mkd.models.registry` registers."""
        raise NotImplementedError

    def imported_kind(self, config: ArchitectureT, index: int | None) -> str | None:
        """Kind of an imported file of the whole network or of a module, see `m2mkd.upstream.kinds`; None: it cannot be imported."""
        return None

    def undetermined(self, config: ArchitectureT, index: int | None) -> frozenset[str]:
        """Fields that an imported file of the network or of a module need not share."""
        return frozenset()


class StudentFamily(Family[ArchitectureT]):
    """Family of students: networks of modules that are distilled apart between stitch layers, put together, and trained as one.

    ``CONFIG``, ``LABEL``, ``build`` and ``build_module`` must be given; everything else has a default.
    """

    TAKES_PRIOR: ClassVar[bool] = False
    """True if an experiment names a graph prior."""
    HAS_CODES: ClassVar[bool] = False
    """True if a variant may choose the initial codes."""
    SAME_DATA: ClassVar[bool] = True
    """True if modules hold what belongs to the image size and the classes, so that they are distilled on the student's own data."""
    HEADING: ClassVar[str] = ""
    """Heading of the table of its results; empty: the label."""

    def build(
        self,
        config: ArchitectureT,
        *,
        image_size: int,
        num_classes: int,
        prior: Any,
        stitch_width: int | None,
        drop_path: float,
        graph_seed: int,
        compat: Mapping[str, Any],
    ) -> nn.Module:
        """Build a whole student, with initial weights from torch's global generator.

        Parameters
        ----------
        config
            Architecture.
        image_size, num_classes
            Image size and number of classes of the data set.
        prior, graph_seed
            Graph prior, and the seed of the graph; of families that take one.
        stitch_width
            Width outside the stitch layers, if ``stitch_width`` says that they stay.
        drop_path
            Stochastic depth of the recipe.
        compat
            Values of compat switches; absent means corrected.

        Returns
        -------
        torch.nn.Module
            Maps images (B, 3, S, S) to logits (B, C); has ``no_weight_decay() -> set of names`` if some parameters are not to decay.
        """
        raise NotImplementedError

    def build_module(
        self,
        config: ArchitectureT,
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
        """Build one module between its stitch layers, with initial weights from torch's global generator.

        Parameters
        ----------
        config, image_size, num_classes, drop_path, compat
            See `build`.
        index
            Number of the module, from 0.
        stitch_width
            Width W of the meta model.
        state_seed, batch_size
            Seed of constants that the module has instead of its neighbours, and samples in a batch.

        Returns
        -------
        torch.nn.Module
            Maps images (B, 3, S, S) if it is the first, else tokens (B, N, W), to logits (B, C) if it is the last, else tokens (B, N, W).
        """
        raise NotImplementedError

    def stitch_width(self, config: ArchitectureT, meta_width: int) -> int | None:
        """Width outside the stitch layers of the whole student if it keeps them; None: it has none."""
        return None

    def noise(self, config: ArchitectureT, generator: Generator) -> dict[str, Any]:
        """Additional arguments of the forward pass in training, which draw from ``generator``."""
        return {}

    def regularisation(self, student: nn.Module, compat: Mapping[str, Any]) -> Tensor | float:
        """Additional loss of a student or of one of its modules after a forward pass."""
        return 0.0

    def transfer(
        self,
        student: nn.Module,
        modules: Mapping[int, Mapping[str, Tensor]],
        *,
        same_data: bool,
        only: Sequence[int] | None,
        compat: Mapping[str, Any],
    ) -> None:
        """Load distilled modules into a student, in place; tensors that no module has stay as they are.

        Parameters
        ----------
        student
            Student with initial weights.
        modules
            State dict of each module by its number.
        same_data
            True if the modules were distilled on the student's data set and image size.
        only
            Numbers of the modules that are loaded; None: all.
        compat
            Values of compat switches; absent means corrected.

        Raises
        ------
        InputError
            If a module or a tensor does not fit.
        """
        raise InputError(f"a student of family {self.name} cannot start from modules; give it a transfer")

    def start_codes(self, student: nn.Module, how: Any, modules: Mapping[int, Mapping[str, Tensor]]) -> None:
        """Set the initial codes, in place, drawing from torch's global generator; of families with codes."""

    def replace_head(self, student: nn.Module, classes: int) -> nn.Linear:
        """Replace the classifier by a new one with torch's initial weights, and return it."""
        raise InputError(f"a student of family {self.name} has no head to replace; give it a replace_head")

    def feature_width(self, config: ArchitectureT) -> int:
        """Width of the classifier's input."""
        raise InputError(f"a student of family {self.name} cannot be probed; give it a feature_width")

    def module_cost(self, config: ArchitectureT, index: int, sizes: Sizes, *, stitch_width: int, tokens: int, count: str) -> Any:
        """Cost of one module between stitch layers, as `cost`; ``tokens`` are those of the meta model."""
        return None

    def passed_tokens(self, config: ArchitectureT, index: int, tokens: int) -> int:
        """Number of tokens that a module passes on, of as many as the meta model has."""
        return tokens

    def diagnose(self, student: nn.Module, images: Tensor) -> dict[str, Any]:
        """How the student uses its parts on images (B, 3, S, S), as `m2mkd.evaluation.diagnostics.diagnose` gives it for experts.

        Empty if there is nothing to tell. Called in evaluation mode and without gradients.
        """
        return {}
