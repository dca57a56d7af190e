"""What a released configuration may say, and how it is read."""

from collections import Counter

import pytest
import torch

from m2mkd import upstream
from m2mkd.errors import InputError
from m2mkd.models.nac.noise import Noise
from m2mkd.upstream.configs import describe_checkpoint
from m2mkd.upstream.network import build, convert
from tests.parity.released import empty, nac_shapes
from tests.unit.upstream.small_models import MODULE, SMALL, VIT, changed, random_state


def test_a_circuit_of_any_size_gives_the_same_logits_each_time():
    model = upstream.load("nac", random_state(nac_shapes(SMALL)), SMALL)
    images = torch.randn(2, 3, 24, 24)
    assert not model.training
    assert model(images).shape == (2, 3)
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("simplified_interface", False),
        ("student_type", "imagenet"),
        ("student_state_dict_dir", "/elsewhere"),
        ("latent_graph_kwargs.code_noise_scale", 0.9),
        ("latent_graph_kwargs.layer_scale_initial_value", 7),
        ("latent_graph_kwargs.path_drop_prob", 0.7),
        ("latent_graph_kwargs.mod_fc_kwargs.scale_gain", 3),
        ("latent_graph_kwargs.propagator_kwargs.latent_attention_kwargs.kernel_kwargs.stochastic_kernel", False),
        ("latent_graph_kwargs.propagator_kwargs.latent_attention_kwargs.kernel_kwargs.stochastic_sampling_temperature", 9),
        ("latent_graph_kwargs.read_out_kwargs.pre_output_layernorm", True),
        ("latent_graph_kwargs.use_code_noise_in_latent_seeder", False),
        ("latent_graph_kwargs.input_latent_kwargs", {"graph_preset": "complete"}),
        ("latent_graph_kwargs.mediator_latent_kwargs", {"graph_preset": "ring-of-cliques", "graph_generator_kwargs": {"num_cliques": 4}}),
        ("latent_graph_kwargs.mediator_latent_kwargs", None),
        ("output_tokenizer_kwargs.softmax_type", "vanilla"),
        ("output_tokenizer_kwargs", None),
        ("input_tokenizer_kwargs.positional_grid_kwargs.grid_size", 3),
    ],
)
def test_keys_of_training_do_not_change_inference(path, value):
    state, images = random_state(nac_shapes(SMALL)), torch.randn(2, 3, 24, 24)
    assert torch.equal(upstream.load("nac", state, changed(SMALL, path, value))(images), upstream.load("nac", state, SMALL)(images))


class Counted(Noise):
    """Noise that counts what is drawn of it."""

    def __init__(self):
        self.source, self.drawn = Noise.from_generator(torch.Generator().manual_seed(0)), Counter()

    def draw(self, kind, shape, like):
        self.drawn[kind] += 1
        return self.source.draw(kind, shape, like)


@pytest.mark.parametrize(
    ("path", "value", "without"),
    [
        ("latent_graph_kwargs.path_drop_prob", 0.1, {}),
        ("latent_graph_kwargs.path_drop_prob", 0.0, {"drop_path": 4}),
        ("latent_graph_kwargs.code_noise_scale", 0.0, {"code": 3 + 1 + 2 * 2 + 2}),
        ("latent_graph_kwargs.use_code_noise_in_latent_seeder", False, {"code": 3}),
        ("latent_graph_kwargs.propagator_kwargs.latent_attention_kwargs.kernel_kwargs.stochastic_kernel", False, {"edge": 2}),
        ("output_tokenizer_kwargs.softmax_type", "vanilla", {"gumbel": 1}),
    ],
)
def test_training_draws_the_noise_that_the_configuration_leaves_on(path, value, without):
    every = Counter(code=10, state=3, edge=2, drop_path=4, gumbel=1)
    model = upstream.load("nac", random_state(nac_shapes(SMALL)), changed(SMALL, path, value)).train()
    noise = Counted()
    assert model(torch.randn(2, 3, 24, 24), noise).shape == (2, 3)
    assert noise.drawn == every - Counter(without)


