"""Images that people have: the place, class and split of each, in one order that follows from the images alone.

The same images give the same set from a folder, a table of paths, or any other container: what identifies a set is the digest of its
splits, classes and images, and images are ordered by their own digests. Names of files are not part of a set.
"""

import hashlib
import re
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from m2mkd.config.layout import Layout
from m2mkd.data.archive_checks import LONGEST_NAME
from m2mkd.data.contents import Contents, Listing, Member
from m2mkd.errors import InputError

SplitWord = Literal["train", "val", "test", ""]
"""Split as its source says it; empty: it does not."""
SPLITS_IN_WORDS: dict[str, SplitWord] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SHARE_FIX = "give the share of the images to measure, val_share: 0.2"


class FoundImage(NamedTuple):
    """Image of a data set, not read yet: small, so that it can be passed to another process."""

    class_name: str
    split: SplitWord
    member: Member


class ImageLayout(Layout):
    """Base of layouts that are read in place, from the ``path`` of a set: those of people's own images, and those of other packages.

    A subclass lists the images; splits, classes, order and digest follow here, the same for all of them.
    """

    IN_PLACE: ClassVar[bool] = True
    SOURCES: ClassVar[tuple[int, ...] | None] = ()
    val_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of each class that is measured; the rest is trained on. Only for images without a split of their own, or all of ``train``."""
    val_from: Literal["val", "test"] | None = None
    """Split that is measured, where there are both; the other one is left out."""

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """True if a folder or file looks as if it had this layout; nothing is read but names."""
        return False

    @abstractmethod
    def images(self, path: Path, scratch: Path) -> Iterator[FoundImage]:
        """Images in a folder or file; ``scratch`` is a folder for decompressed archives.

        It runs in a process that is bounded in memory and time. Each member's ``read`` gives the file of an image, in another process.

        Raises
        ------
        InputError
            If something is wrong in it; in one line.
        """

    def leaves_out(self, split: SplitWord) -> bool:
        """True if images of that split are not part of the set."""
        return self.val_from is not None and split not in ("train", "", self.val_from)


class Arranged(NamedTuple):
    """A data set in the order of its images' digests."""

    contents: Contents
    digests: dict[str, list[bytes]]
    """sha256 of each image of each split, 32 bytes."""

    @property
    def digest(self) -> str:
        """sha256 of a line ``split class sha256`` for each image in order, separated by tabs."""
        total = hashlib.sha256()
        for split, listing in self.contents.splits.items():
            for label, sha256 in zip(listing.labels, self.digests[split], strict=True):
                total.update(f"{split}\t{self.contents.classes[label]}\t{sha256.hex()}\n".encode())
        return total.hexdigest()

    def doubts(self) -> Iterator[str]:
        """Faults that the images probably have, one line each."""
        homes: dict[bytes, set[tuple[str, int]]] = defaultdict(set)
        for split, listing in self.contents.splits.items():
            for label, sha256 in zip(listing.labels, self.digests[split], strict=True):
                homes[sha256].add((split, label))
        leaked = sum(len({split for split, _ in found}) > 1 for found in homes.values())
        torn = sum(len({label for _, label in found}) > 1 for found in homes.values())
        twice = sum(map(len, self.digests.values())) - sum(map(len, homes.values()))
        for count, what in ((leaked, "are in train and in val"), (torn, "are in several classes"), (twice, "repeat one of their class")):
            if count:
                yield f"{count} images {what}, to the byte"


def split_word(name: PurePath) -> SplitWord:
    """Split that the words of a path say, as ``train/000.tar`` and ``train-00000-of-00002.parquet``; empty if none does.

    Raises
    ------
    InputError
        If they say two.
    """
    found = {SPLITS_IN_WORDS[word] for word in re.split("[^a-z]+", name.as_posix().lower()) if word in SPLITS_IN_WORDS}
    if len(found) > 1:
        raise InputError(f"{name}: its name says {' and '.join(sorted(found))}; rename it, so that it says one split")
    return found.pop() if found else ""


