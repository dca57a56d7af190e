"""Every pack of real images on its whole way: archive, fetched over a connection that drops, checked, packed, trained on, measured on."""

import io
import json
import re
import zipfile
from collections import Counter
from pathlib import PurePosixPath

import numpy as np
import pytest
import yaml
from PIL import Image

from m2mkd.config import load
from m2mkd.config.datasets import SourceFile
from m2mkd.data.pack import open_pack
from tests.ilsvrc import KIT, TRAIN, VAL, imagenet_wnids, write_ilsvrc
from tests.loopback import serving
from tests.workflow.conftest import Project, copy_project

PACKS = {
    "tiny-imagenet-100": "tiny-imagenet-100x100",
    "tiny-imagenet-100-r": "tiny-imagenet-100x100",
    "tiny-imagenet-r-synthetic": "tiny-imagenet-r-SYNTHETIC",
    "imagenette-224": "imagenette224-100x40",
    "imagenet-r-synthetic": "imagenet-r-SYNTHETIC-200x4",
    "cifar-100-fewshot": "cifar-100-fewshot-25x20",
    "cub-20": "cub20-resized224",
}
"""Name of each in the registry, and of its manifest."""
COUNTS = {
    "tiny-imagenet-100": {"train": 10_000, "val": 2_000},
    "tiny-imagenet-100-r": {"val": 2_480},
    "tiny-imagenet-r-synthetic": {"val": 2_476},
    "imagenette-224": {"train": 1_000, "val": 400},
    "imagenet-r-synthetic": {"val": 800},
    "cifar-100-fewshot": {"train": 2_500, "val": 2_000},
    "cub-20": {"train": 600, "val": 585},
}
STUDENTS = {
    "on_tiny_imagenet": ("nac_tiny_imagenet", "tiny-imagenet-100@64", ["tiny-imagenet-100-r@64", "tiny-imagenet-r-synthetic@64"]),
    "on_imagenette": ("vmoe_base", "imagenette-224@224", []),
    "on_a_thousand_classes": ("vmoe_base", "imagenet-1k@224", ["imagenet-r-synthetic@224"]),
    "on_cifar": ("vmoe_base", "cifar-100-fewshot@64", []),
    "on_birds": ("vmoe_base", "cub-20@224", []),
}
SCALE = {
    "title": "One epoch on every pack",
    "extends": "small",
    "experiments": list(STUDENTS),
    "seeds": 1,
    "seeds_per_job": 1,
    "data": {"imagenet-1k@224": "imagenet-1k@224"},
    "models": {
        "vmoe_base": {"patch_size": 32},
        "nac_tiny_imagenet": {"tokenizer": {"stem_stride": 4}, "iterations": 1, "latents": {"input": 8, "mediator": 16, "output": 4}},
    },
    "recipes": {"vmoe_end_to_end_100": {"epochs": 1, "warmup_epochs": 0, "train_share": 1.0, "batch_size": 50}},
}