def test_the_truncation_is_that_of_the_configuration():
    state, images = random_state(nac_shapes(SMALL)), torch.randn(2, 3, 24, 24)
    path = "latent_graph_kwargs.propagator_kwargs.latent_attention_kwargs.kernel_kwargs"
    narrow, none = changed(SMALL, f"{path}.truncation", 0.2), changed(SMALL, path, {"stochastic_kernel": True})
    logits = [upstream.load("nac", state, config)(images) for config in (SMALL, narrow, none)]
    assert not any(torch.equal(logits[i], logits[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("state_dimm", 3, r"state_dimm is not a known field; did you mean 'state_dim'"),
        ("latent_graph_kwargs.num_headz", 3, r"latent_graph_kwargs\.num_headz is not a known field"),
        ("latent_graph_kwargs.read_out_kwargs.use_head", True, r"read_out_kwargs\.use_head: .*False"),
        ("latent_graph_kwargs.qkv_bias_in_attention", True, "qkv_bias_in_attention"),
        ("latent_graph_kwargs.mod_fc_kwargs", {"learnable_scale_gain": True}, r"add_one_to_scale is missing"),
        ("latent_graph_kwargs.share_propagator_weights", True, "share_propagator_weights"),
        ("output_tokenizer_kwargs.softmax_type", "gumbel-hard", "softmax_type"),
        ("predefined_states_dir", "/states", "predefined_states_dir"),
        ("input_tokenizer_kwargs.positional_grid_kwargs.grid_size", [3, 4], "grid_size: a square is needed"),
        ("input_tokenizer_type", "PatchTokenizer", "input_tokenizer_type"),
    ],
)
def test_what_would_change_inference_is_refused_by_name(path, value, message):
    with pytest.raises(InputError, match=message):
        describe_checkpoint("nac", changed(SMALL, path, value), {})


@pytest.mark.parametrize(
    ("preset", "depths"), [("nano", (1, 1)), ("femto", (1, 0)), ("atto", (0, 0)), ("another", (3, 3)), ("mini", (3, 3))]
)
def test_capacity_presets(preset, depths):
    description = describe_checkpoint("nac", changed(SMALL, "input_tokenizer_kwargs.capacity_preset", preset), {})
    assert description.architecture.tokenizer.depths == depths
    assert description.image_size == 24
    assert build(description).eval()(torch.randn(1, 3, 24, 24)).shape == (1, 3)


def test_a_tokenizer_of_three_stages():
    config = changed(SMALL, "input_tokenizer_kwargs.num_stages", 3)
    description = describe_checkpoint("nac", config, {})
    assert description.architecture.tokenizer.depths == (3, 3, 9)
    assert description.image_size == 48


def test_the_whole_yaml_serves():
    released = {"experiment": {"name": "x"}, "model": {"type": "NeuralCompiler", "kwargs": SMALL}}
    assert describe_checkpoint("nac", released, {}).architecture == describe_checkpoint("nac", SMALL, {}).architecture
    with pytest.raises(InputError, match="latent_graph_kwargs is missing"):
        describe_checkpoint("nac", {"state_dim": 3}, {})


def test_a_read_in_may_have_its_own_heads():
    config = changed(SMALL, "latent_graph_kwargs.read_in_kwargs.num_heads", 5)
    shapes = nac_shapes(SMALL)
    prefix = "latent_graphs.0.read_in.read_in_attention"
    for name in ("query", "key", "value"):
        key = f"{prefix}.{name}_compiler.native_weight"
        shapes[key] = (20, shapes[key][1])
    shapes[f"{prefix}.exit_layer.native_weight"] = (16, 20)
    shapes[f"{prefix}.exit_layer.scale.weight"] = (20, 6)
    model = upstream.load("nac", random_state(shapes), config)
    assert model.read_in.read_in_attention.heads == 5
    assert model(torch.randn(1, 3, 24, 24)).shape == (1, 3)
    with pytest.raises(InputError, match=r"query_compiler.native_weight has shape \(20, 16\), expected \(12, 16\)"):
        convert(describe_checkpoint("nac", SMALL, {}), empty(shapes))


def test_kinds_are_few():
    with pytest.raises(InputError, match="kind 'resnet' is unknown; use one of nac, "):
        upstream.load("resnet", {"a": torch.zeros(1)}, {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dimm": 3}, "embed_dimm is not a known field; did you mean 'embed_dim'"),
        ({"idx": 1}, "idx is not a known field"),
        ({"stage": 2}, "stage 2 does not exist: divided_depths gives stages 0 to 1"),
        ({"num_heads": 3}, "width 8 is not a multiple of heads 3"),
        ({"model_name": "resnet50"}, "model 'resnet50' is unknown"),
        ({"in_chans": 1}, "in_chans"),
        ({"divided_depths": []}, "divided_depths"),
    ],
)
def test_arguments_of_a_vit_are_checked(change, message):
    with pytest.raises(InputError, match=message):
        describe_checkpoint("vit", VIT | change, {})


def test_synonyms_of_arguments():
    plain = describe_checkpoint("vit", VIT | {"ln_eps": 1e-5}, {})
    other = {"dim": 8, "heads": 2, "classes": 3, "norm_eps": 1e-5, "img_size": [16, 16], "drop_path_rate": 0.5, "depth": 12}
    kept = {key: VIT[key] for key in ("patch_size", "mlp_ratio", "divided_depths")}
    assert describe_checkpoint("vit", kept | other, {}).architecture == plain.architecture
    assert plain.architecture.norm_eps == 1e-5
    assert describe_checkpoint("vit", VIT | {"ln_eps": 1e-5, "norm_eps": 1e-5, "dim": 8}, {}) == plain
    with pytest.raises(InputError, match=r"config: norm_eps is 1e-06, but its synonym is 1e-05; give only one"):
        describe_checkpoint("vit", VIT | {"ln_eps": 1e-5, "norm_eps": 1e-6}, {})


def test_synonyms_go_before_the_sizes_of_a_named_model():
    huge = describe_checkpoint(
        "vit", {"model_name": "vit_huge_patch14_224", "norm_eps": 1e-6, "dim": 64, "divided_depths": [1]}, {}
    ).architecture
    assert (huge.norm_eps, huge.width, huge.heads, huge.qkv_bias) == (1e-6, 64, 16, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"moe_pos": [2]}, "moe_pos has 2, but divided_depths has blocks 0 to 1"),
        ({"pre_stitch_pos": [1], "stitch_dim": 4}, r"pre_stitch_pos \[1\] and post_stitch_pos \[\] are not the boundaries"),
        ({"pre_stitch_pos": [0], "post_stitch_pos": [1]}, "stitch_dim is missing"),
        ({"divided_depths": [1, 1]}, "divided_depths"),
        ({"top_k": 4}, "top_k 4 is more than the 3 experts"),
        ({"stitch_ln_eps": 1e-6}, "stitch_ln_eps"),
        ({"idx": -2}, "idx"),
    ],
)
def test_arguments_of_a_module_are_checked(change, message):
    with pytest.raises(InputError, match=message):
        describe_checkpoint("vmoe_module", MODULE | change, {})


