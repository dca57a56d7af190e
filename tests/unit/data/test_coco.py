"""Sets in the layout of COCO: read, refused where anything is wrong, packed, and gone on with after a kill."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from m2mkd.config import load
from m2mkd.data.archives import open_archive
from m2mkd.data.contact_sheet import contact_sheet
from m2mkd.data.croissant import write_croissant
from m2mkd.data.detection_pack import DetectionSplit, detection_split
from m2mkd.data.overlay import OPACITY, Mark, colour, overlaid
from m2mkd.data.pack import open_pack
from m2mkd.data.prepare import prepare
from m2mkd.data.segmentation import bitmap, compressed
from m2mkd.errors import InputError
from m2mkd.study.data import resolve_data
from tests.coco import HEIGHT, SQUARE, TRAIN, WIDTH, annotation, files, healthy, photograph, record, registered, write_archive
from tests.conftest import ROOT

MINI = "coco-mini.zip"


def prepared(folder: str = "packed/key", *names: str) -> dict[str, DetectionSplit]:
    prepare("set", registered(*names), 64, Path(folder), processes=1)
    pack = open_pack(Path(folder))
    return {split: detection_split(pack, split) for split in pack.manifest["splits"]}


def test_what_was_annotated_is_read(raw: Path):
    write_archive(raw / "set.zip", files(healthy()))
    splits = prepared()
    pack = open_pack(Path("packed/key"))
    assert pack.classes == ("person", "stop sign", "toothbrush"), "by rising id"
    assert pack.manifest["source"]["category_ids"] == [1, 13, 90]
    assert pack.manifest["splits"]["train"] | {"attributes": []} == {
        "images": 3,
        "instances": 3,
        "crowds": 1,
        "per_class": [1, 1, 1],
        "attributes": [],
        "storage": "encoded",
        "final": False,
    }
    train = splits["train"]
    assert train.attributes["id"].tolist() == sorted(TRAIN)
    assert train.attributes["trainable"].tolist() == [0, 0, 3] and train.trainable.tolist() == [2]
    assert train.instances(1) == (), "an image without annotations"
    (crowd,) = train.instances(0)
    assert (crowd.id, crowd.label, crowd.iscrowd) == (103, 1, 1)
    np.testing.assert_array_equal(crowd.mask(), np.isin(np.arange(WIDTH * HEIGHT), np.arange(60, 90)).reshape(WIDTH, HEIGHT).T)
    sample = train.sample(2)
    assert sample.classes.tolist() == [2, 0, 1]
    assert sample.boxes.tolist() == [[10, 5, 20, 15], [0, 0, 20, 15], [0, 0, 1, 30]]
    np.testing.assert_array_equal(sample.image, np.asarray(Image.open(io.BytesIO(photograph(7)))))
    assert [type(mask) for mask in sample.segmentations] == [tuple, tuple, np.ndarray]
    assert [len(points) for points in sample.segmentations[1]] == [4, 3]
    np.testing.assert_array_equal(sample.segmentations[2], np.arange(WIDTH * HEIGHT).reshape(WIDTH, HEIGHT).T < 30)
    first = splits["val"].first(2)
    assert len(first) == 2 and first.instances(0) == splits["val"].instances(0) and first.attributes["id"].tolist() == [11, 12]


def test_the_lists_of_a_file_come_in_any_order(raw: Path):
    write_archive(raw / "set.zip", files(healthy()))
    expected = {split: [found.instances(index) for index in range(len(found))] for split, found in prepared().items()}
    turned: dict[str, Any] = {split: json.dumps(content, sort_keys=True, indent=1) for split, content in healthy().items()}
    assert turned["train"].index('"annotations"') < turned["train"].index('"categories"') < turned["train"].index('"images"')
    write_archive(raw / "set.zip", files(turned))
    found = prepared("packed/turned")
    assert {split: [each.instances(index) for index in range(len(each))] for split, each in found.items()} == expected


def test_images_and_annotations_in_archives_of_their_own(raw: Path):
    whole = files(healthy())
    names = ["train2017.zip", "val2017.zip", "annotations.zip"]
    for name in names:
        write_archive(raw / name, {file: content for file, content in whole.items() if file.startswith(name.removesuffix(".zip"))})
    write_archive(raw / "set.zip", whole)
    apart, together = prepared("packed/apart", *names), prepared("packed/together")
    for split, found in apart.items():
        assert found.path.read_bytes() == together[split].path.read_bytes()
        np.testing.assert_array_equal(found.image(1), together[split].image(1))


def test_run_lengths_as_text_are_those_that_are_counted(raw: Path):
    sets = healthy()
    write_archive(raw / "set.zip", files(sets))
    listed = prepared()["train"]
    for found in sets.values():
        for each in found["annotations"]:
            if isinstance(each["segmentation"], dict):
                each["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": compressed(each["segmentation"]["counts"], HEIGHT, WIDTH)}
    write_archive(raw / "set.zip", files(sets))
    assert prepared("packed/text")["train"].path.read_bytes() == listed.path.read_bytes()


# Odd, but published so: rounded boxes, an instance of no height, a polygon of two points, grey pixels, an image on its side.
def test_what_is_odd_is_not_damaged(raw: Path):
    sets = healthy()
    first = sets["train"]["annotations"][0]
    first["bbox"], first["area"] = [20.01, 0.0, 20.01, 30.0], 0
    sets["train"]["annotations"] += [
        annotation(918, 7, bbox=[10, 5, 10, 0.0], area=0.0, segmentation=[[10, 5, 20, 5, 20, 5, 10, 5]]),
        annotation(919, 7, segmentation=[[10, 5, 20, 5]]),
        annotation(920, 7, segmentation=[[10, 5, 20, 5], SQUARE]),
    ]
    content = files(sets)
    content["train2017/000000000003.jpg"] = photograph(3, mode="L")
    turned = Image.Exif()
    turned[0x0112] = 6
    content["train2017/000000000005.jpg"] = on_its_side = photograph(5, HEIGHT, WIDTH, exif=turned)
    write_archive(raw / "set.zip", content)
    train = prepared()["train"]
    by_id = {instance.id: instance for instance in train.instances(2)}
    assert by_id[919].segmentation == [] and not by_id[919].trainable
    assert by_id[920].segmentation == [SQUARE]
    # In single precision, as released.
    single = np.float32(20.01)
    assert train.sample(2).boxes[0].tolist() == [float(single), 0, float(single + single), 30]
    grey = train.image(0)
    assert grey.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(grey[..., 0], grey[..., 2])
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(on_its_side)))
    assert upright.size == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(train.image(1), np.asarray(upright))


def test_a_killed_preparation_goes_on_to_the_same_bytes(raw: Path):
    sets, numbers = healthy(), tuple(range(20, 50))
    sets["train"]["images"] += [record(number) for number in numbers]
    sets["train"]["annotations"] += [annotation(1000 + number, number) for number in numbers]
    content = files(sets) | {f"train2017/{number:012}.jpg": photograph(number) for number in numbers}
    write_archive(raw / "set.zip", content)
    prepared("packed/undisturbed")
    script = (
        "import os; from tests.coco import registered; from m2mkd.data import packing, prepare; from pathlib import Path\n"
        "packing.CHUNK = 4; packing.SHARD_BYTES = 9000; mark = packing._Writer.mark\n"
        "def kill(self, images):\n"
        "    mark(self, images)\n"
        "    if self.split == 'train' and images == 12:\n"
        "        (self.folder / 'train.annotations.jsonl').write_bytes(b'half')\n"
        "        os.kill(os.getpid(), 9)\n"
        "packing._Writer.mark = kill\n"
        "if __name__ == '__main__': prepare.prepare('set', registered(), 64, Path('packed/key'), processes=1)\n"
    )
    Path("kill.py").write_text(script)
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    ended = subprocess.run([sys.executable, "kill.py"], env=environment, check=False)
    assert ended.returncode == -9
    assert not Path("packed/key").exists()
    assert json.loads(Path("packed/.key.partial/journal.json").read_text())["train"]["images"] == 12
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("m2mkd.data.packing.CHUNK", 4)
        patch.setattr("m2mkd.data.packing.SHARD_BYTES", 9000)
        prepare("set", registered(), 64, Path("packed/key"), processes=1)
        prepare("set", registered(), 64, Path("packed/small"), processes=1)
    assert len(list(Path("packed/small").glob("*.shard"))) > 3
    for path in Path("packed/small").iterdir():
        assert (Path("packed/key") / path.name).read_bytes() == path.read_bytes(), path.name
    for name in ("train.annotations.jsonl", "train.starts.npy", "train.sha256.npy"):
        assert (Path("packed/key") / name).read_bytes() == (Path("packed/undisturbed") / name).read_bytes()


def test_a_large_file_takes_little_memory(raw: Path):
    """Whole in memory it would take six times as much as on the disk; COCO's has half a gigabyte."""
    corner = [[float(n % 38) + 0.25, float(n % 28) + 0.75] for n in range(120)]
    outline = [number for point in corner for number in point]
    sets = healthy()
    sets["train"]["annotations"] += [annotation(1000 + number, 7, segmentation=[outline]) for number in range(15_000)]
    content = json.dumps(sets["train"]).encode()
    Path("large.json").write_bytes(content)
    script = (
        "from m2mkd.data.coco import read_annotations\n"
        "from pathlib import Path\n"
        "def kilobytes(name): return int(Path('/proc/self/status').read_text().split(name + ':')[1].split()[0])\n"
        "before = kilobytes('VmRSS')\n"
        "found = read_annotations(lambda: open('large.json', 'rb'), 'large.json')\n"
        "print(1024 * (kilobytes('VmHWM') - before), found.table.per_class.sum())\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    grown, count = map(int, ended.stdout.split())
    assert count == 15_003
    assert len(content) > 25_000_000
    assert grown < 1.5 * len(content)


def test_a_damaged_set_is_one_line(raw: Path):
    write_archive(raw / "set.zip", files(healthy()))
    whole = prepared()["train"]
    lines, starts = whole.path.read_bytes(), whole.starts
    folder = Path("packed/key")
    whole.path.write_bytes(lines[:-1] + b"!")
    with pytest.raises(InputError, match=r"train\.annotations\.jsonl is damaged: its sha256 differs"):
        open_pack(folder)
    for damage in (lines[:9].replace(b"id", b"di") + lines[9:], lines[:3] + b"#" + lines[4:]):
        whole.path.write_bytes(damage)
        split = detection_split(open_pack(folder, verify="never"), "train")
        with pytest.raises(
            InputError, match=r"train\.annotations\.jsonl is damaged: its line 1 does not hold instances .*; remove packed/key"
        ):
            split.sample(0)
    for wrong in (starts[::-1], np.minimum(starts, 5), starts + 1):
        np.save(folder / "train.starts.npy", wrong)
        with pytest.raises(InputError, match=r"train\.starts\.npy is damaged: it does not say where the lines of"):
            detection_split(open_pack(folder, verify="never"), "train")


@pytest.fixture(scope="module")
def mini(tmp_path_factory, packs_dir: Path):
    folder = tmp_path_factory.mktemp("mini")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        dataset = load.datasets()["coco-mini"]
        patch.chdir(folder)
        Path("data/raw").mkdir(parents=True)
        Path("data/raw", MINI).symlink_to(packs_dir / MINI)
        prepare("coco-mini", dataset, 224, folder / "packed/key", processes=2)
    return open_pack(folder / "packed/key")


def test_the_pack_of_coco_is_read_whole(mini, packs_dir: Path):
    """Held against the file itself, and its masks against COCO's own library."""
    from pycocotools.coco import COCO

    said = json.loads((packs_dir / "coco-mini.manifest.json").read_text())["counts"]
    archive = open_archive(packs_dir / MINI, packs_dir)
    assert len(mini.classes) == 80 and not mini.synthetic
    for name in ("train", "val"):
        split = detection_split(mini, name)
        source = json.loads(archive.read(f"annotations/instances_{name}2017.json"))
        facts = mini.manifest["splits"][name]
        assert (len(split), facts["instances"] + facts["crowds"], facts["crowds"]) == tuple(
            said[name][key] for key in ("images", "annotations", "crowd")
        )
        library = COCO()
        library.dataset = source
        library.createIndex()
        ranks = {number: rank for rank, number in enumerate(sorted(library.cats))}
        for index, number in enumerate(split.attributes["id"].tolist()):
            expected = {each["id"]: each for each in source["annotations"] if each["image_id"] == number}
            found = split.instances(index)
            assert [each.id for each in found] == list(expected)
            image = split.image(index)
            assert image.shape == (library.imgs[number]["height"], library.imgs[number]["width"], 3)
            for each in found:
                original = expected[each.id]
                assert (each.label, each.bbox, each.area, each.iscrowd) == (
                    ranks[original["category_id"]],
                    original["bbox"],
                    original["area"],
                    original["iscrowd"],
                )
                np.testing.assert_array_equal(bitmap(each.mask(), *image.shape[:2]), library.annToMask(original))
    images = map(detection_split(mini, "train").image, range(said["train"]["images"]))
    assert sum(not np.ptp(image, axis=2).any() for image in images) >= said["train"]["grey"] > 0


def test_boxes_and_masks_are_drawn():
    image, mask = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), bool)
    mask[10:15, 5:25] = True
    picture = np.asarray(overlaid(image, [Mark((5, 10, 25, 15), mask, 4, "bus")], 60))
    assert picture.shape == (40, 60, 3)
    full = np.array(colour(4))
    assert picture[20, 48].tolist() == picture[29, 49].tolist() == full.tolist() != picture[25, 45].tolist(), "the outline of the box"
    np.testing.assert_allclose(picture[25, 45], OPACITY * full, atol=1)
    assert not picture[31:].any() and not picture[:, 51:].any(), "nothing outside"
    assert len({colour(label) for label in range(80)}) > 70


