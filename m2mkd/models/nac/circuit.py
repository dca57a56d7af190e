"""Neural Attentive Circuit: latents on a learned graph between image tokens and logits (specification nac.md 1)."""

from typing import Literal

import torch
from torch import Tensor, nn

from m2mkd.config.models import NACConfig, Prior
from m2mkd.models.nac.cache import Cache
from m2mkd.models.nac.graphs import prior_signatures
from m2mkd.models.nac.kernel import DotProductKernel, cosine_distance
from m2mkd.models.nac.latents import LatentGroup, LatentSeeder
from m2mkd.models.nac.layers import LatentLayer, ReadIn
from m2mkd.models.nac.noise import Noise, perturb_codes, required
from m2mkd.models.nac.pooling import OutputLatentPooling
from m2mkd.models.nac.regularisers import Permutation, block_model, block_model_losses, signature_repulsion
from m2mkd.models.nac.tokenizer import ImageTokenizer


class NAC(nn.Module):
    """Neural Attentive Circuit.

    Parameters
    ----------
    config
        Sizes and priors.
    image_size
        Side of the images in pixels, a multiple of the tokenizer's total stride.
    num_classes
        Number of classes.
    prior
        Initial graph of the mediators' signatures; None: standard normal signatures.
    graph_seed
        Seed of the prior graph and of the fit of the signatures.
    graph_fit_cut
        Distance within which the fit brings the neighbours of the graph; None: the kernel's cut. The released code fits at
        0.8 and cuts at 0.9, which makes the graph many times denser than its prior.
    readin_ffn_layer_scale
        Initial value of LayerScale in the read-in's feed-forward layer; None: that of the circuit.
    eval_noise
        Evaluation without a ``Noise``: ``zero`` means no noise, so each call returns the same logits; ``upstream`` refuses
        it, because the released model draws states and Gumbel noise in evaluation too.
    half_distance
        Round the distances of the signatures to float16, as released, which blurs the cut.

    Raises
    ------
    InputError
        If the image size or the size of the graph does not fit.
    """

    def __init__(
        self,
        config: NACConfig,
        *,
        image_size: int,
        num_classes: int,
        prior: Prior | None,
        graph_seed: int = 0,
        graph_fit_cut: float | None = None,
        readin_ffn_layer_scale: float | None = None,
        eval_noise: Literal["zero", "upstream"] = "zero",
        half_distance: bool = False,
    ):
        super().__init__()
        self.config = config
        self.prior = prior
        self.eval_noise = eval_noise
        self.half_distance = half_distance
        latents, codes, signatures = config.latents, config.code_dim, config.signature_dim

        fitted = None
        if prior is not None:
            fitted = prior_signatures(config, prior, graph_seed, graph_fit_cut)

        self.input_tokenizer = ImageTokenizer(config.tokenizer, config.state_dim, image_size)
        self.input_latents = LatentGroup(latents.input, codes, signatures)
        self.mediator_latents = LatentGroup(latents.mediator, codes, signatures, fitted)
        self.output_latents = LatentGroup(latents.output, codes, signatures)
        self.latent_seeder = LatentSeeder(codes, config.state_dim, config.code_noise)
        self.read_in = ReadIn(config, self.input_tokenizer.width, readin_ffn_layer_scale)
        self.propagators = nn.ModuleList(
            LatentLayer(config, DotProductKernel(config.truncation, config.temperature)) for _ in range(config.iterations)
        )
        self.read_out = LatentLayer(config, DotProductKernel(), read_out=True)
        self.output_tokenizer = OutputLatentPooling(config.state_dim, num_classes)
        # Distances of the mediators and of the outputs.
        self._sender_codes, self._distance = Cache(), Cache(size=2)

    def forward(self, images: Tensor, noise: Noise | None = None) -> Tensor:
        """Classify images.

        Parameters
        ----------
        images
            (B, 3, S, S).
        noise
            Source of all random numbers: required in training. In evaluation it draws states and Gumbel noise.

        Returns
        -------
        Tensor
            Logits (B, classes).

        Raises
        ------
        ValueError
            If random numbers are needed and ``noise`` is None.
        """
        if self.training or self.eval_noise == "upstream":
            noise = required(noise)
        batch = images.shape[0]
        tokens = self.input_tokenizer(images)
        groups = self.input_latents, self.mediator_latents, self.output_latents
        inputs, mediators, outputs = (self.latent_seeder(group.codes, batch, noise) for group in groups)

        inputs = self.read_in(inputs, tokens, self._noisy(self.input_latents.codes, noise))

        both = self.input_latents.codes, self.mediator_latents.codes
        codes = self._sender_codes(lambda: torch.cat(both), *both)
        # Only the bandwidth differs between layers.
        distance = self._distance_to_senders(self.mediator_latents)
        for propagator in self.propagators:
            receiver_codes = self._noisy(self.mediator_latents.codes, noise)
            sender_codes = self._noisy(codes, noise)
            mediators = propagator(mediators, torch.cat([inputs, mediators], dim=1), receiver_codes, sender_codes, distance, noise)

        receiver_codes = self._noisy(self.output_latents.codes, noise)
        sender_codes = self._noisy(codes, noise)
        distance = self._distance_to_senders(self.output_latents)
        outputs = self.read_out(outputs, torch.cat([inputs, mediators], dim=1), receiver_codes, sender_codes, distance, noise)
        return self.output_tokenizer(outputs, noise)

    def regularisation(self, permutation: Permutation = "graph") -> Tensor:
        """Weighted regulariser of the signatures: a block model for the planted partition, repulsion for all others.

        Parameters
        ----------
        permutation
            Permutation of the mediators in the block model, see :func:`~m2mkd.models.nac.regularisers.block_model_losses`.

        Returns
        -------
        Tensor
            Scalar, to be added to the loss.

        Raises
        ------
        InputError
            If the regulariser's groups do not divide the mediators.
        """
        config, graph = self.config, self.config.graph
        if self.prior != "planted_partition":
            groups = self.input_latents, self.mediator_latents, self.output_latents
            return config.graph_weight * signature_repulsion(torch.cat([group.signatures for group in groups]), config.hinge)
        signatures = self.mediator_latents.signatures
        target = block_model(len(signatures), graph.regulariser_groups or graph.groups, graph.p_in, graph.p_out).to(signatures.device)
        distance = cosine_distance(signatures, signatures, self.half_distance)
        kernels = [module for module in self.propagators.modules() if isinstance(module, DotProductKernel)]
        return config.block_model_weight * block_model_losses((kernel.log(distance).exp() for kernel in kernels), target, permutation)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters without weight decay: codes, signatures and the positional grid."""
        no_weight_decay = "input_latents.", "mediator_latents.", "output_latents.", "input_tokenizer.positional_grid"
        return {name for name, _ in self.named_parameters() if name.startswith(no_weight_decay)}

    def _distance_to_senders(self, receivers: LatentGroup) -> Tensor:
        """Distances (U, V) of the receivers' signatures to those of inputs and mediators."""
        rows, columns = receivers.signatures, (self.input_latents.signatures, self.mediator_latents.signatures)
        return self._distance(lambda: cosine_distance(rows, torch.cat(columns), self.half_distance), rows, *columns)

    def _noisy(self, codes: Tensor, noise: Noise | None) -> Tensor:
        return perturb_codes(codes, self.config.code_noise, required(noise)) if self.training else codes
