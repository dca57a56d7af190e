"""Which images of which classes a data set holds, before any of them is read."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from m2mkd.data.archives import Archive, ArchiveMember
from m2mkd.data.lists import is_image
from m2mkd.errors import InputError


@dataclass
class Listing:
    """The images of one split, in order."""

    members: list[ArchiveMember] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    renditions: list[str] = field(default_factory=list)
    """Of each image, where the set tells them apart; else empty."""

    def add(self, member: ArchiveMember, label: int) -> None:
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
        if name not in placed and is_image(name) and not spared(name):
            raise InputError(f"{archive.path}: {name} is an image, but not in {where}; put it there, or remove it from the archive")


def require_every_class(archive: Archive, contents: Contents) -> Contents:
    """Refuse a split without images, and a class without images in a split; gives the contents back.

    Raises
    ------
    InputError
        If there is one.
    """
    for split, listing in contents.splits.items():
        if missing := sorted(set(range(len(contents.classes))) - set(listing.labels)):
            name = contents.classes[missing[0]] if contents.classes else "any"
            raise InputError(f"{archive.path}: class {name} has no image in {split}; fetch the whole archive")
        if not listing.members:
            raise InputError(f"{archive.path}: no image in {split}; fetch the archive of the right data set")
    return contents
