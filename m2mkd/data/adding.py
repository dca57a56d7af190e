"""Registering images that people have: what they are, how many, their digest, and the entry of the registry that follows."""

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from m2mkd.config.datasets import DatasetConfig
from m2mkd.config.layout import LAYOUT_GROUP, Layout, layout_class, layout_from
from m2mkd.data.contact_sheet import SHOWN_EACH, TILE, chosen_labels, labelled_sheet, stacked
from m2mkd.data.contents import Listing
from m2mkd.data.image_layout import Arranged, ImageLayout, arranged
from m2mkd.data.in_place import found_images, readers_at
from m2mkd.data.readers import Readers
from m2mkd.data.tasks import checked_images, packed_images
from m2mkd.errors import InputError
from m2mkd.plugins import all_plugins


class Added(NamedTuple):
    """Images that were read, and what the registry has to say of them."""

    found: Arranged
    entry: dict[str, Any]
    """Fields of the entry."""
    sheet: Image.Image
    """Contact sheet."""

    def counts(self) -> list[str]:
        """A line for each split."""
        lines = []
        for split, listing in self.found.contents.splits.items():
            per_class = Counter(listing.labels).values()
            lines.append(f"{split}: {len(listing.labels)} images of {len(per_class)} classes, {min(per_class)} to {max(per_class)} each")
        return lines


def recognised(path: Path) -> str:
    """Kind of the layout that a folder or file looks as if it had.

    Raises
    ------
    InputError
        If there is nothing, or it looks like none or several of the registered layouts.
    """
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder; give the path of the images")
    kinds: dict[str, type[Layout]] = {}
    for name in dict.fromkeys(plugin.name for plugin in all_plugins(LAYOUT_GROUP)):
        try:
            kinds[name] = layout_class(name)
        except InputError:
            continue  # `m2mkd plugins` says why it cannot be used
    in_place = {name: cls for name, cls in kinds.items() if issubclass(cls, ImageLayout)}
    found = [name for name, cls in in_place.items() if cls.recognises(path)]
    if len(found) != 1:
        what = f"could be {' or '.join(found)}" if found else "looks like none of the layouts that are read in place"
        raise InputError(f"{path}: {what}; say which it is, --layout {'|'.join(found or in_place)}")
    return found[0]


def added(path: Path, written: str | Mapping[str, Any], fields: Mapping[str, Any]) -> Added:
    """Read every image at a path, and propose the entry of the registry.

    Parameters
    ----------
    path
        Folder or file, relative to the root of the project.
    written
        Its layout, as in the registry.
    fields
        Further fields of the entry: title, licence.

    Raises
    ------
    InputError
        If the layout is not read in place, or something is wrong with the images.
    """
    layout = layout_from(written)
    if not isinstance(layout, ImageLayout):
        raise InputError(f"layout '{layout.kind}' is not read in place; register source files in config/datasets.yaml instead")
    with tempfile.TemporaryDirectory() as scratch, readers_at(path) as readers:
        found = found_images(layout, path, Path(scratch), readers)
        checked = list(readers.in_order(checked_images, [one.member for one in found]))
        whole = arranged(layout, path, found, [sha256 for sha256, _ in checked])
        splits = whole.contents.splits
        sheet = stacked([_sheet(split, whole, readers) for split in splits])
    entry = {
        **fields,
        "layout": written,
        "path": path.as_posix(),
        "content": whole.digest,
        "classes": len(whole.contents.classes),
        **{f"{split}_images": len(listing.labels) for split, listing in splits.items()},
        "encoded_bytes": sum(size for _, size in checked),
    }
    DatasetConfig.model_validate(entry)
    return Added(whole, entry, sheet)


def _sheet(split: str, whole: Arranged, readers: Readers) -> Image.Image:
    listing, classes = whole.contents.splits[split], whole.contents.classes
    rows = [(classes[label], _some(listing, label, readers)) for label in chosen_labels(np.asarray(listing.labels))]
    return labelled_sheet(f"{split}: {len(listing.labels)} images of {len(classes)} classes", rows)


def _some(listing: Listing, label: int, readers: Readers) -> list[Image.Image]:
    members = [member for member, its in zip(listing.members, listing.labels, strict=True) if its == label][:SHOWN_EACH]
    images = readers.read(packed_images, members, TILE, True, False, False)
    return [Image.frombytes("RGB", (TILE, TILE), image.payload) for image in images]
