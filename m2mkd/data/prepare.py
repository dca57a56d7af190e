"""Preparation of packed sets from source files: in parallel, as a stream, resumed after an interruption."""

import hashlib
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from m2mkd.config.datasets import DatasetConfig
from m2mkd.config.layout import SourcePaths
from m2mkd.data.cifar import CifarSplit
from m2mkd.data.coco_layout import Scenes, packed_photographs
from m2mkd.data.contents import Contents, Listing
from m2mkd.data.detection_pack import DetectionSource
from m2mkd.data.fetch import check, present, raw_file
from m2mkd.data.images import covered, evaluated
from m2mkd.data.in_place import arranged_at, image_layout, readers_at, require_same
from m2mkd.data.pack import ENCODED, PIXELS
from m2mkd.data.packing import Content, PackedImage, SplitSource, write_pack
from m2mkd.data.readers import Readers, reading
from m2mkd.data.recorded import require_sources
from m2mkd.data.renditions import RENDITIONS
from m2mkd.data.subsets import Listed, Selection, base_name, read_selection, require_content
from m2mkd.data.tasks import Rendition, found_in, image_digests, packed_images, png, rendered_images
from m2mkd.errors import InputError
from m2mkd.seeds import derive_seed

LARGEST_PIXELS = 64
"""Largest side at which images are stored decoded: above it, reading the pixels takes longer than decoding the files."""