@pytest.mark.parametrize(("index", "first", "last"), [(0, True, False), (1, False, False), (3, False, False), (-1, False, True)])
def test_a_module_knows_its_place(index, first, last):
    description = describe_checkpoint("vmoe_module", MODULE | {"idx": index}, {})
    module = build(description).eval()
    assert (module.first, module.last) == (first, last)
    assert [hasattr(block.mlp, "gate") for block in module.blocks] == [False, True]
    output = module(torch.randn(2, 3, 16, 16) if first else torch.randn(2, 5, 8))
    assert output.shape == ((2, 3) if last else (2, 5, 8))


def test_any_pattern_of_experts():
    description = describe_checkpoint("vmoe", VIT | {"divided_depths": [1, 2], "num_expert": 3, "moe_pos": [0, 2]}, {})
    assert description.architecture.moe_positions == (0, 2)
    assert [hasattr(block.mlp, "gate") for stage in build(description).stages for block in stage.blocks] == [True, False, True]


def test_an_argument_that_is_none_is_not_given():
    none = {"pre_stitch_pos": None, "post_stitch_pos": None, "stitch_dim": None, "moe_pos": None}
    assert describe_checkpoint("vmoe_module", MODULE | none, {}).architecture.moe_blocks == "all"


def test_two_odd_blocks_of_two():
    assert describe_checkpoint("vmoe", VIT | {"divided_depths": [2], "num_expert": 3, "moe_pos": [1]}, {}).architecture.moe_positions == (
        1,
    )
