"""Handwritten digits that come with scikit-learn, at any size."""

import hashlib
import importlib.util
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from m2mkd.config.datasets import DatasetConfig
from m2mkd.data.pack import stratified_share
from m2mkd.data.packing import Content, SplitSource
from m2mkd.errors import InputError

CLASSES = tuple("0123456789")
SOURCE_SIDE = 8
TRAIN_SHARE = 0.8


def prepare_digits(name: str, dataset: DatasetConfig, image_size: int) -> Content:
    """Prepare the digits as RGB images, with a fixed split stratified by class (80 % to train).

    Raises
    ------
    InputError
        If the source is missing or differs from the registered file.
    """
    images, labels, source = read_digits(name, dataset)
    train, val = split_digits(labels)
    splits = {
        split: SplitSource(partial(_enlarged, images, chosen, image_size), labels[chosen], {"source": chosen})
        for split, chosen in (("train", train), ("val", val))
    }
    return Content(CLASSES, splits, source)


def read_digits(name: str, dataset: DatasetConfig) -> tuple[NDArray[np.uint8], NDArray[np.int64], dict[str, str]]:
    """Source images (1797, 8, 8), grey from 0 to 255, their labels (1797,), and their origin."""
    path = _source_file(name)
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); install scikit-learn again") from error
    (registered,) = dataset.files
    if registered.sha256 not in (None, sha256):
        expected = f"config/datasets.yaml expects {registered.sha256} for {name}"
        raise InputError(f"{path}: sha256 is {sha256}, but {expected}; install scikit-learn again")
    table = np.loadtxt(path, delimiter=",")
    grey = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8)
    provenance = {"file": f"scikit-learn: datasets/data/{path.name}", "sha256": sha256}
    return grey.reshape(-1, SOURCE_SIDE, SOURCE_SIDE), table[:, -1].astype(np.int64), provenance


def split_digits(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the training and of the validation images, the same at every image size."""
    train = stratified_share(labels, TRAIN_SHARE, ("data", "digits", "split"))
    return train, np.setdiff1d(np.arange(len(labels)), train)


def enlarged(grey: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Grey image (8, 8) as RGB (side, side, 3), bicubic."""
    return np.asarray(Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC).convert("RGB"))


def _enlarged(images: NDArray[np.uint8], chosen: NDArray[np.int64], side: int, start: int) -> Iterator[NDArray[np.uint8]]:
    return (enlarged(images[index], side) for index in chosen[start:])


def _source_file(name: str) -> Path:
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise InputError(f"{name}: scikit-learn, which contains the digits, is not installed; install the extra 'pipeline'")
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
