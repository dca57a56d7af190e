"""ImageNet in miniature, in the form in which its makers hand it out."""

import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.archives import tarred

TRAIN, VAL, KIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"


def imagenet_wnids() -> list[str]:
    """WordNet ids of the thousand classes, from the list that comes with timm."""
    spec = find_spec("timm")
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / "data/_info/imagenet_synsets.txt").read_text().split()


def write_ilsvrc(
    folder: Path,
    train: Mapping[str, Sequence[bytes]],
    val: Sequence[tuple[str, bytes]],
    truth: bytes | None = None,
    *,
    meta: bytes | None = None,
) -> None:
    """Write the three archives.

    Parameters
    ----------
    folder
        Where they go.
    train
        Images of each class.
    val
        Class and content of each validation image, in their order.
    truth
        The file of validation labels, in place of the right one.
    meta
        The table of classes, in place of the right one.
    """
    # The numbers of the classes are not in the order of their names, as in the original; a last entry is a class of classes.
    number_of = {wnid: number for number, wnid in enumerate(sorted(train, reverse=True), start=1)}
    _tar(
        folder / TRAIN,
        {f"{wnid}.tar": tarred({f"{wnid}_{n}.JPEG": image for n, image in enumerate(images)}) for wnid, images in train.items()},
    )
    _tar(folder / VAL, {f"ILSVRC2012_val_{n:08}.JPEG": image for n, (_, image) in enumerate(val, start=1)})
    rows = [(number, wnid, 0) for wnid, number in number_of.items()] + [(len(train) + 1, "n00001740", len(train))]
    synsets = np.array(rows, [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")])
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": synsets})
    labels = "".join(f"{number_of[wnid]}\n" for wnid, _ in val).encode() if truth is None else truth
    kit = {"meta.mat": meta or buffer.getvalue(), "ILSVRC2012_validation_ground_truth.txt": labels}
    _tar(folder / KIT, {f"ILSVRC2012_devkit_t12/data/{name}": content for name, content in kit.items()}, "w:gz")


def _tar(path: Path, files: Mapping[str, bytes], mode: str = "w") -> None:
    path.write_bytes(tarred(files, mode))
