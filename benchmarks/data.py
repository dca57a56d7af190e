"""Speed of preparing and loading data, on the packs of real images.

``python benchmarks/data.py loading`` compares images per second with timm's own loader over the same images as files: with the training
transforms of the recipe, mixing included, and with the evaluation transform. ``batched`` says what augmenting whole batches at once could
add; ``preparing`` gives throughput and peak memory of ``m2mkd data prepare``; ``first-batch`` the time until the first batch of a set of
100,000 images. Each runs in a temporary folder, and each ratio is between things timed in turn in one process. The packs are found through
M2MKD_DATA_PACKS, by default ../shared/data.
"""

import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import psutil
import torch
import typer
from data_augmented import augmented_at_once
from data_files import SORTS, Files, workplace
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from m2mkd.config.recipe import Augmentation, Recipe
from m2mkd.data.images import evaluated
from m2mkd.data.pack import open_pack
from m2mkd.data.packing import Content, SplitSource, write_pack
from m2mkd.data.prepare import prepare
from m2mkd.data.stream import TrainStream, eval_batches
from m2mkd.data.transforms import TrainTransform
from m2mkd.training.device import prepare_torch

import timm  # isort: skip  after m2mkd, which repairs torchvision

BATCH = 128
app = typer.Typer(add_completion=False, help=__doc__)
Rounds = Annotated[int, typer.Option(min=1, help="Timed rounds of each.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the measurements as JSON.")]


Chosen = Annotated[list[str], typer.Option("--set", help=f"One of {', '.join(SORTS)}; may be repeated. [default: all]")]


# --- loading ----------------------------------------------------------------------------------------------------------


def ours(files: Files, workers: int, training: bool, backend: Literal["exact", "fast"] = "exact") -> Callable[[int], Iterable[Any]]:
    """Batches of an epoch from the pack."""
    size = files.sort.image_size
    if training:
        recipe = Recipe(epochs=1, batch_size=BATCH, lr=1e-3, augmentation=Augmentation(backend=backend))
        split = files.pack.split("train")
        return TrainStream(split, files.chosen["train"], files.sort.classes, recipe, ("benchmark",), workers).epoch
    measured = files.pack.split("val").first(len(files.chosen["val"]))
    return lambda _: eval_batches(measured, size, BATCH, workers=workers)


def timms(files: Files, workers: int, training: bool, prefetcher: bool) -> Callable[[int], Iterable[Any]]:
    """Batches of an epoch from the files, by timm: with its prefetcher (its default), or as DeiT's code has it, without."""
    recipe, classes = Augmentation(), files.sort.classes
    dataset = timm.data.create_dataset("", root=str(files.folder("train" if training else "val")))
    options: dict[str, Any] = {"interpolation": "bicubic", "num_workers": workers, "use_prefetcher": prefetcher}
    mixing = {"mixup_alpha": recipe.mixup, "cutmix_alpha": recipe.cutmix, "label_smoothing": recipe.label_smoothing, "num_classes": classes}
    if training:
        options |= {"is_training": True, "auto_augment": recipe.rand_augment, "hflip": recipe.flip, "scale": recipe.crop_scale}
        options |= {"ratio": recipe.crop_ratio, "color_jitter": None, "re_prob": recipe.erase, "re_mode": "pixel"}
    if training and prefetcher:
        options["collate_fn"] = timm.data.FastCollateMixup(**mixing)
    size = files.sort.image_size
    loader = timm.data.create_loader(dataset, (3, size, size), BATCH, device=torch.device("cpu"), **options)
    if not training or prefetcher:
        return lambda _: loader
    mixed = timm.data.Mixup(**mixing)
    return lambda _: (mixed(*batch) for batch in loader)


def processor_seconds() -> float:
    """Processor time of this process and of all that it started."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    alive = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return time.process_time() + children.ru_utime + children.ru_stime + sum(one.user + one.system for one in alive)


def epoch_seconds(epoch: Callable[[int], Iterable[Any]], number: int) -> tuple[float, float]:
    """Seconds, and seconds of processor time, for each image of an epoch."""
    gc.collect()
    processor, start, images = processor_seconds(), time.perf_counter(), 0
    for batch in epoch(number):
        images += len(batch[0])
    return (time.perf_counter() - start) / images, (processor_seconds() - processor) / images


def compare(files: Files, workers: int, training: bool, rounds: int) -> dict[str, Any]:
    """Medians of one row, and medians of the ratios inside a round, against the faster of timm's two ways."""
    contestants = {"ours": ours(files, workers, training), "timm": timms(files, workers, training, True)}
    contestants["timm, no prefetcher"] = timms(files, workers, training, False)
    if training:
        contestants["fast"] = ours(files, workers, training, "fast")
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        # Turn about, so that none always follows the same one.
        for name in sorted(contestants, reverse=bool(number % 2)):
            taken = epoch_seconds(contestants[name], number)
            if number:
                seconds[name].append(taken)
    row: dict[str, Any] = {"workers": workers, "transform": "training" if training else "evaluation"}
    row["images_per_second"] = {name: 1 / statistics.median(wall for wall, _ in taken) for name, taken in seconds.items()}
    references = [taken for name, taken in seconds.items() if name.startswith("timm")]
    for place, what in enumerate(("ratio", "processor_ratio")):
        against = [[r[place] / o[place] for r, o in zip(reference, seconds["ours"], strict=True)] for reference in references]
        row[what] = min(statistics.median(ratios) for ratios in against)
        if training:
            row[f"fast_{what}"] = statistics.median(o[place] / f[place] for o, f in zip(seconds["ours"], seconds["fast"], strict=True))
    return row


