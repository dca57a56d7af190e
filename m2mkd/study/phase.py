"""Declaration of a phase, from which rules of the workflow, stages of DVC, tables and cost plans are made.

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
LOGITS = "logits.safetensors"
TRAINED = (WEIGHTS, CURVES, METRICS, RECORD)
MEASURED = (METRICS, RECORD)

DvcStage = Literal["teacher", "distill", "students"]
"""Stages of ``dvc.yaml`` that compute runs."""

EVAL_BATCH = 256
"""Images measured at a time; fixed, because noise in evaluation, where it is switched on, is drawn batch by batch."""

DETECTION_BATCH = 8
"""Images measured at a time by a detector, whose images are larger; sums over another batch may be rounded differently."""

PHASES: "dict[str, type[Phase]]" = {}
"""Every phase by name, in the order of the flow, which is the order of definition."""


class Phase(Config):
    """Resolved configuration of a run: everything that decides its result and its key, and nothing else.

    Devices, workers, paths, tracking and the grouping of runs in jobs are not in it. A change in the meaning of a phase raises its
    ``FORMAT``.
    """

    FORMAT: ClassVar[int] = 2
    OUTPUTS: ClassVar[tuple[str, ...]] = TRAINED
    """Files that a run publishes. A phase with ``metrics.json`` measures something, which the tables read."""
    KEPT: ClassVar[tuple[str, ...]] = ()
    """Files that a run publishes besides. A run without them is as whole: those that are older have none."""
    STAGE: ClassVar[DvcStage] = "students"
    """Stage of ``dvc.yaml`` that it belongs to."""
    PRIORITY: ClassVar[int] = 0
    """Priority of its jobs, higher first: phases that most others wait for start first."""
    HEAD_NODE: ClassVar[bool] = False
    """True if its jobs run on Snakemake's own machine: moving tensors between files needs no device."""
    DIVISIBLE: ClassVar[bool] = False
    """True if several processes may share a run."""
    LOCK_STEP: ClassVar[bool] = False
    """True if one job can train several modules of a student, batch by batch (``run_together``)."""
    threads: PositiveInt
    compat: dict[str, Value] = {}
    """Compat switches that affect the result."""

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
        """True if it measures something."""
        return METRICS in cls.OUTPUTS

    @property
    def of_teacher(self) -> bool:
        """True if it makes or measures a teacher, which is shared by all seeds and by all experiments with that teacher."""
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
        """Numbers of its ``metrics.json`` that the tables show, checked for consistency; none by default.

        Raises
        ------
        KeyError, TypeError, AttributeError, ValueError
            If a number is missing or invalid.
        """
        return iter(())


class TeacherPhase(Phase):
    """Base of phases that make or measure a teacher."""

    STAGE: ClassVar[DvcStage] = "teacher"


class SeededPhase(Phase):
    """Base of phases that run once for each seed. All seeds share the runs of any other phase."""

    seed: NonNegativeInt


def phase_from(content: Mapping[str, Any]) -> Phase:
    """A resolved configuration from its plain values.

    Raises
    ------
    ValueError
        If it has an unknown phase, or is not valid.
    """
    name = content.get("phase")
    if name not in PHASES:
        raise ValueError(f"phase {name!r} is not one of {', '.join(PHASES)}")
    return PHASES[name].model_validate(content)
