"""Subsets: the same set from the whole archive and from a pack of a part of it, and nothing else from any other file."""

import hashlib
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from m2mkd.config import load
from m2mkd.config.datasets import DatasetConfig, SourceFile, Subset
from m2mkd.data.fetch import fetch
from m2mkd.data.pack import Pack, open_pack
from m2mkd.data.prepare import prepare
from m2mkd.data.subsets import read_selection
from m2mkd.errors import InputError
from m2mkd.study import graph
from tests.archives import Files, image
from tests.archives import pack as pack_archive
from tests.loopback import serving
from tests.unit.data.sets import require_same

WNIDS = ("n00000001", "n00000002", "n00000003")
WANTED = {"train": {w: [f"{w}_{n}.JPEG" for n in (0, 2)] for w in WNIDS[:2]}, "val": {WNIDS[0]: ["val_0.JPEG"], WNIDS[1]: ["val_4.JPEG"]}}
"""The images of a small subset, of two of three classes."""


def tiny() -> Files:
    """Tiny-ImageNet of three classes with three training and two validation images each."""
    files = {"t/wnids.txt": "\n".join(reversed(WNIDS)).encode()}
    for label, wnid in enumerate(WNIDS):
        files |= {f"t/train/{wnid}/images/{wnid}_{n}.JPEG": image(10 * label + n) for n in range(3)}
    labels = {f"val_{n}.JPEG": WNIDS[n // 2 % 3] for n in (0, 1, 2, 4, 5)} | {"val_4.JPEG": WNIDS[1]}
    files |= {f"t/val/images/{name}": image(100 + n) for n, name in enumerate(labels)}
    return files | {"t/val/val_annotations.txt": "".join(f"{name}\t{wnid}\t0\t0\t1\t1\n" for name, wnid in labels.items()).encode()}


def listed(files: Files, splits: tuple[str, ...]) -> str:
    """The digest of the wanted images, as its definition says."""
    lines = []
    for split in splits:
        for turn in range(max(map(len, WANTED[split].values()))):
            for wnid, names in WANTED[split].items():
                (content,) = (content for name, content in files.items() if name.endswith(f"/{names[turn]}"))
                lines.append(f"{split}\t{wnid}\t{names[turn]}\t{hashlib.sha256(content).hexdigest()}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def registered(layout: str = "tiny_imagenet", **fields) -> DatasetConfig:
    splits = ("val",) if layout == "tiny_imagenet_rendition" else ("train", "val")
    subset = Subset(images="images.tsv", sha256=listed(tiny(), splits), packs=(SourceFile(name="pack.zip"),))
    files = (SourceFile(name="whole.zip"),)
    return DatasetConfig(title="A set", layout=layout, classes=2, licence="none", files=files, subset=subset, **fields)


@pytest.fixture
def raw(raw: Path) -> Path:
    """It, beside the list of a subset."""
    write_list("train", "val")
    return raw


def write_list(*splits: str) -> None:
    rows = ("\t".join([split, wnid, *names]) for split in splits for wnid, names in WANTED[split].items())
    Path("images.tsv").write_text("\n".join(["# A comment", *rows]))


def prepared(dataset: DatasetConfig, folder: str, name: str = "set", processes: int = 1) -> Pack:
    prepare(name, dataset, 64, Path(folder), processes)
    return open_pack(Path(folder))


@pytest.mark.parametrize("layout", ["tiny_imagenet", "tiny_imagenet_rendition"])
def test_neither_order_nor_folders_of_an_archive_matter(raw: Path, layout: str):
    files, dataset = tiny(), registered(layout)
    if layout == "tiny_imagenet_rendition":
        write_list("val")
    pack_archive(raw / "whole.zip", files)
    whole = prepared(dataset, "whole", processes=2)
    (raw / "whole.zip").unlink()
    wanted = {name for classes in WANTED.values() for names in classes.values() for name in names}
    part = {name.replace("t/", "other/root/", 1): image for name, image in reversed(files.items()) if Path(name).name in wanted}
    labels = "".join(f"{name}\t{wnid}\n" for wnid, (name,) in reversed(WANTED["val"].items()))
    lists = {"other/root/wnids.txt": "\n".join(WNIDS[:2]).encode(), "other/root/val/val_annotations.txt": labels.encode()}
    pack_archive(raw / "pack.zip", part | lists)
    require_same(whole, prepared(dataset, "pack"))


ONE, OTHER = (f"t/train/n00000001/images/n00000001_{n}.JPEG" for n in (0, 2))
LABELS, REFUSED = "t/val/val_annotations.txt", "but config/datasets.yaml for set expects"
WRONG: dict[str, tuple[Callable[[Files], Files], str]] = {
    "lacking": (
        lambda files: {name: files[name] for name in files if name != OTHER},
        "n00000001_2.JPEG of class n00000001, in train, is missing",
    ),
    "other": (lambda files: files | {OTHER: image(7)}, REFUSED),
    "damaged": (lambda files: files | {OTHER: files[OTHER][:900]}, REFUSED),
    "exchanged": (lambda files: files | {ONE: files[OTHER], OTHER: files[ONE]}, REFUSED),
    "of another class": (
        lambda files: files | {LABELS: files[LABELS].replace(b"4.JPEG\tn00000002", b"4.JPEG\tn00000001")},
        "val_4.JPEG of class n00000002, in val, is missing",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_source_of_other_images_is_one_line_and_leaves_nothing(raw: Path, wrong: str):
    change, message = WRONG[wrong]
    pack_archive(raw / "pack.zip", change(tiny()))
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        prepared(registered(), "packed/key")
    line = str(refused.value)
    assert line.startswith("data/raw/pack.zip: ")
    assert "; " in line
    assert "\n" not in line
    assert not list(Path().glob("packed/**/*.npy"))


def test_an_image_that_the_subset_leaves_out_may_be_damaged(raw: Path):
    files = tiny()
    files["t/train/n00000003/images/n00000003_0.JPEG"] = b"damaged"
    pack_archive(raw / "whole.zip", files)
    assert prepared(registered(), "packed").manifest["splits"]["train"]["images"] == 4


def test_counts_of_the_registry_are_those_of_the_list(raw: Path):
    pack_archive(raw / "whole.zip", tiny())
    with pytest.raises(InputError, match="train_images is 5, but the source holds 4"):
        prepared(registered(train_images=5), "packed")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train\tn1", "line 1: is not 'train' or 'val', a class and names"),
        ("test\tn1\ta.png", "line 1: is not 'train' or 'val'"),
        ("# a\ntrain\tn1\ta.png\t\tb.png", "line 2: is not 'train'"),
        ("train\tn1\ta.png\ta.png", "line 1: train images of n1 are listed twice"),
        ("train\tn1\ta.png\ntrain\tn1\tb.png", "line 2: train images of n1 are listed twice"),
        ("# nothing", "lists no image"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_list_is_one_line(tmp_path: Path, text: str | None, message: str):
    path = tmp_path / "images.tsv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_selection(path)


def test_pixels_without_names_cannot_be_picked_from(raw: Path):
    table = pickle.dumps({b"data": np.zeros((4, 3072), np.uint8), b"fine_labels": [0, 1, 0, 1]}, 2)
    meta = pickle.dumps({b"fine_label_names": [WNIDS[0].encode(), WNIDS[1].encode()]}, 2)
    pack_archive(raw / "whole.zip", {"c/train": table, "c/test": table, "c/meta": meta})
    with pytest.raises(InputError, match="its train images have no filenames"):
        prepared(registered("cifar100"), "packed")


@pytest.mark.parametrize("layout", ["digits", "coco"])
def test_where_there_is_no_subset_it_cannot_be_registered(layout: str):
    with pytest.raises(ValueError, match="has no subset"):
        registered(layout)


@pytest.mark.parametrize(("offered", "brought"), [(("pack.zip",), "pack.zip"), (("whole.zip", "pack.zip"), "whole.zip")])
@pytest.mark.parametrize("web", [False, True])
@pytest.mark.parametrize("only", [None, "whole.zip"])
def test_the_one_that_is_offered_is_fetched(raw: Path, tmp_path: Path, offered, brought, web, only):
    files = {name: name.encode() for name in offered}
    for name in offered:
        Path(name).write_bytes(files[name])
    with serving(files) as server:
        fetch("set", registered(), server.url if web else str(tmp_path), only, pause=0.01)
        assert [path.name for path in raw.glob("[!.]*")] == [brought]
        before = len(server.asked)
        fetch("set", registered(), server.url, only)  # which is here already
        assert len(server.asked) == before


def test_where_none_is_offered_both_are_named(raw: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"whole\.zip is not a file; give the place of whole\.zip, or of pack\.zip, with --from"):
        fetch("set", registered(), str(tmp_path))
    with pytest.raises(InputError, match=r"has no source file other\.zip; it has whole\.zip, pack\.zip"):
        fetch("set", registered(), None, "other.zip")


def test_the_key_is_of_the_images_and_not_of_their_source():
    one = registered()
    assert one.identity == one.model_copy(update={"files": (SourceFile(name="renamed.zip"),)}).identity
    other = one.model_copy(update={"subset": one.subset.model_copy(update={"sha256": "0" * 64})})
    assert one.identity != other.identity


def test_a_whole_set_fetches_the_file_that_it_shares_with_a_subset(monkeypatch):
    """A pack in place of the file would do for the subset alone."""
    registry = {"whole": load.datasets()["tiny-imagenet"], "zoo": load.datasets()["tiny-imagenet-100"]}
    monkeypatch.setattr(graph, "datasets", lambda: registry)
    assert sorted(["zoo@64", "whole@64"], key=graph._whole_last) == ["zoo@64", "whole@64"]
