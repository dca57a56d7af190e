"""What runs cost, in time, memory and storage, before anything runs."""

from collections.abc import Iterable
from dataclasses import dataclass

from m2mkd.config import load
from m2mkd.errors import InputError
from m2mkd.planning.circuit import Count
from m2mkd.planning.gpus import gpu_named
from m2mkd.planning.layer_cost import LayerCost, Tensors
from m2mkd.planning.work import Work, split_images, split_work, work_of
from m2mkd.study.data import Data
from m2mkd.study.phases import AssembleTeacher, ImportWeights, SplitTeacher
from m2mkd.study.run import Run
from m2mkd.study.study import Study

FLOAT32 = 4
"""Bytes of a weight."""
IMAGE_FACTS = 8 + 32
"""Bytes that a packed set keeps of each image beside it: label and digest."""


@dataclass(frozen=True)
class Assumptions:
    """What a plan takes for granted."""

    gpu: str = "h200"
    """Name in `m2mkd.planning.gpus.GPUS`."""
    mfu: float = 0.4
    """Share of the peak that training reaches (model FLOPs utilisation)."""
    gpus: int = 8
    """GPUs of a job, which share a batch."""
    device_batch: int | None = None
    """Images on a GPU at a time, where a batch is accumulated; none: a GPU's whole share of the batch."""
    nac: Count = "released"
    """How NACs are counted: ``released``, the published code on one image alone; ``model``, this suite's on a GPU's batch."""

    def __post_init__(self) -> None:
        gpu_named(self.gpu)
        if not 0 < self.mfu <= 1:
            raise InputError(f"--mfu {self.mfu:g}: a share of the peak lies above 0 and up to 1; give one like 0.4")
        if self.gpus < 1 or (self.device_batch is not None and self.device_batch < 1):
            raise InputError("--gpus and --device-batch: both are at least 1")

    def throughput(self, precision: str) -> float:
        """FLOP/s of one GPU."""
        return self.mfu * gpu_named(self.gpu).peak(precision)


@dataclass(frozen=True)
class Memory:
    """Peak memory of one GPU in bytes, an estimate: without the CUDA context, workspaces and fragmentation."""

    parameters: int
    """float32, 4 bytes each: trained, frozen and teacher's. Under autocast they are the master weights."""
    copies: int
    """Half-precision copies that autocast keeps of the weights which a gradient passes: 2 bytes each."""
    gradients: int
    """float32, 4 bytes for each trained parameter."""
    moments: int
    """float32, 8 bytes for each trained parameter with AdamW, 4 with SGD."""
    activations: int
    """Images on the GPU times what one keeps for the backward pass."""
    working: int
    """Images on the GPU times the largest block's tensors of the moment; in training with their gradients."""
    images: int
    """Images on the GPU at a time."""

    @property
    def total(self) -> int:
        return self.parameters + self.copies + self.gradients + self.moments + self.activations + self.working


@dataclass(frozen=True)
class Cost:
    """What one run costs."""

    parameters: int
    """Of all networks in the run."""
    active_parameters: int
    """Of them, those that a token passes: without the experts that it is not sent to."""
    trained_parameters: int
    terms: tuple[tuple[str, int, float], ...]
    """Of the FLOPs of an image: name of the part, forward passes that its use is worth, FLOPs of one."""
    images: int
    """Views of images trained on."""
    measured_images: int
    """Images measured."""
    training_hours: float
    """GPU-hours of training."""
    measuring_hours: float
    """GPU-hours of measuring."""
    images_per_second: float
    """What the loader must feed each GPU in training."""
    gpus: int
    memory: Memory
    weights: int
    """Bytes of the weights that are published."""
    checkpoint: int
    """Bytes of the checkpoint that it resumes from."""

    @property
    def flops_per_image(self) -> float:
        """FLOPs of a training step for each image."""
        return sum(passes * flops for _, passes, flops in self.terms)

    @property
    def gpu_hours(self) -> float:
        """GPU-hours of training and measuring."""
        return self.training_hours + self.measuring_hours

    @property
    def hours(self) -> float:
        """Hours on the clock, training on all GPUs of the job and measuring as well."""
        return self.gpu_hours / self.gpus


def cost_of(study: Study, assumptions: Assumptions | None = None) -> dict[str, Cost]:
    """Cost of every run of a study by its id; a run that several experiments share is there once.

    Parameters
    ----------
    study
        Resolved runs.
    assumptions
        GPU, MFU and the like; none: eight H200 at 40 % of their peak.

    Raises
    ------
    InputError
        If the registry does not say how many images a data set has.
    """
    given = assumptions or Assumptions()
    return {run.id: run_cost(_work(study, run, given), given) for run in study.runs.values()}


