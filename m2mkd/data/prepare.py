"""From the source files of a data set to a packed one: in parallel, as a stream, resumed where an earlier attempt was cut off."""

import hashlib
import io
import os
import shutil
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import forkserver, get_context, parent_process
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from m2mkd.config.datasets import DatasetConfig
from m2mkd.data.archives import Archive, Place, open_archive
from m2mkd.data.cifar import read_cifar
from m2mkd.data.coco_layout import coco_content
from m2mkd.data.digits import prepare_digits
from m2mkd.data.digits_scenes import prepare_scenes
from m2mkd.data.fetch import check, raw_file
from m2mkd.data.images import BadImageError, covered, evaluated, opened
from m2mkd.data.layouts import LAYOUTS, Contents, Listing, names_of
from m2mkd.data.pack import ENCODED, PIXELS
from m2mkd.data.packing import Content, PackedImage, SplitSource, write_pack
from m2mkd.data.renditions import prepare_renditions
from m2mkd.errors import InputError

LARGEST_PIXELS = 64
"""Largest side at which images are stored decoded: above it, reading the pixels costs more than decoding them again."""
TASK = 64
"""Images that a process works on at a time."""

T = TypeVar("T")
GENERATED: dict[str, Callable[[str, DatasetConfig, int], Content]] = {
    "digits": prepare_digits,
    "digits_rendition": prepare_renditions,
    "digits_scenes": prepare_scenes,
}
"""Layouts whose images are made here."""


def prepare(name: str, dataset: DatasetConfig, image_size: int, folder: Path, processes: int | None = None) -> None:
    """Prepare a data set at an image size as a packed set in ``folder``, which appears only when complete.

    Parameters
    ----------
    name
        Name in ``config/datasets.yaml``.
    dataset
        Its entry there.
    image_size
        Side of the images that a network sees, in pixels.
    folder
        Where the packed set goes; what lies there is replaced.
    processes
        How many decode images; none: one a core.

    Raises
    ------
    InputError
        If the layout cannot be prepared, a source is absent or not the registered one, an image is damaged, the source does not hold the
        registered classes or images, or ``folder`` cannot be written. Nothing partial is left then.
    """
    try:
        with _scratch(folder.with_name(f".{folder.name}.scratch")) as scratch, ExitStack() as stack:
            content = _content(name, dataset, image_size, scratch, stack, processes or len(os.sched_getaffinity(0)))
            _check_counts(name, dataset, content)
            total = sum(len(split) for split in content.splits.values())
            write_pack(folder, name, image_size, content, dataset.synthetic, _progress(f"{name}@{image_size}", total, stack))
    except OSError as error:
        reason = f"cannot write the prepared set {name} ({error.strerror or error})"
        raise InputError(f"{folder}: {reason}; free space or allow writing there") from error


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for decompressed archives, which is gone afterwards, unless an interruption leaves it for the next attempt."""
    try:
        yield folder
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _content(name: str, dataset: DatasetConfig, size: int, scratch: Path, stack: ExitStack, processes: int) -> Content:
    if dataset.layout in GENERATED:
        return GENERATED[dataset.layout](name, dataset, size)
    source = {}
    for file in dataset.files:
        if not raw_file(file).exists():
            raise InputError(f"{raw_file(file)}: absent; run 'm2mkd data fetch {name}' first")
        source[file.name] = check(raw_file(file), file, name)
    archives = [open_archive(raw_file(file), scratch) for file in dataset.files]
    facts = {"files": source, "homepage": dataset.homepage, "licence": dataset.licence}
    if dataset.layout == "cifar100":
        return _cifar_content(archives, size, facts)
    contents = LAYOUTS[dataset.layout](archives) if dataset.layout != "coco" else None
    _start_server()
    pool = stack.enter_context(ProcessPoolExecutor(processes, get_context("forkserver"), _end_with_parent))
    if contents is None:
        return coco_content(archives, facts, partial(_in_parallel, pool, ahead=2 * processes))
    splits = {split: _source(split, listing, contents, size, pool, 2 * processes) for split, listing in contents.splits.items()}
    return Content(contents.classes, splits, facts)


def _start_server() -> None:
    """Start what processes are forked from, deaf to Ctrl-C as they then are: a pool that has lost one may wait for ever."""
    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, before)


def _end_with_parent() -> None:
    """Let a process that decodes images end when the one that started it is killed: waiting for work, it would never notice."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _source(split: str, listing: Listing, contents: Contents, size: int, pool: ProcessPoolExecutor, ahead: int) -> SplitSource:
    final = size <= LARGEST_PIXELS and split == "val"
    treat = partial(_treated, size=size if size <= LARGEST_PIXELS else None, final=final, squash=size if contents.squashed else None)
    attributes: dict[str, NDArray] = {"name": np.array(names_of(listing.places))}
    if listing.renditions:
        attributes["rendition"] = np.array(listing.renditions)
    return SplitSource(
        lambda start: _in_parallel(pool, treat, listing.places[start:], ahead),
        listing.labels,
        attributes,
        PIXELS if size <= LARGEST_PIXELS else ENCODED,
        final,
    )


def _in_parallel(
    pool: ProcessPoolExecutor, treat: Callable[[Sequence[T]], list[PackedImage]], places: Sequence[T], ahead: int
) -> Iterator[PackedImage]:
    """Treated images in order, only so many tasks ahead of the writing as memory is meant to hold."""
    waiting: deque[Future[list[PackedImage]]] = deque()
    try:
        for start in range(0, len(places), TASK):
            if len(waiting) == ahead:
                yield from waiting.popleft().result()
            waiting.append(pool.submit(treat, places[start : start + TASK]))
        while waiting:
            yield from waiting.popleft().result()
    finally:
        for task in waiting:
            task.cancel()


def _treated(places: Sequence[Place], size: int | None, final: bool, squash: int | None) -> list[PackedImage]:
    """Read images, see that each is whole, and give pixels at ``size``, or the file as it is where that is none."""
    result = []
    for place in places:
        content = place.read()
        try:
            image = opened(content)
        except BadImageError as error:
            raise InputError(f"{place.archive}: {place.name} {error}; replace the archive by a whole one") from None
        if squash:
            image = image.resize((squash, squash), Image.Resampling.BICUBIC)
        payload = content
        if size is not None:
            payload = (evaluated if final else covered)(image, size).tobytes()
        elif squash:
            payload = _png(image)
        result.append(PackedImage(payload, hashlib.sha256(content).digest()))
    return result


def _cifar_content(archives: Sequence[Archive], size: int, facts: dict) -> Content:
    classes, splits = read_cifar(archives)
    stored = size <= LARGEST_PIXELS

    def images(pixels: NDArray[np.uint8], final: bool, start: int) -> Iterator[PackedImage]:
        for one in pixels[start:]:
            image = Image.fromarray(one)
            payload = (evaluated if final else covered)(image, size).tobytes() if stored else _png(image)
            yield PackedImage(payload, hashlib.sha256(one.tobytes()).digest())

    sources = {
        split: SplitSource(
            partial(images, pixels, split == "val"), labels, {}, PIXELS if stored else ENCODED, final=stored and split == "val"
        )
        for split, (pixels, labels) in splits.items()
    }
    return Content(classes, sources, facts)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


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


def _progress(title: str, total: int, stack: ExitStack) -> Callable[[int], None]:
    console = Console(file=sys.stderr)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = stack.enter_context(Progress(*columns, console=console, disable=not console.is_terminal))
    task = bar.add_task(title, total=total)
    return lambda done: bar.update(task, completed=done)
