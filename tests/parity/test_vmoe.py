"""The staged ViT and the V-MoE, whole and assembled, against recordings of the released classes (specification vmoe.md 9)."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from m2mkd import upstream
from m2mkd.distill.transfer import assemble
from m2mkd.models import vmoe
from m2mkd.models.moe import MoE
from m2mkd.upstream.configs import describe_checkpoint
from m2mkd.upstream.network import build
from tests.parity.vmoe import FULL, META, PRECISIONS, STITCHED, TEACHER, close, student_state

VMOES = {"vmoe_full": FULL, "vmoe_full_stitch": STITCHED, "vmoe_mixed_dense_moe": FULL | {"moe_pos": [1, 3, 5, 7]}}

pytestmark = pytest.mark.usefixtures("one_thread")


def stage_outputs(network: nn.Module, images: Tensor) -> list[Tensor]:
    outputs = [images]
    for stage in network.stages:
        outputs.append(stage(outputs[-1]))
    return outputs[1:]


@pytest.mark.parametrize(("dtype", "suffix", "tolerance"), PRECISIONS)
@pytest.mark.parametrize(("name", "config"), [("vit_meta", META), ("vit_teacher", TEACHER)])
def test_vit_stages(recorded, states, name, config, dtype, suffix, tolerance):
    network = upstream.load("vit", states[name], config).to(dtype)
    images = torch.as_tensor(recorded["x"]).to(dtype)
    for stage, output in enumerate(stage_outputs(network, images)):
        close(output, recorded[f"{name}.stage{stage}.out{suffix}"], tolerance)
    close(network(images), recorded[f"{name}.logits{suffix}"], tolerance)


def check_vmoe(network: vmoe.VMoE, name: str, recorded, dtype: torch.dtype, suffix: str, tolerance: float) -> None:
    """Compare each block's output, each gate and the logits with the recording ``name``."""
    network = network.to(dtype).eval()
    images = torch.as_tensor(recorded["x"]).to(dtype)
    outputs: list[Tensor] = []
    inputs: list[tuple[MoE, Tensor]] = []
    for stage in network.stages:
        for place, block in enumerate(stage.blocks):
            # A recorded block output includes the stitch layer that follows.
            outer = stage.post_stitch if place == len(stage.blocks) - 1 else nn.Identity()
            block.register_forward_hook(lambda _, __, out, outer=outer: outputs.append(outer(out)))
            if isinstance(block.mlp, MoE):
                block.mlp.register_forward_hook(lambda layer, args, _: inputs.append((layer, args[0].flatten(end_dim=-2))))
    close(network(images), recorded[f"{name}.out{suffix}"], tolerance)

    assert len(outputs) == 8
    for i, output in enumerate(outputs):
        close(output, recorded[f"{name}.block{i}.out{suffix}"], tolerance)
    assert len(inputs) == len(vmoe.moe_positions(network.config))
    for i, (layer, tokens) in enumerate(inputs):
        close(layer.gate(tokens), recorded[f"{name}.moe{i}.gate_logits{suffix}"], tolerance)
        chosen, weights = layer.route(tokens)
        by_index = chosen.argsort(dim=-1)
        assert np.array_equal(chosen.gather(1, by_index), recorded[f"{name}.moe{i}.topk_idx_sorted{suffix}"])
        assert np.array_equal(layer.tokens_per_expert, recorded[f"{name}.moe{i}.tokens_per_expert{suffix}"])
        # The softmax turns the absolute error of logits, which are several units large, into a relative one.
        score_tolerance = tolerance if dtype == torch.float64 else 3 * tolerance
        close(weights.gather(1, by_index), recorded[f"{name}.moe{i}.topk_score_by_sorted_idx{suffix}"], score_tolerance)


@pytest.mark.parametrize(("dtype", "suffix", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("name", VMOES)
def test_vmoe_blocks_and_gates(recorded, states, name, dtype, suffix, tolerance):
    network = upstream.load("vmoe", states[name], VMOES[name])
    check_vmoe(network, name, recorded, dtype, suffix, tolerance)


@pytest.mark.parametrize(("dtype", "suffix", "tolerance"), PRECISIONS)
@pytest.mark.parametrize(("name", "config"), [("assembled_nostitch", FULL), ("assembled_stitch", STITCHED)])
def test_assembly(recorded, states, name, config, dtype, suffix, tolerance):
    network = build(describe_checkpoint("vmoe", config, {}))
    assemble({index: student_state(states, index) for index in range(4)}, network)
    check_vmoe(network, name, recorded, dtype, suffix, tolerance)


def test_fused_experts_give_the_same(recorded, states):
    images, state = torch.as_tensor(recorded["x"]), states["vmoe_full"]
    fused = {key: tensor for key, tensor in state.items() if ".experts." not in key}
    for block in range(8):
        for layer in ("htoh4", "h4toh"):
            for kind in ("weight", "bias"):
                names = [f"stages.{block // 2}.blocks.{block % 2}.moe.experts.{expert}.{layer}.{kind}" for expert in range(8)]
                fused[f"stages.{block // 2}.blocks.{block % 2}.moe.experts.{layer}.{kind}"] = torch.cat([state[name] for name in names])
    assert torch.equal(upstream.load("vmoe", fused, FULL)(images), upstream.load("vmoe", state, FULL)(images))


def test_each_half_of_the_names_suffices(recorded, states):
    images = torch.as_tensor(recorded["x"])
    for name, kind, config in (("vit_teacher", "vit", TEACHER), ("vmoe_full_stitch", "vmoe", STITCHED)):
        staged = {key: tensor for key, tensor in states[name].items() if key.startswith("stages.")}
        flat = {key: tensor for key, tensor in states[name].items() if key not in staged}
        whole = upstream.load(kind, states[name], config)(images)
        assert len(staged) == len(flat)
        assert torch.equal(upstream.load(kind, staged, config)(images), whole)
        assert torch.equal(upstream.load(kind, flat, config)(images), whole)
