"""Contents of a data set: its images and classes, before any image is read."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from m2mkd.data.archives import Archive
from m2mkd.data.lists import has_image_name
from m2mkd.errors import InputError


class Member(Protocol):
    """Image of a data set, not read yet: small, so that it can be passed to another process."""

    @property
    def archive(self) -> Path:
        """Path of the containing file, for messages."""

    @property
    def name(self) -> str:
        """Name in the containing file."""

    def read(self) -> bytes:
        """Content of the image file; raises `InputError` if it is damaged."""


@dataclass
class Listing:
    """Images of one split, in order."""

    members: list[Member] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    renditions: list[str] = field(default_factory=list)
    """Rendition of each image if the set labels them; else empty."""

    def add(self, member: Member, label: int) -> None:
        self.members.append(member)
        self.labels.append(label)


@dataclass(frozen=True)
class Contents:
    """Classes and splits of a data set."""

    classes: tuple[str, ...]
    """Names in the order of the labels: WordNet ids if available, because sets have these in common."""
    splits: Mapping[str, Listing]
    squashed: bool = False
    """True if each image is first resized to a square, without keeping its aspect ratio."""
    rendered: bool = False
    """True if it is measured on renditions of these photographs."""


def refuse_unplaced(archive: Archive, listings: Iterable[Listing], where: str, spared: Callable[[str], bool] = lambda name: False) -> None:
    """Refuse an archive with an image that would silently be left out.

    Parameters
    ----------
    archive, listings
        Archive, and the listings of the images that are used.
    where
        Expected location of images, for the message.
    spared
        Returns True for an image that is left out on purpose.

    Raises
    ------
    InputError
        If there is such an image.
    """
    placed = {member.name for listing in listings for member in listing.members}
    for name in archive.members:
        if name not in placed and has_image_name(name) and not spared(name):
            raise InputError(f"{archive.path}: {name} is an image, but not in {where}; put it there, or remove it from the archive")


def require_every_class(path: Path, contents: Contents) -> Contents:
    """Refuse a split without images, and a class without images in a split; return the contents.

    Raises
    ------
    InputError
        If there is such a split or class.
    """
    for split, listing in contents.splits.items():
        if missing := sorted(set(range(len(contents.classes))) - set(listing.labels)):
            name = contents.classes[missing[0]] if contents.classes else "any"
            raise InputError(f"{path}: class {name} has no image in {split}; fetch the whole archive")
        if not listing.members:
            raise InputError(f"{path}: no image in {split}; fetch the archive of the right data set")
    return contents
