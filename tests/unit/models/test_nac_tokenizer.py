"""Tokenizer of images of any size, and positional grids that follow."""

import pytest
import torch

from m2mkd.config.models import TokenizerConfig
from m2mkd.models.nac.tokenizer import ImageTokenizer, resize_grid, resize_grids

CONFIG = TokenizerConfig(depths=(1, 1), stem_stride=4, grid_dim=5)


def tokenizer(image_size):
    return ImageTokenizer(CONFIG, 16, image_size)


@pytest.mark.parametrize("size", [64, 96, 128, 224])
@pytest.mark.parametrize("built_for", [64, 224])
def test_images_of_another_size_have_tokens_of_their_own_grid(built_for, size):
    model, side = tokenizer(built_for), size // 8
    tokens = model(torch.randn(2, 3, size, size))
    assert tokens.shape == (2, side * side, model.width)
    grid = tokens[:, :, -5:].transpose(1, 2).unflatten(2, (side, side))
    torch.testing.assert_close(grid, resize_grid(model.positional_grid, (side, side)).expand(2, -1, -1, -1))
    tokens.sum().backward()
    assert model.positional_grid.grad.abs().min() > 0


def test_images_need_not_be_square():
    assert tokenizer(64)(torch.randn(1, 3, 64, 96)).shape == (1, 8 * 12, 13)


def test_a_grid_of_the_same_size_is_the_same():
    grid = torch.randn(5, 8, 8)
    assert resize_grid(grid, (8, 8)) is grid


@pytest.mark.parametrize(("size", "other"), [(8, 28), (28, 8), (7, 12)])
def test_a_resized_grid_keeps_places(size, other):
    """What grows linearly along an axis does so after the change, between the same ends."""

    def ramp(side):
        places = (torch.arange(side) + 0.5) / side
        return torch.stack(torch.meshgrid(places, places, indexing="ij"))

    resized, expected = resize_grid(ramp(size), (other, other)), ramp(other)
    inside = slice(other // 4, -(other // 4))
    torch.testing.assert_close(resized[:, inside, inside], expected[:, inside, inside], atol=0.01, rtol=0)
    torch.testing.assert_close(resized, expected, atol=1.5 / size, rtol=0)


def test_a_state_of_another_image_size_is_loaded_after_its_grids_are_resized():
    source, target = tokenizer(224), tokenizer(64)
    state = source.state_dict()
    with pytest.raises(RuntimeError, match="positional_grid"):
        target.load_state_dict(state)
    resized = resize_grids(state, target)
    target.load_state_dict(resized)
    assert torch.equal(target.positional_grid, resize_grid(source.positional_grid, (8, 8)))
    assert state["positional_grid"].shape == (5, 28, 28)
    for name in state.keys() - {"positional_grid"}:
        assert resized[name] is state[name]
