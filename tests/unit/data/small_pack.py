"""A packed set of a few images, as the tests of packs need it."""

import io
import os

import numpy as np
from PIL import Image

from m2mkd.data.packing import Content, SplitSource, write_pack

SIZE = 6
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (9, SIZE, SIZE, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 0, 2])
KINDS = np.array(["edges", "rotated", "edges"])
FILES = (
    *("train.images.npy", "train.labels.npy", "train.sha256.npy"),
    *("val.images.npy", "val.labels.npy", "val.sha256.npy", "val.kind.npy", "manifest.json"),
)


def content(images=IMAGES):
    """Two splits of images and labels, one of them with an attribute."""
    splits = {
        "train": SplitSource(lambda start: images[start:6], LABELS[:6]),
        "val": SplitSource(lambda start: images[6 + start :], LABELS[6:], {"kind": KINDS}),
    }
    return Content(("ant", "bee", "cat"), splits, {"file": "made here", "sha256": "0" * 64})


def written(folder):
    """The folder, with the set in it."""
    write_pack(folder, "set", SIZE, content(), synthetic=True)
    return folder


def png(image):
    """An image as a file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def flip(path):
    """Change the last byte of a file, whose size and time stay, as when bits flip on a disk."""
    before = path.stat()
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        (last,) = file.read()
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
