"""Arithmetic, parameters and activations of a detector, part by part (specification detection.md 3 and 5).

Only matrix products and convolutions count. Activations are those under autocast with compiled operators, which keep the boxes that
they pool and not the products. ``released`` counts as the source does; ``model`` adds what this suite's attention computes to pass
relative positions through a fused kernel.
"""

from functools import reduce
from operator import add

from m2mkd.config.detection import BOX_BINS, MASK_BINS, DetectorConfig, DetectorSwitches
from m2mkd.planning import transformer
from m2mkd.planning.circuit import Count
from m2mkd.planning.layer_cost import LayerCost, Tensors


def backbone(config: DetectorConfig, switches: DetectorSwitches, count: Count) -> LayerCost:
    """V-MoE without class token, final norm and head, on a square image."""
    vit, side = config.backbone, config.image_size // config.backbone.patch_size
    rows = side**2 if switches.detection_init == "none" else (config.pretrain_size // vit.patch_size) ** 2 + 1
    pixels = 3 * vit.patch_size**2
    embedding = LayerCost(
        macs=side**2 * pixels * vit.width,
        parameters=(pixels + 1 + rows) * vit.width,
        saved=Tensors(3 * config.image_size**2),
    )
    everywhere = switches.detection_attention == "global"
    return embedding + reduce(
        add,
        (
            _block(config, None if everywhere or position in config.global_positions else config.window_size, position, everywhere, count)
            for position in range(sum(vit.depths))
        ),
    )


def _block(config: DetectorConfig, window: int | None, position: int, everywhere: bool, count: Count) -> LayerCost:
    """Block as in `transformer.block`, except that attention may use windows, padded to full size."""
    vit, side = config.backbone, config.image_size // config.backbone.patch_size
    tokens, width = side**2, vit.width
    moe = position in vit.moe_positions
    whole = transformer.block(vit, tokens, moe=moe)
    padded = tokens if window is None else (-(-side // window) * window) ** 2
    seen = tokens if window is None else window**2
    more = padded - tokens
    attention = 4 * more * width**2 + 2 * (padded * seen - tokens**2) * width
    cost = whole + LayerCost(macs=attention, saved=Tensors(5 * more * width, more * vit.heads))
    if everywhere or not config.relative_positions:
        return cost
    reach = window or side
    scores = 2 * padded * reach * width
    carried = 2 * padded * reach * seen * vit.heads if count == "model" else 0
    # Queries and keys have one more channel for each row and each column that they attend to.
    kept = Tensors(4 * padded * reach * vit.heads)
    return cost + LayerCost(macs=scores + carried, parameters=2 * (2 * reach - 1) * (width // vit.heads), saved=kept)


def pyramid(config: DetectorConfig) -> LayerCost:
    """Four levels from the backbone's map; the fifth is every second position of the last."""
    width, places = config.backbone.width, (config.image_size // config.backbone.patch_size) ** 2
    half, quarter = width // 2, width // 4
    finest = _doubling(places, width, half) + _norm(4 * places, half, activation=True) + _doubling(4 * places, half, quarter)
    levels = (finest, 16 * places, quarter), (_doubling(places, width, half), 4 * places, half), (LayerCost(), places, width)
    pooled = LayerCost(saved=Tensors(places * width // 4)), places // 4, width
    return reduce(add, (resampled + _tail(count, inner, config.channels) for resampled, count, inner in (*levels, pooled)))


def _doubling(places: int, inputs: int, outputs: int) -> LayerCost:
    return LayerCost(
        macs=4 * places * inputs * outputs,
        parameters=(4 * inputs + 1) * outputs,
        saved=Tensors(places * inputs),
        live=Tensors(places * inputs),
    )


def _norm(places: int, channels: int, *, activation: bool = False) -> LayerCost:
    """Norm over the channels; an activation after it keeps its output."""
    return LayerCost(parameters=2 * channels, saved=Tensors(full=places * (channels * (2 if activation else 1) + 2)))


def _convolution(places: int, inputs: int, outputs: int, kernel: int, *, bias: bool) -> LayerCost:
    weights = inputs * outputs * kernel**2
    both = places * (inputs + outputs)
    return LayerCost(macs=places * weights, parameters=weights + bias * outputs, saved=Tensors(places * inputs), live=Tensors(both, both))


def _tail(places: int, inputs: int, channels: int) -> LayerCost:
    first = _convolution(places, inputs, channels, 1, bias=False) + _norm(places, channels)
    return first + _convolution(places, channels, channels, 3, bias=False) + _norm(places, channels)


def proposals(config: DetectorConfig) -> LayerCost:
    """Region proposal network, whose head all levels share."""
    channels, anchors = config.channels, len(config.anchor_sizes[0]) * len(config.anchor_ratios)
    sides = [config.image_size // stride for stride in config.strides[:-1]]
    places = sum(side**2 for side in [*sides, -(-sides[-1] // 2)])
    # The output of an activation is the input of the next convolution.
    convs = [_convolution(places, channels, channels, 3, bias=True)] * config.rpn_convs
    # Logits and deltas have the same input.
    return reduce(add, convs) + _convolution(places, channels, 5 * anchors, 1, bias=True)


def box_head(config: DetectorConfig, classes: int, regions: int) -> LayerCost:
    """Classes and boxes of ``regions`` regions of an image."""
    channels, width, places = config.channels, config.box_width, regions * BOX_BINS**2
    flat = channels * BOX_BINS**2
    linear = LayerCost(
        macs=regions * (flat * width + width * (5 * classes + 1)),
        parameters=(flat + 1) * width + (width + 1) * (5 * classes + 1),
        saved=Tensors(regions * (flat + 2 * width), regions * (classes + 1)),
    )
    return _convolutions(config.box_convs, places, channels) + linear


def mask_head(config: DetectorConfig, classes: int, regions: int) -> LayerCost:
    """Masks of ``regions`` regions of an image, one for each class."""
    channels, places = config.channels, regions * MASK_BINS**2
    upsampled = _doubling(places, channels, channels)
    masks = _convolution(4 * places, channels, classes, 1, bias=True)
    chosen = Tensors(full=2 * 4 * places)
    return _convolutions(config.mask_convs, places, channels) + upsampled + masks + LayerCost(saved=chosen)


def _convolutions(number: int, places: int, channels: int) -> LayerCost:
    one = _convolution(places, channels, channels, 3, bias=False) + _norm(places, channels, activation=True)
    return reduce(add, [one] * number, LayerCost())


def parts(
    config: DetectorConfig, classes: int, switches: DetectorSwitches, *, regions: int, masks: int, count: Count
) -> dict[str, LayerCost]:
    """Parts of a detector by name, for one image with the given numbers of regions and masks."""
    return {
        "backbone": backbone(config, switches, count),
        "pyramid": pyramid(config),
        "proposals": proposals(config),
        "box head": box_head(config, classes, regions),
        "mask head": mask_head(config, classes, masks),
    }


def trained_parts(config: DetectorConfig, classes: int, switches: DetectorSwitches, count: Count) -> dict[str, LayerCost]:
    """Parts of a detector in training, with the largest number of foreground samples."""
    return parts(config, classes, switches, regions=config.region_samples, masks=config.region_samples // 4, count=count)


def measured_parts(config: DetectorConfig, classes: int, switches: DetectorSwitches, count: Count) -> dict[str, LayerCost]:
    """Parts of a detector in evaluation, with the largest number of proposals and detections."""
    return parts(config, classes, switches, regions=config.test_proposals.after_nms, masks=config.detections, count=count)
