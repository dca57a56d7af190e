"""Published dense peaks of GPUs: half of the figure if a data sheet gives it with 2:4 sparsity."""

import difflib
from dataclasses import dataclass

from m2mkd.errors import InputError


@dataclass(frozen=True)
class GPU:
    """Type of GPU."""

    title: str
    half: float
    """TFLOP/s of bf16 and fp16 matrix products, accumulated in fp32."""
    tf32: float
    fp32: float
    """TFLOP/s outside of the tensor cores."""
    memory: float
    """GB."""
    source: str

    def peak(self, precision: str) -> float:
        """FLOP/s in a recipe's precision."""
        return 1e12 * {"bf16": self.half, "fp16": self.half, "tf32": self.tf32, "fp32": self.fp32}[precision]


GPUS = {
    "a100": GPU("A100 80 GB SXM", 312, 156, 19.5, 80, "NVIDIA A100 80GB data sheet (June 2021)"),
    "h100": GPU("H100 SXM", 989.4, 494.7, 66.9, 80, "NVIDIA H100 Tensor Core GPU Architecture, white paper, table of peak rates"),
    "h100-pcie": GPU("H100 PCIe", 756.5, 378, 51.2, 80, "NVIDIA H100 data sheet, half of 1,513 and 756; fp32: white paper"),
    "h200": GPU("H200 SXM", 989.4, 494.7, 66.9, 141, "NVIDIA H200 data sheet; the die is that of the H100"),
    "l40s": GPU("L40S", 362.05, 183, 91.6, 48, "NVIDIA L40S data sheet"),
    "b200": GPU("B200 (HGX)", 2250, 1100, 75, 180, "NVIDIA HGX B200 specifications, half of 4.5 and 2.2 PFLOP/s"),
}


def gpu_named(name: str) -> GPU:
    """GPU of the given name.

    Raises
    ------
    InputError
        If the name is not in the table.
    """
    if name not in GPUS:
        close = difflib.get_close_matches(name, GPUS, n=1)
        raise InputError(f"--gpu {name}: not in the table of peaks; {f'did you mean {close[0]}? ' if close else ''}use {', '.join(GPUS)}")
    return GPUS[name]
