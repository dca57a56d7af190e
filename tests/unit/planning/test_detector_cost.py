"""Cost of detectors: the specification's figures, and the detector itself (specification detection.md 5)."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from m2mkd.config import load
from m2mkd.config.detection import DetectorSwitches
from m2mkd.detection.detector import build_detector
from m2mkd.planning import Assumptions, cost_of, detector
from m2mkd.planning.cost import Cost
from m2mkd.planning.layer_cost import Tensors
from m2mkd.study.phases import EvaluateDetector, TrainDetector
from m2mkd.study.plan import build_study
from tests.scenes import detection_study, detector_run
from tests.unit.planning.counting import counted, parameters_of, saved_bytes

GLOBAL = DetectorSwitches(detection_init="none", detection_input="corner", detection_attention="global")
WINDOWS = DetectorSwitches()


@pytest.fixture(scope="module")
def planned():
    """Configuration and cost of each detector at scale paper, by phase and profile."""
    settings = load.settings({"scale": "paper", "experiments": ["coco_vmoe_base/random"], "overrides": {"seeds": 1}})
    study = build_study(settings)
    costs = cost_of(study)
    profiles = {run_id: row.profile for row in study.rows for run_id in (*row.trained, *row.measured)}
    return {(run.phase, profiles[run.id]): (run.config, costs[run.id]) for run in study.runs.values()}


def trained(planned, profile: str) -> tuple[TrainDetector, Cost]:
    return planned["train_detector", profile]


@pytest.mark.parametrize(
    ("part", "parameters", "released", "corrected"),
    [
        ("backbone", 482_553_696, 57.2, 1430),
        ("pyramid", 5_560_000, 6.86, 143),
        ("proposals", 1_184_015, 9.90, 207),
        ("box head", 15_618_449, 132.0, 132),
        ("mask head", 2_644_304, 135.6, 136),
    ],
)
def test_parts_of_section_5(planned, part, parameters, released, corrected):
    for profile, expected in (("released", released), ("corrected", corrected)):
        config, cost = trained(planned, profile)
        flops = {name: value / 1e9 for name, _, value in cost.terms}
        assert flops[part] == pytest.approx(expected, rel=0.005)
        parts = detector.trained_parts(config.model, 80, DetectorSwitches.of(config.compat), "released")
        # Windows need tables of relative positions, and the class token's row.
        more = config.model.backbone.width + 8 * 2 * 27 * 64 + 4 * 2 * 127 * 64 if (part, profile) == ("backbone", "corrected") else 0
        assert parts[part].parameters == parameters + more


@pytest.mark.parametrize(("profile", "gflop", "evaluated", "hours"), [("released", 341.5, 437.6, 8.5), ("corrected", 2048, 2144, 50.9)])
def test_sums_of_section_5(planned, profile, gflop, evaluated, hours):
    config, cost = trained(planned, profile)
    assert cost.flops_per_image / 3e9 == pytest.approx(gflop, rel=0.001)
    assert cost.images == 11_800_000
    assert cost.training_hours == pytest.approx(hours, rel=0.02)
    assert cost.measured_images == 5_000
    parts = detector.measured_parts(config.model, 80, DetectorSwitches.of(config.compat), "released")
    assert sum(part.flops() for part in parts.values()) / 1e9 == pytest.approx(evaluated, rel=0.001)
    _, measured = planned["evaluate_detector", profile]
    # As the specification counts evaluation in fp16 and 74 times, for the release.
    assert 74 * measured.measuring_hours * 66.9 / 989.4 == pytest.approx({"released": 0.11, "corrected": 0.56}[profile], rel=0.05)


def test_memory_of_section_5(planned):
    _, cost = trained(planned, "released")
    assert cost.parameters == 507_560_464
    memory = cost.memory
    assert memory.images == 1
    assert [part / 1e9 for part in (memory.parameters, memory.gradients, memory.moments)] == pytest.approx([2.03, 2.03, 4.06], rel=0.02)
    # Their sum with activations and what DDP holds: here the gradients themselves, in the release a copy of 2.03 GB.
    assert (memory.total - memory.copies - memory.working + memory.gradients) / 1e9 == pytest.approx(12, rel=0.1)
    _, corrected = trained(planned, "corrected")
    assert corrected.memory.images == 8
    assert 40 * 0.9 <= corrected.memory.total / 1e9 <= 66


def test_accumulation_divides_a_batch(planned):
    study = build_study(load.settings({"scale": "paper", "experiments": ["coco_vmoe_base/random"], "overrides": {"seeds": 1}}))
    costs = cost_of(study, Assumptions(gpus=2, device_batch=4)).values()
    assert sorted(cost.memory.images for cost in costs if cost.trained_parameters) == [4, 4]


# --- the detector itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("switches", [WINDOWS, GLOBAL], ids=["windows", "global"])
def test_a_detector_is_counted(switches):
    config = detector_run(detection_study()).config.model
    network = build_detector(config, num_classes=10, compat=switches.model_dump()).eval()
    images = [torch.zeros(3, 64, 64, dtype=torch.uint8)] * 2
    parts = detector.parts(config, 10, switches, regions=7, masks=3, count="model")
    assert parameters_of(network) == sum(part.parameters for part in parts.values())
    assert counted(lambda: network.backbone(network.batched(images))) == pytest.approx(2 * parts["backbone"].flops(), rel=0.02)
    with torch.no_grad():
        features = network.backbone(network.batched(images))
        maps = network.pyramid(features)
    assert counted(lambda: network.pyramid(features)) == 2 * parts["pyramid"].flops()
    assert counted(lambda: network.rpn(maps)) == 2 * parts["proposals"].flops()
    channels = config.channels
    box, mask = torch.zeros(7, channels, 7, 7), torch.zeros(3, channels, 14, 14)

    def heads() -> None:
        encoded = network.heads.box_head(box)
        network.heads.class_logits(encoded), network.heads.box_deltas(encoded)

    assert counted(heads) == parts["box head"].flops()
    assert counted(lambda: network.heads.mask_logits(network.heads.mask_head(mask))) == parts["mask head"].flops()


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
def test_activations_of_a_detector(half):
    """Within a third: in single precision an activation and the input of the next layer are one tensor.

    Without relative positions, with which a CPU's attention keeps its probabilities, which a GPU's does not.
    """
    changes = {"channels": 32, "relative_positions": False}
    config = detector_run(detection_study(detectors={"vmoe_base_1024": changes})).config.model
    network = build_detector(config, num_classes=10, compat={}).train()
    images = torch.zeros(8, 3, 64, 64)
    parts = detector.parts(config, 10, WINDOWS, regions=8, masks=8, count="model")

    def measured(forward) -> float:
        return saved_bytes(network, forward, 8, half)

    def on_a_cpu(kept: Tensors) -> Tensors:
        """Under its autocast the norms between convolutions stay in half precision; a GPU's computes them in single."""
        return Tensors(kept.low + kept.full)

    def check(part: Tensors, measured: float) -> None:
        assert part.bytes(2 if half else 4) == pytest.approx(measured, rel=1 / 3)

    features = torch.randn(8, config.backbone.width, 8, 8, requires_grad=True)
    maps = [torch.randn(8, 32, side, side, requires_grad=True) for side in (32, 16, 8, 4, 2)]
    check(parts["backbone"].saved, measured(lambda: network.backbone(images)))
    check(on_a_cpu(parts["pyramid"].saved), measured(lambda: torch.cat([level.flatten() for level in network.pyramid(features)])))
    check(parts["proposals"].saved, measured(lambda: torch.cat([logits.flatten() for logits in network.rpn.head(maps)[0]])))
    box, mask = (torch.randn(64, 32, side, side, requires_grad=True) for side in (7, 14))
    check(on_a_cpu(parts["box head"].saved), measured(lambda: network.heads.class_logits(network.heads.box_head(box))))
    check(on_a_cpu(parts["mask head"].saved), measured(lambda: network.heads.mask_logits(network.heads.mask_head(mask))))


def test_the_counter_sees_what_is_counted():
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.conv2d(torch.zeros(1, 2, 4, 4), torch.zeros(3, 2, 1, 1))
    assert counter.get_total_flops() == 2 * 16 * 6
    assert isinstance(detection_study().runs, dict) and EvaluateDetector.measures()
