"""A circuit of few and narrow layers, the images it reads, and noise for it."""

import torch

from m2mkd.config.models import GraphPriors, Latents, NACConfig, TokenizerConfig
from m2mkd.models.nac.circuit import NAC
from m2mkd.models.nac.noise import Noise

MEDIATORS = 8
CONFIG = NACConfig(
    state_dim=16,
    code_dim=8,
    signature_dim=8,
    heads=2,
    head_dim=6,
    latents=Latents(input=4, mediator=MEDIATORS, output=3),
    iterations=2,
    layer_scale=1.0,
    tokenizer=TokenizerConfig(depths=(1, 1), stem_stride=2, grid_dim=4),
    graph=GraphPriors(groups=2, fit_steps=300),
)
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def circuit(prior="scale_free", seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NAC(CONFIG, image_size=16, num_classes=5, prior=prior, **options)


def noise(seed=0):
    return Noise.from_generator(torch.Generator().manual_seed(seed))
