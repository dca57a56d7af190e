"""Cost of runs in time, memory and storage, before anything runs."""

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
"""Bytes per weight."""
IMAGE_FACTS = 8 + 32
"""Bytes that a packed set keeps per image in addition to the image: label and digest."""


@dataclass(frozen=True)
class Assumptions:
    """Assumptions of a plan."""

    gpu: str = "h200"
    """Name in `m2mkd.planning.gpus.GPUS`."""
    mfu: float = 0.4
    """Share of the peak that training reaches (model FLOPs utilisation)."""
    gpus: int = 8
    """GPUs of a job, which share a batch."""
    device_batch: int | None = None
    """Images on a GPU at a time, if a batch is accumulated; None: a GPU's whole share of the batch."""
    nac: Count = "released"
    """Way to count NACs: ``released``, the published code on a single image; ``model``, this suite's code on a GPU's batch."""

    def __post_init__(self) -> None:
        gpu_named(self.gpu)
        if not 0 < self.mfu <= 1:
            raise InputError(f"--mfu {self.mfu:g}: not a share of the peak; give a number above 0 and up to 1, for example 0.4")
        if self.gpus < 1 or (self.device_batch is not None and self.device_batch < 1):
            raise InputError("--gpus and --device-batch: both must be at least 1")

    def throughput(self, precision: str) -> float:
        """FLOP/s of one GPU."""
        return self.mfu * gpu_named(self.gpu).peak(precision)


@dataclass(frozen=True)
class Memory:
    """Peak memory of one GPU in bytes, an estimate: without the CUDA context, workspaces and fragmentation."""

    parameters: int
    """float32, 4 bytes each: trained, frozen and teacher's. Under autocast these are the master weights."""
    copies: int
    """Half-precision copies that autocast keeps of the weights that a gradient passes through: 2 bytes each."""
    gradients: int
    """float32, 4 bytes for each trained parameter."""
    moments: int
    """float32, 8 bytes for each trained parameter with AdamW, 4 with SGD."""
    activations: int
    """Images on the GPU times what one keeps for the backward pass."""
    working: int
    """Images on the GPU times the largest block's temporary tensors; in training with their gradients."""
    images: int
    """Images on the GPU at a time."""

    @property
    def total(self) -> int:
        return self.parameters + self.copies + self.gradients + self.moments + self.activations + self.working


@dataclass(frozen=True)
class Cost:
    """Cost of one run."""

    parameters: int
    """Parameters of all networks in the run."""
    active_parameters: int
    """Parameters that a token passes through: without the experts that it is not routed to."""
    trained_parameters: int
    terms: tuple[tuple[str, int, float], ...]
    """Parts of the FLOPs of an image: name of the part, forward passes that its use is worth, FLOPs of one pass."""
    images: int
    """Views of images trained on."""
    measured_images: int
    """Images measured."""
    training_hours: float
    """GPU-hours of training."""
    measuring_hours: float
    """GPU-hours of measuring."""
    images_per_second: float
    """Rate at which the loader must feed each GPU in training."""
    gpus: int
    memory: Memory
    weights: int
    """Bytes of the published weights."""
    checkpoint: int
    """Bytes of the checkpoint that the run resumes from."""

    @property
    def flops_per_image(self) -> float:
        """FLOPs of a training step per image."""
        return sum(passes * flops for _, passes, flops in self.terms)

    @property
    def gpu_hours(self) -> float:
        """GPU-hours of training and measuring."""
        return self.training_hours + self.measuring_hours

    @property
    def hours(self) -> float:
        """Wall-clock hours; all GPUs of the job train and measure."""
        return self.gpu_hours / self.gpus


def cost_of(study: Study, assumptions: Assumptions | None = None) -> dict[str, Cost]:
    """Cost of every run of a study by run id; a run shared by several experiments appears once.

    Parameters
    ----------
    study
        Resolved runs.
    assumptions
        GPU, MFU and the like; None: eight H200 at 40 % of their peak.

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
    precision = work.recipe.precision if work.recipe else "fp32"  # a run that only measures does not use autocast
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
    """True if a moving average of the trained weights is kept."""
    return work.recipe is not None and work.recipe.ema_decay is not None


def _largest(costs: Iterable[LayerCost]) -> Tensors:
    return max((cost.live for cost in costs), key=lambda tensors: tensors.bytes(2), default=Tensors())


def data_sizes(study: Study) -> dict[str, int]:
    """Bytes of each packed set that a study reads: small images as three bytes per pixel, large ones as their files."""
    sets: dict[str, Data] = {str(data): data for run in study.runs.values() for data in run.config.data_sets}
    return {name: _packed(data) for name, data in sets.items()}


def _packed(data: Data) -> int:
    from m2mkd.data.prepare import LARGEST_PIXELS

    dataset = load.datasets()[data.name]
    images = (dataset.train_images or 0) + split_images(data, "val")
    pixels = images * 3 * data.image_size**2
    as_files = data.image_size > LARGEST_PIXELS and not dataset.made_here
    return images * IMAGE_FACTS + (dataset.encoded_bytes or pixels if as_files else pixels)
