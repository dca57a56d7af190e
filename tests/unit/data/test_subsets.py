"""Subsets: the same set from the whole archive and from a pack of a part of it, and nothing else from any other file."""

import hashlib
import io
import pickle
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2mkd.cli.data import verify
from m2mkd.config import load
from m2mkd.config.datasets import DatasetConfig, SourceFile, Subset
from m2mkd.data.fetch import fetch
from m2mkd.data.images import evaluated
from m2mkd.data.pack import Pack, open_pack
from m2mkd.data.prepare import prepare
from m2mkd.data.renditions import RENDITIONS
from m2mkd.data.subsets import read_selection
from m2mkd.errors import InputError
from m2mkd.planning.work import split_images
from m2mkd.study import graph
from m2mkd.study.data import resolve_data
from tests.conftest import ROOT
from tests.loopback import serving

Files = dict[str, bytes]
SUBSETS = ("tiny-imagenet-100", "tiny-imagenet-100-r", "cifar-100-fewshot")
WNIDS = ("n00000001", "n00000002", "n00000003")
WANTED = {"train": {w: [f"{w}_{n}.JPEG" for n in (0, 2)] for w in WNIDS[:2]}, "val": {WNIDS[0]: ["val_0.JPEG"], WNIDS[1]: ["val_4.JPEG"]}}
"""The images of a small subset, of two of three classes."""