@app.command()
def loading(
    sets: Chosen = [],  # noqa: B006
    workers: Annotated[list[int], typer.Option(min=0, help="Processes that load; may be repeated. [default: 1, 2]")] = [],  # noqa: B006
    images: Annotated[int, typer.Option(min=BATCH, help="Images of each split at most.")] = 2000,
    rounds: Rounds = 5,
    as_json: AsJson = False,
) -> None:
    """Images per second against timm's own loader."""
    prepare_torch(1)
    rows = []
    with workplace():
        for name in sets or SORTS:
            files = Files(name, images)
            for count in workers or (1, 2):
                rows += [{"set": name} | compare(files, count, training, rounds) for training in (True, False)]
    if as_json:
        return report_json(rows)
    table = Table("set", "workers", "transform", "timm (images/s)", "no prefetcher", "ours", "ratio", "of processor time")
    table.add_column("fast backend")
    table.add_column("to ours")
    table.add_column("of processor time")
    table.title = f"Loading, batch {BATCH}, medians of {rounds} epochs; ratios to the faster of timm's, of the fast backend to ours"
    for row in rows:
        measured = row["images_per_second"]
        speeds = (f"{measured[name]:.0f}" for name in ("timm", "timm, no prefetcher", "ours"))
        ratios = [f"{row[name]:.2f}" for name in ("ratio", "processor_ratio")]
        if "fast" in measured:
            ratios += [f"{measured['fast']:.0f}", *(f"{row[name]:.2f}" for name in ("fast_ratio", "fast_processor_ratio"))]
        table.add_row(row["set"], str(row["workers"]), row["transform"], *speeds, *ratios)
    Console().print(table)


# --- batched augmentation ---------------------------------------------------------------------------------------------


@app.command()
def batched(sets: Chosen = [], rounds: Rounds = 9, as_json: AsJson = False) -> None:  # noqa: B006
    """What augmenting whole batches at once could add: the transform on decoded images, against the same kinds of work in torch's bulk."""
    prepare_torch(1)
    rows = []
    with workplace():
        for name in sets or SORTS:
            size = SORTS[name].image_size
            prepare(name, SORTS[name].dataset, size, Path("packed", name))
            decoded = open_pack(Path("packed", name)).split("train").images[np.arange(BATCH)]
            images = np.stack([np.asarray(evaluated(Image.fromarray(image), size)) for image in decoded])
            transform, generator = TrainTransform(size, Augmentation(erase=0)), torch.Generator().manual_seed(0)
            seconds: list[tuple[float, float]] = []
            for number in range(rounds + 1):
                times = [time.process_time()]
                transform(images, range(number * BATCH, (number + 1) * BATCH))
                times.append(time.process_time())
                augmented_at_once(torch.from_numpy(images), size, generator)
                times.append(time.process_time())
                seconds.append((times[1] - times[0], times[2] - times[1]))
            one, bulk = (statistics.median(taken) / BATCH for taken in zip(*seconds[1:], strict=True))
            ratio = statistics.median(first / second for first, second in seconds[1:])
            rows.append({"set": name, "transform_seconds": one, "at_once_seconds": bulk, "ratio": ratio})
    if as_json:
        return report_json(rows)
    table = Table("set", "image by image (µs)", "at once (µs)", "ratio", title="Processor time for an image, without decoding")
    for row in rows:
        shown = (f"{1e6 * row[name]:.0f}" for name in ("transform_seconds", "at_once_seconds"))
        table.add_row(row["set"], *shown, f"{row['ratio']:.2f}")
    Console().print(table)


# --- preparing --------------------------------------------------------------------------------------------------------


class Memory:
    """Largest memory of a process and of all that it started, watched while they run."""

    def __init__(self) -> None:
        self.together = self.single = 0

    def look(self, process: psutil.Process) -> None:
        sizes = []
        for member in (process, *process.children(recursive=True)):
            try:
                sizes.append(member.memory_full_info().pss)
            except psutil.Error:
                continue
        self.together, self.single = max(self.together, sum(sizes)), max(self.single, *sizes, 0)


