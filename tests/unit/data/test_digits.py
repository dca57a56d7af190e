"""The registry, the digits and their renditions."""

import resource
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from m2mkd.config.datasets import DatasetConfig, SourceFile
from m2mkd.config.load import checked, read_yaml
from m2mkd.data.digits import read_digits
from m2mkd.data.pack import open_pack
from m2mkd.data.prepare import prepare
from m2mkd.data.renditions import DIGITS, RENDITIONS
from m2mkd.errors import InputError
from m2mkd.study.data import resolve_data
from tests.conftest import ROOT

REGISTRY = ROOT / "config" / "datasets.yaml"
DATASETS: dict[str, DatasetConfig] = checked(dict[str, DatasetConfig], read_yaml(REGISTRY), str(REGISTRY))
SIZE = 32


PACKS = {
    "tiny-imagenet-r-synthetic",
    "imagenette-224",
    "imagenet-r-synthetic",
    "cub-20",
    "coco-mini",
}


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    for name in ("digits", "digits-r"):
        prepare(name, DATASETS[name], SIZE, folder / name)
    return {name: open_pack(folder / name) for name in ("digits", "digits-r")}


def test_the_registry_holds_what_the_experiments_need():
    classes = {name: dataset.classes for name, dataset in DATASETS.items()}
    assert {name: count for name, count in classes.items() if name not in PACKS} == {
        "digits": 10,
        "digits-r": 6,
        "digits-scenes": 10,
        "tiny-imagenet": 200,
        "tiny-imagenet-r": 62,
        "tiny-imagenet-100": 100,
        "tiny-imagenet-100-r": 31,
        "imagenet-1k": 1000,
        "imagenet-r": 200,
        "cifar-100": 100,
        "cifar-100-fewshot": 100,
        "cub-200": 200,
        "coco-2017": 80,
    }
    for name, dataset in DATASETS.items():
        assert dataset.obtain or all(file.url for file in dataset.files), name
        assert dataset.synthetic == (name in ("digits-r", "digits-scenes", "tiny-imagenet-100-r") or name.endswith("-synthetic"))


def test_the_source_is_the_one_that_scikit_learn_loads():
    from sklearn.datasets import load_digits

    grey, labels, source = read_digits("digits", DATASETS["digits"])
    np.testing.assert_array_equal(labels, load_digits().target)
    np.testing.assert_allclose(grey, load_digits().images * 255 / 16, atol=0.5)
    assert source["sha256"] == DATASETS["digits"].files[0].sha256


def test_the_digits_are_split_by_class(packs):
    train, val = packs["digits"].split("train"), packs["digits"].split("val")
    assert (len(train), len(val)) == (1438, 359)
    assert set(train.attributes["source"]).isdisjoint(val.attributes["source"])
    for label in range(10):
        share = np.mean(np.concatenate([train.labels, val.labels]) == label)
        assert np.mean(val.labels == label) == pytest.approx(share, abs=0.003)


def test_the_digits_are_enlarged_not_distorted(packs):
    grey, labels, _ = read_digits("digits", DATASETS["digits"])
    val = packs["digits"].split("val")
    assert val.images.shape[1:] == (SIZE, SIZE, 3)
    small = val.images[..., 0].reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4))
    # Bicubic interpolation overshoots, so block means come near the source's pixels without being equal.
    assert np.corrcoef(small.ravel(), grey[val.attributes["source"]].ravel())[0, 1] > 0.98
    np.testing.assert_array_equal(val.labels, labels[val.attributes["source"]])
    np.testing.assert_array_equal(val.images[..., 0], val.images[..., 2])


def test_the_split_does_not_depend_on_the_image_size(packs, tmp_path):
    prepare("digits", DATASETS["digits"], 16, tmp_path / "small")
    small = open_pack(tmp_path / "small").split("val")
    np.testing.assert_array_equal(small.attributes["source"], packs["digits"].split("val").attributes["source"])


def test_renditions_are_of_held_out_digits_only(packs):
    pack, held_out = packs["digits-r"], packs["digits"].split("val")
    renditions = pack.split("val")
    assert pack.synthetic
    assert list(pack.manifest["splits"]) == ["val"]
    assert pack.classes == tuple(str(digit) for digit in DIGITS)
    chosen = np.isin(held_out.labels, DIGITS)
    assert set(renditions.attributes["source"]) == set(held_out.attributes["source"][chosen])
    assert Counter(renditions.attributes["rendition"].tolist()) == dict.fromkeys(RENDITIONS, chosen.sum())
    digit = dict(zip(held_out.attributes["source"], held_out.labels, strict=True))
    assert [int(pack.classes[label]) for label in renditions.labels] == [digit[source] for source in renditions.attributes["source"]]


