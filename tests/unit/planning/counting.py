"""What torch counts of a network: products, parameters, and bytes that are kept for the backward pass."""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def counted(forward: Callable[[], object]) -> int:
    """FLOPs that torch counts; attention by plain products, because the counter does not know the CPU's fused one."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        forward()
    return counter.get_total_flops()


def parameters_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def saved_bytes(network: nn.Module, forward: Callable[[], Tensor], images: int, half: bool) -> float:
    """Bytes that one image leaves behind for the backward pass, weights and their copies aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    shapes = {tuple(parameter.shape) for parameter in network.parameters()}
    shapes |= {shape[::-1] for shape in shapes}
    kept: dict[int, tuple[object, int]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tuple(tensor.shape) not in shapes:
            kept[storage.data_ptr()] = (storage, storage.nbytes())
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        forward().sum()
    return sum(size for _, size in kept.values()) / images
