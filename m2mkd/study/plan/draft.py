"""Draft of a study: lookups of what its experiments name, and the runs planned so far."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from m2mkd.config import load
from m2mkd.config.compat import Profile, Value, switches_for
from m2mkd.config.detection import DetectorConfig
from m2mkd.config.detection_recipe import DetectionRecipe
from m2mkd.config.experiment import Catalogue, Experiment, Scale
from m2mkd.config.family import Architecture, ArchitectureT
from m2mkd.config.imports import imported_digest
from m2mkd.config.models import VMoEConfig
from m2mkd.config.recipe import Recipe
from m2mkd.config.registered_families import TEACHERS, family_of, student_families
from m2mkd.config.seeds import Seeds, seeds_of
from m2mkd.errors import InputError
from m2mkd.study.data import Data, resolve_data
from m2mkd.study.phase import Phase
from m2mkd.study.phases import ImportWeights
from m2mkd.study.run import Row, Run
from m2mkd.study.study import Study


@dataclass
class Draft:
    """Draft of a study, to which functions of this package add runs; scales differ only in values."""

    study: Study
    scale: Scale
    profile: Profile
    user: str
    """Experiment that the runs are for."""
    catalogue: Catalogue
    """Architectures and recipes at the draft's scale."""
    experiments: dict[str, Experiment]
    """Experiments read so far, by name; reading a file for every run would take most of the planning."""
    full_size: frozenset[str]
    """Models that the scale leaves at their published size though it reduces others; a study cannot use them."""
    compat: Mapping[str, Value] = field(default_factory=dict)
    """Values of switches instead of the profile's."""
    switched: set[str] = field(default_factory=set)
    """Switches of ``compat`` that a run has taken."""

    @property
    def where(self) -> str:
        """Beginning of an error message."""
        return f"experiment {self.user}"

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the scale."""
        return seeds_of(self.scale.seeds)

    def experiment(self, name: str) -> Experiment:
        """An experiment at the draft's scale."""
        if name not in self.experiments:
            self.experiments[name] = load.experiment(name, self.scale)
        return self.experiments[name]

    def student(self, name: str) -> Architecture:
        """An architecture of any family of students."""
        model = self._architecture(name)
        if model.family in TEACHERS:
            raise InputError(
                f"{self.where}: model '{name}' is of family {model.family}, but a student is needed here: {', '.join(student_families())}"
            )
        return model

    def model(self, name: str, cls: type[ArchitectureT]) -> ArchitectureT:
        """An architecture of one class."""
        model = self._architecture(name)
        if type(model) is not cls:
            wanted = cls.model_fields["family"].default
            raise InputError(f"{self.where}: model '{name}' is of family {model.family}, but {wanted} is needed here")
        return model

    def _architecture(self, name: str) -> Architecture:
        model = self.catalogue.models.get(name)
        if model is None:
            raise InputError(
                f"{self.where}: model '{name}' is not in config/models.yaml; it has {', '.join(sorted(self.catalogue.models))}"
            )
        if name in self.full_size:
            scale = self.study.scale_name
            raise InputError(
                f"{self.where}: model '{name}' has its published size at scale {scale}, which reduces others; add its sizes "
                f"to config/scales/{scale}.yaml as models.{name} ({{}} leaves it as it is), or like: NAME to it in config/models.yaml"
            )
        return model

    def recipe(self, name: str | None) -> Recipe:
        """A recipe by its name."""
        assert name is not None, "the experiment's validation has seen to it"
        if name not in self.catalogue.recipes:
            known = ", ".join(sorted(self.catalogue.recipes))
            raise InputError(f"{self.where}: recipe '{name}' is not in config/recipes.yaml; it has {known}")
        return self.catalogue.recipes[name]

    def detector(self, name: str) -> DetectorConfig:
        """A detector by its name, on the backbone that it names."""
        known = self.catalogue.detectors
        if name not in known:
            raise InputError(f"{self.where}: detector '{name}' is not in config/detectors.yaml; it has {', '.join(sorted(known))}")
        content = dict(known[name])
        if isinstance(backbone := content.get("backbone"), str):
            content["backbone"] = self.model(backbone, VMoEConfig)
        detector: DetectorConfig = load.checked(DetectorConfig, content, f"{self.where}: detectors.{name}")
        return detector

    def detection_recipe(self, name: str) -> DetectionRecipe:
        """A detector's recipe by its name."""
        known = self.catalogue.detection_recipes
        if name not in known:
            found = ", ".join(sorted(known))
            raise InputError(f"{self.where}: recipe '{name}' is not in config/detection_recipes.yaml; it has {found}")
        return known[name]

    def switch(self, name: str) -> Value:
        """Value of a compat switch in this draft."""
        value: Value = self.compat[name] if name in self.compat else getattr(load.switches()[name], self.profile)
        return value

    def data(self, text: str) -> Data:
        """Data set, or its substitute at the draft's scale."""
        return resolve_data(self.scale.data.get(text, text), f"{self.where}: data")[0]

    def with_more(self, *more: Seeds | None) -> tuple[int, ...]:
        """Seeds of the scale, and additional ones of an experiment or a variant."""
        return tuple(sorted({*self.seeds, *(seed for wanted in more if wanted is not None for seed in seeds_of(wanted))}))

    def run(
        self,
        phase: type[Phase],
        model: Architecture | DetectorConfig,
        upstream: Mapping[str, Sequence[str]],
        /,
        *,
        distilled: bool = False,
        published_data: str = "",
        **fields: Any,
    ) -> str:
        """Add a run, unless it exists, and return its id.

        Parameters
        ----------
        phase
            Phase of the run.
        model
            Model that it trains or measures; decides which compat switches matter.
        upstream
            Ids of the runs that it builds on, by role.
        distilled
            True if its loss has a soft distillation term.
        published_data
            Name of the data set in the experiment, if compat switches depend on it.
        **fields
            Fields of the phase's configuration.

        Raises
        ------
        InputError
            If a model cannot take the images, or the data set has no training images.
        """
        for role in ("model", "meta", "teacher", "student"):
            if fields.get(role) and "data" in fields:
                self.check_fit(fields[role], fields["data"])
        if "recipe" in fields:
            self._check_trainable(fields["data"])
        compat = switches_for(load.switches(), self.profile, phase.name(), model.family, published_data.partition("@")[0], distilled)
        switched = {switch: value for switch, value in self.compat.items() if switch in compat}
        self.switched |= switched.keys()
        config = phase(threads=self.scale.threads, compat=compat | switched, **fields)
        run = Run(config, {role: tuple(ids) for role, ids in upstream.items()})
        self.study.runs.setdefault(run.id, run).users.add(self.user)
        return run.id

    def row(self, experiment: str, variant: str, trained: Iterable[str], measured: Iterable[str]) -> None:
        """Add a row of the tables, unless it exists."""
        row = Row(experiment, variant, self.profile, tuple(trained), tuple(measured))
        if row not in self.study.rows:
            self.study.rows.append(row)

    def imported(
        self, file: str, field: str, model: Architecture, data: Data, *, index: int | None = None, stitch_width: int | None = None
    ) -> str:
        """Id of the run that imports the weights of a model, or of one of its modules, from the file that ``field`` names."""
        if family_of(model).imported_kind(model, index) is None:
            raise InputError(f"{field}: weights of family {model.family} cannot be imported; train it, or give its family imported_kind")
        self.check_fit(model, data)
        sizes: dict[str, Any] = {"image_size": data.image_size, "classes": data.classes, "stitch_width": stitch_width}
        return self.run(ImportWeights, model, {}, model=model, index=index, sha256=imported_digest(file, field), file=file, **sizes)

    def check_fit(self, model: Architecture | DetectorConfig, data: Data) -> None:
        """Refuse images that the model cannot cut into whole patches; a detector resizes and pads them itself."""
        if not isinstance(model, DetectorConfig) and data.image_size % model.stride:
            name = next(name for name, known in self.catalogue.models.items() if known is model)
            what = family_of(model).STRIDE
            raise InputError(
                f"{self.where}: model '{name}' cannot take data {data}: {data.image_size} pixels are not a multiple of "
                f"its {what} {model.stride}; change models.{name} or the image size"
            )

    def _check_trainable(self, data: Data) -> None:
        """Refuse to train on a set that is only measured on, such as ImageNet-R."""
        if load.datasets()[data.name].train_images is None:
            raise InputError(
                f"{self.where}: data {data} has no training images, it is only measured on; name it under ood or train on another"
            )