def word_of(text: str) -> SplitWord | None:
    """Split that one word names; None if it names none."""
    return SPLITS_IN_WORDS.get(text.strip().lower())


def arranged(layout: ImageLayout, path: Path, found: Sequence[FoundImage], digests: Sequence[bytes]) -> Arranged:
    """Order images by their digests, and divide them.

    Parameters
    ----------
    layout, path
        Layout that listed the images, and where.
    found, digests
        The images, and sha256 of each, 32 bytes.

    Raises
    ------
    InputError
        If there is one class only, a split is missing or ambiguous, or a class has no image in one.
    """
    images = list(zip(found, digests, strict=True))
    names = {one.class_name for one, _ in images}
    if wrong := next((name for name in sorted(names) if not name or len(name) > LONGEST_NAME or re.search(r"[\x00-\x1f]", name)), None):
        raise InputError(f"{path}: {wrong[:40]!r} cannot be the name of a class; give it a shorter one, without tabs and line breaks")
    if len(names) < 2:
        raise InputError(f"{path}: holds images of {len(names)} class{'es' * (not names)}, but two are needed to tell apart; add others")
    classes = tuple(sorted(names, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name)))
    labels = {name: label for label, name in enumerate(classes)}
    held_out = _held_out(layout, path, images)
    splits: dict[str, Listing] = {}
    ordered: dict[str, list[bytes]] = {}
    by_digest = sorted(images, key=lambda one: (one[1], labels[one[0].class_name]))
    for split in ("train", "val"):
        chosen = [(one, sha256) for one, sha256 in by_digest if held_out(one, sha256) == (split == "val")]
        if chosen:
            splits[split] = Listing([one.member for one, _ in chosen], [labels[one.class_name] for one, _ in chosen])
            ordered[split] = [sha256 for _, sha256 in chosen]
    for split, listing in splits.items():
        if missing := sorted(set(range(len(classes))) - set(listing.labels)):
            raise InputError(f"{path}: class {classes[missing[0]]} has no image in {split}; put one there, or remove the class")
    return Arranged(Contents(classes, splits), ordered)


class _HeldOut(NamedTuple):
    """Tells which images are measured."""

    by_share: frozenset[tuple[str, bytes]] | None
    """Class and digest of those that the share chose; none: the sources say it."""

    def __call__(self, image: FoundImage, sha256: bytes) -> bool:
        return image.split in ("val", "test") if self.by_share is None else (image.class_name, sha256) in self.by_share


def _held_out(layout: ImageLayout, path: Path, images: Sequence[tuple[FoundImage, bytes]]) -> _HeldOut:
    words = Counter(one.split for one, _ in images)
    measured = sorted({"val", "test"} & words.keys())
    if words[""] and len(words) > 1:
        name = next(one.member.name for one, _ in images if not one.split)
        raise InputError(f"{path}: {name} is in no split, but others are; put it into one")
    if len(measured) > 1:
        raise InputError(f"{path}: has val and test, but one split is measured; choose it, val_from: val, or val_from: test")
    if measured and layout.val_share:
        raise InputError(f"{path}: has {measured[0]}, so that val_share divides nothing; remove one of the two")
    if measured:
        return _HeldOut(None)
    if layout.val_share is None:
        raise InputError(f"{path}: has no split val or test; {SHARE_FIX}, or put images into folders or files of that name")
    return _HeldOut(frozenset(_shared(layout.val_share, images)))


def _shared(share: float, images: Sequence[tuple[FoundImage, bytes]]) -> Iterator[tuple[str, bytes]]:
    """The images of each class with the smallest digests: equal images stay together, and names and order decide nothing."""
    by_class: dict[str, set[bytes]] = defaultdict(set)
    for one, sha256 in images:
        by_class[one.class_name].add(sha256)
    for name, digests in by_class.items():
        count = min(max(1, round(share * len(digests))), len(digests) - 1)
        yield from ((name, sha256) for sha256 in sorted(digests)[:count])
