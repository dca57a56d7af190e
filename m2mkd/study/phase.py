"""What a phase declares of itself. Rules of the workflow, stages of DVC, tables and plans of cost are made from it.

A phase is one subclass of `Phase` (``m2mkd/study/phases.py``), one file in ``m2mkd/training/phases`` of the phase's name with
``run(job) -> Outcome``, and one formula of its cost (``m2mkd/planning/work.py``).
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import NonNegativeInt, PositiveInt

from m2mkd.config.base import Config
from m2mkd.config.compat import Value
from m2mkd.study.data import Data
from m2mkd.study.measurements import Measurement

WEIGHTS, CURVES, METRICS, RECORD = "model.safetensors", "metrics.jsonl", "metrics.json", "run.json"
TRAINED = (WEIGHTS, CURVES, METRICS, RECORD)
MEASURED = (METRICS, RECORD)

DvcStage = Literal["teacher", "distill", "students"]
"""Stages of ``dvc.yaml`` that compute runs."""

EVAL_BATCH = 256
"""Images measured at a time; fixed, because noise in evaluation, where it is switched on, is drawn batch by batch."""

DETECTION_BATCH = 8
"""The same of a detector, whose images are larger; sums over another batch may be rounded otherwise."""

PHASES: "dict[str, type[Phase]]" = {}
"""Every phase by name, in the order of the flow, which is that of their definition."""


class Phase(Config):
    """What every run has: the resolved configuration, exactly what decides its result, and so its key.

    Devices, workers, paths, tracking and the grouping of runs in jobs are not in it. A change in the meaning of a phase raises its
    ``FORMAT``.
    """

    FORMAT: ClassVar[int] = 2
    OUTPUTS: ClassVar[tuple[str, ...]] = TRAINED
    """Files that a run publishes. With ``metrics.json`` among them it measures something, which the tables read."""
    STAGE: ClassVar[DvcStage] = "students"
    """What it belongs to."""
    PRIORITY: ClassVar[int] = 0
    """The higher, the sooner its jobs start: what the most phases wait for goes first."""
    HEAD_NODE: ClassVar[bool] = False
    """Whether its jobs run where Snakemake does: moving tensors from file to file needs no device."""
    DIVISIBLE: ClassVar[bool] = False
    """Whether several processes may share a run."""
    LOCK_STEP: ClassVar[bool] = False
    """Whether one job can train several modules of a student, batch by batch (``run_together``)."""
    threads: PositiveInt
    compat: dict[str, Value] = {}
    """Switches that matter here."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if "phase" in cls.model_fields:
            PHASES[cls.name()] = cls

    @classmethod
    def name(cls) -> str:
        """Name of the phase, of its rule, and of the folder of its runs."""
        return cls.model_fields["phase"].default

    @classmethod
    def measures(cls) -> bool:
        """Whether it measures something."""
        return METRICS in cls.OUTPUTS

    @property
    def of_teacher(self) -> bool:
        """Whether it makes or measures a teacher, which all seeds share, as do all experiments with that teacher."""
        return self.STAGE == "teacher"

    @property
    def data_sets(self) -> tuple[Data, ...]:
        """Prepared sets that the run reads."""
        return tuple(value for value in (getattr(self, "data", None),) if value is not None)

    @property
    def files(self) -> tuple[str, ...]:
        """Other files that the run reads, whose digests are part of its configuration."""
        return ()

    def measurements(self, metrics: Mapping[str, Any]) -> Iterator[Measurement]:
        """The numbers of its ``metrics.json`` that the tables show, checked to be what they say; none unless a phase has some.

        Raises
        ------
        KeyError, TypeError, AttributeError, ValueError
            If a number is missing, or is not one.
        """
        return iter(())


class TeacherPhase(Phase):
    """What makes or measures a teacher."""

    STAGE: ClassVar[DvcStage] = "teacher"


class SeededPhase(Phase):
    """What every seed does for itself. Any other phase all seeds share."""

    seed: NonNegativeInt


def phase_from(content: Mapping[str, Any]) -> Phase:
    """A resolved configuration from its plain values.

    Raises
    ------
    ValueError
        If it is of no phase of this version, or not valid.
    """
    name = content.get("phase")
    if name not in PHASES:
        raise ValueError(f"phase {name!r} is not one of {', '.join(PHASES)}")
    return PHASES[name].model_validate(content)