def test_a_contact_sheet_shows_images_of_every_split(mini):
    sheet = contact_sheet(mini)
    split = detection_split(mini, "train")
    marks = [
        Mark(box, bitmap(each.mask(), *split.image(0).shape[:2]), each.label, name)
        for each in split.instances(0)
        for name in [("crowd of " if each.iscrowd else "") + mini.classes[each.label]]
        for left, top, width, height in [each.bbox]
        for box in [(left, top, left + width, top + height)]
    ]
    first = np.asarray(overlaid(split.image(0), marks, 240))
    shown = np.asarray(sheet)[22 : 22 + first.shape[0], 6 : 6 + first.shape[1]]
    np.testing.assert_array_equal(shown, first)
    assert sheet.height > 2 * (3 * 240), "of both splits"


def test_a_set_of_the_other_kind_is_refused(mini, raw: Path):
    with pytest.raises(InputError, match="have boxes instead of labels; name a set for classification"):
        mini.split("train")
    with pytest.raises(InputError, match="has no split 'test'; it has train, val"):
        detection_split(mini, "test")


def test_the_command_shows_it(mini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed):
    folder = tmp_path / resolve_data("coco-mini@224", "")[0].folder
    folder.parent.mkdir(parents=True)
    folder.symlink_to(mini.folder)
    (tmp_path / "config").symlink_to(Path("config").absolute())
    monkeypatch.chdir(tmp_path)
    code, said, _ = typed("data", "show", "coco-mini@224")
    assert code == 0 and "train: 189 images, 1747 instances and 22 crowds of 80 classes" in said
    with Image.open("data/sheets/coco-mini@224.png") as sheet:
        assert sheet.size == contact_sheet(mini).size


def test_it_is_described_for_machines(mini, tmp_path: Path):
    import mlcroissant

    write_croissant(mini, load.datasets()["coco-mini"], tmp_path)
    described = mlcroissant.Dataset(jsonld=tmp_path / "croissant.json")
    assert not described.metadata.ctx.issues.errors
    for name in ("train", "val"):
        attributes, records = detection_split(mini, name).attributes, list(described.records(name))
        for kind in ("id", "height", "width", "trainable", "name"):
            assert [record[f"{name}/{kind}"] for record in records] == attributes[kind].tolist(), kind
