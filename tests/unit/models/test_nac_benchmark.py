"""The plain reference of benchmarks/: it does the work it is said to do, and computes what the model computes."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.reference_nac import ReferenceNAC
from m2mkd.config.models import Latents, NACConfig
from m2mkd.models.nac.noise import Noise
from tests.unit.models.small_nac import CONFIG, IMAGES, circuit, noise

TINY = NACConfig(state_dim=384, code_dim=384, heads=6, latents=Latents(input=64, mediator=256, output=64))
IMAGENET = NACConfig(state_dim=512, code_dim=512, heads=8, latents=Latents(input=192, mediator=768, output=64), ffn_capacity=1.0)


class Nothing(Noise):
    """Noise for fake tensors, which have no values."""

    def draw(self, kind, shape, like):
        return torch.empty(tuple(shape), dtype=like.dtype)


@pytest.mark.parametrize(
    ("config", "image_size", "classes", "batch", "gigaflops"),
    [(TINY, 64, 200, 8, (83.1, 260.5)), (IMAGENET, 224, 1000, 1, (166.8, 530.8))],
    ids=["tiny", "imagenet"],
)
def test_the_reference_does_the_work_of_the_released_code(config, image_size, classes, batch, gigaflops):
    with torch.device("meta"):
        reference = ReferenceNAC(config, image_size, classes)
    with FakeTensorMode(allow_non_fake_inputs=True):
        reference.to_empty(device="cpu")
        images, labels = torch.empty(batch, 3, image_size, image_size), torch.zeros(batch, dtype=torch.long)
        with FlopCounterMode(display=False) as evaluation, torch.no_grad():
            reference.eval()(images, Nothing())
        with FlopCounterMode(display=False) as training:
            (F.cross_entropy(reference.train()(images, Nothing()), labels) + reference.regularisation()).backward()
    assert [counter.get_total_flops() / 1e9 for counter in (evaluation, training)] == pytest.approx(gigaflops, rel=0.02)


@pytest.mark.parametrize("training", [False, True])
def test_the_reference_computes_what_the_model_computes(training):
    nac = circuit("planted_partition").train(training)
    reference = ReferenceNAC(CONFIG, 16, 5).train(training)
    reference.load_state_dict(nac.state_dict())
    with torch.no_grad():
        for model in (nac, reference):
            model.input_latents.signatures[0] = model.input_latents.signatures[1] + 0.01  # so that they repel each other
    nac.double(), reference.double()
    images, labels = IMAGES.double(), torch.tensor([1, 4])
    regularisation = circuit(None).regularisation  # repulsion, which this prior does not ask for
    regularisation.__self__.load_state_dict(nac.state_dict())
    logits, losses = [], []
    for model in (nac, reference):
        logits.append(model(images, noise(3)))
        losses.append(F.cross_entropy(logits[-1], labels))
    torch.testing.assert_close(*logits)
    torch.testing.assert_close(reference.regularisation().float(), regularisation())
    for loss in losses:
        loss.backward()
    gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
    for name, parameter in nac.named_parameters():
        if name != "output_tokenizer.confidence_scorer.bias":  # softmax is shift invariant, so that it is rounding noise
            torch.testing.assert_close(parameter.grad, gradients[name], msg=lambda text, name=name: f"{name}: {text}")
