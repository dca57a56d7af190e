"""Every boundary that strangers' files come in by, under thousands of damages: nothing but a refusal of one line, nothing left."""

import io
import json
import pickle
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from m2mkd.data.images import opened
from m2mkd.data.manifest import manifest_digest
from m2mkd.data.pack import open_pack
from m2mkd.data.packing import Content, PackedImage, SplitSource, write_pack
from m2mkd.data.readers import Readers, reading
from m2mkd.data.tasks import packed_images
from m2mkd.data.whole import whole_image
from m2mkd.errors import InputError
from tests.archives import HEALTHY, Files, cifar, image, listed, pack, tarred, tiny
from tests.fuzzing import EDITS, damaged, fuzzed, refused_or_read
from tests.ilsvrc import KIT, TRAIN, VAL, write_ilsvrc


def everything(layout: str, paths: list[Path], scratch: Path) -> None:
    """Find the images of a data set, and read them."""
    found = listed(layout, paths, scratch)
    for listing in getattr(found, "splits", {}).values():
        packed_images(listing.members, 64, True, False, False)


def zipped(files: Files) -> bytes:
    path = Path("made.zip")
    pack(path, files)
    content = path.read_bytes()
    path.unlink()
    return content


FORMS = {"zip": zipped, **{form: lambda files, mode=form: tarred(files, f"w:{mode}") for form in ("", "gz", "bz2", "xz")}}


@pytest.mark.parametrize("form", FORMS)
def test_archives(project: Path, form: str):
    content = FORMS[form](tiny())

    @fuzzed(120)
    @given(edits=EDITS)
    def damage(edits: list[Any]) -> None:
        (project / "set.zip").write_bytes(damaged(content, edits))
        with refused_or_read():
            everything("tiny_imagenet", [project / "set.zip"], project / "scratch")
        assert not list(project.glob("scratch/.*")), "nothing partial"
        shutil.rmtree(project / "scratch", ignore_errors=True)
        assert [path.name for path in project.iterdir()] == ["set.zip"]

    damage()


@pytest.mark.parametrize("layout", ["tiny_imagenet", "cub", "imagenet_r", "image_folder"])
def test_lists_and_names(project: Path, layout: str):
    """What the members of an archive are called and say is damaged, and its checksums are right."""
    files = HEALTHY[layout]()

    @fuzzed(120)
    @given(data=st.data())
    def damage(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(files)))
        others = {other: content for other, content in files.items() if other != name}
        content = files[name]
        if data.draw(st.booleans()):
            content = damaged(content, data.draw(EDITS))
        else:
            renamed = damaged(name.encode(), data.draw(EDITS)).decode("utf-8", "surrogateescape")
            name = renamed if renamed.strip("/.\0") else name
        (project / "set.zip").write_bytes(tarred(others | {name: content}, "w:"))
        with refused_or_read():
            everything(layout, [project / "set.zip"], project)

    damage()


def test_pickles(project: Path):
    tables = [pickle.dumps({b"data": np.zeros((4, 3072), np.uint8), b"fine_labels": [0, 1, 0, 1]}, protocol) for protocol in range(6)]

    @fuzzed(600)
    @given(content=st.sampled_from(tables), edits=EDITS, before=st.booleans())
    def damage(content: bytes, edits: list[Any], before: bool) -> None:
        pixels = content.find(bytes(3072)) if before else 0
        # The pixels are most of it, and of no interest.
        changed = damaged(content[:pixels], edits) + content[pixels:] if pixels > 0 else damaged(content, edits)
        pack(project / "set.zip", cifar(**{"c/train": changed}))
        with refused_or_read():
            everything("cifar100", [project / "set.zip"], project)

    damage()