def prepare(name: str, dataset: DatasetConfig, image_size: int, folder: Path, processes: int | None = None) -> None:
    """Prepare a data set at an image size as a packed set in ``folder``, which appears only when complete.

    Parameters
    ----------
    name
        Name in ``config/datasets.yaml``.
    dataset
        Entry of the data set there.
    image_size
        Side of the network's input in pixels.
    folder
        Output folder; existing content is replaced.
    processes
        Number of processes that decode images; None: one per core.

    Raises
    ------
    InputError
        If the layout cannot be prepared, a source is missing or not the registered one, an image is damaged, the source does not hold the
        registered classes or images, or ``folder`` cannot be written. Nothing partial is left in these cases.
    """
    try:
        with _scratch(folder.with_name(f".{folder.name}.scratch")) as scratch, ExitStack() as stack:
            content = _content(name, dataset, image_size, scratch, stack, processes or len(os.sched_getaffinity(0)))
            _check_counts(name, dataset, content)
            _require_room(folder, dataset, content, image_size)
            total = sum(len(split) for split in content.splits.values())
            write_pack(folder, name, image_size, content, dataset.synthetic, _progress(f"{name}@{image_size}", total, stack))
    except OSError as error:
        reason = f"cannot write the prepared set {name} ({error.strerror or error})"
        raise InputError(f"{folder}: {reason}; free space or allow writing there") from error


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Folder for decompressed archives; it is removed afterwards, unless an interruption leaves it for the next attempt."""
    try:
        yield folder
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _content(name: str, dataset: DatasetConfig, size: int, scratch: Path, stack: ExitStack, processes: int) -> Content:
    layout = dataset.reader
    if dataset.path is not None:
        return _in_place(name, dataset, Path(dataset.path), size, scratch, stack.enter_context(readers_at(Path(dataset.path), processes)))
    if len(dataset.files) not in (layout.SOURCES or (1,)) and (layout.SOURCES or not dataset.files):
        wanted = " or ".join(map(str, layout.SOURCES or (1,)))
        found = f"layout '{layout.kind}' is read from {wanted}, not from {len(dataset.files)}"
        raise InputError(f"config/datasets.yaml: {name}: files: {found}; register {wanted}")
    if layout.MADE_HERE:
        return layout.make(name, dataset, size)
    used = _source_digests(name, dataset)
    files = present(dataset)
    paths = [raw_file(file) for file in files]
    readers = stack.enter_context(reading(processes, paths, mapped=layout.MAPPED))
    read = partial(readers.read, found_in, layout, SourcePaths(tuple(paths), tuple(file.split for file in files), scratch))
    facts: dict[str, Any] = {"homepage": dataset.homepage, "licence": dataset.licence}
    if dataset.subset is None:
        return _packable(name, read(), size, facts | {"files": used}, readers, None)
    selection = read_selection(Path(dataset.subset.images))
    found = read(selection)
    require_content(dataset.subset, _digests(selection, found, readers), paths, f"config/datasets.yaml for {name}")
    facts["subset"] = dataset.subset.model_dump(include={"images", "sha256"})
    return replace(_packable(name, found, size, facts, readers, selection), prepared_from=used)


def _in_place(name: str, dataset: DatasetConfig, path: Path, size: int, scratch: Path, readers: Readers) -> Content:
    """Content of a set that is read in place, which is the same for the same images; so it has no names of files."""
    layout = image_layout(dataset)
    found = arranged_at(layout, path, scratch, readers)
    require_same(name, dataset, found.digest)
    origin = {} if isinstance(stored := layout.stored, str) or "plugin" not in stored else {"layout": stored}
    facts = {"homepage": dataset.homepage, "licence": dataset.licence, "content": dataset.content, **origin}
    contents = found.contents
    splits = {split: _source(split, contents, size, readers, {}) for split in contents.splits}
    return Content(contents.classes, splits, facts)


def _source_digests(name: str, dataset: DatasetConfig) -> dict[str, str]:
    """sha256 of each source file by name, after a check against the registry."""
    digests = {}
    for file in present(dataset):
        if not raw_file(file).exists():
            raise InputError(f"{raw_file(file)}: missing; run 'm2mkd data fetch {name}' first")
        digests[file.name] = check(raw_file(file), file, name)
    require_sources(name, digests)
    return digests


def _digests(selection: Selection, found: Any, readers: Readers) -> Iterator[tuple[Listed, bytes]]:
    """Images of a subset, each with the digest of its content."""
    for split in selection.splits:
        content = (
            readers.in_order(image_digests, found.splits[split].members)
            if isinstance(found, Contents)
            else (hashlib.sha256(one.tobytes()).digest() for one in found[1][split].pixels)
        )
        yield from zip(selection.images(split), content, strict=True)


def _packable(name: str, found: Any, size: int, facts: dict[str, Any], readers: Readers, selection: Selection | None) -> Content:
    """Content of source files in the form that is packed; ``selection``: the images of a subset."""
    if isinstance(found, Contents):
        if found.rendered:
            facts |= {"made_by": "image operations on the validation photographs", "renditions": list(RENDITIONS)}
        splits: dict[str, SplitSource] = {}
        for split, listing in found.splits.items():
            attributes = _attributes(listing, selection)
            splits[split] = (partial(_rendered, name) if found.rendered else _source)(split, found, size, readers, attributes)
        return Content(found.classes, splits, facts)
    if isinstance(found, Scenes):
        scenes = {split: _scenes(split, found, readers) for split in found.splits}
        return Content(found.classes, scenes, {**facts, "category_ids": found.category_ids})
    classes, arrays = found
    return _cifar_content(classes, arrays, size, facts, named=selection is not None)


def _attributes(listing: Listing, selection: Selection | None) -> dict[str, Any]:
    """Names of images, for a subset without folders, which differ between its sources; and renditions, if a set has some."""
    names = [(base_name(member.name) if selection else member.name).encode() for member in listing.members]
    return {"name": np.array(names)} | ({"rendition": np.array(listing.renditions)} if listing.renditions else {})


def _source(split: str, found: Contents, size: int, readers: Readers, attributes: Mapping[str, Any]) -> SplitSource:
    final, listing = size <= LARGEST_PIXELS and split == "val", found.splits[split]
    treat = partial(packed_images, size=size, decoded=size <= LARGEST_PIXELS, final=final, squash=found.squashed)
    return SplitSource(
        lambda start: readers.in_order(treat, listing.members[start:]),
        listing.labels,
        attributes,
        PIXELS if size <= LARGEST_PIXELS else ENCODED,
        final,
    )


def _rendered(name: str, split: str, found: Contents, size: int, readers: Readers, attributes: Mapping[str, Any]) -> SplitSource:
    """Each photograph of a split in each rendition, as pixels."""
    listing = found.splits[split]
    made = [
        Rendition(member, kind, derive_seed("data", name, kind, base_name(member.name)))
        for kind, member in itertools.product(RENDITIONS, listing.members)
    ]
    tiled = {key: np.tile(values, len(RENDITIONS)) for key, values in attributes.items()}
    tiled["rendition"] = np.repeat(list(RENDITIONS), len(listing.members))
    treat = partial(rendered_images, size=size)
    return SplitSource(lambda start: readers.in_order(treat, made[start:]), np.tile(listing.labels, len(RENDITIONS)), tiled)


def _scenes(split: str, scenes: Scenes, readers: Readers) -> DetectionSource:
    found = scenes.splits[split]
    return DetectionSource(lambda start: readers.in_order(packed_photographs, found.photographs[start:]), found.table, found.attributes)


def _cifar_content(classes: tuple[str, ...], splits: dict[str, CifarSplit], size: int, facts: dict[str, Any], named: bool) -> Content:
    stored = size <= LARGEST_PIXELS

    def images(found: CifarSplit, final: bool, start: int) -> Iterator[PackedImage]:
        for one in found.pixels[start:]:
            image = Image.fromarray(one)
            payload = (evaluated if final else covered)(image, size).tobytes() if stored else png(image)
            yield PackedImage(payload, hashlib.sha256(one.tobytes()).digest())

    sources = {
        split: SplitSource(
            partial(images, found, split == "val"),
            found.labels,
            {"name": np.array([name.encode() for name in found.names])} if named else {},
            PIXELS if stored else ENCODED,
            final=stored and split == "val",
        )
        for split, found in splits.items()
    }
    return Content(classes, sources, facts)


def _check_counts(name: str, dataset: DatasetConfig, content: Content) -> None:
    found = {"classes": len(content.classes)}
    for split in ("train", "val"):
        if split in content.splits:
            found[f"{split}_images"] = len(content.splits[split])
    for field, count in found.items():
        expected = getattr(dataset, field)
        if expected is not None and expected != count:
            wrong = f"{field} is {expected}, but the source holds {count}"
            raise InputError(f"config/datasets.yaml: {name}: {wrong}; fetch the right file, or write {count}")


def _require_room(folder: Path, dataset: DatasetConfig, content: Content, size: int) -> None:
    """Refuse to start if the disk has too little space: pixels are counted, files are about as large as their archives."""
    needed = sum(3 * size**2 * len(split) for split in content.splits.values() if split.storage == PIXELS)
    if any(split.storage == ENCODED for split in content.splits.values()):
        needed += (dataset.encoded_bytes or 0) if dataset.path else sum(raw_file(file).stat().st_size for file in present(dataset))
    there = sum(path.stat().st_size for path in folder.with_name(f".{folder.name}.partial").glob("*"))
    free = shutil.disk_usage(next(parent for parent in folder.absolute().parents if parent.exists())).free
    if needed - there > free:
        wanted, left = (decimal(number) for number in (needed - there, free))
        raise InputError(f"{folder}: about {wanted} will be written, but only {left} are free; free space there, or take smaller images")


def _progress(title: str, total: int, stack: ExitStack) -> Callable[[int], None]:
    console = Console(file=sys.stderr)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = stack.enter_context(Progress(*columns, console=console, disable=not console.is_terminal))
    task = bar.add_task(title, total=total)
    return lambda done: bar.update(task, completed=done)
