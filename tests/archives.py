"""Small data sets in every layout of their makers, as archives, whole or changed."""

import io
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from m2mkd.cli import main
from m2mkd.config import load
from m2mkd.config.datasets import DatasetConfig, SourceFile
from m2mkd.config.layout import SourcePaths, layout_from
from m2mkd.data.tasks import found_in

Files = dict[str, bytes]


def image(seed: int = 0, form: str = "JPEG", mode: str = "RGB", size: tuple[int, int] = (64, 64), **options) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def tiny() -> Files:
    """Tiny-ImageNet of two classes."""
    files = {"set/wnids.txt": b"n00000002\nn00000001\n"}
    for label in (1, 2):
        for number in range(3):
            files[f"set/train/n0000000{label}/images/n0000000{label}_{number}.JPEG"] = image(10 * label + number)
        files[f"set/val/images/val_{label}.JPEG"] = image(100 + label)
    files["set/val/val_annotations.txt"] = b"val_1.JPEG\tn00000001\t0\t0\t1\t1\nval_2.JPEG\tn00000002\t0\t0\t1\t1\n"
    return files


def birds() -> Files:
    files = {"cub/classes.txt": b"1 001.Auk\n2 002.Bee\n"}
    rows = [(number, 1 + number % 2, number < 4) for number in range(1, 7)]
    files["cub/images.txt"] = b"".join(b"%d 00%d.X/%d.jpg\n" % (number, label, number) for number, label, _ in rows)
    files["cub/image_class_labels.txt"] = b"".join(b"%d %d\n" % (number, label) for number, label, _ in rows)
    files["cub/train_test_split.txt"] = b"".join(b"%d %d\n" % (number, training) for number, _, training in rows)
    return files | {f"cub/images/00{label}.X/{number}.jpg": image(number) for number, label, _ in rows}


def cifar(**changes) -> Files:
    table = {b"data": np.zeros((4, 3072), np.uint8), b"fine_labels": [0, 1, 0, 1]} | changes.pop("table", {})
    files = {
        "c/train": pickle.dumps(table, 2),
        "c/test": pickle.dumps(table, 2),
        "c/meta": pickle.dumps({b"fine_label_names": [b"a", b"b"]}, 2),
    }
    return files | changes


def renditions() -> Files:
    return {f"r/n0000000{label}/art_{number}.jpg": image(number) for label in (1, 2) for number in range(2)}


def folders() -> Files:
    return {f"set/{split}/{name}/{number}.png": image(number, "PNG") for split in ("train", "val") for name in "ab" for number in range(2)}


HEALTHY: dict[str, Callable[[], Files]] = {
    "tiny_imagenet": tiny,
    "cub": birds,
    "cifar100": cifar,
    "imagenet_r": renditions,
    "image_folder": folders,
}


def replaced(files: Files, **changes: bytes | None) -> Files:
    """Files with one changed, named by the end of its name; none removes it."""
    for end, content in changes.items():
        (name,) = (name for name in files if name.endswith(end))
        files = without(files, name) if content is None else files | {name: content}
    return files


def without(files: Files, part: str) -> Files:
    """Files whose name does not hold ``part``."""
    return {name: content for name, content in files.items() if part not in name}


def lines(files: Files, end: str, change: Callable[[bytes], bytes]) -> Files:
    (name,) = (name for name in files if name.endswith(end))
    return files | {name: change(files[name])}


def registered(layout: str, classes: int = 2, **fields) -> DatasetConfig:
    source = SourceFile(name="set.zip", **fields.pop("source", {}))
    return DatasetConfig(title="A set", layout=layout, classes=classes, licence="none", files=(source,), **fields)


def pack(path: Path, files: Files) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def refused(dataset: DatasetConfig, message: str) -> None:
    """Prepare the set as people do it, which fails as it should."""
    Path("config").mkdir()
    Path("config/datasets.yaml").write_text(yaml.safe_dump({"set": dataset.model_dump(mode="json")}))
    load.datasets.cache_clear()
    said = io.StringIO()
    with redirect_stderr(said), pytest.raises(SystemExit) as ended:
        main(["data", "prepare", "set@64"])
    assert ended.value.code == 2
    (line,) = said.getvalue().splitlines()
    assert re.search(message, line), line
    assert ";" in line, "says how to fix it"
    assert not list(Path("data").glob("packed/*/*")), "no set, whole or partial"


def listed(layout: str, paths: Sequence[Path], scratch: Path) -> Any:
    """What the source files hold, by the registered layout of that name."""
    return found_in(layout_from(layout), SourcePaths(tuple(paths), (None,) * len(paths), scratch))


def tarred(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    """A tar of them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def compressed(path: Path, files: Files) -> None:
    path.write_bytes(tarred(files, "w:gz"))
