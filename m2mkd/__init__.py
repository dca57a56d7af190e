"""Reproducibility suite for m2mKD (arXiv 2402.16918)."""

from m2mkd import torchvision_cpu

__version__ = "0.1.0"

torchvision_cpu.install()
