"""The registry of data sets: what each is, where it comes from and how it is laid out."""

import re
from typing import Literal

from pydantic import Field, PositiveInt

from m2mkd.config.base import Config
from m2mkd.errors import InputError

PREPARE_FORMAT = 1
"""Version of the packed format; raising it makes every packed set, and every run on it, new."""
LARGEST_IMAGE = 4096
"""Largest side of an image in pixels; more is a slip of the hand."""


class Dataset(Config):
    """One data set of ``config/datasets.yaml``."""

    title: str
    layout: Literal[
        "digits", "digits_rendition", "tiny_imagenet", "tiny_imagenet_r", "image_folder", "imagenet_r", "cifar100", "cub", "coco"
    ]
    """How the source is laid out; names the code that prepares it."""
    classes: PositiveInt
    """Number of classes."""
    licence: str
    """Licence, or the terms under which the set may be used."""
    homepage: str | None = None
    urls: tuple[str, ...] = ()
    """Where the source files can be downloaded; none: see ``obtain``."""
    obtain: str | None = None
    """How to get the source where it cannot simply be downloaded."""
    sha256: str | None = None
    """Published or measured digest of the source file; none: nobody here has seen it."""
    md5: str | None = None
    """Published MD5 where no sha256 is published."""
    synthetic: bool = False
    """Made by image operations from another set; never to be reported as a natural one."""


class DataRef(Config):
    """A data set at an image size, written ``name@size``."""

    name: str
    image_size: int = Field(ge=1, le=LARGEST_IMAGE)
    """Side in pixels."""

    @classmethod
    def parse(cls, text: str, field: str) -> "DataRef":
        """Read ``name@size``.

        Raises
        ------
        InputError
            If ``text`` is not of that form; ``field`` says where it stands.
        """
        match = re.fullmatch(r"([a-z0-9-]+)@([1-9][0-9]{0,3})", text)
        if match is None or int(match[2]) > LARGEST_IMAGE:
            raise InputError(
                f"{field}: '{text}' is not a data set at an image size; "
                f"write it as name@pixels, at most {LARGEST_IMAGE} of them, for example digits@32"
            )
        return cls(name=match[1], image_size=int(match[2]))

    def __str__(self) -> str:
        return f"{self.name}@{self.image_size}"