def saved(form: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


IMAGES = {
    "baseline": saved("JPEG"),
    "progressive": saved("JPEG", progressive=True),
    "CMYK": saved("JPEG", "CMYK", restart_marker_rows=1),
    "PNG": saved("PNG"),
    "palette": saved("PNG", "P"),
    "transparent": saved("PNG", "LA"),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images(project: Path, kind: str):
    @fuzzed(400)
    @given(edits=EDITS, head=st.booleans())
    def damage(edits: list[Any], head: bool) -> None:
        content = IMAGES[kind]
        changed = damaged(content[:600], edits) + content[600:] if head else damaged(content, edits)
        for read in (opened, lambda found: whole_image(found, 64)):
            with refused_or_read():
                read(changed)

    damage()
    assert not list(project.iterdir())


class Pool:
    """Readers in a process of their own, for files whose parsers may crash, and new ones after a crash."""

    def __init__(self, path: Path):
        self.path = path
        self.open()

    def open(self) -> None:
        self.context = reading(1, [self.path])
        self.readers: Readers = self.context.__enter__()

    def close(self) -> None:
        self.context.__exit__(None, None, None)

    def everything(self, layout: str, paths: list[Path], scratch: Path) -> None:
        try:
            self.readers.read(everything, layout, paths, scratch)
        except InputError as refused:
            if "crashed the reader" in str(refused):
                self.close()
                self.open()
            raise


@pytest.fixture
def pool(project: Path) -> Iterator[Pool]:
    made = Pool(project / "set")
    yield made
    made.close()


def test_matrices(project: Path, pool: Pool):
    """The table of ImageNet's classes."""
    buffer = io.BytesIO()
    write_ilsvrc(project, {"n00000001": [image(1)]}, [("n00000001", image(2))])
    with tarfile.open(project / KIT) as kit:
        member = kit.extractfile("ILSVRC2012_devkit_t12/data/meta.mat")
        assert member is not None
        buffer.write(member.read())
    content = buffer.getvalue()

    @fuzzed(250)
    @given(edits=EDITS)
    def damage(edits: list[Any]) -> None:
        write_ilsvrc(project, {"n00000001": [image(1)]}, [("n00000001", image(2))], meta=damaged(content, edits) or b"\0")
        with refused_or_read():
            pool.everything("imagenet", [project / name for name in (TRAIN, VAL, KIT)], project / "scratch")
        shutil.rmtree(project / "scratch", ignore_errors=True)

    damage()


@pytest.mark.parametrize("compression", ["NONE", "SNAPPY"])
def test_parquet(project: Path, pool: Pool, compression: str):
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": image(number, size=(16, 16)), "path": f"{number}.jpg"} for number in range(4)], struct)
    facts = {b"huggingface": json.dumps({"info": {"features": {"label": {"names": ["a", "b"]}}}}).encode()}
    buffer = io.BytesIO()
    pq.write_table(
        pa.table({"image": images, "label": [0, 1, 0, 1]}).replace_schema_metadata(facts), buffer, row_group_size=2, compression=compression
    )
    content = buffer.getvalue()

    @fuzzed(300)
    @given(edits=EDITS, foot=st.booleans())
    def damage(edits: list[Any], foot: bool) -> None:
        # What a file says of itself stands at its end.
        changed = content[:-2500] + damaged(content[-2500:], edits) if foot else damaged(content, edits)
        path = project / "set-test.parquet"
        path.write_bytes(changed)
        with refused_or_read():
            pool.everything("parquet", [path], project)

    damage()


@pytest.fixture
def prepared(project: Path) -> Path:
    def images(storage: str) -> Callable[[int], list[PackedImage]]:
        contents = [saved("PNG"), saved("JPEG")] if storage == "encoded" else [bytes(3 * 6 * 6)] * 2
        return lambda start: [PackedImage(content, bytes(32)) for content in contents[start:]]

    splits = {
        "train": SplitSource(images("encoded"), [0, 1], {"name": [b"a", b"b"]}, "encoded", final=False),
        "val": SplitSource(images("pixels"), [1, 0], {"kind": ["x", "y"]}),
    }
    write_pack(project / "packed/key", "set", 6, Content(("ant", "bee"), splits, {}))
    return project / "packed/key"


def test_prepared_sets(prepared: Path):
    """With digests that are right, as those have them who recompute them, and without."""
    original = {path.name: path.read_bytes() for path in prepared.iterdir()}

    @fuzzed(500)
    @given(name=st.sampled_from(sorted(original)), edits=EDITS, redone=st.booleans())
    def damage(name: str, edits: list[Any], redone: bool) -> None:
        for other, content in original.items():
            (prepared / other).write_bytes(damaged(content, edits) if other == name else content)
        if redone:
            with suppress(ValueError, AttributeError, KeyError, TypeError):
                manifest = json.loads((prepared / "manifest.json").read_bytes())
                del manifest["digest"]
                if name in manifest["files"]:
                    manifest["files"][name]["bytes"] = (prepared / name).stat().st_size
                (prepared / "manifest.json").write_text(json.dumps(manifest | {"digest": manifest_digest(manifest)}))
        with refused_or_read():
            opened_ = open_pack(prepared, verify="never")
            for split in opened_.manifest["splits"]:
                opened_.split(split).take([0, 1])

    damage()
