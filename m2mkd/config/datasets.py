"""The registry of data sets: description, source and layout of each."""

import re
from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from m2mkd.config.base import Config
from m2mkd.errors import InputError

PREPARE_FORMAT = 2
"""Version of the packed format; raising it makes every packed set, and every run on it, new."""
LARGEST_IMAGE = 4096
"""Largest side of an image in pixels; a larger number is a typo."""
LARGEST_MADE = 512
"""Largest side of images that are made here from a few pixels and kept as pixels: the digits take 90 GB at the size above."""


Layout = Literal[
    "digits",
    "digits_rendition",
    "digits_scenes",
    "tiny_imagenet",
    "tiny_imagenet_r",
    "tiny_imagenet_rendition",
    "image_folder",
    "imagenet",
    "imagenet_r",
    "cifar100",
    "cub",
    "parquet",
    "coco",
]
SplitName = Literal["train", "val"]


class SourceFile(Config):
    """Source file that a data set is prepared from."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    """Name in ``data/raw``."""
    url: str | None = None
    """Address of the download; none: see the set's ``obtain``."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Published or measured digest; none: unknown."""
    md5: str | None = Field(None, pattern="^[0-9a-f]{32}$")
    """Published or measured MD5."""
    bytes: PositiveInt | None = None
    """Approximate size in bytes, shown to people; a download that is a twentieth longer is stopped."""

    split: SplitName | None = None
    """Split of the rows of a Parquet file; none: taken from its name, as in ``train-00000-of-00002.parquet``."""

    @property
    def identity(self) -> str:
        """Identity of this version of the file, as far as it is known."""
        found = self.sha256 or self.md5 or self.url or self.name
        return f"{found} as {self.split}" if self.split else found


class Subset(Config):
    """Declares a data set to be a part of its source files, the same from each of several sources."""

    images: str = Field(pattern=r"^[A-Za-z0-9._-][A-Za-z0-9._/-]*$")
    """File that lists its images by class and split, relative to the root (`m2mkd.data.subsets`)."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Digest of the names and the content of its images, which every source must match."""
    packs: tuple[SourceFile, ...] = ()
    """Files that also hold its images; each can be used instead of the source files."""


class DatasetConfig(Config):
    """Data set of ``config/datasets.yaml``."""

    title: str
    layout: Layout
    """Layout of the source; names the code that prepares it."""
    classes: PositiveInt
    """Number of classes."""
    train_images: PositiveInt | None = None
    """Images of the training split; none: the set has no such split."""
    val_images: PositiveInt | None = None
    """Images of the validation split; costs are planned from it and ``train_images``."""
    encoded_bytes: PositiveInt | None = None
    """Approximate size of all images as files, the form in which large images are packed; none: planned as pixels."""
    licence: str
    """Licence, or the terms under which the set may be used."""
    homepage: str | None = None
    files: tuple[SourceFile, ...] = ()
    """Source files; none: see ``obtain``."""
    obtain: str | None = None
    """Instructions for a source that cannot simply be downloaded."""
    synthetic: bool = False
    """Made by image operations from another set; never to be reported as a natural one."""
    subset: Subset | None = None
    """Subset of the images in its source files; none: all of them."""

    @model_validator(mode="after")
    def _has_parts(self) -> Self:
        if self.subset and (self.made_here or self.layout == "coco"):
            raise ValueError(f"a set of layout '{self.layout}' has no subset; remove the field subset")
        return self

    @property
    def sources(self) -> tuple[tuple[SourceFile, ...], ...]:
        """Sources that the set can be prepared from: its source files, or for a subset one of the packs."""
        packs = self.subset.packs if self.subset else ()
        return (self.files, *((pack,) for pack in packs))

    @property
    def identity(self) -> list[str]:
        """Identity of its images: the source files as far as they are known; for a subset, the images themselves."""
        return [self.subset.sha256] if self.subset else [file.identity for file in self.files]

    @property
    def fetched(self) -> tuple[SourceFile, ...]:
        """Source files needed in ``data/raw``; the digits come with a package."""
        return () if self.made_here else self.files

    @property
    def made_here(self) -> bool:
        """True if its images are made by this project."""
        return self.layout.startswith("digits")

    def require_size(self, ref: "DataRef", field: str) -> None:
        """Refuse an image size that is too large.

        Raises
        ------
        InputError
            If images that are made here would be larger than allowed; ``field`` names the place of the set's name.
        """
        if self.made_here and ref.image_size > LARGEST_MADE:
            raise InputError(f"{field}: the images of '{ref}' are made here, at most {LARGEST_MADE} pixels large; write {ref.name}@32")


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
            If ``text`` is not of that form; ``field`` names its place.
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
