"""Layouts of the published archives, and the class masks between them: computed from the archives, never typed in."""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2mkd.config.datasets import DatasetConfig, SourceFile
from m2mkd.config.layout import SourcePaths, layout_from
from m2mkd.data.archives import open_archive
from m2mkd.data.images import evaluated
from m2mkd.data.layouts import tiny_imagenet_classes
from m2mkd.data.masks import class_mask
from m2mkd.data.pack import open_pack
from m2mkd.data.prepare import prepare
from m2mkd.errors import InputError
from tests.ilsvrc import KIT, TRAIN, VAL, imagenet_wnids, write_ilsvrc

TINY, TINY_R, RENDITIONS = "tiny-imagenet-100x100.zip", "tiny-imagenet-r-SYNTHETIC.zip", "imagenet-r-SYNTHETIC-200x4.zip"
WNIDS = ("n00000005", "n00000002", "n00000009")


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


TRAINED = {wnid: [picture(10 * index + n) for n in range(2 + index)] for index, wnid in enumerate(WNIDS)}
MEASURED = [(WNIDS[n % 3], picture(100 + n)) for n in (2, 0, 1, 1)]


def registered(layout: str, classes: int, *files: str) -> DatasetConfig:
    return DatasetConfig(
        title="A set", layout=layout, classes=classes, licence="none", files=tuple(SourceFile(name=name) for name in files)
    )


@pytest.mark.parametrize("size", [32, 80])
def test_imagenet_as_its_makers_hand_it_out(raw: Path, size: int):
    write_ilsvrc(raw, TRAINED, MEASURED)
    prepare("set", registered("imagenet", 3, TRAIN, VAL, KIT), size, Path("packed"), processes=1)
    pack = open_pack(Path("packed"))
    assert pack.classes == tuple(sorted(WNIDS))
    train, val = pack.split("train"), pack.split("val")
    assert {pack.classes[label]: int(np.sum(train.labels == label)) for label in range(3)} == {w: len(i) for w, i in TRAINED.items()}
    assert [pack.classes[label] for label in val.labels] == [wnid for wnid, _ in MEASURED]
    assert [bytes(digest).hex() for digest in val.attributes["sha256"]] == [hashlib.sha256(image).hexdigest() for _, image in MEASURED]
    assert val.attributes["name"][0] == b"ILSVRC2012_val_00000001.JPEG"


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (b"1\n2\n3\n", r"4 validation images, but 3 labels in .*; fetch both again"),
        (b"1\n2\n3\n9\n", "9 is not the number of a class; fetch the development kit again"),
        (b"1\n2\n3\nthree\n", "line 4: 'three' is not a number"),
        # Only the first of them has an image: the other two have none.
        (b"1\n1\n1\n1\n", "has no image in val"),
    ],
)
def test_wrong_labels_of_imagenet(raw: Path, truth: bytes, message: str):
    write_ilsvrc(raw, TRAINED, MEASURED, truth)
    with pytest.raises(InputError, match=message):
        prepare("set", registered("imagenet", 3, TRAIN, VAL, KIT), 32, Path("packed"), processes=1)
    assert not Path("packed").exists()


def test_a_damaged_table_of_imagenets_classes(raw: Path):
    write_ilsvrc(raw, TRAINED, MEASURED, meta=b"not a matrix")
    with pytest.raises(InputError, match=r"data/meta\.mat is not the table of classes \(.*; fetch the development kit again"):
        prepare("set", registered("imagenet", 3, TRAIN, VAL, KIT), 32, Path("packed"), processes=1)
    assert [path.name for path in Path().iterdir()] == ["data"]


def test_tiny_imagenet_r_is_cut_from_imagenet_r(raw: Path, packs_dir: Path):
    for name in (RENDITIONS, TINY):
        (raw / name).symlink_to(packs_dir / name)
    prepare("set", registered("tiny_imagenet_r", 31, RENDITIONS, TINY), 64, Path("packed"))
    pack = open_pack(Path("packed"))
    tiny = set(tiny_imagenet_classes(open_archive(packs_dir / TINY, raw)))
    with zipfile.ZipFile(packs_dir / RENDITIONS) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg") and name.split("/")[1] in tiny)
        val = pack.split("val")
        assert [name.decode() for name in val.attributes["name"]] == sorted(names, key=lambda name: (name.split("/")[1], name))
        for index in (0, 60, 123):
            image = Image.open(io.BytesIO(archive.read(names[index]))).convert("RGB")
            # The aspect is not kept (paper.md 2); then comes the geometry of evaluation.
            expected = np.asarray(evaluated(image.resize((64, 64), Image.Resampling.BICUBIC), 64))
            np.testing.assert_array_equal(val.images[index], expected)
    assert len(val) == 124 and len(pack.classes) == 31
    assert set(val.attributes["rendition"]) <= set(json.loads((packs_dir / "imagenet-r-SYNTHETIC-200x4.manifest.json").read_text())["ops"])


def classes_of(packs_dir: Path, name: str, layout: str, scratch: Path) -> tuple[str, ...]:
    return layout_from(layout).read(SourcePaths((packs_dir / name,), (None,), scratch)).classes


def test_masks_between_the_published_sets(packs_dir: Path, tmp_path: Path):
    """200 of ImageNet's 1000 classes in ImageNet-R, 62 of these in Tiny-ImageNet, of which the pack has 31 (paper.md 2)."""
    imagenet = imagenet_wnids()
    renditions = classes_of(packs_dir, RENDITIONS, "imagenet_r", tmp_path)
    shared = classes_of(packs_dir, TINY_R, "imagenet_r", tmp_path)
    tiny = classes_of(packs_dir, TINY, "tiny_imagenet", tmp_path)
    assert (len(imagenet), len(renditions), len(shared), len(tiny)) == (1000, 200, 62, 100)
    assert list(imagenet) == sorted(imagenet) and list(tiny) == sorted(tiny)
    assert set(shared) < set(renditions)
    for model, measured, common in ((imagenet, renditions, 200), (imagenet, shared, 62), (renditions, shared, 62), (tiny, shared, 31)):
        mask = class_mask(model, measured)
        assert len(mask.columns) == common
        assert [model[column] for column in mask.columns] == sorted(set(model) & set(measured))
    _, _, left_out = class_mask(tiny, shared).known(np.arange(62))
    assert left_out == 31
