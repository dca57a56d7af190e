"""Released third-party checkpoints: the NAC, V-MoE and detector of m2mKD, and the staged ViTs of Deep Incubation."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def load(kind: str, state_dict: Mapping[str, Any], config: Mapping[str, Any], *, ema: bool = False) -> "nn.Module":
    """Load released weights into a network or module of this package.

    Parameters
    ----------
    kind
        ``nac``: whole Neural Attentive Circuit. ``nac_readin``, ``nac_mediator``, ``nac_readout``: one of its modules as it was
        distilled, with its stitch layers. ``vit``: teacher, meta model or Deep Incubation's vit_base, vit_large, vit_huge, or
        one of their stages. ``vmoe``: whole V-MoE. ``vmoe_module``: one of its modules as it was distilled.
        ``vmoe_detector``: Mask R-CNN on a V-MoE.
    state_dict
        Released tensors by their released names; the content of a whole training checkpoint, or of a split teacher's file, is accepted
        too.
    config
        ``nac``: keyword arguments of the released model, or the YAML around them. ``nac_*``: the released student
        configuration, or its ``share_kwargs`` merged with the module's section; ``stitch_dim`` if the file does not determine it.
        Others: constructor arguments ``img_size``, ``patch_size``, ``num_classes``, ``embed_dim``, ``num_heads``,
        ``mlp_ratio``, ``qkv_bias``, ``ln_eps`` or ``norm_eps``, ``divided_depths``, or ``model_name`` for the sizes of a
        released model; ``stage`` for one stage of a ViT; ``num_expert``, ``top_k``, ``moe_pos``, ``pre_stitch_pos``,
        ``post_stitch_pos``, ``stitch_dim`` and ``idx`` for a V-MoE or its module. ``vmoe_detector``: those of its backbone under
        ``net``, and ``num_classes``, ``square_pad``, ``out_channels``, ``anchor_sizes``, ``rpn_batch``, ``roi_batch``,
        ``pre_nms_topk``, ``post_nms_topk``, ``fc_dim``, ``detections``, each as published unless given; ``kind: vitdet`` for
        ViTDet's ViT as backbone. Keys that only training uses are accepted; unknown keys are refused.
    ema
        Take the moving average of the weights, if ``state_dict`` is a training checkpoint that has one; if it has both, a warning says
        which weights were taken.

    Returns
    -------
    torch.nn.Module
        In evaluation mode, on the CPU. A detector is a :class:`~m2mkd.detection.detector.Detector`, with the defects that are
        part of the released network: ``losses(images, targets, sampler)`` and ``predict(images)`` take lists of images. A
        whole network maps images (B, 3, S, S) to logits (B, classes), deterministically; a module maps its input, images or
        tokens, to its output. ViT and V-MoE have ``stages``. A module of a NAC computes with its buffers ``codes`` (n, K) and
        ``states`` (n, 1, D), where n is 1 or the batch size. The released files do not contain them: give them in
        ``state_dict`` or ``config`` under these names, or set them on the module; otherwise they are one fixed random draw.

    Raises
    ------
    InputError
        If the kind or a key of the configuration is unknown, or a tensor is missing, left over or of another shape.
    """
    from m2mkd.upstream import network
    from m2mkd.upstream.contents import unpack

    checkpoint = unpack(state_dict, ema=ema)
    if checkpoint.choice:
        warnings.warn(f"checkpoint: {checkpoint.choice}; ema={not ema} takes the other", stacklevel=2)
    description, state = network.adapt(kind, checkpoint, config, where="config", what=f"{kind} checkpoint")
    return network.build_with_state(description, state)