def _work(study: Study, run: Run, given: Assumptions) -> Work:
    if isinstance(run.config, SplitTeacher):
        teacher = study.runs[run.upstream["teacher"][0]].config
        assert isinstance(teacher, AssembleTeacher | ImportWeights)
        return split_work(run.config, teacher)
    return work_of(run.config, given.nac)


def run_cost(work: Work, given: Assumptions) -> Cost:
    """Cost of one run that does ``work``."""
    precision = work.recipe.precision if work.recipe else "fp32"  # a run that only measures does so without autocast
    memory = _memory(work, given, precision)
    counted = 1 if given.nac == "released" else max(1, memory.images)
    terms = tuple((term.name, term.passes, term.cost.flops(counted)) for term in work.terms if term.cost.macs)
    training = sum(passes * flops for _, passes, flops in terms)
    measuring = sum(cost.flops(1 if given.nac == "released" else work.measured_batch) for cost in work.measured)
    speed = given.throughput(precision)
    held = [term.cost for term in work.terms if not term.again] or list(work.measured)
    trained = sum(term.cost.parameters for term in work.terms if term.use == "trained")
    return Cost(
        parameters=sum(cost.parameters for cost in held),
        active_parameters=sum(cost.parameters - cost.idle_parameters for cost in held),
        trained_parameters=trained,
        terms=terms,
        images=work.images,
        measured_images=work.measured_images,
        training_hours=training * work.images / speed / 3600,
        measuring_hours=measuring * work.measured_images / speed / 3600,
        images_per_second=speed / training if training else 0.0,
        gpus=given.gpus,
        memory=memory,
        weights=FLOAT32 * work.published.parameters,
        checkpoint=(2 if _averages(work) else 1) * FLOAT32 * trained + memory.moments,
    )


def _memory(work: Work, given: Assumptions, precision: str) -> Memory:
    low = 4 if precision in ("fp32", "tf32") else 2
    if work.recipe is None:
        held = sum(cost.parameters for cost in work.measured)
        live = _largest(work.measured).bytes(low)
        return Memory(FLOAT32 * held, 0, 0, 0, 0, work.measured_batch * live, work.measured_batch if work.measured else 0)
    share = -(-work.batch // given.gpus)
    images = share if given.device_batch is None else min(share, given.device_batch)
    uses = {use: [term.cost for term in work.terms if term.use == use] for use in ("trained", "frozen", "no_grad")}
    trained = sum(cost.parameters for cost in uses["trained"])
    passed = trained + sum(cost.parameters for cost in uses["frozen"])
    kept = sum((cost.saved for cost in uses["trained"]), Tensors()) + sum((cost.passed for cost in uses["frozen"]), Tensors())
    averaged = trained if _averages(work) else 0
    return Memory(
        parameters=FLOAT32 * (averaged + sum(term.cost.parameters for term in work.terms if not term.again)),
        copies=0 if low == FLOAT32 else low * passed,
        gradients=FLOAT32 * trained,
        moments=(8 if work.recipe.optimizer == "adamw" else 4) * trained,
        activations=images * kept.bytes(low),
        working=images * max(2 * _largest(uses["trained"] + uses["frozen"]).bytes(low), _largest(uses["no_grad"]).bytes(low)),
        images=images,
    )


def _averages(work: Work) -> bool:
    """Whether a moving average of what trains is kept beside it."""
    return work.recipe is not None and work.recipe.ema_decay is not None


def _largest(costs: Iterable[LayerCost]) -> Tensors:
    return max((cost.live for cost in costs), key=lambda tensors: tensors.bytes(2), default=Tensors())


def data_sizes(study: Study) -> dict[str, int]:
    """Bytes of each packed set that a study reads: small images as three bytes a pixel, large ones as their files."""
    sets: dict[str, Data] = {str(data): data for run in study.runs.values() for data in run.config.data_sets}
    return {name: _packed(data) for name, data in sets.items()}


def _packed(data: Data) -> int:
    from m2mkd.data.prepare import GENERATED, LARGEST_PIXELS

    dataset = load.datasets()[data.name]
    images = (dataset.train_images or 0) + split_images(data, "val")
    pixels = images * 3 * data.image_size**2
    as_files = data.image_size > LARGEST_PIXELS and dataset.layout not in GENERATED
    return images * IMAGE_FACTS + (dataset.encoded_bytes or pixels if as_files else pixels)
