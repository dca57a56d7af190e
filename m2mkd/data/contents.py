"""Which images of which classes a data set holds, before any of them is read."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from m2mkd.data.archives import Archive
from m2mkd.data.lists import has_image_name
from m2mkd.errors import InputError


class Member(Protocol):
    """One image of a data set, not read yet: small, so that it can be handed to another process."""

    @property
    def archive(self) -> Path:
        """The file that holds it, for messages."""

    @property
    def name(self) -> str:
        """Its name there."""

    def read(self) -> bytes:
        """Its content; raises `InputError` if it is damaged."""


@dataclass
class Listing:
    """The images of one split, in order."""

    members: list[Member] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    renditions: list[str] = field(default_factory=list)
    """Of each image, where the set tells them apart; else empty."""

    def add(self, member: Member, label: int) -> None:
        self.members.append(member)
        self.labels.append(label)


@dataclass(frozen=True)
class Contents:
    """Classes and splits of a data set."""

    classes: tuple[str, ...]
    """Names in the order of the labels: WordNet ids where there are any, for they are what sets have in common."""
    splits: Mapping[str, Listing]
    squashed: bool = False
    """Whether each image is first resized to a square, its aspect not kept."""
    rendered: bool = False
    """Whether what it is measured on are renditions of these photographs."""


def refuse_unplaced(archive: Archive, listings: Iterable[Listing], where: str, spared: Callable[[str], bool] = lambda name: False) -> None:
    """Refuse an archive that holds an image which would be left out without a word.

    Parameters
    ----------
    archive, listings
        What is in it, and what of that is taken.
    where
        Where images are looked for; for the message.
    spared
        Whether an image is left out on purpose.

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
    """Refuse a split without images, and a class without images in a split; gives the contents back.

    Raises
    ------
    InputError
        If there is one.
    """
    for split, listing in contents.splits.items():
        if missing := sorted(set(range(len(contents.classes))) - set(listing.labels)):
            name = contents.classes[missing[0]] if contents.classes else "any"
            raise InputError(f"{path}: class {name} has no image in {split}; fetch the whole archive")
        if not listing.members:
            raise InputError(f"{path}: no image in {split}; fetch the archive of the right data set")
    return contents