def noise(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def configure(project: Project) -> None:
    """A scale of its own, experiments on each pack, and ImageNet's thousand classes in miniature: an image of noise each."""
    config = project.root / "config"
    (config / "scales/packs.yaml").write_text(yaml.safe_dump(SCALE))
    for name, (model, data, ood) in STUDENTS.items():
        prior = {"prior": "scale_free"} if model.startswith("nac") else {}
        content = {
            "kind": "student",
            "title": name,
            "teacher": "teacher_deit_large",
            "model": model,
            "data": data,
            "ood": ood,
            "distill": {"data": data, "recipe": "distill_module"},
            "variants": {"end_to_end": {"recipe": "vmoe_end_to_end_100"}},
        }
        (config / f"experiments/{name}.yaml").write_text(yaml.safe_dump(content | prior))
    registry = yaml.safe_load((config / "datasets.yaml").read_text())
    registry["imagenet-1k"] |= {"train_images": 1000, "val_images": 1000, "files": [{"name": name} for name in (TRAIN, VAL, KIT)]}
    (config / "datasets.yaml").write_text(yaml.safe_dump(registry, sort_keys=False))


@pytest.fixture(scope="module")
def done(tmp_path_factory, packs_dir):
    """A copy in which the workflow has run on every pack; the server that it fetched from; what checking all digests printed."""
    root, archives = tmp_path_factory.mktemp("packs"), tmp_path_factory.mktemp("archives")
    copy_project(root)
    project = Project(root, "packs")
    configure(project)
    wnids = imagenet_wnids()
    write_ilsvrc(archives, {w: [noise(n)] for n, w in enumerate(wnids)}, [(w, noise(n)) for n, w in enumerate(wnids, start=1000)])
    names = {pack_of(name).name for name in PACKS}
    files = {name: packs_dir / name for name in names} | {name: archives / name for name in (TRAIN, VAL, KIT)}
    with serving(files) as server, pytest.MonkeyPatch.context() as patch:
        server.drops = {name: path.stat().st_size // 2 for name, path in files.items()}
        patch.setenv("M2MKD_DATA_SOURCE", server.url)
        project.snakemake("all_evaluate")
    return project, server, project.run("m2mkd", "data", "verify").stdout


def pack_of(name: str) -> SourceFile:
    """The file that a set is prepared from here: the whole archives that subsets are also made of are not offered."""
    (file,) = load.datasets()[name].sources[-1]
    return file


def evaluated(project: Project, data: str) -> dict:
    """What the student of a data set measured."""
    for path in (project.root / "results/packs/runs/evaluate").glob("*/run.json"):
        if json.loads(path.read_text())["config"]["data"]["name"] == data.partition("@")[0]:
            return json.loads((path.parent / "metrics.json").read_text())
    raise AssertionError(f"no student of {data} was measured")


def test_each_archive_was_taken_up_where_its_connection_dropped(done):
    _, server, _ = done
    asked = {name: [start for other, start in server.asked if other == name] for name in server.files}
    for name, path in server.files.items():
        first, second = asked[name]
        assert first is None, "fetched once"
        assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= path.stat().st_size // 2


def test_every_digest_is_as_expected(done):
    _, _, printed = done
    for name in PACKS:
        file = pack_of(name)
        assert f"data/raw/{file.name}: sha256 {file.sha256}, as expected" in printed
        counts = ", ".join(f"{count} {split}" for split, count in COUNTS[name].items())
        (line,) = [line for line in printed.splitlines() if line.startswith(f"data/packed/{name}@")]
        assert re.search(rf": {counts} images, complete, as used by \d+ finished runs?$", line)


@pytest.mark.parametrize("name", PACKS)
def test_a_prepared_set_holds_the_images_of_its_manifest(done, packs_dir, name):
    project, _, _ = done
    (folder,) = (project.root / "data/packed").glob(f"{name}@*/*/")
    pack, manifest = open_pack(folder), json.loads((packs_dir / f"{PACKS[name]}.manifest.json").read_text())
    assert {split: facts["images"] for split, facts in pack.manifest["splits"].items()} == COUNTS[name]
    if name == "tiny-imagenet-100-r":
        return  # tests/unit/data/test_subsets.py
    assert sum(COUNTS[name].values()) == manifest["images"] and len(pack.classes) == manifest["classes"]
    if name.startswith("cifar"):
        listed = {split: manifest["file_list"][f"cifar-100-python/{file}"] for split, file in (("train", "train"), ("val", "test"))}
        for split, facts in listed.items():
            found = Counter(pack.classes[label] for label in pack.split(split).labels)
            assert found == Counter(path.split("/")[1] for path in facts["source_images"])
        return
    digests = Counter(bytes(d).hex() for split in COUNTS[name] for d in pack.split(split).attributes["sha256"])
    whole = load.datasets()[name].subset is None
    images = {
        file if whole else PurePosixPath(file).name: facts["sha256"]
        for file, facts in manifest["file_list"].items()
        if file.lower().endswith(("jpg", "jpeg"))
    }
    assert digests == Counter(images.values())
    for split in COUNTS[name]:
        part = pack.split(split)
        for file, digest in list(zip(part.attributes["name"].tolist(), part.attributes["sha256"], strict=True))[::50]:
            assert images[file.decode()] == bytes(digest).hex()


def test_each_was_trained_on_for_one_epoch(done):
    project, _, _ = done
    trained = {}
    for path in (project.root / "results/packs/runs/train_student").glob("*/metrics.jsonl"):
        (line,) = map(json.loads, path.read_text().splitlines())
        trained[json.loads((path.parent / "run.json").read_text())["config"]["data"]["name"]] = line["step"]
    expected = {name: counts["train"] // 50 for name, counts in COUNTS.items() if "train" in counts}
    assert trained == expected | {"imagenet-1k": 20}


@pytest.mark.parametrize("name", [name for name, counts in COUNTS.items() if "train" in counts])
def test_every_image_was_measured(done, name):
    measured = evaluated(done[0], name)
    assert measured["count"] == COUNTS[name]["val"]
    assert 0 <= measured["top1"] <= measured["top5"] <= 1 and 0 <= measured["ece"] <= 1


def test_renditions_are_measured_on_the_classes_that_the_model_knows(done):
    tiny = evaluated(done[0], "tiny-imagenet-100")["ood"]["tiny-imagenet-r-synthetic"]
    assert (tiny["count"], tiny["left_out"], tiny["classes"]) == (1_236, 1_240, 31)
    assert set(tiny["renditions"]) == {"sketch", "edges", "cartoon", "posterise", "woodcut", "painting", "graffiti", "embroidery"}
    made = evaluated(done[0], "tiny-imagenet-100")["ood"]["tiny-imagenet-100-r"]
    assert (made["count"], made["left_out"], made["classes"]) == (2_480, 0, 31)
    thousand = evaluated(done[0], "imagenet-1k")["ood"]["imagenet-r-synthetic"]
    assert (thousand["count"], thousand["left_out"], thousand["classes"]) == (800, 0, 200)


def test_without_the_archives_nothing_is_fetched_or_made_again(done):
    project, _, _ = done
    raw = project.root / "data/raw"
    raw.rename(raw.with_name("elsewhere"))
    assert project.jobs("all_evaluate") == []
    assert not raw.exists()


def test_members_of_zips_are_not_unpacked(done):
    """Archives and packs alone: no tree of images."""
    project, _, _ = done
    suffixes = {path.suffix.lower() for path in (project.root / "data").rglob("*") if path.is_file()}
    assert suffixes & {".jpg", ".jpeg", ".png"} == set()
    assert zipfile.is_zipfile(next((project.root / "data").glob("*/tiny-imagenet-100x100.zip")))
