"""The V-MoE as backbone: windows, relative positions, resized positions, and what it shares with the V-MoE itself."""

import pytest
import torch
from torch import nn

from m2mkd.config.detection import DetectorConfig, DetectorSwitches
from m2mkd.config.models import VMoEConfig
from m2mkd.detection.attention import MapAttention, MapBlock, cut_windows, join_windows, relative_table
from m2mkd.detection.backbone import Backbone, resized_positions
from m2mkd.detection.pyramid import SimpleFeaturePyramid
from m2mkd.models.vmoe import VMoE
from m2mkd.seeds import forked_rng

VIT = VMoEConfig(patch_size=4, width=16, heads=2, depths=(2, 1), experts=4, moe_blocks=(0, 2))
CONFIG = DetectorConfig(backbone=VIT, image_size=24, pretrain_size=16, window_size=4)
IMAGES = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
GLOBAL = DetectorSwitches(detection_attention="global")


def backbone(config=CONFIG, switches=None, drop_path=0.0):
    with forked_rng("backbone"):
        return Backbone(config, switches or DetectorSwitches(), drop_path=drop_path, expert_init="trunc02")


def randomised(module):
    """Also what starts at zero or one."""
    with forked_rng("parameters"):
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
    return module


def naive_attention(attention, x):
    """One map (H, W, d), pair by pair."""
    height, width, d = x.shape
    c = d // attention.heads
    q, k, v = attention.qkv(x).view(height, width, 3, attention.heads, c).unbind(2)
    rows, columns = relative_table(attention.rel_pos_h, height), relative_table(attention.rel_pos_w, width)
    out = torch.zeros_like(x)
    for head in range(attention.heads):
        for i in range(height):
            for j in range(width):
                at = q[i, j, head]
                scores = [at @ k[a, b, head] / c**0.5 + at @ rows[i, a] + at @ columns[j, b] for a in range(height) for b in range(width)]
                weights = torch.stack(scores).softmax(0)
                out[i, j, head * c : (head + 1) * c] = weights @ v[:, :, head].flatten(0, 1)
    return attention.proj(out)


def test_attention_with_relative_positions_equals_a_naive_loop():
    attention = randomised(MapAttention(8, 2, qkv_bias=True, table_size=3)).double()
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for one, expected in zip(attention(x), x, strict=True):
        torch.testing.assert_close(one, naive_attention(attention, expected), rtol=0, atol=1e-13)


def test_gradients_of_attention_with_relative_positions():
    attention = randomised(MapAttention(4, 2, qkv_bias=True, table_size=2)).double()
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*attention.named_parameters(), strict=True)

    def run(x, *values):
        return torch.func.functional_call(attention, dict(zip(names, values, strict=True)), x)

    assert torch.autograd.gradcheck(run, (x, *parameters))


def test_a_table_of_its_own_size_gives_the_distances():
    table = torch.arange(7.0)[:, None]
    assert relative_table(table, 4)[..., 0].tolist() == [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]
    # Seven distances become three, linearly.
    torch.testing.assert_close(relative_table(table, 2)[..., 0], torch.tensor([[3.0, 2 / 3], [16 / 3, 3.0]]))


def test_zero_tables_change_nothing():
    with forked_rng("a"):
        plain = MapAttention(8, 2, qkv_bias=True, table_size=None)
    relative = MapAttention(8, 2, qkv_bias=True, table_size=3)
    assert not relative.rel_pos_h.any() and not relative.rel_pos_w.any()
    relative.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 3, 3, 8)
    torch.testing.assert_close(relative(x), plain(x))


def test_windows_by_hand():
    x = torch.arange(15.0).view(1, 3, 5, 1)
    windows = cut_windows(x, 2)
    assert windows.shape == (6, 2, 2, 1)
    assert windows[1].flatten().tolist() == [2, 3, 7, 8]
    assert windows[2].flatten().tolist() == [4, 0, 9, 0]
    assert windows[5].flatten().tolist() == [14, 0, 0, 0]
    assert torch.equal(join_windows(windows, 3, 5), x)


def test_a_window_sees_itself_and_what_fills_it_up_alone():
    with forked_rng("block"):
        block = randomised(MapBlock(VIT, lambda **_: nn.Identity(), 0.0, window_size=4, table_size=4))
        x = torch.randn(1, 6, 6, 16)
        changed = x.clone()
        changed[:, 5, 1] = torch.randn(16)
    touched = (block(changed) - block(x)).abs().amax(dim=-1)[0] > 1e-4
    assert touched.sum() == touched[4:, :4].sum() == 8
    # The zeros that fill a window up have the biases of keys and values: the four places of a corner attend to them as well.
    corner = block(x)[:, 4:, 4:]
    block.window_size = 2
    assert not torch.allclose(block(x)[:, 4:, 4:], corner)


