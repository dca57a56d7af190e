"""Croissant metadata: read back by MLCommons' own library, which refuses what is no Croissant."""

import json
from pathlib import Path

import pytest

from m2mkd.config import load
from m2mkd.data.croissant import write_croissant
from m2mkd.data.pack import Pack, open_pack
from m2mkd.data.prepare import prepare


@pytest.fixture(scope="module")
def packs(tmp_path_factory, packs_dir: Path) -> dict[str, Pack]:
    """Sets of every kind: made here, encoded photographs without a training split, and an array."""
    root = tmp_path_factory.mktemp("croissant")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(__file__).parents[2])
        registry = load.datasets()
        patch.chdir(root)
        Path("data/raw").mkdir(parents=True)
        found = {}
        for name, size in (("digits", 8), ("digits-r", 8), ("tiny-imagenet-r-synthetic", 80), ("cifar-100-fewshot", 32)):
            for file in registry[name].files:
                if (packs_dir / file.name).exists():
                    Path("data/raw", file.name).symlink_to(packs_dir / file.name)
            prepare(name, registry[name], size, Path("packed", name).absolute())
            found[name] = open_pack(root / "packed" / name)
        return found


@pytest.mark.parametrize("name", ["digits", "digits-r", "tiny-imagenet-r-synthetic", "cifar-100-fewshot"])
def test_it_is_valid_and_its_records_are_those_of_the_set(packs, tmp_path: Path, name: str):
    import mlcroissant

    pack, dataset = packs[name], load.datasets()[name]
    write_croissant(pack, dataset, tmp_path)
    described = mlcroissant.Dataset(jsonld=tmp_path / "croissant.json")
    issues = described.metadata.ctx.issues
    assert not issues.errors
    assert described.metadata.name == name
    sources = {file.name: file for file in described.metadata.distribution}
    assert {file.name for file in dataset.files} | {f"{split}.csv" for split in pack.manifest["splits"]} == set(sources)
    assert all(sources[file.name].sha256 == file.sha256 for file in dataset.files)
    for split in pack.manifest["splits"]:
        part, records = pack.split(split), list(described.records(split))
        read = {key: [record[f"{split}/{key}"] for record in records] for key in ("index", "label", "class", "sha256")}
        assert read["index"] == list(range(len(part)))
        assert read["label"] == part.labels.tolist()
        assert [_text(value) for value in read["class"]] == [pack.classes[label] for label in part.labels]
        assert [_text(value) for value in read["sha256"]] == [bytes(digest).hex() for digest in part.attributes["sha256"]]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def test_a_synthetic_set_says_so(packs, tmp_path: Path):
    write_croissant(packs["tiny-imagenet-r-synthetic"], load.datasets()["tiny-imagenet-r-synthetic"], tmp_path)
    metadata = json.loads((tmp_path / "croissant.json").read_text())
    assert "never to be reported as a natural one" in metadata["description"]
    names = [field["name"] for field in metadata["recordSet"][0]["field"]]
    assert names == ["index", "label", "class", "name", "rendition", "sha256"]


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [('"column": "label"', '"column": "lable"', r"Read\(val\.csv\)"), ('"cr:RecordSet"', '"cr:Record"', "should have an attribute")],
)
def test_what_the_metadata_get_wrong_is_noticed(packs, tmp_path: Path, right: str, wrong: str, message: str):
    """The library does look."""
    import mlcroissant

    write_croissant(packs["digits"], load.datasets()["digits"], tmp_path)
    path = tmp_path / "croissant.json"
    path.write_text(path.read_text().replace(right, wrong))
    with pytest.raises(Exception, match=message):
        list(mlcroissant.Dataset(jsonld=path).records("val"))
