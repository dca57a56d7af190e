"""The registry of data sets: description, source and layout of each."""

import re
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import Field, PositiveInt, model_validator

from m2mkd.config.base import Config
from m2mkd.config.layout import LAYOUT_GROUP, Layout, SplitName, kind_of, layout_from, layout_schema
from m2mkd.errors import InputError
from m2mkd.plugins import find_plugin

PREPARE_FORMAT = 2
"""Version of the packed format; raising it makes every packed set, and every run on it, new."""
LARGEST_IMAGE = 4096
"""Largest side of an image in pixels; a larger number is a typo."""
LARGEST_MADE = 512
"""Largest side of images that are made here from a few pixels and kept as pixels: the digits take 90 GB at the size above."""


class _LayoutSchema:
    """JSON schema of the field ``layout``, made when it is asked for."""

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: Any) -> dict[str, Any]:
        return layout_schema()


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
    """Data set of ``config/datasets.yaml``, or of the project's own ``config/own-datasets.yaml``."""

    title: str = ""
    layout: Annotated[str | dict[str, Any], _LayoutSchema()]
    """Layout of the source, by its name, or as a mapping of ``kind`` and parameters; names the code that reads it."""
    path: str | None = None
    """Folder or file that the set is read from in place, instead of source files in ``data/raw``."""
    content: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Digest of splits, classes and images of a set with a ``path``; it identifies the set, whatever container holds the images."""
    classes: PositiveInt
    """Number of classes."""
    train_images: PositiveInt | None = None
    """Images of the training split; none: the set has no such split."""
    val_images: PositiveInt | None = None
    """Images of the validation split; costs are planned from it and ``train_images``."""
    encoded_bytes: PositiveInt | None = None
    """Approximate size of all images as files, the form in which large images are packed; none: planned as pixels."""
    licence: str = "not stated"
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
        try:
            ours = find_plugin(LAYOUT_GROUP, kind_of(self.layout)).is_ours
            # That of another package is loaded where the set is used, so that a broken one harms no other set.
            layout = self.reader if ours else None
        except InputError as error:
            raise ValueError(f"layout: {error}") from None
        if self.path is not None and not self.content:
            raise ValueError("content is missing; run 'm2mkd data add NAME PATH', which gives it")
        if self.path is not None and (self.files or self.subset or (layout and not layout.IN_PLACE)):
            raise ValueError(f"a set of layout '{self.kind}' has no path beside files and subset; remove one of them")
        if self.path is None and (self.content or layout is None or layout.SOURCES == ()):
            raise ValueError(f"a set of layout '{self.kind}' with a content has a path; give the folder or file that it lies in")
        if self.subset and layout and not layout.HAS_SUBSETS:
            raise ValueError(f"a set of layout '{self.kind}' has no subset; remove the field subset")
        return self

    @property
    def kind(self) -> str:
        """Kind of its layout."""
        return self.layout if isinstance(self.layout, str) else str(self.layout["kind"])

    @cached_property
    def reader(self) -> Layout:
        """Its layout.

        Raises
        ------
        InputError
            If it is of another package and cannot be loaded.
        """
        return layout_from(self.layout)

    @property
    def layout_identity(self) -> Any:
        """What its key has of its layout: a set that is known by its content is the same from every container that we read."""
        return "content" if self.content and find_plugin(LAYOUT_GROUP, self.kind).is_ours else self.reader.stored

    @property
    def sources(self) -> tuple[tuple[SourceFile, ...], ...]:
        """Sources that the set can be prepared from: its source files, or for a subset one of the packs."""
        packs = self.subset.packs if self.subset else ()
        return (self.files, *((pack,) for pack in packs))

    @property
    def identity(self) -> list[str]:
        """Identity of its images: the source files as far as they are known; for a subset or a set with a path, the images themselves."""
        if self.content:
            return [self.content]
        return [self.subset.sha256] if self.subset else [file.identity for file in self.files]

    @property
    def fetched(self) -> tuple[SourceFile, ...]:
        """Source files needed in ``data/raw``; the digits come with a package."""
        return () if self.made_here else self.files

    @property
    def made_here(self) -> bool:
        """True if its images are made by this project."""
        return find_plugin(LAYOUT_GROUP, self.kind).is_ours and self.reader.MADE_HERE

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
