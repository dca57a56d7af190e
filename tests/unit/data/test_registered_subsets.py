"""The registered subsets on real images: the same set from a whole archive, made here with what a subset leaves out, and from the pack."""

import hashlib
import io
import pickle
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
from m2mkd.config.datasets import SourceFile
from m2mkd.data.fetch import fetch
from m2mkd.data.images import evaluated
from m2mkd.data.pack import Pack, open_pack
from m2mkd.data.prepare import prepare
from m2mkd.data.renditions import RENDITIONS
from m2mkd.data.subsets import read_selection
from m2mkd.planning.work import split_images
from m2mkd.study.data import resolve_data
from tests.archives import image
from tests.conftest import ROOT
from tests.unit.data.sets import require_same

SUBSETS = ("tiny-imagenet-100", "tiny-imagenet-100-r", "cifar-100-fewshot")


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
            archive.writestr(f"{root}train/{wnid}/images/{wnid}_{1000 + number}.JPEG", image(number))
            archive.writestr(f"{root}val/images/val_{20_000 + number}.JPEG", image(50 + number))
            labels.insert(0, f"val_{20_000 + number}.JPEG\t{wnid}\t0\t0\t1\t1")
        archive.writestr(f"{root}test/images/test_0.JPEG", image(99))
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
    assert packed.endswith(": 10000 train, 2000 val images, complete")


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


@pytest.mark.parametrize("name", SUBSETS)
def test_planning_counts_the_images_of_the_list(name: str):
    data, dataset = resolve_data(f"{name}@64", "test")
    selection = read_selection(Path(dataset.subset.images))
    assert dataset.classes == len(selection.classes)
    for split in selection.splits:
        assert split_images(data, split) == len(selection.images(split)) * (len(RENDITIONS) if dataset.synthetic else 1)