PREPARE = """
import sys
from pathlib import Path
from m2mkd.config.datasets import Dataset
from m2mkd.data.prepare import prepare
prepare(sys.argv[1], Dataset.model_validate_json(sys.argv[2]), int(sys.argv[3]), Path("packed", sys.argv[1]), int(sys.argv[4]))
"""


def prepared_in_a_process(name: str, processes: int) -> tuple[float, Memory]:
    """Seconds that preparing takes in a process of its own, and its memory (proportional set size)."""
    sort, memory, start = SORTS[name], Memory(), time.perf_counter()
    arguments = (name, sort.dataset.model_dump_json(), str(sort.image_size), str(processes))
    process = subprocess.Popen([sys.executable, "-c", PREPARE, *arguments])
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        memory.look(watched)
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"preparing {name} failed")
    return time.perf_counter() - start, memory


@app.command()
def preparing(
    sets: Chosen = [],  # noqa: B006
    processes: Annotated[int, typer.Option(min=1, help="Processes that decode.")] = 2,
    rounds: Rounds = 3,
    as_json: AsJson = False,
) -> None:
    """Throughput and peak memory of preparing a set."""
    rows = []
    with workplace():
        for name in sets or SORTS:
            runs = [prepared_in_a_process(name, processes) for _ in range(rounds)]
            count = sum(facts["images"] for facts in open_pack(Path("packed", name)).manifest["splits"].values())
            row: dict[str, Any] = {"set": name, "images": count, "processes": processes}
            row["images_per_second"] = count / statistics.median(seconds for seconds, _ in runs)
            row["peak_mib"] = max(memory.together for _, memory in runs) / 2**20
            row["peak_mib_of_one_process"] = max(memory.single for _, memory in runs) / 2**20
            rows.append(row)
    if as_json:
        return report_json(rows)
    table = Table("set", "images", "images/s", "peak (MiB)", "of one process", title=f"Preparing in {processes} processes, start included")
    for row in rows:
        numbers = (f"{row[name]:.0f}" for name in ("images_per_second", "peak_mib", "peak_mib_of_one_process"))
        table.add_row(row["set"], str(row["images"]), *numbers)
    Console().print(table)


# --- the first batch --------------------------------------------------------------------------------------------------


def noise_set(folder: Path, images: int, size: int) -> None:
    """Pack images of noise."""
    generator = np.random.default_rng(0)

    def pixels(start: int) -> Iterator[NDArray[np.uint8]]:
        for _ in range(start, images):
            yield generator.integers(0, 256, (size, size, 3), dtype=np.uint8)

    labels = np.arange(images) % 200
    write_pack(folder, "noise", size, Content(tuple(map(str, range(200))), {"train": SplitSource(pixels, labels)}, {}))


def forget(folder: Path) -> None:
    """Drop the files from the page cache, as far as the system lets them go."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@app.command()
def first_batch(
    images: Annotated[int, typer.Option(min=BATCH, help="Images of the set, 64 px.")] = 100_000,
    rounds: Rounds = 5,
    as_json: AsJson = False,
) -> None:
    """Time until the first training batch of a large set that a job has used before, from the disk and from the page cache."""
    prepare_torch(1)
    recipe, rows = Recipe(epochs=1, batch_size=BATCH, lr=1e-3), []
    with workplace() as folder:
        noise_set(folder / "noise", images, 64)
        open_pack(folder / "noise")  # which reads all of it, once
        for workers in (0, 1, 2):
            for cold in (True, False):
                opened, first = [], []
                for number in range(rounds):
                    if cold:
                        forget(folder / "noise")
                    start = time.perf_counter()
                    split = open_pack(folder / "noise").split("train")
                    stream = TrainStream(split, range(images), 200, recipe, ("benchmark", number), workers)
                    opened.append(time.perf_counter() - start)
                    start = time.perf_counter()
                    next(iter(stream.epoch(0)))
                    first.append(time.perf_counter() - start)
                row = {"workers": workers, "cold": cold, "images": images, "open_seconds": statistics.median(opened)}
                rows.append(row | {"first_batch_seconds": statistics.median(first), "longest_seconds": max(first)})
    if as_json:
        return report_json(rows)
    table = Table("workers", "files", "open (ms)", "first batch (ms)", "longest", title=f"First batch of {BATCH} out of {images} images")
    for row in rows:
        times = (f"{1000 * row[name]:.0f}" for name in ("open_seconds", "first_batch_seconds", "longest_seconds"))
        table.add_row(str(row["workers"]), "cold" if row["cold"] else "warm", *times)
    Console().print(table)


def report_json(rows: list[dict[str, Any]]) -> None:
    machine = {"torch": torch.__version__, "timm": timm.__version__, "machine": platform.machine(), "cores": os.cpu_count()}
    json.dump({"machine": machine, "measurements": rows}, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    app()
