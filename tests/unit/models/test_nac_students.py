"""Modules that are distilled alone, and their way into a circuit."""

import pytest
import torch

from m2mkd.config.models import Latents, NACConfig, TokenizerConfig
from m2mkd.distill.nac_transfer import transfer_modules
from m2mkd.errors import InputError
from m2mkd.models.nac.circuit import NAC
from m2mkd.models.nac.noise import Noise
from m2mkd.models.nac.students import build_nac_module

CONFIG = NACConfig(
    state_dim=16,
    code_dim=8,
    signature_dim=8,
    heads=2,
    head_dim=6,
    latents=Latents(input=4, mediator=8, output=3),
    iterations=2,
    tokenizer=TokenizerConfig(depths=(1, 1), stem_stride=2, grid_dim=4),
)
WIDTH, IMAGE, CLASSES = 12, 16, 5


def module(index, state_seed=0, **sizes):
    return build_nac_module(
        CONFIG, index, **{"image_size": IMAGE, "num_classes": CLASSES} | sizes, stitch_width=WIDTH, state_seed=state_seed
    )


def modules(**sizes):
    return [module(index, **sizes).state_dict() for index in range(CONFIG.modules)]


def circuit():
    return NAC(CONFIG, image_size=IMAGE, num_classes=CLASSES, prior=None)


def noise():
    return Noise.from_generator(torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("index", "shape_in", "shape_out"),
    [(0, (3, IMAGE, IMAGE), (1, WIDTH)), (1, (7, WIDTH), (7, WIDTH)), (2, (5, WIDTH), (5, WIDTH)), (3, (7, WIDTH), (CLASSES,))],
)
def test_shapes_for_any_batch(index, shape_in, shape_out, batch):
    x = torch.randn(batch, *shape_in)
    assert module(index)(x, noise()).shape == (batch, *shape_out)
    alone = module(index).eval()
    torch.testing.assert_close(alone(x)[-1:], alone(x[-1:]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("index", range(4))
def test_code_and_state_are_saved_constants_of_their_seed(index):
    first, again, other = module(index), module(index), module(index, state_seed=1)
    names = {"codes"} if index in (1, 2) else {"codes", "states"}
    assert {name for name, _ in first.named_buffers()} == names
    assert names <= first.state_dict().keys()
    for name in names:
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))
    assert not any(name in names for name, _ in first.named_parameters())


@pytest.mark.parametrize("width", [7, 192, 1280])
@pytest.mark.parametrize("index", range(4))
def test_a_saved_module_of_any_teacher_width_computes_the_same_when_it_is_loaded(index, width):
    def build(state_seed):
        return build_nac_module(CONFIG, index, image_size=IMAGE, num_classes=CLASSES, stitch_width=width, state_seed=state_seed).eval()

    x = torch.randn(2, 3, IMAGE, IMAGE) if index == 0 else torch.randn(2, 5, width)
    saved, loaded = build(state_seed=0), build(state_seed=1)
    with torch.no_grad():
        expected = saved(x)
        assert expected.shape[-1] == (CLASSES if index == 3 else width)
        assert not torch.allclose(loaded(x), expected)
        loaded.load_state_dict(saved.state_dict())
        assert torch.equal(loaded(x), expected)


def test_mediator_drops_paths_from_its_noise():
    mediator, x = module(1), torch.randn(64, 7, WIDTH)
    trained = mediator(x, noise())
    assert torch.equal(trained, mediator(x, noise()))
    assert not torch.allclose(trained, mediator.eval()(x))
    with pytest.raises(ValueError, match="training mode"):
        mediator.train()(x)


@pytest.mark.parametrize("index", [-1, 4])
def test_absent_module_is_refused(index):
    with pytest.raises(InputError, match="modules 0 to 3"):
        module(index)


def test_transfer_copies_all_but_what_a_module_lacks():
    nac, sources = circuit(), modules()
    before = {name: tensor.clone() for name, tensor in nac.state_dict().items()}
    left = transfer_modules(nac, sources, same_geometry=True)
    after = nac.state_dict()
    for name in left:
        assert torch.equal(after[name], before[name])
        assert name.startswith(("input_latents", "mediator_latents", "output_latents", "latent_seeder")) or name.endswith(
            "kernel.bandwidth"
        )
    for index in (1, 2):
        key = "latent_attention.key_compiler.native_weight"
        assert torch.equal(after[f"propagators.{index - 1}.{key}"], sources[index][f"layer.{key}"])
    assert torch.equal(after["read_out.ffn.ffn.0.native_weight"], sources[3]["layer.ffn.ffn.0.native_weight"])
    assert torch.equal(after["output_tokenizer.to_logits.weight"], sources[3]["tokenizer.to_logits.weight"])
    assert torch.equal(after["input_tokenizer.positional_grid"], sources[0]["tokenizer.positional_grid"])
    assert torch.equal(
        after["read_in.read_in_attention.exit_layer.native_weight"], sources[0]["read_in.read_in_attention.exit_layer.native_weight"]
    )


def test_transfer_from_other_images_leaves_grid_and_head():
    sources = modules(image_size=32, num_classes=9)
    left = transfer_modules(circuit(), sources, same_geometry=False)
    same = transfer_modules(circuit(), modules(), same_geometry=True)
    head = {
        f"output_tokenizer.{part}" for part in ("confidence_scorer.weight", "confidence_scorer.bias", "to_logits.weight", "to_logits.bias")
    }
    assert set(left) - set(same) == {"input_tokenizer.positional_grid"} | head


def test_transfer_of_another_geometry_is_refused_with_the_shapes():
    nac = circuit()
    before = {name: tensor.clone() for name, tensor in nac.state_dict().items()}
    with pytest.raises(InputError, match=r"positional_grid: the module has shape \(4, 8, 8\), the NAC \(4, 4, 4\)"):
        transfer_modules(nac, modules(image_size=32), same_geometry=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in nac.state_dict().items())


def test_transfer_of_incomplete_or_misplaced_modules_is_refused():
    with pytest.raises(InputError, match="3 modules given"):
        transfer_modules(circuit(), modules()[:-1], same_geometry=True)
    sources = modules()
    with pytest.raises(InputError, match=r"module 0: tensor layer"):
        transfer_modules(circuit(), [sources[1], *sources[1:]], same_geometry=True)
    del sources[2]["layer.ffn.layer_scale.gamma"]
    with pytest.raises(InputError, match=r"lack propagators\.1\.ffn\.layer_scale\.gamma of shape \(16,\)"):
        transfer_modules(circuit(), sources, same_geometry=True)
    sources = modules()
    sources[1]["layer.latent_attention.kernel.bandwidth"] = torch.tensor(1.0)
    with pytest.raises(InputError, match=r"hold propagators\.0\.latent_attention\.kernel\.bandwidth"):
        transfer_modules(circuit(), sources, same_geometry=True)
