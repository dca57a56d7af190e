"""Experiments with detectors: one network, started in several ways."""

from typing import Literal

from pydantic import model_validator

from m2mkd.config.base import Config, Name
from m2mkd.config.compat import Profile
from m2mkd.config.seeds import Seeds


class ByProfile(Config):
    """Names that depend on the compat profile, because the release configures something else than its source does."""

    released: str
    corrected: str

    def of(self, profile: Profile) -> str:
        """The name in a profile."""
        return self.released if profile == "released" else self.corrected


class DetectionVariant(Config):
    """Start of the detector's backbone."""

    start: str | None = None
    """Variant of the student that it starts from, seed by seed; none: random weights."""
    imported: str | None = None
    """File of weights that it starts from instead, written by ``m2mkd import`` or published by a run."""
    seeds: Seeds | None = None
    """Seeds in addition to those of the scale: a number, or a list."""

    @model_validator(mode="after")
    def _one_start(self):
        if self.start is not None and self.imported is not None:
            raise ValueError("start and imported are given, but a backbone has one start; remove either")
        return self


class DetectionExperiment(Config):
    """A detector and segmenter on a V-MoE, started in several ways."""

    kind: Literal["detection"]
    title: str
    student: str
    """The student experiment whose V-MoE is the backbone."""
    detector: ByProfile
    """Architecture in ``config/detectors.yaml``."""
    recipe: ByProfile
    """Recipe in ``config/detection_recipes.yaml``."""
    data: str
    """Set to train and to measure on, as name@size."""
    variants: dict[Name, DetectionVariant]
    scales: tuple[str, ...] = ()
    """Scales whose ``snakemake detection`` runs it, in addition to those whose study has it; by its name it can be run at any scale."""
    seeds: Seeds | None = None
    """Seeds in addition to those of the scale: a number, or a list."""