def test_a_window_as_large_as_the_map_is_global():
    config = CONFIG.model_copy(update={"window_size": 6})
    windowed = randomised(backbone(config))
    all_global = backbone(config.model_copy(update={"global_blocks": (0, 1, 2)}))
    all_global.load_state_dict(windowed.state_dict())
    torch.testing.assert_close(windowed(IMAGES), all_global(IMAGES))


def test_which_blocks_attend_globally_and_have_tables_of_which_size():
    blocks = [block for stage in backbone().stages for block in stage.blocks]
    assert [block.window_size for block in blocks] == [4, None, None]
    assert [len(block.attn.rel_pos_h) for block in blocks] == [7, 11, 11]
    plain = [block for stage in backbone(switches=GLOBAL).stages for block in stage.blocks]
    assert [block.window_size for block in plain] == [None, None, None]
    assert not any(block.attn.relative for block in plain)
    assert not any("rel_pos" in name for name in backbone(CONFIG.model_copy(update={"relative_positions": False})).state_dict())


def test_the_published_blocks_are_global_at_the_ends_of_the_stages():
    config = DetectorConfig(backbone=VMoEConfig(patch_size=16, width=768, heads=12, depths=(3, 3, 3, 3)))
    assert config.global_positions == (2, 5, 8, 11)
    assert config.strides == (4, 8, 16, 32, 64)


def test_positions_without_class_token_and_resized():
    positions = torch.cat([torch.full((1, 1, 2), 99.0), torch.arange(16.0).view(1, 16, 1).expand(-1, -1, 2)], dim=1)
    assert torch.equal(resized_positions(positions, 4, 4)[0, ..., 0], torch.arange(16.0).view(4, 4))
    resized = resized_positions(positions, 8, 4)[0, ..., 0]
    assert resized.shape == (8, 4)
    assert resized.max() < 20, "the class token's row has no part in it"
    torch.testing.assert_close(resized.mean(), torch.tensor(7.5))
    assert torch.equal(resized_positions(positions[:, 1:], 4, 4), resized_positions(positions, 4, 4))


def test_it_computes_what_the_v_moe_computes_without_class_token():
    with forked_rng("vmoe"):
        vmoe = VMoE(VIT, image_size=24, num_classes=3).double().eval()
    config = CONFIG.model_copy(update={"pretrain_size": 24})
    ours = backbone(config, GLOBAL).double()
    state = {name: tensor for name, tensor in vmoe.state_dict().items() if name in ours.state_dict()}
    ours.load_state_dict(state)
    images = IMAGES.double()
    x = vmoe.stages[0].embed(images)[:, 1:]
    for stage in vmoe.stages:
        x = stage.blocks(x)
    torch.testing.assert_close(ours(images).flatten(2).transpose(1, 2), x, rtol=0, atol=1e-12)


def test_drop_path_drops_a_branch_of_a_whole_image():
    block = MapBlock(VIT, lambda **_: nn.Identity(), 0.5, window_size=2, table_size=None).train()
    randomised(block)
    x = torch.randn(1, 4, 4, 16).expand(64, -1, -1, -1)
    with forked_rng("drop path"):
        out = block(x)
    kinds = {tuple(one.flatten()[:4].tolist()) for one in out.detach()}
    assert len(kinds) == 4, "each of the two branches is there or not, and nothing in between"
    rates = [
        b.drop_path.drop_prob if not isinstance(b.drop_path, nn.Identity) else 0 for s in backbone(drop_path=0.2).stages for b in s.blocks
    ]
    assert rates == pytest.approx([0, 0.1, 0.2])


def test_a_router_with_noise_takes_it_from_the_generator():
    vit = VMoEConfig(patch_size=4, width=16, heads=2, depths=(1,), experts=4, router="vmoe", group_size=2)
    network = backbone(CONFIG.model_copy(update={"backbone": vit})).train()
    first, again = (network(IMAGES, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, network(IMAGES, torch.Generator().manual_seed(4)))
    with pytest.raises(ValueError, match="noise=GENERATOR"):
        network(IMAGES)


def test_levels_of_the_pyramid():
    pyramid = SimpleFeaturePyramid(16, 8)
    maps = pyramid(torch.randn(2, 16, 7, 6))
    assert [tuple(level.shape) for level in maps] == [(2, 8, 28, 24), (2, 8, 14, 12), (2, 8, 7, 6), (2, 8, 3, 3), (2, 8, 2, 2)]
    assert torch.equal(maps[4], maps[3][:, :, ::2, ::2])
    # Every level ends in a norm over its channels, which at the start has neither gain nor shift, and no activation after it.
    for level in maps:
        torch.testing.assert_close(level.mean(dim=1), torch.zeros_like(level[:, 0]), rtol=0, atol=1e-6)
        torch.testing.assert_close(level.var(dim=1, correction=0), torch.ones_like(level[:, 0]), rtol=0, atol=1e-3)