def photograph(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def tiny() -> Files:
    """Tiny-ImageNet of three classes with three training and two validation images each."""
    files = {"t/wnids.txt": "\n".join(reversed(WNIDS)).encode()}
    for label, wnid in enumerate(WNIDS):
        files |= {f"t/train/{wnid}/images/{wnid}_{n}.JPEG": photograph(10 * label + n) for n in range(3)}
    labels = {f"val_{n}.JPEG": WNIDS[n // 2 % 3] for n in (0, 1, 2, 4, 5)} | {"val_4.JPEG": WNIDS[1]}
    files |= {f"t/val/images/{name}": photograph(100 + n) for n, name in enumerate(labels)}
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


def write_zip(path: Path, files: Files) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def registered(layout: str = "tiny_imagenet", **fields) -> DatasetConfig:
    splits = ("val",) if layout == "tiny_imagenet_rendition" else ("train", "val")
    subset = Subset(images="images.tsv", sha256=listed(tiny(), splits), packs=(SourceFile(name="pack.zip"),))
    files = (SourceFile(name="whole.zip"),)
    return DatasetConfig(title="A set", layout=layout, classes=2, licence="none", files=files, subset=subset, **fields)


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("data/raw").mkdir(parents=True)
    write_list("train", "val")
    return Path("data/raw")


def write_list(*splits: str) -> None:
    rows = ("\t".join([split, wnid, *names]) for split in splits for wnid, names in WANTED[split].items())
    Path("images.tsv").write_text("\n".join(["# A comment", *rows]))


def prepared(dataset: DatasetConfig, folder: str, name: str = "set", processes: int = 1) -> Pack:
    prepare(name, dataset, 64, Path(folder), processes)
    return open_pack(Path(folder))


def content(pack: Pack) -> Files:
    return {path.name: path.read_bytes() for path in sorted(pack.folder.iterdir()) if path.name != "manifest.json"}


def require_same(one: Pack, other: Pack) -> None:
    assert content(one) == content(other)
    digests = [re.search(r'"digest": "(\w{64})"', (pack.folder / "manifest.json").read_text())[1] for pack in (one, other)]
    assert digests[0] == digests[1]


# --- real images: the pack, and an archive made from it with what a subset leaves out ----------------------------------------------------


def whole_tiny(pack: Path, target: Path) -> None:
    """What the pack holds in another order, two classes more, and more images of the classes that it has."""
    with zipfile.ZipFile(pack) as source, zipfile.ZipFile(target, "w") as archive:
        root, names = "tiny-imagenet-200/", source.namelist()
        wnids = source.read(f"{root}wnids.txt").decode().split()
        added, labels = ["n00000001", "n99999999"], source.read(f"{root}val/val_annotations.txt").decode().splitlines()
        for name in reversed(names):
            if not name.endswith(("wnids.txt", "val_annotations.txt")):
                archive.writestr(name, source.read(name))
        for number, wnid in enumerate([*added, *wnids[:3]]):
            archive.writestr(f"{root}train/{wnid}/images/{wnid}_{1000 + number}.JPEG", photograph(number))
            archive.writestr(f"{root}val/images/val_{20_000 + number}.JPEG", photograph(50 + number))
            labels.insert(0, f"val_{20_000 + number}.JPEG\t{wnid}\t0\t0\t1\t1")
        archive.writestr(f"{root}test/images/test_0.JPEG", photograph(99))
        archive.writestr(f"{root}wnids.txt", "\n".join([*reversed(wnids), *added]))
        archive.writestr(f"{root}val/val_annotations.txt", "\n".join(labels))


def whole_cifar(pack: Path, target: Path) -> None:
    """What the pack holds in another order, among one image more of each class."""
    generator = np.random.default_rng(0)
    with tarfile.open(pack) as source, tarfile.open(target, "w:gz") as archive:
        for file in ("meta", "train", "test"):
            table = pickle.loads(source.extractfile(f"cifar-100-python/{file}").read(), encoding="bytes")
            if file != "meta":
                order = generator.permutation(len(table[b"fine_labels"]) + 100)
                rows = [*table[b"data"], *generator.integers(0, 256, (100, 3072), dtype=np.uint8)]
                table[b"data"] = np.stack([rows[place] for place in order])
                for key, more in ((b"fine_labels", range(100)), (b"coarse_labels", [0] * 100), (b"filenames", [b"added.png"] * 100)):
                    column = [*table[key], *more]
                    table[key] = [column[place] for place in order]
            content = pickle.dumps(table, 2)
            entry = tarfile.TarInfo(f"cifar-100-python/{file}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, packs_dir: Path) -> dict[str, tuple[Pack, Pack]]:
    """Each registered subset, prepared from the whole archive and from the pack."""
    root = tmp_path_factory.mktemp("subsets")
    for folder in ("whole", "pack"):
        (root / folder / "data/raw").mkdir(parents=True)
        (root / folder / "config").symlink_to(ROOT / "config")
    archives: dict[str, Callable[[Path, Path], None]] = {"tiny-imagenet-200.zip": whole_tiny, "cifar-100-python.tar.gz": whole_cifar}
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for name in SUBSETS:
            dataset = load.datasets()[name]
            (file,), (pack,) = dataset.files, dataset.subset.packs
            # The archive that is made here is not the published one, only of its layout.
            whole = dataset.model_copy(update={"files": (SourceFile(name=file.name),)})
            sets = []
            for folder, served in (("whole", whole), ("pack", dataset)):
                patch.chdir(root / folder)
                if folder == "pack":
                    fetch(name, dataset, str(packs_dir))
                elif not Path("data/raw", file.name).exists():
                    archives[file.name](packs_dir / pack.name, Path("data/raw", file.name))
                target = Path(resolve_data(f"{name}@64", "test")[0].folder)
                prepare(name, served, 64, target)
                sets.append(open_pack(target.absolute()))
            found[name] = (sets[0], sets[1])
    return found


@pytest.mark.parametrize("name", SUBSETS)
def test_the_whole_archive_and_the_pack_give_the_same_set(pairs, name: str):
    whole, pack = pairs[name]
    require_same(whole, pack)
    dataset = load.datasets()[name]
    assert list(whole.manifest["prepared_from"]) == [dataset.files[0].name]
    assert pack.manifest["prepared_from"] == {dataset.subset.packs[0].name: dataset.subset.packs[0].sha256}
    assert pack.manifest["synthetic"] == dataset.synthetic


@pytest.mark.parametrize("name", SUBSETS)
def test_a_subset_holds_the_images_of_its_list(pairs, name: str):
    pack, selection = pairs[name][1], read_selection(ROOT / load.datasets()[name].subset.images)
    assert set(pack.manifest["splits"]) == set(selection.splits)
    copies = len(RENDITIONS) if name.endswith("-r") else 1
    for split, classes in selection.splits.items():
        part = pack.split(split)
        found = Counter((pack.classes[label], image.decode()) for label, image in zip(part.labels, part.attributes["name"], strict=True))
        assert found == Counter({(name, image): copies for name, images in classes.items() for image in images})
        # Any stretch of a set that is in the order of its list is balanced.
        assert sorted(part.labels[: len(classes)].tolist()) == list(range(len(classes)))


def test_verifying_reads_the_pack_and_the_set(pairs, monkeypatch, capsys):
    monkeypatch.chdir(pairs["tiny-imagenet-100"][1].folder.parents[3])
    verify(["tiny-imagenet-100"])
    raw, packed = capsys.readouterr().out.splitlines()
    assert raw.startswith("data/raw/tiny-imagenet-100x100.zip: sha256 46161e") and raw.endswith("as expected")
    assert packed.endswith(": 10000 train, 2000 val images, whole")


def test_renditions_are_made_of_what_is_measured(pairs, packs_dir: Path):
    pack = pairs["tiny-imagenet-100-r"][1]
    part = pack.split("val")
    assert Counter(part.attributes["rendition"].tolist()) == dict.fromkeys(RENDITIONS, 620)
    with zipfile.ZipFile(packs_dir / "tiny-imagenet-100x100.zip") as archive:
        for index in (620, 1000, 1239):
            photo = archive.read(f"tiny-imagenet-200/val/images/{part.attributes['name'][index].decode()}")
            assert bytes(part.attributes["sha256"][index]) == hashlib.sha256(photo).digest()
            measured = np.asarray(evaluated(Image.open(io.BytesIO(photo)).convert("RGB"), 64))
            np.testing.assert_array_equal(part.images[index], 255 - measured)
    photographs = pairs["tiny-imagenet-100"][1].split("val")
    known = {name: photographs.images[place] for place, name in enumerate(photographs.attributes["name"])}
    for start, rendition in enumerate(RENDITIONS):
        made = part.images[620 * start : 620 * (start + 1)].astype(int)
        original = np.stack([known[name] for name in part.attributes["name"][:620]]).astype(int)
        changed = np.abs(made - original).mean(axis=(1, 2, 3))
        assert (changed > 3).mean() > 0.99, rendition
        assert len(np.unique(made.reshape(620, -1), axis=0)) == 620, rendition


# --- small sets: what is wrong with a source, or with a list -----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["tiny_imagenet", "tiny_imagenet_rendition"])
def test_neither_order_nor_folders_of_an_archive_matter(raw: Path, layout: str):
    files, dataset = tiny(), registered(layout)
    if layout == "tiny_imagenet_rendition":
        write_list("val")
    write_zip(raw / "whole.zip", files)
    whole = prepared(dataset, "whole", processes=2)
    (raw / "whole.zip").unlink()
    wanted = {name for classes in WANTED.values() for names in classes.values() for name in names}
    part = {name.replace("t/", "other/root/", 1): image for name, image in reversed(files.items()) if Path(name).name in wanted}
    labels = "".join(f"{name}\t{wnid}\n" for wnid, (name,) in reversed(WANTED["val"].items()))
    lists = {"other/root/wnids.txt": "\n".join(WNIDS[:2]).encode(), "other/root/val/val_annotations.txt": labels.encode()}
    write_zip(raw / "pack.zip", part | lists)
    require_same(whole, prepared(dataset, "pack"))


ONE, OTHER = (f"t/train/n00000001/images/n00000001_{n}.JPEG" for n in (0, 2))
LABELS, REFUSED = "t/val/val_annotations.txt", "but config/datasets.yaml for set expects"
WRONG: dict[str, tuple[Callable[[Files], Files], str]] = {
    "lacking": (
        lambda files: {name: files[name] for name in files if name != OTHER},
        "n00000001_2.JPEG of class n00000001, in train, is missing",
    ),
    "other": (lambda files: files | {OTHER: photograph(7)}, REFUSED),
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
    write_zip(raw / "pack.zip", change(tiny()))
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
    write_zip(raw / "whole.zip", files)
    assert prepared(registered(), "packed").manifest["splits"]["train"]["images"] == 4


def test_counts_of_the_registry_are_those_of_the_list(raw: Path):
    write_zip(raw / "whole.zip", tiny())
    with pytest.raises(InputError, match="train_images is 5, but the source holds 4"):
        prepared(registered(train_images=5), "packed")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train\tn1", "line 1: is not 'train' or 'val', a class and names"),
        ("test\tn1\ta.png", "line 1: is not 'train' or 'val'"),
        ("# a\ntrain\tn1\ta.png\t\tb.png", "line 2: is not 'train'"),
        ("train\tn1\ta.png\ta.png", "line 1: train images of n1 are there twice"),
        ("train\tn1\ta.png\ntrain\tn1\tb.png", "line 2: train images of n1 are there twice"),
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
    write_zip(raw / "whole.zip", {"c/train": table, "c/test": table, "c/meta": meta})
    with pytest.raises(InputError, match="its train images have no filenames"):
        prepared(registered("cifar100"), "packed")


@pytest.mark.parametrize("layout", ["digits", "coco"])
def test_where_there_is_no_subset_it_cannot_be_registered(layout: str):
    with pytest.raises(ValueError, match="has no subset"):
        registered(layout)


# --- fetching, planning ------------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("name", SUBSETS)
def test_planning_counts_the_images_of_the_list(name: str):
    data, dataset = resolve_data(f"{name}@64", "test")
    selection = read_selection(Path(dataset.subset.images))
    assert dataset.classes == len(selection.classes)
    for split in selection.splits:
        assert split_images(data, split) == len(selection.images(split)) * (len(RENDITIONS) if dataset.synthetic else 1)


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