def test_each_rendition_does_what_its_name_says(packs):
    held_out = packs["digits"].split("val")
    index_of = {source: i for i, source in enumerate(held_out.attributes["source"])}
    renditions = packs["digits-r"].split("val")
    original = np.stack([held_out.images[index_of[source]] for source in renditions.attributes["source"]]).astype(float)
    made = {name: renditions.images[renditions.attributes["rendition"] == name].astype(float) for name in RENDITIONS}
    original = {name: original[renditions.attributes["rendition"] == name] for name in RENDITIONS}
    np.testing.assert_array_equal(made["inverted"], 255 - original["inverted"])
    assert np.all(np.ptp(made["textured"], axis=-1).max(axis=(1, 2)) > 30)  # coloured
    strokes = original["textured"].mean(-1) > 128
    assert made["textured"].mean(-1)[strokes].mean() > made["textured"].mean(-1)[~strokes].mean() + 60
    full, empty = original["edges"].mean(-1) > 250, original["edges"].mean(-1) < 5
    assert made["edges"].max() == 255
    assert made["edges"].mean(-1)[~full & ~empty].mean() > 1.5 * made["edges"].mean(-1)[full | empty].mean()
    change = np.abs(made["rotated"] - original["rotated"]).mean(axis=(1, 2, 3))
    assert change.min() > 5
    mass = made["rotated"].sum(axis=(1, 2, 3)) / original["rotated"].sum(axis=(1, 2, 3))
    assert 0.75 < mass.min() <= mass.max() < 1.1
    assert len(np.unique(change)) == len(change)


def test_renditions_are_recognisable_and_harder(packs):
    from sklearn.svm import SVC

    train, val, renditions = packs["digits"].split("train"), packs["digits"].split("val"), packs["digits-r"].split("val")
    grey = [split.images.mean(-1).reshape(len(split), -1) / 255 for split in (train, val, renditions)]
    model = SVC().fit(grey[0], train.labels)
    iid = model.score(grey[1], val.labels)
    ood = np.mean(model.decision_function(grey[2])[:, DIGITS].argmax(1) == renditions.labels)
    assert iid > 0.97
    assert 0.4 < ood < 0.8


def test_preparing_is_deterministic(packs, tmp_path):
    prepare("digits-r", DATASETS["digits-r"], SIZE, tmp_path / "again")
    assert open_pack(tmp_path / "again").manifest == packs["digits-r"].manifest


def test_another_source_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"sha256 is 09f66e6d.*expects aaaa"):
        prepare(
            "digits",
            DATASETS["digits"].model_copy(update={"files": (SourceFile(name="digits.csv.gz", sha256="a" * 64),)}),
            SIZE,
            tmp_path / "key",
        )
    assert not list(tmp_path.iterdir())


def test_without_scikit_learn_the_fix_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match="install the extra 'pipeline'"):
        prepare("digits", DATASETS["digits"], SIZE, tmp_path / "key")


def test_a_wrong_number_of_classes_is_refused(tmp_path):
    with pytest.raises(InputError, match="classes is 9, but the source holds 10"):
        prepare("digits", DATASETS["digits"].model_copy(update={"classes": 9}), SIZE, tmp_path / "key")


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write the prepared set digits") as caught:
        prepare("digits", DATASETS["digits"], SIZE, tmp_path / "file" / "key")
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write the prepared set digits .*free space"):
            prepare("digits", DATASETS["digits"], SIZE, tmp_path / "key")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ref", ["digits@513", "digits@4096", "digits-r@1024"])
def test_a_size_that_cannot_be_meant_is_refused_before_anything_is_made(ref: str, monkeypatch: pytest.MonkeyPatch):
    """The digits take 90 GB at 4096 pixels."""
    monkeypatch.setattr("m2mkd.data.digits.np.loadtxt", lambda *_, **__: pytest.fail("they are read"))
    with pytest.raises(InputError, match=f"--data: the images of '{ref}' are made here, at most 512 pixels large; write digits"):
        resolve_data(ref, "--data")
    assert resolve_data("digits@512", "--data")[0].image_size == 512
    assert resolve_data("imagenet-1k@4096", "--data")[0].image_size == 4096


def test_a_set_that_does_not_fit_on_the_disk_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5_000_000))
    dataset, folder = DATASETS["digits"], tmp_path / "digits@32" / "key"
    with pytest.raises(InputError, match=r"key: about 5\.5 MB will be written, but only 5\.0 MB are free; free space there, or take sm"):
        prepare("digits", dataset, 32, folder)
    assert not list(tmp_path.iterdir())
    folder.parent.mkdir()
    partial = folder.with_name(".key.partial")
    partial.mkdir()
    (partial / "train.images.npy").write_bytes(bytes(600_000))
    prepare("digits", dataset, 32, folder)
    assert folder.is_dir(), "what is there of it already is counted"
