"""What every run of a study is made of: models, recipes and data sets by their names, and the run itself."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from m2mkd.config import load
from m2mkd.config.compat import Profile, Value, switches_for
from m2mkd.config.datasets import PREPARE_FORMAT, DatasetConfig
from m2mkd.config.experiment import Catalogue, Scale
from m2mkd.config.imports import imported_digest
from m2mkd.config.models import Model, NACConfig
from m2mkd.config.recipe import Recipe
from m2mkd.errors import InputError
from m2mkd.study.phases import Data, ImportWeights, Phase, digest
from m2mkd.study.study import Row, Run, Study


def resolve_data(text: str, field: str) -> tuple[Data, DatasetConfig]:
    """A data set written ``name@size``, with its key, and its entry in the registry.

    Raises
    ------
    InputError
        If it is not of that form, or not in the registry; ``field`` says where it stands.
    """
    ref = load.data_ref(text, field)
    dataset = load.datasets()[ref.name]
    key = digest([ref.name, ref.image_size, PREPARE_FORMAT, dataset.layout, [file.identity for file in dataset.files]])
    return Data(name=ref.name, image_size=ref.image_size, classes=dataset.classes, key=key), dataset


class Parts:
    """A study in the making, with what its experiments name."""

    def __init__(self, study: Study, scale: Scale, catalogue: Catalogue, compat: Mapping[str, Value] | None = None, user: str = ""):
        self.study, self.scale, self.catalogue = study, scale, catalogue
        self.compat, self.user = compat or {}, user
        self.switched: set[str] = set()
        """Switches of ``compat`` that a run has taken."""
        # Each is asked for by every run of its students; reading it from its file every time would take most of the planning.
        self.experiment = cache(lambda name: load.experiment(name, scale))

    def model(self, name: str, *families: type) -> Any:
        model = self.catalogue.models.get(name)
        if model is None:
            raise InputError(
                f"experiment {self.user}: model '{name}' is not in config/models.yaml; it has {', '.join(sorted(self.catalogue.models))}"
            )
        if type(model) not in families:
            wanted = " or ".join(cls.__name__ for cls in families)
            raise InputError(f"experiment {self.user}: model '{name}' is a {type(model).__name__}, but a {wanted} is needed here")
        return model

    def recipe(self, name: str | None) -> Recipe:
        assert name is not None, "the experiment's validation has seen to it"
        if name not in self.catalogue.recipes:
            raise InputError(
                f"experiment {self.user}: recipe '{name}' is not in config/recipes.yaml; it has {', '.join(sorted(self.catalogue.recipes))}"
            )
        return self.catalogue.recipes[name]

    def data(self, text: str) -> Data:
        return resolve_data(self.scale.data.get(text, text), f"experiment {self.user}: data")[0]

    def check_trainable(self, data: Data) -> None:
        """Refuse to train on a set that is only measured on, such as ImageNet-R."""
        if load.datasets()[data.name].train_images is None:
            raise InputError(
                f"experiment {self.user}: data {data} has no training images, it is only measured on; name it under ood or train on another"
            )

    def check_fit(self, model: Model, data: Data) -> None:
        """Refuse images that the model cannot cut into whole patches."""
        if data.image_size % model.stride:
            name = next(name for name, known in self.catalogue.models.items() if known is model)
            what = "tokenizer's total stride" if isinstance(model, NACConfig) else "patch_size"
            raise InputError(
                f"experiment {self.user}: model '{name}' cannot take data {data}: {data.image_size} pixels are not a multiple of "
                f"its {what} {model.stride}; change models.{name} or the image size"
            )

    def run(
        self,
        phase: type[Phase],
        profile: Profile,
        model: Model,
        upstream: Mapping[str, tuple[str, ...]],
        /,
        *,
        distilled=False,
        published_data="",
        **fields,
    ) -> str:
        for role in ("model", "meta", "teacher", "student"):
            if fields.get(role) and "data" in fields:
                self.check_fit(fields[role], fields["data"])
        if "recipe" in fields:
            self.check_trainable(fields["data"])
        name = phase.model_fields["phase"].default
        compat = switches_for(load.switches(), profile, name, model.family, published_data.partition("@")[0], distilled)
        switched = {switch: value for switch, value in self.compat.items() if switch in compat}
        self.switched |= switched.keys()
        config = phase(threads=self.scale.threads, compat=compat | switched, **fields)
        run = Run(config, dict(upstream))
        kept = self.study.runs.setdefault(run.id, run)
        kept.users.add(self.user)
        return run.id

    def batches(self) -> Iterable[tuple[int, ...]]:
        """Replicates, as many at a time as one job trains."""
        size = self.scale.replicates_per_job
        return (tuple(range(first, first + size)) for first in range(0, self.scale.replicates, size))

    def row(self, experiment: str, variant: str, profile: Profile, trained: Iterable[str], measured: Iterable[str]) -> None:
        row = Row(experiment, variant, profile, tuple(trained), tuple(measured))
        if row not in self.study.rows:
            self.study.rows.append(row)

    def imported(
        self,
        file: str,
        field: str,
        profile: Profile,
        model: Model,
        data: Data,
        *,
        index: int | None = None,
        stitch_width: int | None = None,
    ) -> str:
        """Id of the run that takes the weights of a model, or of one module of it, from a file."""
        self.check_fit(model, data)
        return self.run(
            ImportWeights,
            profile,
            model,
            {},
            model=model,
            index=index,
            image_size=data.image_size,
            classes=data.classes,
            stitch_width=stitch_width,
            sha256=imported_digest(file, field),
            file=file,
        )
